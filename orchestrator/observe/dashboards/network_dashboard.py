"""The dashboard of a run's network: what links carry against what they should, and what becomes of messages. Pure."""

from typing import Final

from orchestrator.observe.dashboards.layout import Dashboard, Row
from orchestrator.observe.dashboards.panels import BarGauge, Heatmap, Query, TimeSeries, at_end, dashed
from orchestrator.observe.dashboards.queries import (
    DILATION,
    GROUP,
    GROUP_VARIABLE,
    NODE,
    NODE_VARIABLE,
    RUN_VARIABLE,
    STEP_VARIABLE,
    faults,
    latest,
    quantiles,
    rate,
    series,
    testbed_rate,
)

CONFIGURED: Final = dashed("/configured|bound/")
"""Dashes for bounds, and for what was asked for."""


LEFT_IN_VAIN: Final = 'class=~"wasted|retransmitted"'
"""Selects bytes that carried nothing new."""


def configured(direction: str) -> str:
    """Return the rates that links are to have in one direction, bytes a testbed second."""
    return series("fragmesh_link_configured_rate_bytes_per_second", NODE, f'direction="{direction}"')


def against_shape(title: str, counter: str, direction: str) -> TimeSeries:
    """Return a panel of the rates of one direction beside the rates that links are to have."""
    carried = f"8 * avg by (group) (sum by (group, node) ({rate(counter, GROUP, NODE)})) * {DILATION}"
    group_of = f"(0 * {series('fragmesh_node_up', GROUP, NODE)} + 1)"
    return TimeSeries(
        title=title,
        description=f"Bits a testbed second that a node's link carries {direction}, headers included: mean of each"
        " group; dashed: the rate that it is to have.",
        unit="bps",
        minimum=0,
        queries=[
            Query(carried, "{{group}}"),
            Query(
                f"8 * avg by (group) ({configured(direction)} * on (node) group_left (group) {group_of})",
                "{{group}} configured",
            ),
        ],
        overrides=[CONFIGURED],
    )


def use_of_links(title: str, counter: str, direction: str) -> TimeSeries:
    """Return a panel of the share of the configured rates that is used."""
    return TimeSeries(
        title=title,
        description=f"Share of the rate that a link is to have {direction} which is carried. A straggler whose link is"
        " the bottleneck stays near 100 %; more than that is mis-shaped.",
        unit="percentunit",
        minimum=0,
        steps=[(1, "red")],
        show_steps=True,
        queries=[
            Query(f"{testbed_rate('node', counter, GROUP, NODE)} / on (node) {configured(direction)}", "node {{node}}"),
        ],
    )


LINKS: Final = Row(
    "Links",
    [
        against_shape("Up, against the configured rate", "fragmesh_sent_bytes_total", "up"),
        against_shape("Down, against the configured rate", "fragmesh_received_bytes_total", "down"),
        use_of_links("Use of links up", "fragmesh_sent_bytes_total", "up"),
        use_of_links("Use of links down", "fragmesh_received_bytes_total", "down"),
    ],
)

QUEUES: Final = Row(
    "Queues",
    [
        TimeSeries(
            title="In flight, against the bound",
            description="Bytes handed to the transport and not yet acknowledged, of the fullest window of each group;"
            " dashed: how many may be. Only below the bound does taking a message out of the outbox keep it from being"
            " sent.",
            unit="bytes",
            minimum=0,
            queries=[
                Query(f"max by (group) ({series('fragmesh_in_flight_bytes', GROUP, NODE)})", "{{group}}"),
                Query(f"max by (group) ({series('fragmesh_in_flight_bytes_bound', GROUP, NODE)})", "{{group}} bound"),
            ],
            overrides=[CONFIGURED],
        ),
        BarGauge(
            title="Most ever in flight, as a share of the bound",
            description="The most bytes that were ever in flight, as a share of those that may be; the 20 highest.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            steps=[(1, "red")],
            queries=[
                at_end(
                    f"topk(20, max by (node) ({latest('fragmesh_in_flight_bytes_max', GROUP, NODE)})"
                    f" / max by (node) ({latest('fragmesh_in_flight_bytes_bound', GROUP, NODE)}))",
                    "node {{node}}",
                    "time_series",
                )
            ],
        ),
        TimeSeries(
            title="Messages in outboxes",
            description="Messages that wait to be sent: mean of each group.",
            unit="short",
            minimum=0,
            queries=[Query(f"avg by (group) ({series('fragmesh_outbox_messages', GROUP, NODE)})", "{{group}}")],
        ),
        TimeSeries(
            title="Share of messages never sent",
            description="Messages taken out of the outbox or given up under way, as a share of those put into it. Of"
            " DivShare's stragglers most are: what is not sent by the next round is out of date.",
            unit="percentunit",
            minimum=0,
            queries=[
                Query(
                    f"(sum by (group) ({rate('fragmesh_messages_cancelled_total', GROUP, NODE)})"
                    f" + sum by (group) ({rate('fragmesh_messages_aborted_total', GROUP, NODE)}))"
                    f" / sum by (group) ({rate('fragmesh_messages_queued_total', GROUP, NODE)})",
                    "{{group}}",
                )
            ],
        ),
    ],
)

