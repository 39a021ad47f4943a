"""The dashboard of a run: how far it is, what it has learned, and where its nodes' time goes. Pure."""

from collections.abc import Mapping
from typing import Final

from orchestrator.observe.dashboards.layout import Dashboard, Row
from orchestrator.observe.dashboards.panels import (
    COLUMNS,
    BarGauge,
    Color,
    Override,
    Query,
    Stat,
    StateTimeline,
    TimeSeries,
    at_end,
    colored,
    dashed,
)
from orchestrator.observe.dashboards.queries import (
    DILATION,
    GROUP,
    GROUP_VARIABLE,
    RUN_VARIABLE,
    STEP_VARIABLE,
    faults,
    in_range,
    latest,
    latest_phase,
    rate,
    series,
    testbed_rate,
    tested,
    until_over,
)
from orchestrator.observe.dashboards.tables import Column, Table

ACTIVITY_COLORS: Final[Mapping[str, Color]] = {
    "computing": "green",
    "waiting": "orange",
    "sending": "blue",
    "idle": "gray",
    "paused": "purple",
    "down": "red",
}
"""Colors of what nodes do, on all dashboards."""

UP_TEXTS: Final[Mapping[int, tuple[str, Color]]] = {0: ("away", "red"), 1: ("takes part", "green")}
FAULT_TEXTS: Final[Mapping[int, tuple[str, Color]]] = {0: ("does not hold", "transparent"), 1: ("holds", "orange")}

BAND: Final = (
    Override("highest", {"custom.fillBelowTo": "lowest", "custom.fillOpacity": 15, "custom.lineWidth": 0}),
    Override("lowest", {"custom.lineWidth": 0}),
    *colored({"mean": "blue", "highest": "light-blue", "lowest": "light-blue"}),
)
"""A band from the lowest to the highest node below the mean."""


def mean_and_range(nodes: str) -> tuple[Query, ...]:
    """Return the mean, the highest and the lowest of the nodes' values."""
    return (Query(f"avg({nodes})", "mean"), Query(f"max({nodes})", "highest"), Query(f"min({nodes})", "lowest"))


def time_budget(title: str, whose: str, matcher: str) -> TimeSeries:
    """Return a panel of the activities of some nodes as shares of their time."""
    return TimeSeries(
        title=title,
        description=f"What {whose} do, as shares of their time. Computing counts first, then waiting for a peer without"
        " which the algorithm cannot go on, then sending.",
        unit="percentunit",
        stacked="percent",
        minimum=0,
        maximum=1,
        queries=[Query(f"sum by (activity) ({rate('fragmesh_activity_seconds_total', matcher)})", "{{activity}}")],
        overrides=colored(ACTIVITY_COLORS),
    )


STATS: Final = Row(
    "",
    [
        Stat(
            title="Phase",
            description="What the run does now, or did last.",
            unit="string",
            width=4,
            height=4,
            text="name",
            queries=[at_end(latest_phase("fragmesh_run_phase"), "{{phase}}", "time_series")],
        ),
        Stat(
            title="Testbed time",
            description="The run's clock; all durations on these dashboards are testbed time.",
            unit="dtdurations",
            width=4,
            height=4,
            queries=[Query(series("fragmesh_run_clock_seconds"))],
        ),
        Stat(
            title="Real time left",
            description="Until the planned end: testbed time left, times the time dilation.",
            unit="dtdurations",
            width=4,
            height=4,
            queries=[
                Query(
                    f"clamp_min({series('fragmesh_run_end_seconds')} - {series('fragmesh_run_clock_seconds')}, 0)"
                    f" * {DILATION}"
                )
            ],
        ),
        Stat(
            title="Test accuracy",
            description="Mean over the nodes' own models at the last evaluation.",
            unit="percentunit",
            width=4,
            height=4,
            queries=[Query(f"avg({tested('fragmesh_test_accuracy')})")],
        ),
        Stat(
            title="Sent so far",
            description="Bytes that have left the nodes, wasted ones included. A node that comes back at its old"
            " address counts anew.",
            unit="bytes",
            width=4,
            height=4,
            queries=[at_end(f"sum({latest('fragmesh_sent_bytes_total')})", form="time_series")],
        ),
        Stat(
            title="Nodes away",
            description="Nodes of the experiment that have not come yet, are down, or have died, while it lasts.",
            unit="short",
            width=4,
            height=4,
            steps=[(1, "orange")],
            queries=[
                Query(
                    until_over(
                        f"max by (run) ({series('fragmesh_run_nodes')}) - sum by (run) ({series('fragmesh_node_up')})"
                    )
                )
            ],
        ),
    ],
)

