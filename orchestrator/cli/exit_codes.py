"""Exit codes of all commands."""

from typing import Final

EXIT_CODES: Final = {
    0: "done",
    1: "the output could not be written, or whoever read it stopped reading",
    2: "the input is wrong: one line says what and where",
    3: "the run failed or stalled: a deadlock, a dead node or worker, refused messages, a full disk, a bug of ours",
    4: "the run finished but is unfaithful: its host could not keep up",
    5: "the run diverged: a node's model was not finite any more; what was measured until then is kept",
    130: "interrupted: what was measured is kept",
}
"""Meaning of each exit code; scripts can rely on them."""

EXIT_OF_STATUS: Final = {"failed": 3, "stalled": 3, "diverged": 5, "interrupted": 130}
"""Exit codes of runs that did not end as they should."""

FINISHED_CODES: Final = (0, 4, EXIT_OF_STATUS["diverged"])
"""Exit codes of runs that came to an end of their own, after which runs of other seeds go on."""
