"""Shaping of the nodes of a run by one helper: it enters their network namespaces, and nothing else has that right.

A command of its own in a container takes a tenth of a second, so that the helper has shells that stay open.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from node.core.errors import RunnerError
from node.core.links import NetworkPlan
from node.core.types import NodeId
from node.core.units import NS_PER_S
from orchestrator.containers.shell import ContainerShell
from orchestrator.shaping.backend import NetworkNamespace, apply_shaping
from orchestrator.shaping.node_shaping import KernelOptions, plan_node
from orchestrator.shaping.tree import NodeTree

SHELLS: Final = 4
"""Shells of the helper: nodes that are shaped at the same time."""


class LinkShaper:
    """The links of all nodes, as the kernel shapes them.

    Threads may use it at the same time. A node's namespace is known by the process number of its container, which is
    another one after a restart.

    State:
        _time_ns: Testbed time whose capacities are in force.
        _shells: That are open; a caller takes one and puts it back.
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
        self._time_ns = begin_ns
        self._entered: dict[NodeId, tuple[int, str]] = {}
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

    def open_gates(self, gate: str, pids: Sequence[int]) -> None:
        """Make a file in containers, by the way on which the kernel shows their file systems.

        Raises:
            RunnerError: One has ended.
        """
        paths = [f"/proc/{pid}/root{gate}" for pid in pids]
        NetworkNamespace("gates", carry=self._carry).run(["touch", *paths])

    def change(self, time_ns: int, nodes: Sequence[NodeId]) -> None:
        """Put the capacities of a testbed time in force at nodes, now.

        Raises:
            RunnerError: A command failed, or something is not as planned; the others are changed all the same.
        """
        self._time_ns = time_ns
        futures = [self._pool.submit(self._apply, node, *self._entered[node]) for node in nodes]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the shells, with whatever they do."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for shell in self._idle:
            shell.close()

    def tree_of(self, node: NodeId, device: str) -> NodeTree:
        """Plan what a node's namespace must hold now."""
        options = replace(self._options, device=device)
        return plan_node(self._network, node, self._texts, options, time_ns=self._time_ns).tree

    def namespace_of(self, node: NodeId, pid: int) -> NetworkNamespace:
        """Return a node's network namespace, in which commands can be run."""
        return NetworkNamespace.of_process(f"node {node}", pid, carry=self._carry)

    def _shape_node(self, item: tuple[NodeId, int]) -> None:
        node, pid = item
        device = data_device(self.namespace_of(node, pid), self._addresses[node])
        self._apply(node, pid, device)
        self._entered[node] = pid, device

    def _apply(self, node: NodeId, pid: int, device: str) -> None:
        found = apply_shaping(self.namespace_of(node, pid), self.tree_of(node, device))
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
            result = shell.run(words, text)
            with self._lock:  # one that failed is not used again
                self._idle.append(shell)
        return result


def data_device(namespace: NetworkNamespace, address: IPv4Address) -> str:
    """Return the device that has an address: which one it is, is chance.

    Raises:
        RunnerError: None has it.
    """
    printed = namespace.run(["ip", "-o", "-4", "addr", "show", "to", f"{address}/32"])
    words = printed.split()
    if len(words) < 2:
        raise RunnerError(f"{namespace.name}: no device has the address {address}")
    return words[1].partition("@")[0]


class PlannedChanges:
    """The planned changes of capacities, made at their instants by a thread.

    State:
        late_ns: How late each instant's changes were in force, real time.
        failed: Those that failed, in words.
    """

    def __init__(self, network: NetworkPlan, change: Callable[[int, Sequence[NodeId]], None]) -> None:
        """Store what is needed.

        Args:
            network: With its changes.
            change: Puts the capacities of a testbed time in force at nodes; see :meth:`LinkShaper.change`.
        """
        self.late_ns: list[int] = []
        self.failed: list[str] = []
        self._instants = instants_of(network)
        self._change = change
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, start_monotonic_ns: int, begin_ns: int, end_ns: int | None, dilation: float) -> None:
        """Begin the thread; arguments as of :meth:`orchestrator.runs.fleet.Fleet.begin`, and the time dilation."""
        due = {
            start_monotonic_ns + int((time_ns - begin_ns) * dilation): (time_ns, nodes)
            for time_ns, nodes in self._instants.items()
            if time_ns > begin_ns and (end_ns is None or time_ns < end_ns)
        }
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
            if self._stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / NS_PER_S)):
                return
            try:
                self._change(time_ns, nodes)
            except RunnerError as error:
                self.failed.append(f"at {time_ns / NS_PER_S:g} s: {error}")
            self.late_ns.append(time.monotonic_ns() - due_ns)


def instants_of(network: NetworkPlan) -> dict[int, list[NodeId]]:
    """Return the testbed times at which capacities change, and the nodes in whose namespaces they do."""
    instants: dict[int, set[int]] = {}
    for time_ns, change in network.changes:
        node = change.destination if change.kind == "down" else change.source
        instants.setdefault(time_ns, set()).add(node)
    return {time_ns: [NodeId(node) for node in sorted(nodes)] for time_ns, nodes in sorted(instants.items())}
