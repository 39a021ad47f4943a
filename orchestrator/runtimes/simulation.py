"""The ``simulation`` runtime: a plan in, a run directory out.

Advances the world from one evaluation to the next. At each it looks at all nodes' models off the clock: the
consensus distance at once, accuracy and loss through the training workers, which test models only while they
have no training to do. Lines of the curve are written in order as they become known.

A run that is interrupted leaves a checkpoint, from which :func:`resume_simulation` goes on: the results are then those
of a run that was not interrupted, to the byte, on a processor for which torch computes alike. Nothing is waited for:
local steps and tests that are under way are begun again.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.core.errors import ConfigError, RunnerError, TestbedError
from node.core.saved_state import State, savable_classes
from node.core.training import Evaluation, TrainerAndEvaluator
from node.core.types import NodeId, Vector
from node.core.units import s_to_ns
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from orchestrator.experiment.plan import Plan
from orchestrator.host.environment import versions
from orchestrator.host.signals import signals_held, stop_on_signals
from orchestrator.progress import Progress, Snapshot
from orchestrator.results import schema
from orchestrator.results.checkpoint import CHECKPOINT, read_checkpoint, remove_checkpoint, write_checkpoint
from orchestrator.results.files import reason
from orchestrator.results.reader import Run
from orchestrator.results.schema import JsonObject, NodeSample, RunTotals, Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runs.evaluation import consensus_distance, count_replaced, utilization, with_results
from orchestrator.runs.options import RunOptions, RunOutcome, Status, report
from orchestrator.runs.prepare import Prepared, environment_of, interrupted_run, prepare, recorded_plan

Tested = list[tuple[int, dict[NodeId, Evaluation]]]
"""Finished evaluations: (ticket, result of each node)."""

FOREVER_NS = 10**18
"""The end of a run that only rounds stop: 30 years."""

SHOW_EVERY_S = 0.1
"""How often the display is told of progress between evaluations."""

STOP_PATIENCE_S = 3.0
"""How long a run that was asked to stop waits for tests under way, which would be its last lines."""

SAVED_CLASSES: Final = savable_classes([schema])
"""Classes that the runner itself keeps in a checkpoint, besides plain values: samples that are still being tested."""

DECISIVE_VERSIONS: Final = ("fragmesh", "torch", "numpy")
"""Packages of which another version may compute something else."""


class _StopWaiting(Exception):
    """Raised by the signal handler in a wait that nothing else ends."""


def run_simulation(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment under virtual time.

    Raises:
        ConfigError, DataError: The experiment cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(plan, options, None)


def resume_simulation(path: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory, to what it would have led to.

    Args:
        path: The run directory.
        options: ``data_root`` None takes the run's own; ``out`` is not used.

    Raises:
        ConfigError, DataError: The run cannot go on; nothing has been changed.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    found, options = interrupted_run(path, options)
    about, state = read_checkpoint(path / CHECKPOINT)
    return _run(recorded_plan(found), options, _Saved(found, about, state))


@dataclass(frozen=True, eq=False)
class _Saved:
    """An interrupted run: its directory as it was found, and its checkpoint."""

    run: Run
    about: JsonObject
    state: State


def _run(plan: Plan, options: RunOptions, saved: _Saved | None) -> RunOutcome:
    progress = Progress(options.progress)
    prepared = prepare(
        plan,
        data_root=options.data_root,
        workers=options.workers,
        command=options.command,
        report=progress.preparing,
    )
    writer: RunWriter | None = None
    try:
        with signals_held():  # git is asked for the commit
            run = _Run(plan, prepared, progress)
            about = environment_of(plan, prepared, options.data_root)
        # From the first file to the last, a signal is a request that leaves a valid result.
        with stop_on_signals(run.request_stop):
            if saved is None:
                writer = RunWriter.create(options.out, prepared.facts, plan.config.model_dump(mode="json"), about)
            else:
                writer = run.restore(saved, about)
            with progress:
                return run.execute(writer)
    finally:
        if writer is not None:
            writer.close()
        prepared.trainer.close()


class _Run:
    """One simulated run in progress.

    State:
        _next_ns: The next instant of evaluation, which the world has not reached or is at.
        _simulated: Nothing is left but tests.
        _ticket: Number of the next evaluation.
        _pending: Evaluations without results, by number: the sample, and the models that are tested.
        _saved_s: When the last checkpoint was written, or was tried to be.
        _unsaved: Why the last checkpoint could not be written; None if it was.
    """

    def __init__(self, plan: Plan, prepared: Prepared, progress: Progress) -> None:
        self._plan = plan
        self._prepared = prepared
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
            after_steps=self._after_steps,
        )
        self._end_ns = FOREVER_NS if plan.end_ns is None else plan.end_ns
        self._next_ns = 0
        self._simulated = False
        self._ticket = 0
        self._pending: dict[int, tuple[Sample, dict[NodeId, Vector]]] = {}
        self._last: Sample | None = None
        self._only_waiting = False
        self._began = self._shown_s = self._saved_s = time.perf_counter()
        self._unsaved: str | None = None
        self._writer: RunWriter | None = None
        self._about: JsonObject | None = None

    def execute(self, writer: RunWriter) -> RunOutcome:
        """Simulate, and write what comes of it.

        A request to stop that comes when everything is simulated and tested leaves a complete result; the outcome
        is ``interrupted`` all the same, for whoever asked.

        Raises:
            RunnerError: The results cannot be written.
        """
        error: RunnerError | None = None
        self._writer = writer
        try:
            self._simulate(writer)
            self._wait_for_tests(writer)
            self._show()
        except RunnerError as failure:
            # Workers may have been told to stop as well: that they ended is then no failure.
            error = None if self._world.stop_requested else failure
        if error or self._world.stop_requested:
            self._save(writer)
        status: Status = "failed" if error else "interrupted" if self._world.stop_requested else "done"
        totals = self._totals(status, error)
        trace = self._world.trace
        messages = None if trace is None else trace.columns(self._world.now_ns)
        if messages is not None:
            totals = count_replaced(totals, messages)
        try:
            summary = writer.finish(totals, messages, fidelity=_fidelity())
            if status == "done":
                remove_checkpoint(writer.path / CHECKPOINT)
            report(writer.path)
        except RunnerError as failure:
            raise error or failure from failure
        if status == "done" and self._world.stop_requested:
            status = "interrupted"
        return RunOutcome(writer.path, status, summary, totals.error)

    def _simulate(self, writer: RunWriter) -> None:
        interval_ns = s_to_ns(self._plan.config.evaluation.interval_s)
        while not self._simulated:
            reached = self._world.advance(self._next_ns)
            if self._world.stop_requested and not reached:
                return
            self._simulated = not reached or self._next_ns >= self._end_ns
            self._next_ns = min(self._next_ns + interval_ns, self._end_ns)
            self._evaluate()
            self._write(writer, self._trainer.collect(wait=False))
            self._show()

    def request_stop(self) -> None:
        """End at the next event; called by a signal's handler."""
        self._world.stop_requested = True
        if self._only_waiting:
            raise _StopWaiting

    # -- checkpoints -----------------------------------------------------------------------------------------

    def restore(self, saved: _Saved, environment: JsonObject) -> RunWriter:
        """Bring a new run to where another one was saved, and its directory with it.

        Raises:
            ConfigError: The checkpoint is of another run, or the directory cannot be written; it is as it was.
        """
        path = saved.run.path
        self._refuse_another(saved)
        try:
            more = restore_world(self._world, self._trainer, saved.state, SAVED_CLASSES)
        except ConfigError as error:
            raise ConfigError(f"{path / CHECKPOINT}: {error}") from error
        writer = RunWriter.reopen(path, self._prepared.facts, more["writer"], environment)
        self._next_ns, self._simulated, self._ticket = more["next_ns"], more["simulated"], more["ticket"]
        self._began -= more["wall_s"]
        self._pending = more["pending"]
        for ticket, (_, models) in self._pending.items():
            self._trainer.submit(ticket, models)
        return writer

    def _refuse_another(self, saved: _Saved) -> None:
        path, about = saved.run.path, self._about_checkpoint()
        for name, version in about["versions"].items():
            written = saved.about["versions"].get(name)
            if written != version:
                raise ConfigError(f"{path / CHECKPOINT}: made with {name} {written}, this is {version}: would differ")
        for what, place in (("experiment", path / "experiment.yaml"), ("inputs", "data set, trace or edge list")):
            if saved.about[what] != about[what]:
                raise ConfigError(f"{path}: cannot be continued: {place}: changed since the run began")

    def _about_checkpoint(self) -> JsonObject:
        if self._about is None:
            found, experiment = versions(), self._plan.config.model_dump_json()
            self._about = {
                "versions": {name: found[name] for name in DECISIVE_VERSIONS},
                "experiment": hashlib.sha256(experiment.encode()).hexdigest(),
                "inputs": _fingerprint(self._plan, self._prepared),
            }
        return self._about

    def _save(self, writer: RunWriter) -> None:
        """Write a checkpoint, or say why not: the run goes on, and an older checkpoint stays.

        The world is between two events.
        """
        try:
            self._write_checkpoint(writer)
            self._unsaved = None
        except Exception as failure:  # even a bug of ours in here must not cost the run its results
            text = reason(failure) if isinstance(failure, TestbedError) else f"{type(failure).__name__}: {failure}"
            if text != self._unsaved:
                self._progress.note(f"no checkpoint: {text}")
            self._unsaved = text

    def _write_checkpoint(self, writer: RunWriter) -> None:
        self._saved_s = time.perf_counter()
        more: dict[str, Any] = {
            "next_ns": self._next_ns,
            "simulated": self._simulated,
            "ticket": self._ticket,
            "pending": self._pending,
            "wall_s": self._saved_s - self._began,
            "writer": writer.state(),
        }
        write_checkpoint(
            writer.path / CHECKPOINT,
            self._about_checkpoint(),
            save_world(self._world, self._trainer, more, SAVED_CLASSES),
        )

    # -- evaluation ------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
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
        sample = Sample(
            time_ns=self._world.now_ns,
            nodes=nodes,
            bytes_sent=sum(node.bytes_sent for node in nodes),
            consensus_distance=consensus_distance(models),
        )
        ticket, self._ticket = self._ticket, self._ticket + 1
        self._pending[ticket] = sample, models
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
            sample = with_results(self._pending[ticket][0], evaluations)
            writer.add(sample)
            del self._pending[ticket]
            self._last = sample

    # -- figures ---------------------------------------------------------------------------------------------

    def _after_steps(self) -> None:
        """Show and save now and then. Called by the world after every block of local steps, the end of an event."""
        now_s = time.perf_counter()
        if now_s - self._shown_s >= SHOW_EVERY_S:
            self._show()
        every_s = self._plan.config.output.checkpoint_every_s
        if every_s is not None and now_s - self._saved_s >= every_s:
            assert self._writer is not None
            self._save(self._writer)

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
        nodes = world.nodes
        sent, received = [node.bytes_sent for node in nodes], [node.bytes_received for node in nodes]
        up, down = utilization(self._plan.network, sent, received, world.now_ns)
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
            checkpoint_error=self._unsaved,
        )


