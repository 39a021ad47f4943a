"""The run directory: its schema, its writer and its reader.

A run directory ``<name>-<YYYYmmdd-HHMMSS>-<hash>/`` holds::

    facts.json        what was known at the start         experiment.yaml   the resolved experiment
    environment.json  versions, commit, host, seeds       partition.csv     samples by node and class or rating
    curve.csv         one line an evaluation, written as the run goes
    nodes.parquet     one row an evaluation and node      messages.parquet  one row a message: its life
    links.csv         utilisation by node                 fidelity.json     how far to trust the emulation
    faults.csv        planned and actual instants of the schedule's entries
    summary.json      the figures                         report.html       the figures as pictures
    ro-crate-metadata.json  the directory described for others, if somebody asked for it
    openmetrics.txt   its series for Prometheus, once they were exported
    checkpoint.bin    what an interrupted simulation goes on from, until it is complete
    live.json         how a run in progress stands, until it ends

Only ``curve.csv`` grows during a run, a whole line at a time, so that whatever stops a run leaves a valid
partial result. The rest of the second half is written at the end, each file under another name first.

Nothing here depends on wall-clock time but ``wall_s`` in the summary, ``begun_at``, ``ended_at`` and ``time_zero_at``
in the environment, and the directory's name: the same run gives the same bytes in ``curve.csv``, ``nodes.parquet``,
``messages.parquet``, ``links.csv`` and, of a simulation, ``faults.csv``.
"""
