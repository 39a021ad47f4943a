"""The dashboard of one node: everything that it tells, side by side. Pure."""

from typing import Final

from orchestrator.observe.dashboards.layout import Dashboard, QueryVariable, Row
from orchestrator.observe.dashboards.panels import Query, Stat, TimeSeries, at_end, colored, dashed
from orchestrator.observe.dashboards.queries import (
    DILATION,
    GROUP_VARIABLE,
    NODE_QUERY,
    RUN_VARIABLE,
    STEP_VARIABLE,
    faults,
    latest,
    latest_phase,
    quantiles,
    rate,
    series,
    testbed_rate,
    tested,
)
from orchestrator.observe.dashboards.run_dashboard import ACTIVITY_COLORS

ONE: Final = 'node="$node"'
"""Selects the node that is shown."""


def one(metric: str) -> str:
    """Return a gauge of the node, which answers at another address when it has come back from a crash."""
    return f"max by (node) ({series(metric, ONE)})"


STATS: Final = Row(
    "",
    [
        Stat(
            title="Phase",
            description="Where the node stands in its life.",
            unit="string",
            width=4,
            height=4,
            text="name",
            queries=[at_end(latest_phase("fragmesh_node_phase", ONE), "{{phase}}", "time_series")],
        ),
        Stat(
            title="Group",
            description="Whether the node is slow on purpose.",
            unit="string",
            width=4,
            height=4,
            text="name",
            queries=[at_end(latest("fragmesh_node_up", ONE), "{{group}}", "time_series")],
        ),
        Stat(
            title="Clock",
            description="Testbed time of the node; behind that of other nodes only while it was down.",
            unit="dtdurations",
            width=4,
            height=4,
            queries=[Query(one("fragmesh_node_clock_seconds"))],
        ),
        Stat(
            title="Round",
            description="Rounds that the node has completed.",
            unit="short",
            width=4,
            height=4,
            queries=[Query(one("fragmesh_rounds_total"))],
        ),
        Stat(
            title="Test accuracy",
            description="Share of test samples that the node's own model gets right.",
            unit="percentunit",
            width=4,
            height=4,
            queries=[Query(series("fragmesh_test_accuracy", ONE))],
        ),
        Stat(
            title="Lives",
            description="How often the node has begun: 1, and one more for each return after a crash.",
            unit="short",
            width=4,
            height=4,
            steps=[(2, "orange")],
            queries=[Query(one("fragmesh_node_lives"))],
        ),
    ],
)

LEARNING: Final = Row(
    "Learning",
    [
        TimeSeries(
            title="Test accuracy, against the other nodes",
            description="Test accuracy of the node's model; dashed: the mean of all nodes.",
            unit="percentunit",
            minimum=0,
            queries=[
                Query(series("fragmesh_test_accuracy", ONE), "node {{node}}"),
                Query(f"avg({tested('fragmesh_test_accuracy')})", "all nodes"),
            ],
            overrides=[dashed("all nodes")],
        ),
        TimeSeries(
            title="Training loss, against the other nodes",
            description="Mean training loss of the node's last round; dashed: the mean of all nodes.",
            unit="short",
            queries=[
                Query(one("fragmesh_train_loss"), "node {{node}}"),
                Query(f"avg({series('fragmesh_train_loss')})", "all nodes"),
            ],
            overrides=[dashed("all nodes")],
        ),
    ],
)

TIME: Final = Row(
    "Time",
    [
        TimeSeries(
            title="Time budget",
            description="What the node does, as shares of its time.",
            unit="percentunit",
            stacked="percent",
            minimum=0,
            maximum=1,
            queries=[Query(f"sum by (activity) ({rate('fragmesh_activity_seconds_total', ONE)})", "{{activity}}")],
            overrides=colored(ACTIVITY_COLORS),
        ),
        TimeSeries(
            title="Waiting for each peer",
            description="Share of the time in which the node could not go on without a peer, among others. Several may"
            " be waited for at once.",
            unit="percentunit",
            minimum=0,
            queries=[
                Query(f"{testbed_rate('peer', 'fragmesh_waiting_seconds_total', ONE)} / {DILATION}", "for {{peer}}"),
            ],
        ),
        TimeSeries(
            title="Local steps of a round",
            description="Time that the local steps of a round took, the declared pace included: median, 90th and 99th"
            " percentile, from a histogram.",
            unit="s",
            minimum=0,
            queries=quantiles("fragmesh_local_steps_seconds", ONE),
        ),
        TimeSeries(
            title="Local steps and rounds",
            description="Local steps and rounds a testbed second.",
            unit="ops",
            minimum=0,
            queries=[
                Query(testbed_rate("node", "fragmesh_local_steps_total", ONE), "local steps"),
                Query(testbed_rate("node", "fragmesh_rounds_total", ONE), "rounds"),
            ],
        ),
    ],
)

