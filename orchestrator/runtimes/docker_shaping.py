"""Shaping of the nodes of a run by one helper: it enters their network namespaces, and nothing else has that right.

A command of its own in a container takes a tenth of a second, so that the helper has shells that stay open.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Final, TypeAlias

from node.core.errors import RunnerError
from node.core.links import NetworkPlan, PartitionChange
from node.core.schedule import Place
from node.core.types import NodeId
from node.core.units import NS_PER_S
from orchestrator.containers.cpu_use import CPU_SCRIPT, CpuCounters, parse_cpu_counters
from orchestrator.containers.shell import ContainerShell
from orchestrator.runtimes.docker_watch import Looks, NodeLook
from orchestrator.shaping.backend import NetworkNamespace, apply_shaping, carry_out, read_counters, read_shaping
from orchestrator.shaping.batch import Batch, change_to
from orchestrator.shaping.differences import differences
from orchestrator.shaping.neighbours import namespace_lines
from orchestrator.shaping.node_shaping import KernelOptions, plan_node, without_limits
from orchestrator.shaping.reading import NodeReading
from orchestrator.shaping.tree import NodeTree

BEFORE_NS: Final = -1
"""A time before an experiment, at which nothing is laid over its links."""

SHELLS: Final = 4
"""Shells of the helper: nodes that are shaped at the same time."""


Entered: TypeAlias = tuple[int, str]
"""The first process of a node's container, and the device of its links."""


