"""The ``simulation`` runtime: a plan in, a run directory out.

Advances the world from one evaluation to the next. At each it looks at all nodes' models off the clock: the
consensus distance at once, accuracy and loss through the training workers, which test models only while they
have no training to do. Lines of the curve are written in order as they become known.

A run that is interrupted leaves a checkpoint, from which :func:`resume_simulation` goes on: the results are then those
of a run that was not interrupted, to the byte, on a processor for which torch computes alike. Nothing is waited for:
local steps and tests that are under way are begun again.
"""

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.core.errors import ConfigError, DivergedError, RunnerError, TestbedError
from node.core.saved_state import State, savable_classes
from node.core.time_budget import times_of
from node.core.training import TrainerAndEvaluator
from node.core.types import NodeId, Vector
from node.core.units import s_to_ns
from node.sim.node_faults import NodeFates
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.record import exact_instants
from orchestrator.fidelity import EXACT, end_text, good_verdict, saturation_text
from orchestrator.host.environment import versions
from orchestrator.progress.progress import Progress
from orchestrator.progress.run_progress import RunProgress
from orchestrator.results import schema
from orchestrator.results.checkpoint import CHECKPOINT, read_checkpoint, remove_checkpoint, write_checkpoint
from orchestrator.results.files import first_line_of
from orchestrator.results.reader import Run
from orchestrator.results.schema import EndStatus, JsonObject, NodeSample, RunTotals, Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runs.evaluation import ModelTests, consensus_distance, utilization
from orchestrator.runs.lifecycle import RunResults, conduct
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.resume import interrupted_run, recorded_plan
from orchestrator.runs.stopping import StopRequests
from orchestrator.runtimes.simulated_rows import SimulatedRows

FOREVER_NS = 10**18
"""The end of a run that only rounds stop: 30 years."""

SHOW_EVERY_S = 0.1
"""Interval at which the display is told of progress between evaluations."""

STOP_PATIENCE_S = 3.0
"""Time that a run which was asked to stop waits for tests under way, which would be its last lines."""

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
    saved = read_checkpoint(path / CHECKPOINT)
    return _run(recorded_plan(found, options.input_root), options, found, saved)


def _run(
    plan: Plan, options: RunOptions, found: Run | None, saved: tuple[JsonObject, State] | None = None
) -> RunOutcome:
    def make_run(prepared: Prepared, progress: Progress) -> SimulatedRun:
        return SimulatedRun(plan, prepared, progress, saved)

    return conduct(plan, options, make_run, found=found)


