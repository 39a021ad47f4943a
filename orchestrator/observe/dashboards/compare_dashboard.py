"""The dashboard that compares runs on one axis of testbed time, whenever they ran. Pure.

Prometheus knows only the time of day, so runs of yesterday and today cannot lie over each other on its axis. Here a
run's own clock becomes a label (``count_values``), and a subquery over the whole time range keeps the last value of
each label: one row for each run and each reading of its clock, which an XY chart draws. Nothing depends on when a run
ran, how its time was dilated, or how wide the range is; only ``$step`` bounds how many points there are.
"""

from typing import Final

from orchestrator.observe.dashboards.layout import Dashboard, QueryVariable, Row, TextVariable
from orchestrator.observe.dashboards.panels import COLUMNS, BarGauge, Query, XYChart, at_end
from orchestrator.observe.dashboards.queries import OVER, RUNS
from orchestrator.observe.dashboards.tables import Column, Table

WINDOW: Final = "[$__range:$step]"
"""All of the time range, looked at in steps."""

EVALUATED: Final = f"max by (run) (fragmesh_evaluation_clock_seconds{{{RUNS}}})"
"""Testbed time of each run's last evaluation."""

CLOCK: Final = f"max by (run) (fragmesh_run_clock_seconds{{{RUNS}}})"
LASTS: Final = f"unless on (run) (fragmesh_run_phase{{{RUNS}, {OVER}}} == 1)"
"""Holds while a run lasts: models that are tested later say nothing of the bytes until then."""

SENT: Final = f"(sum by (run) (last_over_time(fragmesh_sent_bytes_total{{{RUNS}}}[$__range])) {LASTS})"
"""Bytes sent until then, those of nodes that are away among them."""

ROUND: Final = f"avg by (run) (max by (run, node) (last_over_time(fragmesh_rounds_total{{{RUNS}}}[$__range])))"
# Nodes without a figure are left out, as of :func:`tested`.
ACCURACY: Final = f"avg by (run) (fragmesh_test_accuracy{{{RUNS}}} >= 0)"
LOSS: Final = f"avg by (run) (fragmesh_test_loss{{{RUNS}}} >= 0)"
DISTANCE: Final = f"max by (run) (fragmesh_consensus_distance{{{RUNS}}})"

REACHED: Final = f"{ACCURACY} >= $target"
"""Holds while a run's mean test accuracy is the target or more."""

RUN_LINK: Final = (
    '/d/fragmesh-run?var-run=${__value.raw}&from=${__data.fields["Began"].numeric}&to=${__data.fields["Ended"].numeric}'
    '&var-step=${__data.fields["Sampled every"].numeric}s'
)
"""The dashboard of a run, with the time range in which it ran, and the time between its samples."""


def over(x: str, y: str) -> Query:
    """Return a query of one value over another one, as rows of run, ``x`` and value."""
    return at_end(f'last_over_time((count_values by (run) ("x", {x}) * on (run) group_left () {y}){WINDOW})')


def first(value: str) -> Query:
    """Return a query of the least value of each run from the time on at which it has reached the target."""
    return Query(f"min_over_time(({value} and on (run) {REACHED}){WINDOW})", "{{run}}", instant=True)


def last(metric: str, how: str = "max by (run)") -> str:
    """Return the last value in the time range, of each run."""
    return f"{how} (last_over_time({metric}{{{RUNS}}}[$__range]))"


BEGAN: Final = last("fragmesh_run_start_timestamp_seconds")
CLOCK_SAMPLES: Final = f"fragmesh_run_clock_seconds{{{RUNS}}}[$__range]"
SAMPLED: Final = (
    f"clamp_min(round(max by (run) ((max_over_time({CLOCK_SAMPLES}) - min_over_time({CLOCK_SAMPLES}))"
    f" / (count_over_time({CLOCK_SAMPLES}) - 1)) * {last('fragmesh_run_time_dilation')}), 1)"
)
"""Time between two samples of a run, whole seconds."""

LASTED: Final = f"{last('fragmesh_run_clock_seconds')} * {last('fragmesh_run_time_dilation')}"