LEARNING: Final = Row(
    "Learning",
    [
        TimeSeries(
            title="Test accuracy over time",
            description="Share of test samples that the nodes' own models get right: mean, and from the lowest to the"
            " highest node; dashed: their averaged model. A real run tests its models when it is over, unless"
            " evaluation.live is true.",
            unit="percentunit",
            minimum=0,
            queries=[
                *mean_and_range(tested("fragmesh_test_accuracy", GROUP)),
                Query(series("fragmesh_averaged_test_accuracy"), "averaged model"),
            ],
            overrides=[*BAND, dashed("averaged model")],
        ),
        TimeSeries(
            title="Test accuracy by group",
            description="Mean of the fast nodes and of the stragglers: whether stragglers are left behind.",
            unit="percentunit",
            minimum=0,
            queries=[Query(f"avg by (group) ({tested('fragmesh_test_accuracy', GROUP)})", "{{group}}")],
        ),
        TimeSeries(
            title="Test loss",
            description="Test loss of the nodes' own models, the RMSE for ratings: mean, lowest and highest node.",
            unit="short",
            queries=mean_and_range(tested("fragmesh_test_loss", GROUP)),
            overrides=BAND,
        ),
        TimeSeries(
            title="Training loss by group",
            description="Mean training loss of the nodes' last rounds.",
            unit="short",
            queries=[Query(f"avg by (group) ({series('fragmesh_train_loss', GROUP)})", "{{group}}")],
        ),
        TimeSeries(
            title="Consensus distance",
            description="Mean squared distance of the nodes' models from their mean: how far they disagree.",
            unit="short",
            logarithmic=True,
            queries=[Query(series("fragmesh_consensus_distance"), "consensus distance")],
        ),
        TimeSeries(
            title="Rounds",
            description="Rounds that nodes have completed: mean, and from the slowest to the fastest node.",
            unit="short",
            minimum=0,
            queries=mean_and_range(series("fragmesh_rounds_total", GROUP)),
            overrides=BAND,
        ),
    ],
)

TIME: Final = Row(
    "Where the time goes",
    [
        time_budget("Time budget of fast nodes", "fast nodes", 'group="fast"'),
        time_budget("Time budget of stragglers", "stragglers", 'group="straggler"'),
        BarGauge(
            title="Where the time went",
            description="Time spent on each activity in the shown range, as a share of the time of each group.",
            unit="percentunit",
            width=COLUMNS,
            minimum=0,
            maximum=1,
            queries=[
                at_end(
                    f"{in_range('group, activity', 'fragmesh_activity_seconds_total', GROUP)}"
                    f" / on (group) group_left () {in_range('group', 'fragmesh_activity_seconds_total', GROUP)}",
                    "{{group}}: {{activity}}",
                    "time_series",
                )
            ],
        ),
        TimeSeries(
            title="Nodes that are waited for",
            description="For each peer, the nodes that cannot go on without it now. Asynchronous algorithms wait for"
            " nobody.",
            unit="short",
            minimum=0,
            stepped=True,
            queries=[Query(f"sum by (peer) ({series('fragmesh_node_waits_for')})", "for {{peer}}")],
        ),
        Table(
            title="Who waited for whom",
            description="Time in the shown range in which a node could not go on without a peer, among others; the 30"
            " longest.",
            unit="s",
            queries=[at_end(f"topk(30, {in_range('node, peer', 'fragmesh_waiting_seconds_total', GROUP)} > 0)")],
            columns=[Column("node", "Node"), Column("peer", "Waited for"), Column("Value", "Time", "s")],
            sort_by="Time",
            descending=True,
        ),
    ],
)

TRAFFIC: Final = Row(
    "Traffic",
    [
        TimeSeries(
            title="Bytes sent by class",
            description="Bits a testbed second that leave all nodes: values, what goes with them, control, sent again"
            " by the transport, and those of messages that were given up.",
            unit="bps",
            stacked="normal",
            minimum=0,
            queries=[Query(f"8 * {testbed_rate('class', 'fragmesh_sent_bytes_total', GROUP)}", "{{class}}")],
        ),
        TimeSeries(
            title="Fate of messages",
            description="Messages a testbed second of all nodes: put into outboxes, sent, arrived, averaged in, and"
            " taken out again or given up.",
            unit="ops",
            minimum=0,
            queries=[
                Query(testbed_rate("run", f"fragmesh_messages_{fate}_total", GROUP), fate)
                for fate in ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted")
            ],
        ),
    ],
)

FAULTS: Final = Row(
    "Schedule",
    [
        StateTimeline(
            title="Entries of the schedule",
            description="When each entry of the schedule holds.",
            unit="none",
            width=COLUMNS,
            height=6,
            texts=FAULT_TEXTS,
            queries=[Query(series("fragmesh_fault_active"), "{{action}} {{target}} ({{entry}})")],
        ),
        StateTimeline(
            title="Nodes that take part",
            description="When each node takes part, and when it is away: not come yet, down as planned, or dead.",
            unit="none",
            width=COLUMNS,
            height=12,
            texts=UP_TEXTS,
            queries=[Query(until_over(series("fragmesh_node_up", GROUP)), "node {{node}} ({{group}})")],
        ),
    ],
)

RUN_DASHBOARD: Final = Dashboard(
    uid="fragmesh-run",
    title="Fragmesh / Run",
    description="One run: how far it is, what its models have learned, where its nodes' time goes, and what failed.",
    variables=[RUN_VARIABLE, GROUP_VARIABLE, STEP_VARIABLE],
    annotations=faults(),
    rows=[STATS, LEARNING, TIME, TRAFFIC, FAULTS],
)
