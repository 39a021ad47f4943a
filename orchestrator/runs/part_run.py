"""The nodes of one part of a real run: made from its plan, led through their life, and ended, whatever happens."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from node.config import Beginning, NodeConfig
from node.config_file import remove_keys
from node.core.types import NodeId
from node.emulation.statistics import EmulatorStatistics
from node.host.clock import Clock
from node.transport.control_values import NodeStatus
from node.transport.control_wire import KEEPALIVE_TIMEOUT_S
from orchestrator.experiment.node_configs import RunPart, node_configs
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.fates import fates_of, is_down_at
from orchestrator.host.reserved_port import ReservedPort
from orchestrator.progress.progress import Progress
from orchestrator.results.schema import Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runs.collection import Collection
from orchestrator.runs.comebacks import ComebackModels
from orchestrator.runs.control_server import ControlServer
from orchestrator.runs.early_warnings import EarlyWarnings
from orchestrator.runs.fault_executor import FaultExecutor
from orchestrator.runs.fleet import NODES, Fleet
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.rules import Rules, rules_of
from orchestrator.runs.snapshot_tests import SnapshotTests
from orchestrator.runs.snapshots import Earlier, Part, Snapshots
from orchestrator.runs.stopping import StopRequests
from orchestrator.runs.supervision import Supervisor
from orchestrator.runs.watched import WatchedNode, progress_of

if TYPE_CHECKING:
    from orchestrator.runs.certificates import RunCredentials
    from orchestrator.runs.run_observation import RunObservation

HOST = "127.0.0.1"
"""Address on which nodes listen for each other."""

STATUS_PERIOD_S = 1.0
"""Interval at which nodes send a status, real time."""


@dataclass(frozen=True, eq=False)
class RunDirectory:
    """The run's directory, once it is open.

    Attributes:
        writer: Writes its results.
        snapshots: The models that nodes hand over.
        collection: Everything that they hand over in this part.
        tests: Tests these models.
        earlier: The parts before this one; None in a run that does not go on with another.
    """

    writer: RunWriter
    snapshots: Snapshots
    collection: Collection
    tests: SnapshotTests
    earlier: Earlier | None

    @property
    def begin_ns(self) -> int:
        """Testbed time at which this part begins."""
        return 0 if self.earlier is None else self.earlier.time_ns

    def parts(self, own: Part | None) -> list[Part]:
        """Return what all parts counted, in order, and ``own`` last; None where this part did not begin."""
        return [*(() if self.earlier is None else self.earlier.parts), *(() if own is None else (own,))]


class PartRun:
    """The nodes of one part.

    State:
        supervisor: Leads the nodes.
        executor: Does to them what is planned.
        emulator: What the link emulator measured of itself; None before its end, or if there is none.
    """

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        directory: RunDirectory,
        fleet: Fleet,
        dilation: float,
        requests: StopRequests,
        progress: Progress,
        began_s: float,
    ) -> None:
        """Make what leads the nodes, which are launched by :meth:`run`.

        Args:
            plan: The experiment.
            prepared: Its data and trainer.
            directory: The run's.
            fleet: Makes and ends nodes.
            dilation: Real seconds a testbed second.
            requests: The user's requests to end the run.
            progress: Where it is shown.
            began_s: When the run began, ``time.perf_counter``.
        """
        self._plan = plan
        self._prepared = prepared
        self._directory = directory
        self.fleet = fleet
        self._dilation = dilation
        self._progress = progress
        self._began_s = began_s
        self._fates = fates_of(plan.schedule, directory.begin_ns, plan.end_ns)
        num_params = prepared.facts.num_params
        self._rules = rules_of(plan, num_params=num_params, dilation=dilation, begin_ns=directory.begin_ns)
        self._warnings = EarlyWarnings()
        self.executor = self._make_executor()
        self.supervisor = Supervisor(
            self._rules,
            fleet,
            directory.collection,
            requests,
            progress,
            on_tick=self._on_tick,
            fates=self.executor,
        )
        self.emulator: EmulatorStatistics | None = None

    @property
    def nodes(self) -> Sequence[WatchedNode]:
        """Knowledge of each node, in order."""
        return [*self.supervisor.nodes.values()]

    @property
    def statuses(self) -> list[NodeStatus]:
        """The last status of each node."""
        return [watched.status for watched in self.nodes]

    @property
    def a_node_failed(self) -> bool:
        """True where a node has ended by a signal or with an error, and nobody had planned it."""
        return any(watched.died and watched.end and watched.end.failed for watched in self.nodes)

    @property
    def begin_ns(self) -> int:
        """Testbed time at which this part begins."""
        return self._directory.begin_ns

    @property
    def last_sample(self) -> Sample | None:
        """The last evaluation; None before the first."""
        return self._directory.tests.last

    @property
    def measurements(self) -> Mapping[NodeId, Mapping[str, Any]]:
        """Measurements of the links, by the node that told them."""
        return self._directory.collection.measurements

    def run(self, observation: "RunObservation") -> None:
        """Launch the fleet, supervise it, and end it, whatever happens.

        Args:
            observation: Shows the run to Prometheus.

        Raises:
            StopRequested, DivergedError, StalledError, RunnerError, TransportError: As the supervisor.
        """
        directory, fleet, rules, supervisor = self._directory, self.fleet, self._rules, self.supervisor
        run_id = directory.writer.path.name
        issued = _certificates(run_id, rules) if self._plan.config.tls else None
        server = ControlServer(
            run_id,
            rules.num_nodes,
            listener=supervisor,
            status_period_s=STATUS_PERIOD_S,
            keepalive_timeout_s=KEEPALIVE_TIMEOUT_S + rules.pause_s * rules.dilation,
            credentials=None if issued is None else issued.orchestrator,
        )
        try:
            fleet.open()
            with ReservedPort(fleet.host) as at:
                # A signal while this forks is a request to stop, as at any other time, and no exception.
                fleet.launch(self._configs(at.address, issued))
                observation.begin(self, server)
                try:
                    asyncio.run(self._supervise(server, at, observation))
                finally:
                    observation.nodes_have_left()
                    directory.snapshots.close_with_final(to_resume=not supervisor.is_over)
        finally:
            self.emulator = fleet.close()
            try:
                remove_keys(directory.writer.path / NODES)
            except OSError as error:
                self._progress.note(f"{error.filename}: a private key of this part is left: {error.strerror}")

    async def _supervise(self, server: ControlServer, at: ReservedPort, observation: "RunObservation") -> None:
        following = asyncio.create_task(observation.follow())
        try:
            await self.supervisor.supervise(server, at)
        finally:
            following.cancel()

    def _make_executor(self) -> FaultExecutor:
        models = ComebackModels(
            self._directory.snapshots,
            self._prepared.trainer.initial_params,
            self._plan.topology,
            self._plan.config.seed,
            away=lambda: [watched.status.node for watched in self.nodes if watched.died or watched.away],
        )
        return FaultExecutor(
            self._fates,
            self.fleet,
            self._directory.collection,
            models.model_for,
            self._progress.note,
            self._rules.start_timeout_s,
        )

    def _configs(self, orchestrator: str, issued: "RunCredentials | None") -> list[NodeConfig]:
        """Describe every node of this part."""
        prepared, directory = self._prepared, self._directory
        part = RunPart(
            run_id=directory.writer.path.name,
            clock=Clock(time.monotonic_ns(), self._dilation),
            begin_ns=directory.begin_ns,
            start_timeout_s=self._rules.start_timeout_s,
            tensor_sizes=prepared.trainer.tensor_sizes,
            orchestrator=orchestrator,
            host=HOST,
            data_root=prepared.data_root,
            credentials=None if issued is None else issued.nodes,
        )
        return node_configs(self._plan, part, prepared.split.train_indices, self.beginnings())

    def beginnings(self) -> list[Beginning]:
        """Describe where each node of this part begins."""
        earlier = self._directory.earlier
        if earlier is None:
            # One model, which the files hold once.
            return [Beginning(self._prepared.trainer.initial_params())] * self._plan.config.nodes
        # Where all wait for every message, one would wait for a round that another one does not have.
        return earlier.beginnings(aligned=self._plan.algorithm.needs_every_message)

    def _on_tick(self) -> None:
        """Show how the nodes are, and test models meanwhile if the experiment says so."""
        nodes, tests = self.supervisor.nodes, self._directory.tests
        wall_s = time.perf_counter() - self._began_s
        warnings = self._warnings.look(self.statuses, self.executor.late_ns, wall_s)
        self._progress.update(
            progress_of(
                nodes, self.supervisor.now_ns(), wall_s, tests.last, self._rules, self._plan.stragglers, warnings
            )
        )
        if self._plan.config.evaluation.live and self.supervisor.diverged is None:
            living = [node for node, watched in nodes.items() if not watched.died]
            tests.test_complete(
                lambda time_ns: frozenset(node for node in living if not is_down_at(self._fates, node, time_ns))
            )


def _certificates(run_id: str, rules: Rules) -> "RunCredentials":
    # Its library takes ten megabytes, which a run in plain text does without.
    from orchestrator.runs.certificates import issue_credentials

    return issue_credentials(run_id, rules.num_nodes, timedelta(seconds=rules.certified_s))