TABLE: Final = Row(
    "",
    [
        Table(
            title="Runs",
            description="Runs with samples in the time range; a run's name leads to its own dashboard.",
            unit="none",
            width=COLUMNS,
            queries=[
                at_end(last("fragmesh_run_info", "max by (run, experiment, algorithm, runtime, seed)")),
                at_end(f"floor(1000 * {BEGAN})"),
                at_end(f"floor(1000 * ({BEGAN} + {LASTED}))"),
                at_end(last("fragmesh_run_clock_seconds")),
                at_end(f"avg by (run) (last_over_time(fragmesh_test_accuracy{{{RUNS}}}[$__range]) >= 0)"),
                at_end(last("fragmesh_sent_bytes_total", "sum by (run)")),
                at_end(SAMPLED),
            ],
            columns=[
                Column("run", "Run", link=RUN_LINK),
                Column("experiment", "Experiment"),
                Column("algorithm", "Algorithm"),
                Column("runtime", "Runtime"),
                Column("seed", "Seed"),
                Column("Value #B", "Began", "dateTimeAsIso"),
                Column("Value #C", "Ended", "dateTimeAsIso", hidden=True),
                Column("Value #D", "Testbed time", "dtdurations"),
                Column("Value #E", "Test accuracy", "percentunit"),
                Column("Value #F", "Sent", "bytes"),
                Column("Value #G", "Sampled every", "s"),
            ],
            sort_by="Began",
        ),
    ],
)

TARGET: Final = Row(
    "To the target accuracy",
    [
        BarGauge(
            title="Time to accuracy",
            description="Testbed time of the first evaluation at which a run's mean test accuracy is the target or"
            " more. A run that never gets there has no bar.",
            unit="s",
            minimum=0,
            queries=[first(EVALUATED)],
        ),
        BarGauge(
            title="Bytes to accuracy",
            description="Bytes that all nodes had sent when a run's mean test accuracy was first seen at the target or"
            " more. A run that never gets there, or tests its models when it is over, has no bar.",
            unit="bytes",
            minimum=0,
            queries=[first(SENT)],
        ),
    ],
)

CURVES: Final = Row(
    "Over testbed time and bytes",
    [
        XYChart(
            title="Test accuracy over testbed time",
            description="Mean over the nodes' own models, one point an evaluation; all runs begin at 0.",
            unit="percentunit",
            x_unit="s",
            x_title="testbed time",
            minimum=0,
            points=True,
            queries=[over(EVALUATED, ACCURACY)],
        ),
        XYChart(
            title="Test accuracy over bytes sent",
            description="Mean over the nodes' own models against all that the nodes have sent; of exported runs, and of"
            " those that test their models while they last. Tests that come late shift the latter to the right.",
            unit="percentunit",
            x_unit="bytes",
            x_title="sent by all nodes",
            minimum=0,
            queries=[over(SENT, ACCURACY)],
        ),
        XYChart(
            title="Test loss over testbed time",
            description="Mean over the nodes' own models; the RMSE for ratings.",
            unit="short",
            x_unit="s",
            x_title="testbed time",
            points=True,
            queries=[over(EVALUATED, LOSS)],
        ),
        XYChart(
            title="Consensus distance over testbed time",
            description="Mean squared distance of the nodes' models from their mean.",
            unit="short",
            x_unit="s",
            x_title="testbed time",
            minimum=0,
            points=True,
            queries=[over(EVALUATED, DISTANCE)],
        ),
        XYChart(
            title="Bytes sent over testbed time",
            description="Bytes that have left all nodes, wasted ones included.",
            unit="bytes",
            x_unit="s",
            x_title="testbed time",
            minimum=0,
            queries=[over(CLOCK, SENT)],
        ),
        XYChart(
            title="Mean round over testbed time",
            description="Rounds completed, mean over the nodes.",
            unit="short",
            x_unit="s",
            x_title="testbed time",
            minimum=0,
            queries=[over(CLOCK, ROUND)],
        ),
    ],
)

COMPARE_DASHBOARD: Final = Dashboard(
    uid="fragmesh-compare",
    title="Fragmesh / Compare",
    description="Several runs on one axis of testbed time, whenever they ran: accuracy over time and over bytes.",
    variables=[
        QueryVariable("experiment", "Experiment", "label_values(fragmesh_run_info, experiment)", several=True),
        QueryVariable("run", "Runs", 'label_values(fragmesh_run_info{experiment=~"$experiment"}, run)', several=True,
                      newest_first=True),
        TextVariable("target", "Target accuracy", "0.5"),
        TextVariable("step", "Sampled every", "5s"),
    ],
    rows=[TABLE, TARGET, CURVES],
    since="now-24h",
    refresh="",
)  # fmt: skip
