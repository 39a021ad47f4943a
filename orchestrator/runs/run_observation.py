"""A real run as Prometheus sees it: the page of its orchestrator, and the file that says where all pages are.

Both begin when the nodes have been started, because whatever is forked must be forked before there are threads, and end
when all is written. Whoever scrapes sees the final values: the nodes wait for a last scrape, and after them the run.
Nothing here fails a run.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from node.core.types import NodeId
from node.host.metrics_server import LastScrape, MetricsServer, build_reading
from node.metrics import RUN_METRICS, Readings
from orchestrator.checks import JsonObject
from orchestrator.containers.ownership import Owner
from orchestrator.experiment.plan import Plan
from orchestrator.fidelity import MeasuredLink
from orchestrator.host.environment import host_pressure
from orchestrator.host.scrape_targets import ScrapeTarget, ScrapeTargets, remove_dead_targets
from orchestrator.runs.collection import measured_links
from orchestrator.runs.control_server import ControlServer
from orchestrator.runs.run_readings import RunPhase, RunReadings, RunState
from orchestrator.runs.stopping import StopRequests
from orchestrator.shaping.line_rates import LineRates

if TYPE_CHECKING:
    from orchestrator.runs.part_run import PartRun

HOST: Final = "127.0.0.1"
"""Address of the run's own page. A network of containers would not do: it is gone while models are still tested."""

LOOK_S: Final = 0.2
"""Interval at which it is looked whether nodes have registered, real time."""


class RunObservation:
    """View that Prometheus has of one part of a run; nothing where the experiment wants no metrics.

    State:
        _nodes, _control: The nodes and the server that they call; None before they have been started.
        _server: Serves the orchestrator's page; None before that, and where it cannot be served.
        _address: Where; empty likewise.
        _told: Where each node serves its own, as it stands in the file.
        _nodes_left: The nodes have ended.
        _fidelity: The content of ``fidelity.json``; None before it is judged.
        _last: The wait for a last scrape; None before the values are final.
    """

    def __init__(
        self,
        plan: Plan,
        run_id: str,
        dilation: float,
        lines: LineRates | None,
        requests: StopRequests,
        note: Callable[[str], None],
    ) -> None:
        """Store what is needed.

        Args:
            plan: The experiment.
            run_id: The run's name.
            dilation: Real seconds a testbed second.
            lines: What the kernel is asked for; None where it shapes nothing.
            requests: The user's requests to end the run.
            note: Tells the user something.
        """
        self._plan = plan
        self._run_id = run_id
        self._dilation = dilation
        self._lines = lines
        self._requests = requests
        self._note = note
        self._targets = ScrapeTargets(run_id, Owner.of_this_process(), note)
        self._nodes: PartRun | None = None
        self._control: ControlServer | None = None
        self._readings: RunReadings | None = None
        self._server: MetricsServer | None = None
        self._address = ""
        self._told: dict[NodeId, str] = {}
        self._links: tuple[MeasuredLink, ...] = ()
        self._start_unix_s: float | None = None
        self._nodes_left = False
        self._fidelity: JsonObject | None = None
        self._last: LastScrape | None = None

    # -- the course of the run ---------------------------------------------------------------------------------

    def begin(self, nodes: "PartRun", control: ControlServer) -> None:
        """Serve from now on: the nodes have been started."""
        remove_dead_targets()
        if not self._plan.config.observe.metrics:
            return
        self._nodes, self._control = nodes, control
        self._readings = RunReadings(self._plan, self._dilation, nodes.begin_ns, build_reading())
        server = MetricsServer(RUN_METRICS, self._read)
        try:
            self._address = server.start(HOST)
        except OSError as error:
            self._note(f"the run's own metrics cannot be served on {HOST}: {error.strerror or error}")
        else:
            self._server = server
        self._write_targets()

    async def follow(self) -> None:
        """Keep the file up to date as nodes register, and register again; never returns."""
        while self._control is not None:
            told = {node: one.metrics_address for node, one in self._control.registered.items() if one.metrics_address}
            if told != self._told:
                self._told = told
                self._write_targets()
            await asyncio.sleep(LOOK_S)

    def nodes_have_left(self) -> None:
        """Take the nodes out of the file: they have ended."""
        self._nodes_left = True
        if self._told:
            self._told = {}
            self._write_targets()

    def judged(self, fidelity: JsonObject | None) -> None:
        """Take the verdict on the run. The values are final."""
        self._fidelity = fidelity
        self._last = LastScrape(self._server)

    def leave(self) -> None:
        """Let whoever has followed the run see the final values, and serve nothing more."""
        try:
            while self._last is not None and not self._last.is_over and not self._requests.in_a_hurry:
                time.sleep(LOOK_S / 10)
        finally:
            if self._server is not None:
                self._server.stop()
                self._server = None
            self._targets.remove()

    # -- the file ----------------------------------------------------------------------------------------------

    def _write_targets(self) -> None:
        assert self._readings is not None, "begun before"
        config = self._plan.config
        shared = {
            "run": self._run_id,
            "runtime": config.runtime,
            "experiment": config.name,
            "algorithm": config.algorithm.kind,
        }
        targets = [ScrapeTarget(self._address, shared)] if self._address else []
        for node, address in sorted(self._told.items()):
            labels = {**shared, "node": str(node), "group": self._readings.group_of(node)}
            targets.append(ScrapeTarget(address, labels))
        self._targets.write(targets)

    # -- the page ----------------------------------------------------------------------------------------------

    def _read(self) -> Readings:
        """Read the values; called in threads of the server."""
        assert self._readings is not None, "begun before"
        return self._readings.of(self._state())

    def _state(self) -> RunState:
        nodes, control = self._nodes, self._control
        assert nodes is not None, "begun before"
        assert control is not None, "begun before"
        supervisor = nodes.supervisor
        phase = supervisor.phase
        if self._nodes_left:
            phase = RunPhase.TESTING if self._last is None else RunPhase.OVER
        time_ns = supervisor.ended_ns
        if (clock := supervisor.clock) is not None:
            if self._start_unix_s is None:
                self._start_unix_s = clock.zero_unix_s()
            time_ns = clock.now_ns() if time_ns is None else time_ns
        return RunState(
            phase=phase,
            time_ns=time_ns,
            start_unix_s=self._start_unix_s,
            nodes=supervisor.nodes,
            missing=control.missing,
            sample=nodes.last_sample,
            links=self._measured(nodes),
            faults_late_ns=[late_ns for late_ns in nodes.executor.late_ns if late_ns is not None],
            pressure=host_pressure(),
            fidelity=self._fidelity,
        )

    def _measured(self, nodes: "PartRun") -> tuple[MeasuredLink, ...]:
        """Return what was measured of the links, once all nodes have told it."""
        measurements = {**nodes.measurements}
        if not self._links and len(measurements) == self._plan.config.nodes:
            network = self._plan.network.at_time(nodes.begin_ns)
            self._links = tuple(measured_links(network, measurements, self._lines))
        return self._links
