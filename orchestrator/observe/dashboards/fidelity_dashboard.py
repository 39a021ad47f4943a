"""The dashboard of a run's fidelity: how far what the experiment asks for was achieved. Pure."""

from typing import Final

from orchestrator.observe.dashboards.layout import Dashboard, Row
from orchestrator.observe.dashboards.panels import COLUMNS, Query, Stat, TimeSeries, at_end
from orchestrator.observe.dashboards.queries import (
    GROUP,
    GROUP_VARIABLE,
    RUN_VARIABLE,
    STEP_VARIABLE,
    faults,
    latest,
    rate,
    series,
)
from orchestrator.observe.dashboards.tables import Column, Table


def at_last(metric: str, by: str) -> str:
    """Return the last value of a gauge in the shown range: of what is told once, or when the run has ended."""
    return f"max by ({by}) ({latest(metric)})"


def worst_quantile(histogram: str) -> str:
    """Return the highest 99th percentile among nodes, for the ten that are worst."""
    counts = f"sum by (le, node) ({rate(f'{histogram}_bucket', GROUP)})"
    return f"topk(10, histogram_quantile(0.99, {counts}))"


JUDGED: Final = latest("fragmesh_fidelity_ok")
"""The checks, which a run tells in its last moment alone."""

STATS: Final = Row(
    "",
    [
        Stat(
            title="Checks that failed",
            description="Checks of fidelity outside of their tolerances; known at the run's end.",
            unit="short",
            width=6,
            height=4,
            steps=[(1, "red")],
            queries=[at_end(f"count({JUDGED}) - sum({JUDGED})", form="time_series")],
        ),
        Stat(
            title="Time dilation",
            description="Real seconds of a testbed second. A host that cannot keep up needs a larger one.",
            unit="short",
            width=6,
            height=4,
            queries=[Query(series("fragmesh_run_time_dilation"))],
        ),
        Stat(
            title="CPU pressure",
            description="Share of the last ten seconds in which some process waited for a processor.",
            unit="percentunit",
            width=6,
            height=4,
            steps=[(0.2, "orange"), (0.5, "red")],
            queries=[Query(series("fragmesh_host_cpu_pressure_ratio"))],
        ),
        Stat(
            title="Latest fault",
            description="Most time by which a begin or end of a planned fault of a node was late.",
            unit="s",
            width=6,
            height=4,
            steps=[(0.05, "red")],
            queries=[Query(series("fragmesh_fault_lateness_seconds_max"))],
        ),
    ],
)

REQUESTED: Final = Row(
    "Requested and achieved",
    [
        Table(
            title="Checks",
            description="What each check of fidelity asks for and what was achieved, in the check's own unit, as in"
            " fidelity.json.",
            unit="none",
            width=COLUMNS,
            queries=[
                at_end(at_last("fragmesh_fidelity_requested", "check")),
                at_end(at_last("fragmesh_fidelity_achieved", "check")),
                at_end(at_last("fragmesh_fidelity_ok", "check")),
            ],
            columns=[
                Column("check", "Check"),
                Column("Value #A", "Requested", "short"),
                Column("Value #B", "Achieved", "short"),
                Column("Value #C", "Within tolerance", "bool_yes_no"),
            ],
            sort_by="Within tolerance",
        ),
        Table(
            title="Rates of links",
            description="Rate that each node's access link is to have, and the rate measured before the start.",
            unit="bps",
            queries=[
                at_end(f"8 * {at_last('fragmesh_link_configured_rate_bytes_per_second', 'node, direction')}"),
                at_end(f"8 * {at_last('fragmesh_link_measured_rate_bytes_per_second', 'node, direction')}"),
            ],
            columns=[
                Column("node", "Node"),
                Column("direction", "Direction"),
                Column("Value #A", "Configured", "bps"),
                Column("Value #B", "Measured", "bps"),
            ],
            sort_by="Node",
        ),
        Table(
            title="Round trips",
            description="Round-trip time that links of each node are to have, and its median before the start.",
            unit="s",
            queries=[
                at_end(at_last("fragmesh_link_configured_rtt_seconds", "node")),
                at_end(at_last("fragmesh_link_measured_rtt_seconds", "node")),
            ],
            columns=[
                Column("node", "Node"),
                Column("Value #A", "Configured", "s"),
                Column("Value #B", "Measured", "s"),
            ],
            sort_by="Node",
        ),
    ],
)

HOST: Final = Row(
    "The host",
    [
        TimeSeries(
            title="Lateness of arrivals, the worst nodes",
            description="99th percentile of the time by which the host was late with what arrived, testbed time, of the"
            " ten worst nodes; the line is the tolerance.",
            unit="s",
            minimum=0,
            steps=[(0.005, "red")],
            show_steps=True,
            queries=[Query(worst_quantile("fragmesh_arrival_lateness_seconds"), "node {{node}}")],
        ),
        TimeSeries(
            title="Overrun of local steps, the worst nodes",
            description="Time by which blocks of local steps took longer than declared, as a share of the declared"
            " time, of the ten worst nodes; the line is the tolerance.",
            unit="percentunit",
            minimum=0,
            steps=[(0.01, "red")],
            show_steps=True,
            queries=[
                Query(
                    f"topk(10, sum by (node) ({rate('fragmesh_overrun_seconds_total', GROUP)})"
                    f" / sum by (node) ({rate('fragmesh_declared_seconds_total', GROUP)}))",
                    "node {{node}}",
                )
            ],
        ),
        TimeSeries(
            title="CPU pressure over time",
            description="Share of the last ten seconds in which some process of the host waited for a processor.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            queries=[Query(series("fragmesh_host_cpu_pressure_ratio"), "pressure")],
        ),
        TimeSeries(
            title="Processors that nodes keep busy",
            description="Processor time of the nodes' processes, in real time and without training: sum of each group.",
            unit="short",
            minimum=0,
            queries=[Query(f"sum by (group) ({rate('fragmesh_cpu_seconds_total', GROUP)})", "{{group}}")],
        ),
        TimeSeries(
            title="Overruns",
            description="Blocks of local steps a second, real time, that took longer than declared: sum of each group.",
            unit="ops",
            minimum=0,
            queries=[Query(f"sum by (group) ({rate('fragmesh_overruns_total', GROUP)})", "{{group}}")],
        ),
        Table(
            title="Releases",
            description="Releases that take part. There should be one.",
            unit="none",
            queries=[at_end(f"count by (version, python, torch) ({latest('fragmesh_build_info')})")],
            columns=[
                Column("version", "Fragmesh"),
                Column("python", "Python"),
                Column("torch", "PyTorch"),
                Column("Value", "Nodes and orchestrators", "short"),
            ],
            sort_by="Fragmesh",
        ),
    ],
)

FIDELITY_DASHBOARD: Final = Dashboard(
    uid="fragmesh-fidelity",
    title="Fragmesh / Fidelity",
    description="How far one run achieved what its experiment asks of links, paces and instants.",
    variables=[RUN_VARIABLE, GROUP_VARIABLE, STEP_VARIABLE],
    annotations=faults(),
    rows=[STATS, REQUESTED, HOST],
)
