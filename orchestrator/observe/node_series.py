"""Series of what nodes told at their evaluations, and of when they were there. Pure.

Figures of tests stay as they are until the next evaluation; a node that is missing there has none. Counters that are
known only at evaluations grow evenly in between, so that their rates are those of whole intervals instead of a spike
at each evaluation; at evaluations they are exact, and those of whole numbers are whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from node.core.time_budget import TIME_FIGURES
from node.core.types import Float64Vector
from node.core.units import NEVER_NS, NS_PER_S
from node.metrics import ACTIVITIES, NODE_METRICS, PREFIX, RUN_METRICS
from orchestrator.observe.openmetrics import AnyTrack, Family, Track
from orchestrator.observe.sampled_run import Sampling
from orchestrator.results.fault_table import spans_down
from orchestrator.results.schema import Column

NODE_FAMILIES: Final = (
    *("rounds_total", "local_steps_total", "train_loss", "activity_seconds_total"),
    *("test_accuracy", "test_loss"),
)
"""Families, without their prefix, that come from ``nodes.parquet``."""

THERE_FAMILIES: Final = ("node_clock_seconds", "node_lives", "node_up")
"""Families of each node that follow from the time reached and from faults."""


def evaluation_families(sampling: Sampling, nodes: Mapping[str, Column]) -> Iterator[Family]:
    """Yield all families that the table of nodes tells of."""
    table = _EvaluationTable(sampling, nodes)
    for name in ("rounds", "local_steps"):
        yield NODE_METRICS[f"{PREFIX}{name}_total"], _of_nodes(sampling, np.floor(table.grown(name)).astype(np.int64))
    yield NODE_METRICS[f"{PREFIX}train_loss"], _of_nodes(sampling, table.held("train_loss"))
    yield NODE_METRICS[f"{PREFIX}activity_seconds_total"], _activities(sampling, table)
    for name in ("accuracy", "loss"):
        yield RUN_METRICS[f"{PREFIX}test_{name}"], _of_nodes(sampling, table.tested_last(name))


def there_families(sampling: Sampling) -> Iterator[Family]:
    """Yield the nodes' clock, how often they had begun, and whether they took part."""
    instants_ns, num_nodes = sampling.instants_ns, sampling.num_nodes
    clock = instants_ns / NS_PER_S
    yield NODE_METRICS[f"{PREFIX}node_clock_seconds"], _of_nodes(sampling, [clock] * num_nodes)
    lives = np.ones((num_nodes, len(instants_ns)), dtype=np.int64)
    up = _tested(sampling)
    for node, begin_ns, end_ns, _ in spans_down(sampling.run.faults or ()):
        until_ns = NEVER_NS if end_ns is None else end_ns
        up[node] &= (instants_ns < begin_ns) | (instants_ns >= until_ns)
        lives[node] += instants_ns >= until_ns
    yield NODE_METRICS[f"{PREFIX}node_lives"], _of_nodes(sampling, lives)
    yield RUN_METRICS[f"{PREFIX}node_up"], _of_nodes(sampling, up.astype(np.int64))


def _of_nodes(sampling: Sampling, values: Iterable[Column]) -> Iterator[AnyTrack]:
    for node, own in enumerate(values):
        yield Track(sampling.of_node(node), own)


def _activities(sampling: Sampling, table: "_EvaluationTable") -> Iterator[AnyTrack]:
    seconds = {activity: table.grown(figure) / NS_PER_S for activity, figure in TIME_FIGURES.items()}
    for node in range(sampling.num_nodes):
        for activity in ACTIVITIES:
            yield Track(sampling.of_node(node, activity=activity), seconds[activity][node])


def _tested(sampling: Sampling) -> npt.NDArray[np.bool_]:
    """Tell whether nodes were there at their last evaluation, shape (nodes, instants).

    Of nodes whose crashes were planned the schedule tells it to the instant, unless they died besides.
    """
    run = sampling.run
    there = np.ones((sampling.num_nodes, len(sampling.instants_ns)), dtype=bool)
    if run.nodes is None:
        return there
    died = (run.fidelity or {}).get("died", {})
    planned = {node for node, *_ in spans_down(run.faults or ())} - {int(node) for node in died}
    tested = _EvaluationTable(sampling, run.nodes).tested()
    others = [node for node in range(sampling.num_nodes) if node not in planned]
    there[others] = tested[others]
    return there


class _EvaluationTable:
    """The figures of all nodes at all evaluations, brought to the instants of a sampling."""

    def __init__(self, sampling: Sampling, nodes: Mapping[str, Column]) -> None:
        self._columns = nodes
        self._instants_ns = sampling.instants_ns
        self._times_ns, self._evaluation = np.unique(nodes["time_ns"], return_inverse=True)
        self._is_there = np.zeros((sampling.num_nodes, len(self._times_ns)), dtype=bool)
        self._is_there[nodes["node"], self._evaluation] = True
        self._last = np.searchsorted(self._times_ns, sampling.instants_ns, side="right") - 1
        """The last evaluation at each instant; -1 before the first one."""

    def tested(self) -> npt.NDArray[np.bool_]:
        """Tell whether each node was there at the last evaluation; before the first one all are."""
        if not self._times_ns.size:
            return np.ones((len(self._is_there), len(self._last)), dtype=bool)
        return self._is_there[:, self._last] | (self._last < 0)

    def tested_last(self, name: str) -> Float64Vector:
        """Return what the last evaluation says of each node, shape (nodes, instants); not a number of one it missed."""
        found: Float64Vector = self._matrix(name)[:, self._last]
        found[:, self._last < 0] = np.nan
        return found

    def held(self, name: str) -> Float64Vector:
        """Return what each node told last, shape (nodes, instants); not a number before it told anything."""
        numbers = np.where(self._is_there, np.arange(self._is_there.shape[1]), -1)
        told = np.maximum.accumulate(numbers, axis=1)[:, self._last]
        found: Float64Vector = np.take_along_axis(self._matrix(name), told, axis=1)
        found[(told < 0) | (self._last < 0)] = np.nan
        return found

    def grown(self, name: str) -> Float64Vector:
        """Return a counter of each node that grows evenly between its evaluations, from 0 at the start."""
        matrix = self._matrix(name)
        found = np.zeros((len(matrix), len(self._instants_ns)))
        for values, is_there, grown in zip(matrix, self._is_there, found, strict=True):
            if is_there.any():
                times_ns = np.concatenate([[-1], self._times_ns[is_there]])
                grown[:] = np.interp(self._instants_ns, times_ns, np.concatenate([[0.0], values[is_there]]))
        return found

    def _matrix(self, name: str) -> Float64Vector:
        matrix = np.full(self._is_there.shape, np.nan)
        matrix[self._columns["node"], self._evaluation] = self._columns[name]
        return matrix
