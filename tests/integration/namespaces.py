"""Nodes as network namespaces behind a bridge, as a container engine makes them, with nothing in the host's own.

A namespace lives as long as the process that holds it, and that process ends with the test's. Sockets are opened in a
namespace and used from outside: a socket stays where it was made.
"""

import ctypes
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

from orchestrator.shaping.backend import NetworkNamespace

MTU = 1_500
FRAME_BYTES = MTU + 14
SEGMENT_BYTES = MTU - 20 - 20 - 12
"""Of a full packet: without the headers of IP and TCP, and TCP's timestamps."""
FRAMING = SEGMENT_BYTES / FRAME_BYTES
"""Share of a link's rate that TCP's payload can have."""
PORT = 5_000
DEEP_QUEUE_BYTES = 16_777_216
"""More than TCP ever has on its way. Where a queue is full TCP loses packets, and what came after a lost one reaches
the receiver at once when the gap is closed: within a few seconds that looks like more than the link carries."""

_CLONE_NEWNET = 0x40000000
_TCP_CONGESTION = 13


class Namespaces:
    """A bridge with nodes, which have the device ``eth1`` and the address 10.77.0.(10 + number).

    Args:
        num_nodes: How many nodes there are.
        stack: Closes what was opened.
    """

    def __init__(self, num_nodes: int, stack: ExitStack) -> None:
        self.addresses = {node: f"10.77.0.{10 + node}" for node in range(num_nodes)}
        self.stack = stack
        bridge = self._hold("bridge")
        bridge.run(["sh", "-ec", "ip link add br0 type bridge; ip link set br0 up"])
        self.nodes = {}
        for node, address in self.addresses.items():
            self.nodes[node] = namespace = self._hold(f"node {node}")
            pid = namespace.enter[namespace.enter.index("-t") + 1]
            line = f"ip link add port{node} type veth peer name eth1 netns {pid}; ip link set port{node} master br0 up"
            bridge.run(["sh", "-ec", line])
            namespace.run(
                ["sh", "-ec", f"ip address add {address}/24 dev eth1; ip link set lo up; ip link set eth1 up"]
            )

    def _hold(self, name: str) -> NetworkNamespace:
        holder = self.stack.enter_context(
            subprocess.Popen(
                ["unshare", "-n", "sh", "-c", "echo; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        return NetworkNamespace.of_process(name, holder.pid)

    def open_socket(self, node: int, kind: int) -> socket.socket:
        """A socket of a node's namespace, closed with the rest."""
        with _inside(self.nodes[node]):
            return self.stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))

    def connection(self, source: int, destination: int, port: int) -> tuple[socket.socket, socket.socket]:
        """Two ends of a TCP connection: the sender's and the receiver's."""
        listener = self.open_socket(destination, socket.SOCK_STREAM)
        listener.bind((self.addresses[destination], port))
        listener.listen()
        sender = self.open_socket(source, socket.SOCK_STREAM)
        # Fixed, for others slow down now and then on purpose.
        sender.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, b"cubic")
        sender.connect((self.addresses[destination], port))
        receiver, _ = listener.accept()
        return sender, self.stack.enter_context(closing(receiver))


@contextmanager
def namespaces(num_nodes: int) -> Iterator[Namespaces]:
    """Nodes behind a bridge, gone afterwards."""
    with ExitStack() as stack:
        yield Namespaces(num_nodes, stack)


@contextmanager
def _inside(namespace: NetworkNamespace) -> Iterator[None]:
    """This thread in a namespace; sockets that it opens meanwhile stay there."""
    pid = namespace.enter[namespace.enter.index("-t") + 1]
    with open("/proc/thread-self/ns/net") as home, open(f"/proc/{pid}/ns/net") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Stream:
    """Bytes without end over a connection, taken in by a thread of its own.

    Attributes:
        received: (monotonic seconds, bytes in all) of each piece that has arrived.
    """

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        self._sender, self._receiver = ends
        self.received: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        piece = bytes(65_536)
        with suppress(OSError):
            while True:
                self._sender.sendall(piece)

    def _receive(self) -> None:
        buffer = bytearray(65_536)
        total = 0
        with suppress(OSError):
            while count := self._receiver.recv_into(buffer):
                total += count
                self.received.append((time.monotonic(), total))

    def goodput_mbps(self, begin_s: float, end_s: float) -> float:
        """Mean rate between the first and the last piece of a span of monotonic time."""
        pieces = [piece for piece in self.received if begin_s <= piece[0] <= end_s]
        assert len(pieces) > 1, f"{len(pieces)} pieces within {end_s - begin_s:.1f} s"
        (first_s, before), (last_s, after) = pieces[0], pieces[-1]
        return 8 * (after - before) / (last_s - first_s) / 1e6

    def close(self) -> None:
        """End both ends and wait for the threads."""
        for end in (self._sender, self._receiver):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
