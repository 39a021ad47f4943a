"""Recurring pieces of PromQL, with Grafana's variables. Pure.

All selectors hold the run, so that runs which share a Prometheus never mix. Durations and rates are shown in testbed
time: what a real second carries is multiplied by the run's time dilation.
"""

from typing import Final

from orchestrator.observe.dashboards.layout import Annotation, QueryVariable, TextVariable
from orchestrator.observe.dashboards.panels import Query

RUN: Final = 'run="$run"'
"""Selects the one run that a dashboard shows."""

RUNS: Final = 'run=~"$run"'
"""Selects the runs that are compared."""

GROUP: Final = 'group=~"$group"'
NODE: Final = 'node=~"$node"'

DILATION: Final = "scalar(max(fragmesh_run_time_dilation{" + RUN + "}))"
"""Real seconds of a testbed second."""

OVER: Final = 'phase=~"stopping|testing|over"'
"""Selects the phases of a run in which its nodes leave, or have left."""

QUANTILES: Final = (0.5, 0.9, 0.99)

STEP_VARIABLE: Final = TextVariable("step", "Sampled every", "1s")
"""Time between two samples: a second of a run that was scraped, the step of the export of a simulation."""

RUN_VARIABLE: Final = QueryVariable("run", "Run", "label_values(fragmesh_run_info, run)", newest_first=True)
GROUP_VARIABLE: Final = QueryVariable(
    "group", "Group", 'label_values(fragmesh_node_up{run="$run"}, group)', several=True
)
NODE_QUERY: Final = 'label_values(fragmesh_node_up{run="$run", group=~"$group"}, node)'
NODE_VARIABLE: Final = QueryVariable("node", "Node", NODE_QUERY, several=True)


def series(metric: str, *matchers: str) -> str:
    """Select the series of a metric in the run that is shown."""
    return f"{metric}{{{', '.join((RUN, *matchers))}}}"


def tested(metric: str, *matchers: str) -> str:
    """Select a figure of tests of those nodes that have one: of others it may be there and not be a number."""
    return f"{series(metric, *matchers)} >= 0"


def rate(counter: str, *matchers: str) -> str:
    """Growth of a counter, a real second."""
    return f"rate({series(counter, *matchers)}[$__rate_interval])"


def testbed_rate(by: str, counter: str, *matchers: str) -> str:
    """Growth of a counter a testbed second, summed by labels."""
    return f"sum by ({by}) ({rate(counter, *matchers)}) * {DILATION}"


def in_range(by: str, counter: str, *matchers: str) -> str:
    """Growth of a counter over the time range, summed by labels."""
    return f"sum by ({by}) (increase({series(counter, *matchers)}[$__range]))"


def until_over(expr: str) -> str:
    """Return an expression by run while the run lasts; an export has no phases, and ends with its run."""
    return f"{expr} unless on (run) ({series('fragmesh_run_phase', OVER)} == 1)"


def latest(metric: str, *matchers: str) -> str:
    """Return the last value in the time range, which may reach beyond the run's end."""
    return f"last_over_time({series(metric, *matchers)}[$__range])"


def latest_phase(metric: str, *matchers: str) -> str:
    """Return the phase that held last in the time range, with its label."""
    held = f"timestamp({series(metric, *matchers)} == 1)"
    return f"topk(1, max_over_time({held}[$__range:$__interval]))"


def quantiles(histogram: str, *matchers: str) -> tuple[Query, ...]:
    """Return the median and high quantiles of a histogram over time, one query each."""
    counts = f"sum by (le) ({rate(f'{histogram}_bucket', *matchers)})"
    return tuple(Query(f"histogram_quantile({q}, {counts})", f"p{100 * q:g}") for q in QUANTILES)


def faults(*matchers: str) -> tuple[Annotation, ...]:
    """Return marks of the schedule: bands while an entry holds, and its planned instants to the millisecond."""
    begin, end = (
        f"1000 * {series(f'fragmesh_fault_{edge}_timestamp_seconds', *matchers)}" for edge in ("begin", "end")
    )
    active = f"{series('fragmesh_fault_active', *matchers)} == 1"
    what, where = "{{action}}", "{{target}} ({{entry}})"
    return (
        Annotation("Faults", active, what, where, "orange"),
        Annotation("Faults begin", begin, f"{what} begins", where, "red", at_value=True),
        Annotation("Faults end", end, f"{what} ends", where, "green", at_value=True),
    )
