"""An engine in memory: it does what it is asked, remembers it, and fails where a test says so."""

import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from itertools import count
from queue import SimpleQueue
from typing import BinaryIO, Generic, TypeVar

from orchestrator.containers.facts import EngineFacts
from orchestrator.containers.interface import (
    CommandConnection,
    ContainerEvent,
    ContainerSpec,
    ContainerState,
    EngineError,
    ImageFacts,
    Labels,
    NetworkFacts,
    Resource,
    SubnetTaken,
)
from tests.unit.orchestrator.containers.described import facts

Value = TypeVar("Value")


class FakeStream(Generic[Value]):
    """Values that a test sends, until somebody closes it or it fails."""

    def __init__(self) -> None:
        self._values: SimpleQueue[Value | EngineError | None] = SimpleQueue()

    def send(self, value: "Value | EngineError") -> None:
        self._values.put(value)

    def __iter__(self) -> Iterator[Value]:
        while (value := self._values.get()) is not None:
            if isinstance(value, EngineError):
                raise value
            yield value

    def close(self) -> None:
        self._values.put(None)


@dataclass
class FakeContainer:
    """A container with what it wrote, and the streams that follow it."""

    spec: ContainerSpec
    status: str = "created"
    exit_code: int = 0
    out_of_memory: bool = False
    written: list[tuple[int, bytes]] = field(default_factory=list)
    followers: list[FakeStream[tuple[int, bytes]]] = field(default_factory=list)

    def end_streams(self) -> None:
        for stream in self.followers:
            stream.close()
        self.followers.clear()


@dataclass(frozen=True)
class FakeBuild:
    """A build that was asked for."""

    files: Mapping[str, bytes]
    tag: str
    labels: Labels
    arguments: Mapping[str, str]


