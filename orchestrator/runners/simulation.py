"""The ``simulation`` runtime: a plan in, a run directory out.

Advances the world from one evaluation to the next. At each it looks at all nodes' models off the clock: the
consensus distance at once, accuracy and loss through the training workers, which test models only while they
have no training to do. Lines of the curve are written in order as they become known.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.core.errors import RunnerError
from node.core.links import NetworkPlan
from node.core.messages import MessageState
from node.core.training import Evaluation, TrainerAndEvaluator
from node.core.types import Float64Vector, NodeId, Vector
from node.core.units import ns_to_s, s_to_ns
from node.sim.world import World
from orchestrator.environment import environment
from orchestrator.plan import Plan
from orchestrator.prepare import Prepared, prepare
from orchestrator.progress import Progress, Snapshot
from orchestrator.results.reader import load_run
from orchestrator.results.schema import NodeSample, RunTotals, Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runners.base import RunOptions, RunOutcome, Status, signals_held, stop_on_signals

Tested = list[tuple[int, dict[NodeId, Evaluation]]]
"""Finished evaluations: (ticket, result of each node)."""

FOREVER_NS = 10**18
"""The end of a run that only rounds stop: 30 years."""

SHOW_EVERY_S = 0.1
"""How often the display is told of progress between evaluations."""

STOP_PATIENCE_S = 3.0
"""How long a run that was asked to stop waits for tests under way, which would be its last lines."""


class _StopWaiting(Exception):
    """Raised by the signal handler in a wait that nothing else ends."""


def run_simulation(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment under virtual time.

    Raises:
        ConfigError, DataError: The experiment cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    progress = Progress(options.progress)
    prepared = prepare(
        plan,
        data_root=options.data_root,
        workers=options.workers,
        command=options.command,
        report=progress.preparing,
    )
    try:
        with signals_held():  # git is asked for the commit
            run = _Run(plan, prepared, progress)
            about = environment(seed=plan.config.seed, data_source=prepared.dataset.source)
        # From the first file to the last, a signal is a request that leaves a valid result.
        with stop_on_signals(run.request_stop):
            writer = RunWriter.create(options.out, prepared.facts, plan.config.model_dump(mode="json"), about)
            with progress:
                return run.execute(writer)
    finally:
        prepared.trainer.close()


class _Run:
    """One simulated run in progress."""

    def __init__(self, plan: Plan, prepared: Prepared, progress: Progress) -> None:
        self._plan = plan
        self._trainer: TrainerAndEvaluator = prepared.trainer
        self._progress = progress
        self._world = World(
            algorithms=prepared.algorithms,
            trainer=prepared.trainer,
            network=plan.network,
            compute=plan.compute,
            seed=plan.config.seed,
            max_rounds=plan.config.stop.rounds,
            keep_messages=plan.config.output.messages,
            after_steps=self._show_now_and_then,
        )
        self._end_ns = FOREVER_NS if plan.end_ns is None else plan.end_ns
        self._pending: dict[int, Sample] = {}
        self._last: Sample | None = None
        self._only_waiting = False
        self._began = self._shown_s = time.perf_counter()

    def execute(self, writer: RunWriter) -> RunOutcome:
        """Simulate, and write what comes of it.

        A request to stop that comes when everything is simulated and tested leaves a complete result; the outcome
        is ``interrupted`` all the same, for whoever asked.

        Raises:
            RunnerError: The results cannot be written.
        """
        error: RunnerError | None = None
        try:
            self._simulate(writer)
            self._wait_for_tests(writer)
            self._show()
        except RunnerError as failure:
            # Workers may have been told to stop as well: that they ended is then no failure.
            error = None if self._world.stop_requested else failure
        status: Status = "failed" if error else "interrupted" if self._world.stop_requested else "done"
        totals = self._totals(status, error)
        trace = self._world.trace
        messages = None if trace is None else trace.columns(self._world.now_ns)
        if messages is not None:
            totals = _count_replaced(totals, messages)
        try:
            summary = writer.finish(totals, messages, fidelity=_fidelity())
            _report(writer.path)
        except RunnerError as failure:
            raise error or failure from failure
        if status == "done" and self._world.stop_requested:
            status = "interrupted"
        return RunOutcome(writer.path, status, summary, totals.error)

    def _simulate(self, writer: RunWriter) -> None:
        interval_ns = s_to_ns(self._plan.config.evaluation.interval_s)
        ticket, next_ns = 0, 0
        while True:
            reached = self._world.advance(next_ns)
            if self._world.stop_requested and not reached:
                return
            self._evaluate(ticket)
            self._write(writer, self._trainer.collect(wait=False))
            self._show()
            if not reached or next_ns >= self._end_ns:
                return
            ticket += 1
            next_ns = min(next_ns + interval_ns, self._end_ns)

    def request_stop(self) -> None:
        """End at the next event; called by a signal's handler."""
        self._world.stop_requested = True
        if self._only_waiting:
            raise _StopWaiting

    # -- evaluation ------------------------------------------------------------------------------------------

    def _evaluate(self, ticket: int) -> None:
        models = self._models()
        nodes = tuple(
            NodeSample(
                node=node.index,
                accuracy=float("nan"),
                loss=float("nan"),
                train_loss=node.train_loss,
                rounds=node.rounds,
                local_steps=node.local_steps,
                bytes_sent=node.bytes_sent,
                queued_messages=len(node.outbox),
            )
            for node in self._world.nodes
        )
        self._pending[ticket] = Sample(
            time_ns=self._world.now_ns,
            nodes=nodes,
            bytes_sent=sum(node.bytes_sent for node in nodes),
            consensus_distance=consensus_distance(models),
        )
        self._trainer.submit(ticket, models)

    def _models(self) -> dict[NodeId, Vector]:
        if self._plan.config.evaluation.model == "after_aggregation":
            return {node.index: node.params for node in self._world.nodes}
        return {node.index: node.params if node.trained is None else node.trained for node in self._world.nodes}

    def _wait_for_tests(self, writer: RunWriter) -> None:
        """Write the rest of the curve; when asked to stop, only what is known within STOP_PATIENCE_S."""
        finished: Tested = []
        try:
            self._only_waiting = True
            if not self._world.stop_requested:
                finished = self._trainer.collect(wait=True)
        except _StopWaiting:
            pass
        finally:
            self._only_waiting = False
        self._write(writer, finished)
        until_s = time.monotonic() + STOP_PATIENCE_S
        while self._pending and time.monotonic() < until_s:
            self._write(writer, self._trainer.collect(wait=False))
            time.sleep(0.02)

    def _write(self, writer: RunWriter, finished: Tested) -> None:
        for ticket, evaluations in finished:
            sample = _with_results(self._pending.pop(ticket), evaluations)
            self._last = sample
            writer.add(sample)

    # -- figures ---------------------------------------------------------------------------------------------

    def _show_now_and_then(self) -> None:
        """After every block of local steps, which in a large network come faster than a snapshot can be made."""
        if time.perf_counter() - self._shown_s >= SHOW_EVERY_S:
            self._show()

    def _show(self) -> None:
        world = self._world
        self._shown_s = time.perf_counter()
        self._progress.update(
            Snapshot(
                time_ns=world.now_ns,
                end_ns=self._plan.end_ns,
                wall_s=self._shown_s - self._began,
                rounds_min=min(node.rounds for node in world.nodes),
                rounds_max=max(node.rounds for node in world.nodes),
                delivered=sum(node.delivered for node in world.nodes),
                bytes_sent=sum(node.bytes_sent for node in world.nodes),
                sample=self._last,
            )
        )

    def _totals(self, status: Status, error: RunnerError | None) -> RunTotals:
        world, counters = self._world, self._world.counters
        up, down = self._utilization()
        return RunTotals(
            status=status,
            time_ns=world.now_ns,
            bytes=counters.bytes,
            messages=counters.messages,
            train_steps=sum(node.local_steps for node in world.nodes),
            wall_s=time.perf_counter() - self._began,
            uplink_utilization=up,
            downlink_utilization=down,
            error=None if error is None else str(error),
        )

    def _utilization(self) -> tuple[Float64Vector | None, Float64Vector | None]:
        seconds = ns_to_s(self._world.now_ns)
        if seconds == 0:
            return None, None
        shares = []
        for direction, counted in (("up", "bytes_sent"), ("down", "bytes_received")):
            mbps = mean_capacity_mbps(self._plan.network, direction, self._world.now_ns)
            used = np.array([getattr(node, counted) for node in self._world.nodes]) * 8e-6 / seconds
            if not np.isfinite(mbps).all():
                return None, None
            shares.append(np.divide(used, mbps, out=np.zeros_like(used), where=mbps > 0))
        return shares[0], shares[1]