class LinkShaper:
    """The links of all nodes, as the kernel shapes them.

    Threads may use it at the same time. A node's namespace is known by the process number of its container, which is
    another one after a restart.

    State:
        compared: Disciplines, classes and filters that were read back, each time: after they were set, before they are
            changed, and at the end.
        differences: Those that were not as they had been set, in words.
        _time_ns: Testbed time whose capacities and partitions are in force.
        _path_ns: Testbed time of what is laid over links besides; before 0 while nothing is, as links are measured.
        _is_open: Whether rates hold nothing back yet, so that connections are made in no time.
        _idle: Shells that are open; a caller takes one and puts it back.
        _entered: Process and data device of each node, as it was last shaped.
    """

    def __init__(
        self,
        network: NetworkPlan,
        addresses: Mapping[NodeId, IPv4Address],
        options: KernelOptions,
        open_shell: Callable[[], ContainerShell],
        *,
        begin_ns: int = 0,
    ) -> None:
        """Store what is needed.

        Args:
            network: The whole network, with its changes from the beginning.
            addresses: Each node's in the data network.
            options: The kernel; the device is each node's own.
            open_shell: Opens a shell in the helper.
            begin_ns: Testbed time at which this part of the run begins.
        """
        self._network = network
        self._addresses = addresses
        self._texts = {int(node): str(address) for node, address in addresses.items()}
        self._options = options
        self._open_shell = open_shell
        self._time_ns, self._path_ns = begin_ns, BEFORE_NS
        self.compared = 0
        self.differences: list[str] = []
        self._is_open = True
        self._entered: dict[NodeId, Entered] = {}
        self._lock = threading.Lock()
        self._idle: list[ContainerShell] = []
        self._free = threading.Semaphore(SHELLS)
        self._pool = ThreadPoolExecutor(SHELLS, thread_name_prefix="shaping")

    def shape(self, pids: Mapping[NodeId, int]) -> None:
        """Shape the links of nodes, several at a time, and read back what is there then.

        Args:
            pids: The first process of each node's container, as this machine numbers it.

        Raises:
            RunnerError: A command failed, or something is not as planned.
        """
        for _ in self._pool.map(self._shape_node, pids.items()):
            pass

    def limit(self) -> None:
        """Give all links their rates, which until then hold nothing back, and read them back.

        Raises:
            RunnerError: A command failed, or something is not as planned.
        """
        self._is_open = False
        for problem in self._pool.map(partial(self._problem, is_changed=True), list(self._entered)):
            if problem:
                raise RunnerError(problem)

    def forget(self, node: NodeId) -> None:
        """Leave the links of a node that has ended alone."""
        self._entered.pop(node, None)

    def open_gates(self, gate: str, pids: Sequence[int]) -> None:
        """Make a file in containers, by the way on which the kernel shows their file systems.

        Raises:
            RunnerError: One has ended.
        """
        if paths := [f"/proc/{pid}/root{gate}" for pid in pids]:
            self._here.run(["touch", *paths])

    def prepare(self, time_ns: int, nodes: Sequence[NodeId]) -> "Change":
        """Prepare the capacities of a testbed time at nodes, so that what is left to do at the instant is short."""
        entered = {node: self._entered.get(node) for node in nodes}
        batches = self._pool.map(partial(self._batch, time_ns), nodes)
        return Change(self, time_ns, [batch for batch in batches if batch is not None], entered)

    def put_in_force(self, time_ns: int, batches: Iterable[tuple[NetworkNamespace, Batch]]) -> None:
        """Carry out what was prepared, at several nodes at a time. What fails shows when it is confirmed."""
        self._time_ns = self._path_ns = time_ns
        for _ in self._pool.map(_carry_out, batches):
            pass

    def confirm(self, nodes: Mapping[NodeId, Entered | None]) -> list[str]:
        """Read back the links of nodes that live, mend what is not as planned, and return what cannot be mended.

        Args:
            nodes: As each was when the change was prepared. Who has been started again since was left out of it.
        """

        def problem_of(node: NodeId) -> str | None:
            return self._problem(node, is_changed=nodes[node] != self._entered.get(node))

        return [problem for problem in self._pool.map(problem_of, nodes) if problem]

    def _batch(self, time_ns: int, node: NodeId) -> tuple[NetworkNamespace, Batch] | None:
        """Return what is to be done at a node, and where; None if nothing is, or nothing can be."""
        if (entered := self._entered.get(node)) is None:
            return None
        pid, device = entered
        tree, namespace = self._tree(node, device, time_ns), self.namespace_of(node, pid)
        try:
            reading = read_shaping(namespace, tree)
            self._note(node, self._tree(node, device), reading)
            batch = change_to(tree, reading)
        except RunnerError:  # if the node lives, this is told when the change is confirmed
            return None
        return (namespace, batch) if batch else None

    def _problem(self, node: NodeId, *, is_changed: bool = False) -> str | None:
        """Mend what is not as planned, and return what cannot be; ``is_changed``: there is another plan than before."""
        if (entered := self._entered.get(node)) is None:
            return None
        pid, device = entered
        namespace, tree = self.namespace_of(node, pid), self._tree(node, device)
        try:
            if is_changed or self._note(node, tree, read_shaping(namespace, tree)):
                self._apply(node, pid, device)
        except RunnerError as error:
            has_ended = self._carry(["test", "-d", f"/proc/{pid}"], "")[0] != 0
            return None if has_ended else str(error)
        return None

    def look(self, *, compare: bool) -> Looks:
        """Look at the counters of all nodes that were shaped.

        Args:
            compare: Whether to compare what their namespaces hold with the plan, too; see ``differences``.
        """
        entered = dict(self._entered)
        pids = [str(pid) for pid, _ in entered.values()]
        cpu = parse_cpu_counters(self._here.run(["sh", "-c", CPU_SCRIPT, "cpu", *pids]))
        futures = {
            node: self._pool.submit(self._look_at, node, pid, device, cpu.get(pid), compare=compare)
            for node, (pid, device) in entered.items()
        }
        found: dict[NodeId, NodeLook | str] = {}
        for node, future in futures.items():
            try:
                found[node] = future.result()
            except RunnerError as error:
                found[node] = str(error)
        return found

    def close(self) -> None:
        """End the shells, once they have done what they do."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for shell in self._idle:
            shell.close()

    def _tree(self, node: NodeId, device: str, time_ns: int | None = None) -> NodeTree:
        """Plan what a node's namespace must hold at a testbed time; None: what is in force."""
        options = replace(self._options, device=device)
        at_ns, path_ns = (self._time_ns, self._path_ns) if time_ns is None else (time_ns, time_ns)
        tree = plan_node(self._network, node, self._texts, options, time_ns=at_ns, path_ns=path_ns).tree
        return without_limits(tree) if self._is_open else tree

    def namespace_of(self, node: NodeId, pid: int) -> NetworkNamespace:
        """Return a node's network namespace, in which commands can be run."""
        return NetworkNamespace.of_process(f"node {node}", pid, carry=self._carry)

    @property
    def _here(self) -> NetworkNamespace:
        """The helper's own."""
        return NetworkNamespace("the helper that shapes links", carry=self._carry)

    def _shape_node(self, item: tuple[NodeId, int]) -> None:
        node, pid = item
        namespace = self.namespace_of(node, pid)
        device, own = data_device(namespace, self._addresses[node])
        peers = [address for peer, address in self._addresses.items() if peer != node]
        namespace.run_batch("ip", namespace_lines(device, own, peers, self._options.time_dilation))
        self._apply(node, pid, device)
        self._entered[node] = pid, device

    def _look_at(self, node: NodeId, pid: int, device: str, cpu: CpuCounters | None, *, compare: bool) -> NodeLook:
        namespace, tree = self.namespace_of(node, pid), self._tree(node, device)
        now_ns = time.monotonic_ns()
        if not compare:
            return NodeLook(now_ns, tree, read_counters(namespace, tree), cpu)
        reading = read_shaping(namespace, tree)
        self._note(node, tree, reading)
        return NodeLook(now_ns, tree, reading.counters, cpu)

    def _note(self, node: NodeId, tree: NodeTree, reading: NodeReading) -> bool:
        """Note what is not as it was set, whoever has changed it; tell whether there is anything."""
        found = [f"node {node}, {difference}" for difference in differences(tree, reading)]
        with self._lock:
            self.compared += tree.pieces
            self.differences += found
        return bool(found)

    def _apply(self, node: NodeId, pid: int, device: str) -> None:
        tree = self._tree(node, device)
        found = apply_shaping(self.namespace_of(node, pid), tree)
        with self._lock:
            self.compared += tree.pieces
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise RunnerError(f"links of node {node} are not shaped as planned: {found[0]}{more}")

    def _carry(self, words: Sequence[str], text: str) -> tuple[int, str, str]:
        """Run a command in a shell that is idle."""
        with self._free:
            with self._lock:
                shell = self._idle.pop() if self._idle else None
            if shell is None:
                shell = self._open_shell()
            try:
                result = shell.run(words, text)
            except RunnerError:
                shell.close()  # it may be in the middle of something
                raise
            with self._lock:
                self._idle.append(shell)
        return result