@dataclass
class FakeEngine:
    """An :class:`~orchestrator.containers.interface.Engine`.

    Attributes:
        images: By name.
        registry: Images that can be pulled.
        builds: All builds so far.
        build_lines: Output of a build.
        build_error: Why a build fails; None lets it succeed.
        others: Networks that nobody's label is on.
        rivals: Subnets that another run takes in the moment in which they are asked for.
        resources: Networks and volumes with labels, by identity.
        containers: By identity.
        refused: Resources that cannot be removed: name to the reason.
        broken: Containers that cannot be started, by name.
        unfrozen: Containers that the kernel does not freeze at first: name to attempts that fail.
        calls: Commands in the order in which they came: ``pause NAME``.
    """

    facts: EngineFacts = field(default_factory=facts)
    images: dict[str, ImageFacts] = field(default_factory=dict)
    registry: set[str] = field(default_factory=set)
    builds: list[FakeBuild] = field(default_factory=list)
    build_lines: Sequence[str] = ()
    build_error: str | None = None
    others: list[NetworkFacts] = field(default_factory=list)
    rivals: list[IPv4Network] = field(default_factory=list)
    resources: dict[str, Resource] = field(default_factory=dict)
    subnets: dict[str, IPv4Network] = field(default_factory=dict)
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    unfrozen: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._streams: list[FakeStream[ContainerEvent]] = []

    def _identity(self) -> str:
        return f"{next(self._numbers):064x}"

    # -- images

    def find_image(self, name: str) -> ImageFacts | None:
        return self.images.get(name)

    def pull_image(self, name: str) -> None:
        if name not in self.registry:
            raise EngineError(f"image {name} cannot be pulled: no such host", 500)
        self.images[name] = ImageFacts("sha256:pulled", (name,), {}, 1)

    def build_image(
        self, context: BinaryIO, tag: str, labels: Labels, arguments: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        with tarfile.open(fileobj=context) as archive:
            files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
            read = {name: file.read() for name, file in files.items() if file is not None}
        self.builds.append(FakeBuild(read, tag, dict(labels), dict(arguments)))
        for line in self.build_lines:
            tell(line)
        if self.build_error is not None:
            raise EngineError(f"image {tag} cannot be built: {self.build_error}")
        self.images[tag] = ImageFacts("sha256:built", (tag,), dict(labels), 10**9)

    # -- networks

    def networks(self) -> list[NetworkFacts]:
        mine = [NetworkFacts(key, self.resources[key].name, (net,)) for key, net in self.subnets.items()]
        return [*self.others, *mine]

    def create_network(self, name: str, subnet: IPv4Network, labels: Labels) -> str:
        rivals = [rival for rival in self.rivals if rival.overlaps(subnet)]
        for rival in rivals:
            self.rivals.remove(rival)
            self.others.append(NetworkFacts(f"rival {rival}", f"rival-{rival}", (rival,)))
        if rivals:
            raise SubnetTaken(f"network {name}: overlaps", 403)
        identity = self._identity()
        self.resources[identity] = Resource("network", identity, name, labels)
        self.subnets[identity] = subnet
        return identity

    # -- containers

    def create_container(self, spec: ContainerSpec) -> str:
        with self._lock:
            identity = self._identity()
            self.containers[identity] = FakeContainer(spec)
            return identity

    def start(self, container: str) -> None:
        found = self.containers[container]
        if found.spec.name in self.broken:
            raise EngineError(f"container {found.spec.name} cannot be started: no such file", 400)
        found.status = "running"
        self.happen(container, "start")

    def pause(self, container: str) -> None:
        name = self.containers[container].spec.name
        if self.unfrozen.get(name):
            self.unfrozen[name] -= 1
            raise EngineError(f"container {name} cannot be paused: runc did not terminate: unable to freeze", 500)
        self._command("pause", container, "paused")

    def unpause(self, container: str) -> None:
        self._command("unpause", container, "running")

    def kill(self, container: str) -> None:
        self._command("kill", container, "exited")
        self.end(self.containers[container].spec.name, 137)

    def _command(self, word: str, container: str, status: str) -> None:
        with self._lock:
            found = self.containers[container]
            self.calls.append(f"{word} {found.spec.name}")
            found.status = status

    def inspect(self, container: str) -> ContainerState | None:
        found = self.containers.get(container)
        if found is None:
            return None
        return ContainerState(found.status, 1, found.exit_code, found.out_of_memory, "", {})

    def execute(self, container: str, command: Sequence[str], text: str = "") -> tuple[int, str]:
        return 0, f"{self.containers[container].spec.name}: {' '.join(command)}: {text}"

    def begin(self, container: str, command: Sequence[str]) -> CommandConnection:
        raise EngineError(f"{command[0]} in container {container}: not asked for")

    def output(self, container: str, since_ns: int, *, follow: bool) -> FakeStream[tuple[int, bytes]]:
        with self._lock:
            if container not in self.containers:
                raise EngineError("no such container", 404)
            found = self.containers[container]
            stream: FakeStream[tuple[int, bytes]] = FakeStream()
            for piece in found.written:
                if piece[0] >= since_ns:
                    stream.send(piece)
            if follow and found.status in ("running", "paused"):
                found.followers.append(stream)
            else:
                stream.close()
            return stream

    def events(self, labels: Labels, since_ns: int) -> FakeStream[ContainerEvent]:
        stream: FakeStream[ContainerEvent] = FakeStream()
        self._streams.append(stream)
        return stream

    # -- for tests

    def identity_of(self, name: str) -> str:
        return next(key for key, found in self.containers.items() if found.spec.name == name)

    def happen(self, container: str, action: str, exit_code: int = 0) -> None:
        for stream in self._streams:
            stream.send(ContainerEvent(container, action, 10**18, exit_code))

    def write(self, name: str, data: bytes, time_ns: int = 10**18) -> None:
        """Let a container write something."""
        with self._lock:
            found = self.containers[self.identity_of(name)]
            found.written.append((time_ns, data))
            for stream in found.followers:
                stream.send((time_ns, data))

    def break_off(self, name: str) -> None:
        """End the streams of what a container writes, though it goes on."""
        with self._lock:
            self.containers[self.identity_of(name)].end_streams()

    def end(self, name: str, exit_code: int, *, out_of_memory: bool = False) -> None:
        """Let a container end as if by itself."""
        identity = self.identity_of(name)
        found = self.containers[identity]
        with self._lock:
            found.status, found.exit_code, found.out_of_memory = "exited", exit_code, out_of_memory
            found.end_streams()
        self.happen(identity, "die", exit_code)

    def restart(self, name: str) -> None:
        """Let somebody start a container once more."""
        identity = self.identity_of(name)
        found = self.containers[identity]
        found.status = "running"
        self.happen(identity, "start")

    def disappear(self) -> None:
        """Let the engine end."""
        for stream in self._streams:
            stream.send(EngineError("events: the engine does not answer: connection reset"))

    # -- cleaning up

    def labelled(self, labels: Labels) -> list[Resource]:
        with self._lock:
            found = [
                Resource("container", key, each.spec.name, each.spec.labels, each.status)
                for key, each in self.containers.items()
            ]
        found += self.resources.values()
        return [
            resource
            for resource in found
            if all(key in resource.labels and value in ("", resource.labels[key]) for key, value in labels.items())
        ]

    def remove(self, resource: Resource) -> None:
        if resource.name in self.refused:
            raise EngineError(f"{resource.kind} {resource.name} cannot be removed: {self.refused[resource.name]}")
        with self._lock:
            self.calls.append(f"remove {resource.kind} {resource.name}")
            if resource.kind == "container":
                self.containers.pop(resource.identity).end_streams()
            else:
                self.resources.pop(resource.identity)
                self.subnets.pop(resource.identity, None)

    def close(self) -> None:
        pass


def image(name: str, **labels: str) -> ImageFacts:
    """An image with labels, each after ``fragmesh.``."""
    return replace(ImageFacts("sha256:0", (name,), {}, 10**9), labels={f"fragmesh.{k}": v for k, v in labels.items()})