def _report(path: Path) -> None:
    """Write the report, once the results are safe on the disk."""
    # Imported here: matplotlib takes half a second, by which the first line of progress would be late.
    from orchestrator.report.page import write_report

    write_report(load_run(path))


def consensus_distance(models: Mapping[NodeId, Vector]) -> float:
    """D(x) = (1/n) sum of ||x_i - mean||^2 over the nodes' models; summed in float64, in node order."""
    first = next(iter(models.values()))
    mean = np.zeros(first.shape, dtype=np.float64)
    for params in models.values():
        mean += params
    mean /= len(models)
    return float(sum(np.square(params - mean).sum() for params in models.values()) / len(models))


def mean_capacity_mbps(network: NetworkPlan, direction: str, end_ns: int) -> Float64Vector:
    """Access capacity of every node averaged over ``[0, end_ns]``, Mbit/s; inf where unlimited."""
    capacity = (network.up_mbps if direction == "up" else network.down_mbps).copy()
    total = capacity * end_ns
    for time_ns, change in network.changes:
        if change.kind != direction or time_ns >= end_ns:
            continue
        node = change.source if direction == "up" else change.destination
        total[node] += (change.mbps - capacity[node]) * (end_ns - time_ns)
        capacity[node] = change.mbps
    return total / end_ns


def _with_results(sample: Sample, evaluations: Mapping[NodeId, Evaluation]) -> Sample:
    nodes = tuple(
        replace(node, accuracy=evaluations[NodeId(node.node)].accuracy, loss=evaluations[NodeId(node.node)].loss)
        for node in sample.nodes
    )
    return replace(sample, nodes=nodes)


def _count_replaced(totals: RunTotals, messages: Mapping[str, npt.NDArray[np.int64]]) -> RunTotals:
    replaced = int((messages["state"] == MessageState.REPLACED).sum())
    return replace(totals, messages={**totals.messages, "replaced": replaced})


def _fidelity() -> dict[str, object]:
    return {
        "runtime": "simulation",
        "verdict": "exact",
        "statement": "Time, links and faults are virtual: requested rates, latencies and step times hold exactly."
        " Packets, congestion control and competition for the host's cores are not modelled.",
        "checks": [],
    }