NETWORK: Final = Row(
    "Network",
    [
        TimeSeries(
            title="Up and down, against the configured rates",
            description="Bits a testbed second that the node's link carries in each direction; dashed: the rates that"
            " it is to have.",
            unit="bps",
            minimum=0,
            queries=[
                Query(f"8 * {testbed_rate('node', 'fragmesh_sent_bytes_total', ONE)}", "up"),
                Query(f"8 * {testbed_rate('node', 'fragmesh_received_bytes_total', ONE)}", "down"),
                Query(
                    f"8 * {series('fragmesh_link_configured_rate_bytes_per_second', ONE)}", "configured {{direction}}"
                ),
            ],
            overrides=[dashed("/configured/")],
        ),
        TimeSeries(
            title="Messages in the outbox",
            description="Messages that wait to be sent.",
            unit="short",
            minimum=0,
            stepped=True,
            queries=[Query(one("fragmesh_outbox_messages"), "messages")],
        ),
        TimeSeries(
            title="In flight, against the bound",
            description="Bytes handed to the transport and not yet acknowledged; dashed: how many may be.",
            unit="bytes",
            minimum=0,
            queries=[
                Query(one("fragmesh_in_flight_bytes"), "in flight"),
                Query(one("fragmesh_in_flight_bytes_bound"), "bound"),
            ],
            overrides=[dashed("bound")],
        ),
        TimeSeries(
            title="Fate of the node's messages",
            description="Messages a testbed second by what became of them: those it sends, and those it receives.",
            unit="ops",
            minimum=0,
            queries=[
                Query(testbed_rate("node", f"fragmesh_messages_{fate}_total", ONE), fate)
                for fate in ("queued", "sent", "cancelled", "aborted", "lost", "delivered", "aggregated")
            ],
        ),
        TimeSeries(
            title="Transfer time",
            description="Time from a message's first byte to its last one, as they left the node: median, 90th and 99th"
            " percentile.",
            unit="s",
            logarithmic=True,
            queries=quantiles("fragmesh_transfer_seconds", ONE),
        ),
        TimeSeries(
            title="Staleness of what the node averages in",
            description="The node's round minus the round stamped on a message: median, 90th and 99th percentile.",
            unit="short",
            minimum=0,
            queries=quantiles("fragmesh_staleness_rounds", ONE),
        ),
    ],
)

HOST: Final = Row(
    "Host",
    [
        TimeSeries(
            title="Lateness of arrivals",
            description="Time by which the host was late with what arrived, testbed time: median, 90th and 99th"
            " percentile.",
            unit="s",
            logarithmic=True,
            queries=quantiles("fragmesh_arrival_lateness_seconds", ONE),
        ),
        TimeSeries(
            title="Processor time beside training",
            description="Processors that the node's process keeps busy, in real time, its training not included.",
            unit="percentunit",
            minimum=0,
            queries=[Query(f"sum by (node) ({rate('fragmesh_cpu_seconds_total', ONE)})", "node {{node}}")],
        ),
    ],
)

NODE_DASHBOARD: Final = Dashboard(
    uid="fragmesh-node",
    title="Fragmesh / Node",
    description="One node of one run: everything that it tells.",
    variables=[RUN_VARIABLE, GROUP_VARIABLE, QueryVariable("node", "Node", NODE_QUERY), STEP_VARIABLE],
    annotations=faults(),
    rows=[STATS, LEARNING, TIME, NETWORK, HOST],
)
