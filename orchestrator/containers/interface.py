"""The engine as the rest of the room sees it: plain values, and one interface for the real one and for tests.

Every call takes milliseconds to hundreds of them and may come from any thread. A call that fails raises
:class:`EngineError`; nothing of the SDK gets out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias

from node.core.errors import RunnerError
from orchestrator.containers.facts import EngineFacts

Labels: TypeAlias = Mapping[str, str]
ResourceKind: TypeAlias = Literal["container", "network", "volume"]


class EngineError(RunnerError):
    """The engine refused a call or did not answer.

    Attributes:
        status: Its HTTP status; None if it did not answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image that the engine has.

    Attributes:
        identity: Its digest, ``sha256:...``.
        tags: Its names.
        labels: Its labels.
        size_bytes: Of all its layers together.
    """

    identity: str
    tags: tuple[str, ...]
    labels: Labels
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A network that the engine has.

    Attributes:
        identity: The engine's name for it.
        name: The people's.
        subnets: Its IPv4 networks.
    """

    identity: str
    name: str
    subnets: tuple[IPv4Network, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine inside a container.

    Attributes:
        source: Here.
        target: There.
        read_only: Whether the container may only read it.
    """

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that makes a container. What is not named here is as tight as it can be.

    A container has no capability but those named, cannot gain any, never sees the engine's socket, and its root file
    system is read-only.

    Attributes:
        name: Its name in the engine.
        image: From which image.
        command: Its program with arguments; empty takes the image's.
        labels: What it belongs to.
        environment: Variables besides the image's.
        user: ``uid:gid``; empty takes the image's.
        binds: Files of this machine.
        tmpfs: Folders in memory: path to size in bytes.
        networks: Its networks: name to its address there.
        network_of: Another container whose network it shares; then it has no networks of its own.
        cpus: Processors it may use; None for all.
        memory_bytes: Memory it may use, without swap; None for all.
        shm_bytes: Size of /dev/shm; None takes the engine's default.
        sysctls: Kernel settings of its namespaces.
        capabilities: Of the kernel, for example ``NET_ADMIN``.
        host_pids: Whether it sees all processes of this machine.
        host_network: Whether it has the network of this machine instead of one of its own.
    """

    name: str
    image: str
    command: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    networks: Mapping[str, IPv4Address] = field(default_factory=dict)
    network_of: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    host_pids: bool = False
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container at one moment.

    Attributes:
        status: ``created``, ``running``, ``paused``, ``exited`` or ``dead``.
        pid: Its first process as this machine numbers it; 0 if it does not run.
        exit_code: How it ended; 0 while it runs. Above 128 a signal, as shells say it.
        out_of_memory: Whether the kernel ended it for want of memory.
        error: Why it did not start; empty if it did.
        addresses: Address and hardware address in each of its networks, by the network's name.
    """

    status: str
    pid: int
    exit_code: int
    out_of_memory: bool
    error: str
    addresses: Mapping[str, tuple[IPv4Address, str]]


@dataclass(frozen=True, slots=True)
class Resource:
    """A container, network or volume with labels of ours.

    Attributes:
        kind: Which of them.
        identity: The engine's name for it.
        name: The people's.
        labels: Its labels.
        status: A container's; empty for others.
    """

    kind: ResourceKind
    identity: str
    name: str
    labels: Labels
    status: str = ""


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """A change of a container.

    Attributes:
        container: The engine's name for it.
        action: ``start``, ``die``, ``oom``, ``pause`` and others.
        time_ns: When, Unix time.
        exit_code: How it ended, of ``die``; else 0. Above 128 a signal, as shells tell it.
    """

    container: str
    action: str
    time_ns: int
    exit_code: int = 0


class OutputStream(Protocol):
    """Pieces of a container's output, until the engine or :meth:`close` ends them."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Wait for the next piece and when it was written, Unix time in ns, and the next."""

    def close(self) -> None:
        """End it, also for a thread that waits."""


class EventStream(Protocol):
    """Changes of containers as they happen, until the engine or :meth:`close` ends them."""

    def __iter__(self) -> Iterator[ContainerEvent]:
        """Wait for the next change, and the next."""

    def close(self) -> None:
        """End it, also for a thread that waits."""


class CommandConnection(Protocol):
    """A command that runs in a container: its input, and its outputs as they come."""

    def send(self, data: bytes) -> None:
        """Write to its input."""

    def receive(self) -> tuple[int, bytes] | None:
        """Wait for more of its output (1) or its error output (2); None when it has ended."""

    def close(self) -> None:
        """End its input, and the connection."""


class Engine(Protocol):
    """A Docker engine."""

    @property
    def facts(self) -> EngineFacts:
        """The engine as it described itself when it was connected."""

    # -- images --------------------------------------------------------------------------------------------

    def find_image(self, name: str) -> ImageFacts | None:
        """Return an image by name or digest; None if the engine has none."""

    def pull_image(self, name: str) -> None:
        """Fetch an image from its registry."""

    def build_image(
        self, context: BinaryIO, tag: str, labels: Labels, arguments: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        """Build an image.

        Args:
            context: A tar archive with a ``Dockerfile``.
            tag: Its name.
            labels: Its labels.
            arguments: Build arguments.
            tell: Called with each line of the build's output.
        """

    # -- networks ------------------------------------------------------------------------------------------

    def networks(self) -> list[NetworkFacts]:
        """Return all networks of the engine, whoever made them."""

    def create_network(self, name: str, subnet: IPv4Network, labels: Labels) -> str:
        """Make a bridge from which nothing leads to the outside, and return its identity.

        Its first address is this machine's.

        Raises:
            SubnetTaken: Some of the addresses are another network's.
        """

    # -- containers ----------------------------------------------------------------------------------------

    def create_container(self, spec: ContainerSpec) -> str:
        """Make a container without starting it, and return its identity."""

    def start(self, container: str) -> None:
        """Start it."""

    def pause(self, container: str) -> None:
        """Stop all its processes in the middle of whatever they do. Does nothing if they do not run."""

    def unpause(self, container: str) -> None:
        """Let them go on. Does nothing if they are not paused."""

    def kill(self, container: str) -> None:
        """End all its processes by force. Does nothing if they do not run."""

    def inspect(self, container: str) -> ContainerState | None:
        """Return its state; None if there is no such container."""

    def execute(self, container: str, command: Sequence[str], text: str = "") -> tuple[int, str]:
        """Run a command in a running container with a standard input; return its exit code and output."""

    def begin(self, container: str, command: Sequence[str]) -> CommandConnection:
        """Begin a command in a running container, to be talked to."""

    def output(self, container: str, since_ns: int, *, follow: bool) -> OutputStream:
        """Return what a container wrote, always in the same order.

        Args:
            container: Which.
            since_ns: From which instant on, Unix time; 0 is the beginning.
            follow: Whether to go on with what it writes until it ends. The engine may break off before.
        """

    def events(self, labels: Labels, since_ns: int) -> EventStream:
        """Follow the changes of containers with these labels, from an instant on (Unix time)."""

    # -- cleaning up ---------------------------------------------------------------------------------------

    def labelled(self, labels: Labels) -> list[Resource]:
        """Return all containers, networks and volumes with these labels; an empty value stands for any."""

    def remove(self, resource: Resource) -> None:
        """Remove it, a container by force and with its anonymous volumes. Does nothing if it is gone.

        Raises:
            StuckNetwork: The engine cannot remove a network though nothing uses it.
        """

    def close(self) -> None:
        """Let go of all connections."""


class SubnetTaken(EngineError):
    """Some of the addresses of a network are another one's."""


class StuckNetwork(EngineError):
    """A network that nothing uses and the engine does not remove: it has counted a container too many.

    Docker sometimes loses count when containers of a network end at the same time (moby issue 42119; 20.10 did at 2 of
    41 ends of 8 containers at once, at none of their starts); it counts anew when it is started.
    """