class SimulatedRun:
    """One simulated run in progress; a :class:`~orchestrator.runs.lifecycle.Course`.

    State:
        _next_ns: The next instant of evaluation, which the world has not reached or is at.
        _simulated: Nothing is left but tests.
        _ticket: Number of the next evaluation.
        _restored: Evaluations that an interrupted run had under way, until they are begun again.
        _saved_s: When the last checkpoint was written, or was tried to be.
        _unsaved: Why the last checkpoint could not be written; None if it was.
        _writer: Writes the run's directory; None before it is open.
    """

    def __init__(
        self, plan: Plan, prepared: Prepared, progress: Progress, saved: tuple[JsonObject, State] | None
    ) -> None:
        """Make a world that has not begun.

        Args:
            plan: The experiment.
            prepared: Its data and trainer.
            progress: Where it is shown.
            saved: The checkpoint of the run that is gone on with: what it is of, and its content; None for a new one.
        """
        self._plan = plan
        self._prepared = prepared
        self._trainer: TrainerAndEvaluator = prepared.trainer
        self._progress = progress
        self._saved = saved
        self._world = World(
            algorithms=plan.algorithms(prepared.trainer.tensor_sizes),
            trainer=prepared.trainer,
            network=plan.network,
            compute=plan.compute,
            seed=plan.config.seed,
            max_rounds=plan.config.stop.rounds,
            keep_messages=plan.config.output.messages,
            after_steps=self._after_steps,
        )
        if states := plan.schedule.node_states():
            sizes = prepared.trainer.tensor_sizes
            self._world.let_happen(NodeFates(states, lambda node, life: plan.algorithm_of(node, sizes, life=life)))
        self._requests = StopRequests(levels=1, one_signal_s=0.0)
        self._tests = ModelTests(prepared.trainer, self._on_sample)
        self._rows = SimulatedRows(plan.stragglers)
        self._end_ns = FOREVER_NS if plan.end_ns is None else plan.end_ns
        self._next_ns = 0
        self._simulated = False
        self._ticket = 0
        self._restored: Mapping[int, tuple[Sample, Mapping[NodeId, Vector]]] = {}
        self._only_waiting = False
        self._began_s = self._shown_s = self._saved_s = time.perf_counter()
        self._unsaved: str | None = None
        self._writer: RunWriter | None = None
        self._about: JsonObject | None = None

    # -- as the lifecycle asks ---------------------------------------------------------------------------------

    @property
    def environment(self) -> Mapping[str, Any]:
        """Return nothing: what a simulation depends on is recorded of every run."""
        return {}

    @property
    def stop_requested(self) -> bool:
        """See :class:`~orchestrator.runs.lifecycle.Course`."""
        return self._world.stop_requested

    def request_stop(self) -> None:
        """End at the next event; a second request drops everything."""
        self._requests.request()
        self._world.stop_requested = True
        if self._only_waiting:
            raise _StopWaiting

    def restore(self, found: Run) -> Mapping[str, Any]:
        """Bring the world to where it was saved, and return the writer's state then.

        Raises:
            ConfigError: The checkpoint is of another run; the directory is as it was.
        """
        assert self._saved is not None, "a run that goes on has a checkpoint"
        about, state = self._saved
        self._refuse_another(found.path, about)
        try:
            more = restore_world(self._world, self._trainer, state, SAVED_CLASSES)
        except ConfigError as error:
            raise ConfigError(f"{found.path / CHECKPOINT}: {error}") from error
        self._next_ns, self._simulated, self._ticket = more["next_ns"], more["simulated"], more["ticket"]
        self._began_s -= more["wall_s"]
        self._restored = more["pending"]
        state_of_writer: Mapping[str, Any] = more["writer"]
        return state_of_writer

    def begin(self, writer: RunWriter, found: Run | None) -> None:
        """Take the directory, and begin what was under way when the run was saved."""
        self._writer = writer
        self._tests.submit_again(self._restored)

    def execute(self) -> None:
        """Simulate from one evaluation to the next, and wait for the tests of the models.

        Raises:
            DivergedError: A node's model is not finite any more.
            RunnerError: Training failed, nothing can happen any more, or the results cannot be written.
        """
        try:
            self._simulate()
        except RunnerError:
            # The curve up to the failure is worth having, and must not hide the failure.
            with contextlib.suppress(RunnerError):
                self._wait_for_tests()
            raise
        self._wait_for_tests()
        self._show()

    def keep_for_resume(self) -> None:
        """Write a checkpoint, or say why not: the run goes on, and an older checkpoint stays.

        The world is between two events.
        """
        try:
            self._write_checkpoint()
            self._unsaved = None
        except Exception as failure:  # even a bug of ours in here must not cost the run its results
            text = (
                first_line_of(failure) if isinstance(failure, TestbedError) else f"{type(failure).__name__}: {failure}"
            )
            if text != self._unsaved:
                self._progress.note(f"no checkpoint: {text}")
            self._unsaved = text

    def _write_checkpoint(self) -> None:
        assert self._writer is not None, "the directory is open"
        self._saved_s = time.perf_counter()
        more: dict[str, Any] = {
            "next_ns": self._next_ns,
            "simulated": self._simulated,
            "ticket": self._ticket,
            "pending": self._tests.pending,
            "wall_s": self._saved_s - self._began_s,
            "writer": self._writer.state(),
        }
        write_checkpoint(
            self._writer.path / CHECKPOINT,
            self._about_checkpoint(),
            save_world(self._world, self._trainer, more, SAVED_CLASSES),
        )

    def results(self, status: EndStatus, error: RunnerError | None) -> RunResults:
        """See :class:`~orchestrator.runs.lifecycle.Course`."""
        trace = self._world.trace
        messages = None if trace is None else trace.columns(self._world.now_ns)
        totals = self._totals(status, error)
        return RunResults(totals, messages, _fidelity(totals))

    def forget_resume(self) -> None:
        """Remove the checkpoint."""
        assert self._writer is not None, "the directory is open"
        remove_checkpoint(self._writer.path / CHECKPOINT)

    # -- simulating ------------------------------------------------------------------------------------------

    def _simulate(self) -> None:
        interval_ns = s_to_ns(self._plan.config.evaluation.interval_s)
        while not self._simulated:
            reached = self._world.advance(self._next_ns)
            if self._world.stop_requested and not reached:
                return
            self._simulated = not reached or self._next_ns >= self._end_ns
            self._next_ns = min(self._next_ns + interval_ns, self._end_ns)
            self._evaluate()
            self._tests.collect()
            self._show()

    # -- checkpoints -------------------------------------------------------------------------------------------

    def _refuse_another(self, path: Path, saved: JsonObject) -> None:
        about = self._about_checkpoint()
        for name, version in about["versions"].items():
            written = saved["versions"].get(name)
            if written != version:
                raise ConfigError(f"{path / CHECKPOINT}: made with {name} {written}, this is {version}: would differ")
        for what, place in (("experiment", path / "experiment.yaml"), ("inputs", "data set, trace or edge list")):
            if saved[what] != about[what]:
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

    # -- evaluation ------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        after_training = self._plan.config.evaluation.model == "after_training"
        alive = self._world.hand_over()
        models = {
            node.index: node.trained if after_training and node.trained is not None else node.params for node in alive
        }
        if not models:  # nobody is there: the curve has no line
            return
        nodes = tuple(NodeSample.untested(node.index, node.current_counters()) for node in alive)
        sample = Sample(
            time_ns=self._world.now_ns,
            nodes=nodes,
            bytes_sent=sum(node.counters.bytes_sent for node in self._world.nodes),
            consensus_distance=consensus_distance(models),
        )
        ticket, self._ticket = self._ticket, self._ticket + 1
        self._tests.submit(ticket, sample, models)

    def _wait_for_tests(self) -> None:
        """Write the rest of the curve; when asked to stop, only what is known within STOP_PATIENCE_S."""
        try:
            self._only_waiting = True
            if not self._world.stop_requested:
                self._tests.collect(wait=True)
        except _StopWaiting:
            pass
        finally:
            self._only_waiting = False
        until_s = time.monotonic() + STOP_PATIENCE_S
        while self._tests.pending and time.monotonic() < until_s:
            self._tests.collect()
            time.sleep(0.02)

    def _on_sample(self, sample: Sample) -> None:
        assert self._writer is not None, "the directory is open"
        self._writer.add(sample)

    # -- figures ---------------------------------------------------------------------------------------------

    def _after_steps(self) -> None:
        """Show and save now and then. Called by the world after every block of local steps, the end of an event."""
        now_s = time.perf_counter()
        if now_s - self._shown_s >= SHOW_EVERY_S:
            self._show()
        every_s = self._plan.config.output.checkpoint_every_s
        if every_s is not None and now_s - self._saved_s >= every_s:
            self.keep_for_resume()

    def _show(self) -> None:
        world = self._world
        self._shown_s = time.perf_counter()
        wall_s = self._shown_s - self._began_s
        self._progress.update(
            RunProgress(
                time_ns=world.now_ns,
                end_ns=self._plan.end_ns,
                wall_s=wall_s,
                rounds_min=min(node.counters.rounds for node in world.nodes),
                rounds_max=max(node.counters.rounds for node in world.nodes),
                messages_delivered=sum(node.counters.messages_delivered for node in world.nodes),
                bytes_sent=sum(node.counters.bytes_sent for node in world.nodes),
                sample=self._tests.last,
                nodes=self._rows.look(world, wall_s),
            )
        )

    def _totals(self, status: EndStatus, error: RunnerError | None) -> RunTotals:
        world, totals = self._world, self._world.totals
        nodes = world.nodes
        sent, received = [node.counters.bytes_sent for node in nodes], [node.counters.bytes_received for node in nodes]
        up, down = utilization(self._plan.network, sent, received, world.now_ns)
        return RunTotals(
            status=status,
            time_ns=world.now_ns,
            bytes=totals.bytes,
            messages=totals.messages,
            bytes_lost=totals.bytes_lost,
            values_saturated=totals.values_saturated,
            train_steps=sum(node.counters.local_steps for node in world.nodes),
            wall_s=time.perf_counter() - self._began_s,
            uplink_utilization=up,
            downlink_utilization=down,
            error=None if error is None else str(error),
            divergence=error if isinstance(error, DivergedError) else None,
            checkpoint_error=self._unsaved,
            spent_ns=np.array([times_of(node.counters) for node in nodes], dtype=np.int64),
            fault_instants=tuple(exact_instants(self._plan.entries, world.now_ns)),
        )


def _fingerprint(plan: Plan, prepared: Prepared) -> str:
    """A digest of what the experiment file only names: data, traces, edge lists, and what was drawn from them.

    So are the nodes and links of a schedule, which are drawn, and follow files.
    """
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
    if plan.schedule:  # its rates and partitions are among the network's changes
        digest.update(repr((sorted(network.overlays.items()), plan.schedule.nodes)).encode())
    digest.update(prepared.trainer.initial_params().data)
    return digest.hexdigest()


def _fidelity(totals: RunTotals) -> dict[str, object]:
    return {
        "runtime": "simulation",
        "verdict": good_verdict(EXACT, totals.status),
        "statement": "Time, links and faults are virtual: requested rates, latencies and step times hold exactly."
        " Packets, congestion control and competition for the host's cores are not modelled."
        + end_text(totals.status)
        + saturation_text(totals.values_saturated),
        "checks": [],
    }