TRANSFERS: Final = Row(
    "Transfers",
    [
        TimeSeries(
            title="Transfer time",
            description="Time from a message's first byte to its last one, as they left: median, 90th and 99th"
            " percentile, from a histogram.",
            unit="s",
            logarithmic=True,
            queries=quantiles("fragmesh_transfer_seconds", GROUP, NODE),
        ),
        Heatmap(
            title="Transfer time, all messages",
            description="Messages by the time that they took to leave: fast nodes and stragglers are two bands.",
            unit="s",
            queries=[
                Query(
                    "sum by (le) (increase("
                    + series("fragmesh_transfer_seconds_bucket", GROUP, NODE)
                    + "[$__rate_interval]))",
                    "{{le}}",
                    form="heatmap",
                )
            ],
        ),
        TimeSeries(
            title="Age of what is averaged in",
            description="Time from a message's arrival to its averaging: median, 90th and 99th percentile.",
            unit="s",
            logarithmic=True,
            queries=quantiles("fragmesh_age_seconds", GROUP, NODE),
        ),
        TimeSeries(
            title="Staleness of what is averaged in",
            description="The receiver's round minus the round stamped on a message: median, 90th and 99th percentile.",
            unit="short",
            minimum=0,
            queries=quantiles("fragmesh_staleness_rounds", GROUP, NODE),
        ),
    ],
)

LOSSES: Final = Row(
    "Losses",
    [
        TimeSeries(
            title="Messages lost",
            description="Messages a testbed second that were sent and never reached their receiver, by the sender's"
            " group.",
            unit="ops",
            minimum=0,
            queries=[Query(testbed_rate("group", "fragmesh_messages_lost_total", GROUP, NODE), "{{group}}")],
        ),
        TimeSeries(
            title="Messages refused",
            description="Messages a testbed second that arrived and were refused, by reason. Outside of planned faults"
            " there should be none.",
            unit="ops",
            minimum=0,
            queries=[Query(testbed_rate("reason", "fragmesh_messages_rejected_total", GROUP, NODE), "{{reason}}")],
        ),
        TimeSeries(
            title="Share of bytes wasted or sent again",
            description="Bytes of messages that were given up under way, and bytes that the transport sent again, as"
            " shares of all sent.",
            unit="percentunit",
            minimum=0,
            queries=[
                Query(
                    f"sum by (class) ({rate('fragmesh_sent_bytes_total', GROUP, NODE, LEFT_IN_VAIN)})"
                    f" / on () group_left () sum({rate('fragmesh_sent_bytes_total', GROUP, NODE)})",
                    "{{class}}",
                )
            ],
        ),
        TimeSeries(
            title="Peers that cannot be reached",
            description="Peers that a node could not reach at its last attempt: sum over each group.",
            unit="short",
            minimum=0,
            stepped=True,
            queries=[Query(f"sum by (group) ({series('fragmesh_node_unreachable_peers', GROUP, NODE)})", "{{group}}")],
        ),
    ],
)

NETWORK_DASHBOARD: Final = Dashboard(
    uid="fragmesh-network",
    title="Fragmesh / Network",
    description="The network of one run: what links carry against what they should, and what becomes of messages.",
    variables=[RUN_VARIABLE, GROUP_VARIABLE, NODE_VARIABLE, STEP_VARIABLE],
    annotations=faults(),
    rows=[LINKS, QUEUES, TRANSFERS, LOSSES],
)