@dataclass(frozen=True)
class Change:
    """A change of links that is ready to be made.

    Attributes:
        shaper: Makes it.
        time_ns: Testbed time whose capacities it puts in force.
        batches: What is to be done in which namespace.
        entered: The nodes, as they were when it was prepared.
    """

    shaper: LinkShaper
    time_ns: int
    batches: Sequence[tuple[NetworkNamespace, Batch]]
    entered: Mapping[NodeId, Entered | None]

    def make(self) -> None:
        """Make it, now. Never raises: what failed shows when it is confirmed."""
        self.shaper.put_in_force(self.time_ns, self.batches)

    def confirm(self) -> list[str]:
        """Read back what is there now; return what is not as planned, in words."""
        return self.shaper.confirm(self.entered)


def _carry_out(item: tuple[NetworkNamespace, Batch]) -> None:
    with suppress(RunnerError):
        carry_out(*item)


def data_device(namespace: NetworkNamespace, address: IPv4Address) -> tuple[str, IPv4Interface]:
    """Return the device that has an address, which is chance, and the address with its network.

    Raises:
        RunnerError: None has it.
    """
    printed = namespace.run(["ip", "-o", "-4", "addr", "show", "to", f"{address}/32"])
    words = printed.split()  # 7: eth1 inet 10.9.0.3/23 ...
    if len(words) < 4:
        raise RunnerError(f"{namespace.name}: no device has the address {address}")
    return words[1].partition("@")[0], IPv4Interface(words[3])