def _fingerprint(plan: Plan, prepared: Prepared) -> str:
    """A digest of what the experiment file only names: data, traces, edge lists, and what was drawn from them."""
    digest = hashlib.sha256()
    dataset, split, network = prepared.dataset, prepared.split, plan.network
    for samples in (dataset.train, dataset.test):
        digest.update(np.ascontiguousarray(samples.inputs).data)
        digest.update(np.ascontiguousarray(samples.targets).data)
    for indices in (*split.train_indices, *(split.test_indices or ())):
        digest.update(indices.data)
    for values in (network.up_mbps, network.down_mbps, network.pair_mbps):
        digest.update(b"" if values is None else np.ascontiguousarray(values).data)
    for value in (network.latency_ns, network.jitter_ns, network.loss):
        digest.update(np.ascontiguousarray(value).data)
    digest.update(repr((plan.topology.adjacency, network.changes, plan.compute.step_ns)).encode())
    digest.update(prepared.trainer.initial_params().data)
    return digest.hexdigest()


def _fidelity() -> dict[str, object]:
    return {
        "runtime": "simulation",
        "verdict": "exact",
        "statement": "Time, links and faults are virtual: requested rates, latencies and step times hold exactly."
        " Packets, congestion control and competition for the host's cores are not modelled.",
        "checks": [],
    }
