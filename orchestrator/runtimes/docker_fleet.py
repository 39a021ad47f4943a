"""The fleet of the ``docker`` runtime: a container a node, two networks, and a helper that shapes the nodes' links.

A node starts with a closed gate: it loads its libraries and opens no socket before its links are shaped and read back.
While nodes connect to their peers the rates hold nothing back: on slow links the handshakes of sixty peers would take
minutes. They get their rates, which are read back too, before anything is measured.
The gate is a file in memory that ends with the container's processes, so that it is closed again after a restart.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from node.config import NodeConfig
from node.config_file import write_comeback_files, write_node_files
from node.core.errors import RunnerError
from node.core.types import NodeId
from orchestrator.containers.group import ContainerGroup
from orchestrator.containers.networks import RunNetwork, make_networks
from orchestrator.containers.ownership import Owner, RunScope
from orchestrator.containers.shell import ContainerShell
from orchestrator.experiment.plan import Plan
from orchestrator.kernel_fidelity import KernelLinks
from orchestrator.runs.fleet import LOGS, NODES, NextLife, NodeEnd
from orchestrator.runs.stopping import StopRequested
from orchestrator.runtimes.docker_backend import SUBNET_KEY, Backend, Teller, kernel_options
from orchestrator.runtimes.docker_containers import GATE, NodeContainers, hand_over, helper_spec
from orchestrator.runtimes.docker_shaping import LinkShaper, PlannedChanges
from orchestrator.runtimes.docker_watch import KernelWatch, Looks
from orchestrator.runtimes.forking import last_words_of

EVERYWHERE: Final = "0.0.0.0"

_TOGETHER: Final = 16
"""Containers that are started before it is asked again whether the user wants the run to end."""


class DockerFleet:
    """Containers of this host's engine; a :class:`~orchestrator.runs.fleet.Fleet`.

    State:
        _group: The containers; None before ``open``, as the networks by role.
        _nodes: The nodes by the names of their containers; empty before the launch.
        _shaper: Shapes their links; None before the launch, and where links are direct.
        _changes: The planned changes; None likewise.
        _watch: Looks at the links at the start and at the end.
        _living: Nodes that had not ended before the last look.
        _shaped: Nodes that were shaped and read back.
        _reported: Nodes whose end the caller knows, or that it has killed.
        _limited: The limiting of rates; None before it began.
        _told: What each node was told; empty before the launch.
        _planned: Nodes that are being started again as planned.
        _again: Restarted nodes that are being shaped again.
        _broken: Why no node can go on.
    """

    emulates_links = False

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        folder: Path,
        num_params: int,
        display: Teller,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Store what is needed.

        Args:
            plan: The experiment.
            backend: The engine and the kernel.
            folder: The run directory, for the nodes' files and output.
            num_params: Scalars of a model.
            display: Where problems and restarts are told.
            is_stopping: Whether the user wants the run to end.
        """
        self.links_name = backend.links_name
        self._plan = plan
        self._backend = backend
        self._folder = folder
        self._num_params = num_params
        self._display = display
        self._is_stopping = is_stopping
        self._scope = RunScope(folder.name, Owner.of_this_process())
        self._group: ContainerGroup | None = None
        self._networks: Mapping[str, RunNetwork] = {}
        self._nodes: dict[str, NodeId] = {}
        self._shaper: LinkShaper | None = None
        self._changes: PlannedChanges | None = None
        self._watch = KernelWatch()
        self._living: frozenset[NodeId] = frozenset()
        self._dilation = 1.0
        self._shaped: set[NodeId] = set()
        self._reported: set[NodeId] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restarts")
        self._limited: Future[None] | None = None
        self._again: list[tuple[NodeId, Future[None]]] = []
        self._told: Sequence[NodeConfig] = ()
        self._planned: set[NodeId] = set()
        self._broken: str | None = None

    @property
    def host(self) -> str:
        """This machine's address in the control network."""
        return str(self._networks["control"].gateway)

    # -- making --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the networks."""
        backend = self._backend
        self._group = ContainerGroup(backend.engine, self._scope, self._folder / LOGS)
        self._group.open()
        count = self._plan.config.nodes
        self._networks = make_networks(backend.engine, self._scope, count, wanted=backend.subnet, place=SUBNET_KEY)

    def launch(self, configs: Sequence[NodeConfig]) -> None:
        """Write the nodes' files, start their containers with closed gates, shape their links, and open the gates."""
        # Step 1: what nodes are told besides, and their files.
        control, data, first = self._networks["control"], self._networks["data"], configs[0]
        self._dilation = first.emulator_clock.dilation
        shaped = self._backend.abilities is not None
        told = [
            config.model_copy(
                update={
                    "host": EVERYWHERE,
                    "port": 0,
                    "advertised": str(data.address_of(config.node)),
                    # Never on the data network, whose links are the experiment's.
                    "metrics_host": config.metrics_host and str(control.address_of(config.node)),
                    "delays_arrivals": shaped and not self._backend.netem,
                }
            )
            for config in configs
        ]
        self._told = told
        files = write_node_files(self._folder / NODES, told)
        try:
            (self._folder / LOGS).mkdir(exist_ok=True)
            user = hand_over(self._folder / NODES)
        except OSError as error:
            raise RunnerError(f"{error.filename}: cannot be made or given to nodes: {error.strerror}") from error
        # Step 2: the helper, which is there before anybody needs it.
        if shaped:
            assert self._backend.shaper_image is not None, "what is shaped has a helper"
            self._containers.launch([helper_spec(self._scope, self._backend.shaper_image.name)])
            data_addresses = {config.node: data.address_of(config.node) for config in configs}
            options = kernel_options(self._plan, self._backend, self._num_params, self._dilation)
            helper = self._scope.name_of("shaper")
            self._shaper = LinkShaper(
                self._plan.network,
                data_addresses,
                options,
                lambda: ContainerShell(self._backend.engine, helper),
                begin_ns=first.begin_ns,
            )
            network = self._plan.network
            if not self._backend.netem:  # then nodes see to latency and jitter
                network = replace(network, overlays={})
            self._changes = PlannedChanges(network, self._shaper.prepare)
        # Step 3: the nodes, some at a time: those that have started load their libraries while others are made.
        settings = NodeContainers(self._backend, self._plan.config.docker, self._networks, self._num_params, user)
        specs = [settings.spec(self._scope, config, file) for config, file in zip(told, files, strict=True)]
        self._nodes = {spec.name: config.node for spec, config in zip(specs, told, strict=True)}
        for begin in range(0, len(specs), _TOGETHER):
            if self._is_stopping():
                raise StopRequested
            together = specs[begin : begin + _TOGETHER]
            self._containers.launch(together)
            self._let_in([spec.name for spec in together])

    def _let_in(self, names: Sequence[str]) -> None:
        """Shape the links of nodes that have started, and open their gates."""
        shaper = self._shaper
        if shaper is None:
            return
        states = self._containers.states(names)
        # One that has ended already is told by newly_ended, with its last words.
        pids = {self._nodes[name]: state.pid for name, state in states.items() if state.pid}
        shaper.shape(pids)
        self._shaped |= pids.keys()
        shaper.open_gates(GATE, list(pids.values()))

    # -- watching ------------------------------------------------------------------------------------------

    def links_are_set(self) -> bool:
        """Limit the rates of all links, in a thread."""
        if self._shaper is None:
            return True
        if self._limited is None:
            self._limited = self._pool.submit(self._shaper.limit)
        if not self._limited.done():
            return False
        self._limited.result()
        return True

    def begin(self, start_monotonic_ns: int, *, begin_ns: int, end_ns: int | None) -> None:
        """Begin a look at the links, and the planned changes of capacities."""
        if self._shaper is not None and self._changes is not None:
            self._watch.begin(self._shaper.look)
            self._changes.begin(start_monotonic_ns, begin_ns, end_ns, self._dilation)

    def look_at_links(self) -> "Future[Looks] | None":
        """End the planned changes and look at the links once more, in a thread."""
        shaper, changes = self._shaper, self._changes
        if shaper is None or changes is None:
            return None

        def look(*, compare: bool) -> Looks:
            changes.end()
            return shaper.look(compare=compare)

        self._living = frozenset(self._shaped - self._reported)
        return self._watch.end(look)

    def newly_ended(self) -> Mapping[NodeId, NodeEnd]:
        """See :class:`~orchestrator.runs.fleet.Fleet`. Nodes that somebody has started again are let in besides."""
        self._look_after_restarts()
        ended = {}
        for name, end in self._containers.newly_ended().items():
            node = self._nodes.get(name)
            if node is None:
                self._broken = f"the helper that shapes links {end.how}"
            elif node not in self._reported:
                self._reported.add(node)
                if self._shaper is not None:
                    self._shaper.forget(node)
                ended[node] = NodeEnd(end.how, end.failed)
        return ended

    def _look_after_restarts(self) -> None:
        """Shape nodes that have started once more, in a thread; their gates are closed until that is done."""
        for name in self._containers.newly_restarted():
            if (node := self._nodes.get(name)) is not None:
                if node not in self._planned:
                    self._display.note(
                        f"the container of node {node} was started again: its links are shaped again first"
                    )
                self._planned.discard(node)
                self._again.append((node, self._pool.submit(self._let_in, [name])))
        for node, done in [item for item in self._again if item[1].done()]:
            self._again.remove((node, done))
            if (error := done.exception()) is not None:
                self._display.note(f"node {node} stays outside: {error}")

    def failure(self) -> str | None:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        return self._broken or self._containers.failure()

    def kernel_links(self) -> KernelLinks | None:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        if self._shaper is None or self._changes is None:
            return None
        found = self._watch.findings(self._living)
        return replace(
            found,
            nodes_shaped=len(self._shaped),
            changes_late_ns=dict(self._changes.late_ns),
            changes_failed=tuple(self._changes.failed),
            adds_latency=self._backend.netem,
            compared=self._shaper.compared,
            differences=tuple(self._shaper.differences),
        )

    def last_words(self, node: NodeId) -> str:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        return last_words_of(self._containers.log_of(self._name(node)))

    def start_again(self, node: NodeId, life: NextLife) -> None:
        """Start the container again. Its links are shaped again, as after a start by somebody's hand."""
        write_comeback_files(self._folder / NODES, life.described(self._told[node]))
        try:
            hand_over(self._folder / NODES)
        except OSError as error:
            raise RunnerError(f"{error.filename}: cannot be given to node {node}: {error.strerror}") from error
        self._reported.discard(node)
        self._planned.add(node)
        self._containers.start_again(self._name(node))

    def pause(self, node: NodeId) -> "Future[None]":
        """Freeze the container."""
        return self._containers.pause(self._name(node))

    def resume(self, node: NodeId) -> "Future[None]":
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        return self._containers.resume(self._name(node))

    def kill(self, node: NodeId) -> None:
        """See :class:`~orchestrator.runs.fleet.Fleet`."""
        self._reported.add(node)
        self._containers.kill(self._name(node))

    def close(self) -> None:
        """End the changes and the shaping, then remove all that the run has in the engine."""
        if self._changes is not None:
            self._changes.end()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._watch.close()
        if self._shaper is not None:
            self._shaper.close()
        for problem in () if self._group is None else self._group.close():
            self._display.note(problem)

    @property
    def _containers(self) -> ContainerGroup:
        assert self._group is not None, "opened before"
        return self._group

    def _name(self, node: NodeId) -> str:
        return self._scope.name_of("node", node)