class PlannedChanges:
    """The planned changes of links, made at their instants by a thread.

    State:
        late_ns: Testbed time of changes -> how late they were in force, real time; None while they are not.
        failed: Those that failed, in words.
    """

    def __init__(self, network: NetworkPlan, prepare: Callable[[int, Sequence[NodeId]], Change]) -> None:
        """Store what is needed.

        Args:
            network: With its changes.
            prepare: Prepares the capacities of a testbed time at nodes; see :meth:`LinkShaper.prepare`.
        """
        self.late_ns: dict[int, int | None] = {}
        self.failed: list[str] = []
        self._network = network
        self._instants = instants_of(network)
        self._prepare = prepare
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, start_monotonic_ns: int, begin_ns: int, end_ns: int | None, dilation: float) -> None:
        """Begin the thread; arguments as of :meth:`orchestrator.runs.fleet.Fleet.begin`, and the time dilation."""
        due = {
            start_monotonic_ns + int((time_ns - begin_ns) * dilation): (time_ns, nodes)
            for time_ns, nodes in self._instants.items()
            if time_ns > begin_ns and (end_ns is None or time_ns < end_ns)
        }
        # Capacities and partitions of the beginning are in force already; while links are measured nothing else is.
        if nodes := receivers_laid_over(self._network, begin_ns):
            due[start_monotonic_ns] = begin_ns, nodes
        self.late_ns = {time_ns: None for time_ns, _ in due.values()}
        if due:
            self._thread = threading.Thread(target=self._run, args=(due,), name="changes of links", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Make no more changes; waits for the one that is being made."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, due: Mapping[int, tuple[int, Sequence[NodeId]]]) -> None:
        for due_ns, (time_ns, nodes) in sorted(due.items()):
            if self._stop.is_set():
                return
            try:
                change = self._prepare(time_ns, nodes)
                if self._stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / NS_PER_S)):
                    return
                change.make()
                self.late_ns[time_ns] = time.monotonic_ns() - due_ns
                problems = change.confirm()
            except RunnerError as error:  # the helper does not answer any more
                problems = [str(error)]
            self.failed += [f"at {time_ns / NS_PER_S:g} s: {problem}" for problem in problems]


def instants_of(network: NetworkPlan) -> dict[int, list[NodeId]]:
    """Return the testbed times at which links change, and the nodes in whose namespaces they do."""
    instants: dict[int, set[int]] = {}
    everybody = range(network.num_nodes)
    for time_ns, change in network.changes:
        if isinstance(change, PartitionChange):
            instants.setdefault(time_ns, set()).update(everybody)
        else:
            node = change.destination if change.kind == "down" else change.source
            instants.setdefault(time_ns, set()).add(node)
    for place, steps in network.overlays.items():
        for time_ns in steps.times_ns:
            instants.setdefault(time_ns, set()).update(_receivers(network, place))
    return {time_ns: [NodeId(node) for node in sorted(nodes)] for time_ns, nodes in sorted(instants.items())}


def receivers_laid_over(network: NetworkPlan, time_ns: int) -> list[NodeId]:
    """Return the nodes in whose namespaces latency, jitter or loss is another than the network's own at a time."""
    found: set[int] = set()
    for place, steps in network.overlays.items():
        if steps.at(time_ns).shapes_path:
            found.update(_receivers(network, place))
    return [NodeId(node) for node in sorted(found)]


def _receivers(network: NetworkPlan, place: Place) -> Iterable[int]:
    """The nodes that see to it: what is laid over a path besides rates is its receiver's matter."""
    return range(network.num_nodes) if place.kind == "up" else (place.destination,)
