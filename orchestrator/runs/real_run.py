"""The course of a run with real nodes, whatever they run on.

In order: launch the fleet, let a :class:`~orchestrator.runs.supervision.Supervisor` lead the nodes through their life,
end the fleet, test the models that the nodes handed over, and add up what they counted.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.core.errors import ConfigError, DivergedError, ProtocolError, RunnerError, StalledError, TransportError
from node.transport.control_values import NodeStatus
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.fates import fates_of, is_down_at
from orchestrator.experiment.schedule.record import executed_instants
from orchestrator.fidelity import Measured, judge
from orchestrator.host.calibration import host_costs
from orchestrator.host.costs import ASSUMED, HostCosts, load_costs
from orchestrator.host.dilation import recommend
from orchestrator.host.environment import usable_cores
from orchestrator.host.step_time import measure_step_seconds
from orchestrator.progress.progress import Progress
from orchestrator.results.checkpoint import SNAPSHOTS
from orchestrator.results.fault_instants import FaultInstant
from orchestrator.results.reader import Run
from orchestrator.results.schema import Column, EndStatus
from orchestrator.results.writer import RunWriter
from orchestrator.runs.collection import (
    Collection,
    concatenate_tables,
    measured_links,
    node_figures,
    number_on,
    refuse_rejections,
    totals_of,
)
from orchestrator.runs.fleet import LOGS, NODES, Fleet
from orchestrator.runs.lifecycle import RunResults, conduct
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runs.part_run import PartRun, RunDirectory
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.resume import interrupted_run, killed_part, recorded_plan
from orchestrator.runs.run_observation import RunObservation
from orchestrator.runs.snapshot_tests import SnapshotTests
from orchestrator.runs.snapshots import Part, Snapshots
from orchestrator.runs.stopping import StopRequested, StopRequests
from orchestrator.shaping.line_rates import LineRates

if TYPE_CHECKING:
    pass


def choose_dilation(plan: Plan, prepared: Prepared, progress: Progress) -> tuple[float, HostCosts | None]:
    """Return the experiment's time dilation, or what this host needs, which takes a moment to measure.

    Returns:
        The dilation, and the costs that it follows from; None where the experiment gives it.
    """
    if plan.config.time_dilation is not None:
        return plan.config.time_dilation, None
    costs = load_costs()
    if costs is None:
        progress.preparing("measuring this host, once: some ten seconds")
        try:
            costs = host_costs()
        except RunnerError as error:
            costs = ASSUMED
            progress.note(f"{error}; going on with assumed costs")
    progress.preparing("measuring a local step")
    cores = usable_cores()
    step_s = measure_step_seconds(prepared.trainer)
    advice = recommend(plan, prepared.trainer.tensor_sizes, step_seconds=step_s, cores=cores, costs=costs)
    progress.note(f"time dilation {advice.dilation:g}: {advice.reasons[-1]}")
    return advice.dilation, costs


def part_to_resume(path: Path, options: RunOptions) -> tuple[Plan, RunOptions, Run]:
    """Return what the next part of an interrupted run with real nodes needs: its plan, the options, the run as it was.

    Args:
        path: The run directory.
        options: ``data_root`` None takes the run's own; ``out`` is not used.

    Raises:
        ConfigError: The run cannot go on, or ended before its nodes handed over anything.
    """
    found, options = interrupted_run(path, options)
    if not (found.path / SNAPSHOTS).is_dir():
        raise ConfigError(f"{found.path / SNAPSHOTS}: nothing to resume from: the run ended before it began")
    return recorded_plan(found, options.input_root), options, found


def conduct_nodes(
    plan: Plan, options: RunOptions, make_run: Callable[[Prepared, Progress], "RealRun"], found: Run | None
) -> RunOutcome:
    """Take a run with real nodes through its life, and leave nobody behind who follows it; see :func:`conduct`."""
    made: list[RealRun] = []

    def make_course(prepared: Prepared, progress: Progress) -> RealRun:
        made.append(make_run(prepared, progress))
        return made[-1]

    try:
        # Models are tested with what is left of the host.
        return conduct(plan, options, make_course, found=found, background=True)
    finally:
        for run in made:
            run.leave()


class RealRun:
    """One part of a run with real nodes; a :class:`~orchestrator.runs.lifecycle.Course`.

    State:
        _opened: The run's directory; None before it is open.
        _nodes: The nodes of this part; None before there are any, and where only tests are left to do.
        _observation: Shows them to Prometheus; None likewise.
        _earlier_faults: What happened to nodes in the parts before this one.
        _unsaved: Why what a continuation needs could not be saved; None if it was, or was not needed.
        _stalled: The nodes came to rest before the end.
        _part: What this part counted and its messages, once that was asked for.
    """

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        progress: Progress,
        make_fleet: Callable[[Prepared, Path], Fleet],
        dilation: float,
        costs: HostCosts | None = None,
        backend: Mapping[str, Any] | None = None,
        lines: LineRates | None = None,
    ) -> None:
        """Store what is needed.

        Args:
            plan: The experiment.
            prepared: Its data and trainer.
            progress: Where it is shown.
            make_fleet: Makes the fleet, which uses the run directory given.
            dilation: Real seconds a testbed second.
            costs: The host's, from which the dilation follows; None where the experiment gives it.
            backend: What the nodes run on, as ``environment.json`` records it.
            lines: What the kernel is asked for; None where it shapes nothing.
        """
        self._plan = plan
        self._prepared = prepared
        self._progress = progress
        self._make_fleet = make_fleet
        self._dilation = dilation
        self._costs = costs
        self._backend = backend or {}
        self._lines = lines
        self._requests = StopRequests(levels=2)
        self._opened: RunDirectory | None = None
        self._nodes: PartRun | None = None
        self._observation: RunObservation | None = None
        self._earlier_faults: tuple[FaultInstant, ...] = ()
        self._unsaved: str | None = None
        self._stalled = False
        self._part: tuple[Part | None, dict[str, Column] | None] | None = None
        self._began_s = time.perf_counter()

    # -- as the lifecycle asks ---------------------------------------------------------------------------------

    @property
    def environment(self) -> Mapping[str, Any]:
        """See :class:`~orchestrator.runs.lifecycle.Course`."""
        costs = None if self._costs is None else self._costs.to_json()
        return {"time_dilation": self._dilation, "host_costs": costs, "tls": self._plan.config.tls, **self._backend}

    @property
    def stop_requested(self) -> bool:
        """See :class:`~orchestrator.runs.lifecycle.Course`."""
        return self._requests.requested

    def request_stop(self) -> None:
        """End in good order; a second request leaves models untested and nodes unasked; a third drops everything."""
        self._requests.request()

    def restore(self, found: Run) -> None:
        """Do nothing yet: the folder of snapshots is changed when it is read, and has to be locked before."""

    def begin(self, writer: RunWriter, found: Run | None) -> None:
        """Take a run directory; see :class:`~orchestrator.runs.lifecycle.Course`."""
        folder, count = writer.path / SNAPSHOTS, self._plan.config.nodes
        fates = fates_of(self._plan.schedule, 0, self._plan.end_ns)
        is_down = partial(is_down_at, fates)
        if found is None:
            snapshots = Snapshots.create(folder, is_down)
            tests = SnapshotTests(snapshots, self._prepared.trainer, writer)
            self._opened = RunDirectory(writer, snapshots, Collection(snapshots.keep), tests, None)
            return
        snapshots, earlier = Snapshots.reopen(folder, count, is_down)
        self._earlier_faults = tuple(one for one in found.faults or () if one.planned_ns < earlier.time_ns)
        before = [stored.counters for stored, _ in earlier.models]
        tests = SnapshotTests(snapshots, self._prepared.trainer, writer)
        self._opened = RunDirectory(writer, snapshots, Collection(snapshots.keep, before), tests, earlier)
        killed = killed_part(earlier)
        if killed is not None:
            snapshots.end_part(killed, None)
            earlier.parts.append(killed)
        for sample in earlier.samples:
            writer.add(sample)

    def execute(self) -> None:
        """Run the nodes, and test the models that they handed over.

        Raises:
            DivergedError, StalledError, TransportError: As the supervisor.
            RunnerError: As the supervisor, or messages were refused.
        """
        end_ns = self._plan.end_ns
        try:
            if end_ns is None or self._directory.begin_ns < end_ns:  # else only tests are left
                self._nodes, self._observation = self._make_nodes()
                self._nodes.run(self._observation)
        except StopRequested:
            pass
        except (RunnerError, TransportError) as failure:
            self._stalled = isinstance(failure, StalledError)
            if isinstance(failure, DivergedError):
                # Nodes went on until they were told: the curve ends where the experiment did, as a simulation's.
                self._directory.snapshots.forget_from(failure.time_ns)
                self._directory.collection.forget_saturated_after(failure)
            # The curve up to the failure is worth having, and must not hide the failure.
            with contextlib.suppress(RunnerError):
                self._test_rest()
            raise
        self._test_rest()
        if not self.stop_requested:
            parts = self._directory.parts(self._own_part()[0])
            refuse_rejections(parts, self._directory.collection.rejected(self._statuses()))

    def keep_for_resume(self) -> None:
        """Keep the last models that all nodes handed over, and what this part counted and recorded."""
        snapshots = self._directory.snapshots
        snapshots.drop_before_last(self._plan.config.nodes)
        part, messages = self._own_part()
        if part is None:
            return
        try:
            snapshots.end_part(part, messages)
        except RunnerError as failure:
            self._unsaved = str(failure)
            self._progress.note(f"no checkpoint: {failure}")

    def results(self, status: EndStatus, error: RunnerError | None) -> RunResults:
        """Add up all parts, and judge this one's fidelity."""
        earlier = self._directory.earlier
        part, messages = self._own_part()
        tables = [*(earlier.messages if earlier else ()), *([] if messages is None else [messages])]
        totals = totals_of(
            self._directory.parts(part),
            self._plan.network,
            begin_ns=self._directory.begin_ns,
            wall_s=self._wall_s(),
            status=status,
            error=error,
        )
        fidelity = None
        if self._directory.collection.measurements or self._plan.config.nodes == 1:
            fidelity = judge(self._measured(), status, allowed=self._plan.config.fidelity.allow_unfaithful)
        if self._observation is not None:
            self._observation.judged(fidelity)
        instants = self._own_instants() if part is not None else ()
        totals = replace(totals, checkpoint_error=self._unsaved, fault_instants=(*self._earlier_faults, *instants))
        return RunResults(totals, concatenate_tables(tables), fidelity, _zero_unix_s(self._nodes))

    def leave(self) -> None:
        """Let whoever follows the run by its metrics see the final values, for seconds at most; called last of all."""
        if self._observation is not None:
            self._observation.leave()

    def forget_resume(self) -> None:
        """Remove the snapshots, the nodes' files, and, unless it is kept or a node failed, the nodes' output."""
        self._directory.snapshots.remove()
        if not (self._plan.config.real_nodes.keeps_logs or (self._nodes and self._nodes.a_node_failed)):
            shutil.rmtree(self._directory.writer.path / LOGS, ignore_errors=True)
        shutil.rmtree(self._directory.writer.path / NODES, ignore_errors=True)

    def _test_rest(self) -> None:
        """Test the models that are left; a second request to stop leaves them on the disk."""
        again = "; another interrupt leaves them to be resumed" if self.stop_requested else ""
        self._directory.tests.test_rest(
            lambda: self._requests.in_a_hurry, lambda: self._progress.preparing(f"testing the models{again}")
        )

    @property
    def _directory(self) -> RunDirectory:
        assert self._opened is not None, "the directory is opened before anything is run"
        return self._opened

    def _make_nodes(self) -> tuple[PartRun, RunObservation]:
        plan, directory = self._plan, self._directory
        fleet = self._make_fleet(self._prepared, directory.writer.path)
        nodes = PartRun(
            plan, self._prepared, directory, fleet, self._dilation, self._requests, self._progress, self._began_s
        )
        run_id, note = directory.writer.path.name, self._progress.note
        return nodes, RunObservation(plan, run_id, self._dilation, self._lines, self._requests, note)

    def _statuses(self) -> list[NodeStatus]:
        """The last status of each node of this part; none where only tests were left to do."""
        return [] if self._nodes is None else self._nodes.statuses

    def _wall_s(self) -> float:
        return time.perf_counter() - self._began_s

    # -- figures -----------------------------------------------------------------------------------------------

    def _own_part(self) -> tuple[Part | None, dict[str, Column] | None]:
        """Return what this part counted and its messages; None for a part that did not begin."""
        if self._part is None:
            messages = None
            if self._plan.config.output.messages:
                try:
                    messages = self._directory.collection.messages()
                    if messages is not None and self._directory.earlier is not None and self._nodes is not None:
                        messages = number_on(messages, [each.rounds for each in self._nodes.beginnings()])
                except ProtocolError as failure:
                    self._progress.note(str(failure))
            self._part = self._counted(messages is not None), messages
        return self._part

    def _counted(self, has_messages: bool) -> Part | None:
        nodes, directory = self._nodes, self._directory
        if nodes is None or (ended_ns := nodes.supervisor.ended_ns) is None:
            return None
        counters = []
        for status, beginning in zip(nodes.statuses, nodes.beginnings(), strict=True):
            counted = directory.collection.counters(status, beginning.rounds, beginning.local_steps, ended_ns)
            counters.append(counted)
        return Part(directory.begin_ns, ended_ns, self._wall_s(), counters, has_messages)

    def _own_instants(self) -> Iterator[FaultInstant]:
        """The begins and ends of entries of the schedule in this part, which has begun."""
        nodes = self._nodes
        assert nodes is not None
        assert nodes.supervisor.ended_ns is not None
        kernel = nodes.fleet.kernel_links()
        late_ns = {} if kernel is None else kernel.changes_late_ns
        in_testbed_time = {
            time_ns: None if late is None else int(late / self._dilation) for time_ns, late in late_ns.items()
        }
        span = self._directory.begin_ns, nodes.supervisor.ended_ns
        return executed_instants(self._plan.entries, nodes.executor.instants, span, in_testbed_time)

    def _measured(self) -> Measured:
        collection, nodes = self._directory.collection, self._nodes
        fleet = None if nodes is None else nodes.fleet
        # Links are measured before anything is laid over them, with the capacities that hold when the part begins.
        network = self._plan.network.at_time(self._directory.begin_ns)
        died = {
            int(node): watched
            for node, watched in (nodes.supervisor.nodes.items() if nodes else ())
            if watched.died and node not in collection.figures
        }
        return Measured(
            runtime=self._plan.config.runtime,
            time_dilation=self._dilation,
            links=None
            if network.num_nodes == 1
            else tuple(measured_links(network, collection.measurements, self._lines)),
            nodes=tuple(
                node_figures(node, figures)
                for node, figures in (*collection.ended_lives, *sorted(collection.figures.items()))
                if "loop_late_p99_ns" in figures
            ),
            emulator=nodes.emulator if nodes else None,
            links_emulated=fleet is not None and fleet.emulates_links,
            links_name="" if fleet is None else fleet.links_name,
            kernel=None if fleet is None else fleet.kernel_links(),
            links_shaped=self._plan.config.network.links != "direct",
            died={node: watched.died for node, watched in died.items()},
            hung=frozenset(node for node, watched in died.items() if watched.hung),
            rejected=collection.rejected(self._statuses()),
            stalled=self._stalled,
            faults_late_ns=nodes.executor.late_ns if nodes else (),
            deaths_allowed=self._plan.config.real_nodes.on_node_death == "continue",
            cpu_pressure=nodes.supervisor.pressure if nodes else (None, None),
        )


def _zero_unix_s(nodes: PartRun | None) -> float | None:
    """Tell when testbed time was 0; None in a later part, whose clock has been set on, and without a start."""
    clock = None if nodes is None or nodes.begin_ns else nodes.supervisor.clock
    return None if clock is None else clock.zero_unix_s()
