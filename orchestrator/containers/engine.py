"""The Docker engine through its SDK. The only module that imports it."""

import json
import os
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, BinaryIO, Final

import docker
import requests
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount

from node.core.errors import ConfigError
from node.core.units import NS_PER_S
from orchestrator.containers.endpoint import Endpoint, find_endpoint
from orchestrator.containers.facts import EngineFacts, check_scheme, check_usable
from orchestrator.containers.interface import (
    CommandConnection,
    ContainerEvent,
    ContainerSpec,
    ContainerState,
    EngineError,
    EventStream,
    ImageFacts,
    Labels,
    NetworkFacts,
    OutputStream,
    Resource,
    StuckNetwork,
    SubnetTaken,
)
from orchestrator.containers.routes import HostRoute, host_routes

CONNECT_TIMEOUT_S: Final = 10
"""Time that an engine may take to say what it is."""

_TIMEOUT_S: Final = 120
"""Time that any other call may take: a host that starts 60 containers is slow. Streams and builds have no limit."""

_CONNECTIONS: Final = 64
"""Connections that are kept for reuse; more may be open."""

_LOOK_EVERY_MS: Final = 200
_FRAME: Final = struct.Struct(">BxxxL")
"""Before each piece of a command's output: which of the two it is of, and its length in bytes."""

_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_GONE, _NOT_IN_THAT_STATE = 404, 409
_DEFAULT_NETWORK: Final = "bridge"
_LOG: Final = {"max-size": "20m", "max-file": "2"}
"""Bounds of the engine's own copy of a container's output."""


def connect(
    environment: Mapping[str, str] | None = None,
    *,
    kernel: str | None = None,
    routes: Sequence[HostRoute] | None = None,
) -> "DockerEngine":
    """Connect to the engine that the ``docker`` command would use, and refuse one in which nodes cannot run.

    Args:
        environment: Variables that name the engine; None takes this process's.
        kernel: Release of this machine's kernel; None asks.
        routes: This machine's routes; None asks.

    Raises:
        ConfigError: There is none, this user may not use it, it is too old, on another machine, or of another kind.
            One line with what to do.
    """
    found = os.environ if environment is None else environment
    endpoint = find_endpoint(found, Path(os.path.expanduser("~")))
    check_scheme(endpoint.named_by, endpoint.url)
    try:
        api = _client(endpoint)
        facts = _facts(api, endpoint)
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        raise ConfigError(f"{endpoint.named_by}: {_why_not_connected(error)}") from error
    except (AttributeError, TypeError) as error:  # JSON of another shape
        raise ConfigError(f"{endpoint.named_by}: something answers there that is no Docker engine") from error
    check_usable(facts, os.uname().release if kernel is None else kernel, host_routes() if routes is None else routes)
    api.timeout = _TIMEOUT_S
    return DockerEngine(api, facts)


def _client(endpoint: Endpoint) -> Any:
    tls: Any = False
    if (folder := endpoint.certificates) is not None:
        files = (str(folder / "cert.pem"), str(folder / "key.pem"))
        tls = TLSConfig(client_cert=files, ca_cert=str(folder / "ca.pem"), verify=True)
    return docker.APIClient(
        endpoint.url, version="auto", timeout=CONNECT_TIMEOUT_S, tls=tls, max_pool_size=_CONNECTIONS
    )


def _why_not_connected(error: BaseException) -> str:
    match root := _root_cause(error):
        case PermissionError():
            return "permission denied; this user must be root or in the group docker (usermod -aG, then log in again)"
        case FileNotFoundError() | ConnectionRefusedError():
            text = "no engine listens there; start Docker (systemctl start docker)"
            return f"{text}, or name another engine by DOCKER_HOST or docker context use"
        case TimeoutError():
            return f"the engine does not answer within {CONNECT_TIMEOUT_S} s; is it overloaded or stopped?"
        case _:
            return f"no engine can be reached: {' '.join(str(root).split())}"


def _root_cause(error: BaseException) -> BaseException:
    """Return the operating system's error at the bottom, which libraries wrap several times; else the error itself."""
    inner: BaseException | None = error
    root = error
    while inner is not None:
        if (isinstance(inner, OSError) and inner.errno is not None) or isinstance(inner, TimeoutError):
            root = inner
        inner = inner.__cause__ or inner.__context__
    return root


def _facts(api: Any, endpoint: Endpoint) -> EngineFacts:
    version, info = api.version(), api.info()
    components = version.get("Components") or [{}]
    bridge = None
    with suppress(APIError):
        network = api.inspect_network(_DEFAULT_NETWORK)
        name = (network.get("Options") or {}).get("com.docker.network.bridge.name", "docker0")
        if subnets := _subnets(network):
            bridge = (name, subnets[0])
    return EngineFacts(
        named_by=endpoint.named_by,
        url=endpoint.url,
        product=components[0].get("Name") or "",
        version=version.get("Version") or "",
        api_version=version.get("ApiVersion") or "",
        operating_system=info.get("OperatingSystem") or "",
        os_type=info.get("OSType") or "linux",
        kernel=info.get("KernelVersion") or "",
        security=tuple(info.get("SecurityOptions") or ()),
        cgroup_version=int(info.get("CgroupVersion") or 0),
        cpus=int(info.get("NCPU") or 0),
        memory_bytes=int(info.get("MemTotal") or 0),
        limits_memory=bool(info.get("MemoryLimit")),
        limits_cpus=bool(info.get("CpuCfsQuota")),
        bridge=bridge,
    )


class DockerEngine:
    """A Docker engine; an :class:`~orchestrator.containers.interface.Engine`. Made by :func:`connect`."""

    def __init__(self, api: Any, facts: EngineFacts) -> None:
        """Store the SDK's client of the engine and what the engine said of itself."""
        self.facts = facts
        self._api = api
        self._names = _Names()

    # -- images --------------------------------------------------------------------------------------------

    def find_image(self, name: str) -> ImageFacts | None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors(f"image {name}"):
            try:
                found = self._api.inspect_image(name)
            except APIError as error:
                if error.status_code == _GONE:
                    return None
                raise
        labels = (found.get("Config") or {}).get("Labels") or {}
        return ImageFacts(found["Id"], tuple(found.get("RepoTags") or ()), labels, int(found["Size"]))

    def pull_image(self, name: str) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        repository, tag = docker.utils.parse_repository_tag(name)
        with _errors(f"image {name} cannot be pulled"):
            for line in self._api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if "error" in line:
                    raise EngineError(f"image {name} cannot be pulled: {_one_line(line['error'])}")

    def build_image(
        self, context: BinaryIO, tag: str, labels: Labels, arguments: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors(f"image {tag} cannot be built"):
            lines = self._api.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                labels=dict(labels),
                buildargs=dict(arguments),
                use_config_proxy=True,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for line in lines:
                if "error" in line:
                    raise EngineError(f"image {tag} cannot be built: {_one_line(line['error'])}")
                for text in line.get("stream", "").splitlines():
                    tell(text.rstrip())

    # -- networks ------------------------------------------------------------------------------------------

    def networks(self) -> list[NetworkFacts]:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors("networks"):
            return [NetworkFacts(found["Id"], found["Name"], _subnets(found)) for found in self._api.networks()]

    def create_network(self, name: str, subnet: IPv4Network, labels: Labels) -> str:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        pool = IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))
        try:
            with _errors(f"network {name} ({subnet}) cannot be made"):
                made = self._api.create_network(
                    name,
                    driver="bridge",
                    ipam=IPAMConfig(pool_configs=[pool]),
                    check_duplicate=True,
                    internal=True,
                    labels=dict(labels),
                )
        except EngineError as error:
            if "overlap" in str(error).lower():
                raise SubnetTaken(str(error), error.status) from error
            raise
        return str(made["Id"])

    # -- containers ----------------------------------------------------------------------------------------

    def create_container(self, spec: ContainerSpec) -> str:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        api = self._api
        networks = list(spec.networks.items())
        first = dict(networks[:1])  # older engines take one network here and the others one by one
        with _errors(f"container {spec.name} cannot be made"):
            made = api.create_container(
                spec.image,
                command=list(spec.command) or None,
                name=spec.name,
                user=spec.user or None,
                environment=dict(spec.environment),
                labels=dict(spec.labels),
                host_config=api.create_host_config(**_host_config(spec)),
                networking_config=api.create_networking_config(
                    {name: api.create_endpoint_config(ipv4_address=str(address)) for name, address in first.items()}
                ),
            )
            self._names[made["Id"]] = f"container {spec.name}"
            for name, address in networks[1:]:
                api.connect_container_to_network(made["Id"], name, ipv4_address=str(address))
        return str(made["Id"])

    def start(self, container: str) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors(f"{self._names[container]} cannot be started"):
            self._api.start(container)

    def pause(self, container: str) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors(f"{self._names[container]} cannot be paused", but=(_GONE, _NOT_IN_THAT_STATE)):
            self._api.pause(container)

    def unpause(self, container: str) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        try:
            with _errors(f"{self._names[container]} cannot go on", but=(_GONE, _NOT_IN_THAT_STATE)):
                self._api.unpause(container)
        except EngineError as error:
            if "not paused" not in str(error):  # for which the engine has no status of its own
                raise

    def kill(self, container: str) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        with _errors(f"{self._names[container]} cannot be killed", but=(_GONE, _NOT_IN_THAT_STATE)):
            self._api.kill(container, signal="SIGKILL")

    def inspect(self, container: str) -> ContainerState | None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        found = None
        with _errors(self._names[container], but=(_GONE,)):
            found = self._api.inspect_container(container)
        return None if found is None else _state(found)

    def execute(self, container: str, command: Sequence[str], text: str = "") -> tuple[int, str]:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        api = self._api
        with _errors(f"{command[0]} in {self._names[container]}"):
            task = api.exec_create(container, list(command), stdin=bool(text))["Id"]
            if text:
                stream = api.exec_start(task, socket=True)
                output = _converse(stream, text.encode(), lambda: api.exec_inspect(task)["Running"])
            else:
                output = api.exec_start(task)
            code = api.exec_inspect(task)["ExitCode"]
        return int(code), output.decode("utf-8", errors="replace")

    def begin(self, container: str, command: Sequence[str]) -> CommandConnection:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        what = f"{command[0]} in {self._names[container]}"
        with _errors(what):
            task = self._api.exec_create(container, list(command), stdin=True)["Id"]
            return _Conversation(self._api.exec_start(task, socket=True), what)

    def output(self, container: str, since_ns: int, *, follow: bool) -> OutputStream:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        since_s = since_ns // NS_PER_S or None  # a whole number; a float is not exact
        with _errors(f"output of {self._names[container]}"):
            stream = self._api.logs(container, stream=True, follow=follow, timestamps=True, since=since_s)
        return _SafeStream(stream, since_ns)

    def events(self, labels: Labels, since_ns: int) -> EventStream:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        filters = {"type": ["container"], **_label_filter(labels)}
        with _errors("events"):
            stream = self._api.events(since=since_ns // NS_PER_S, filters=filters, decode=True)
        return _SafeEventStream(stream)

    # -- cleaning up ---------------------------------------------------------------------------------------

    def labelled(self, labels: Labels) -> list[Resource]:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        filters = _label_filter(labels)
        with _errors("list of containers, networks and volumes"):
            containers = self._api.containers(all=True, filters=filters)
            networks = self._api.networks(filters=filters)
            volumes = self._api.volumes(filters=filters)["Volumes"] or []
        return [
            *(
                Resource("container", found["Id"], found["Names"][0].lstrip("/"), found["Labels"], found["State"])
                for found in containers
            ),
            *(Resource("network", found["Id"], found["Name"], found["Labels"]) for found in networks),
            *(Resource("volume", found["Name"], found["Name"], found["Labels"] or {}) for found in volumes),
        ]

    def remove(self, resource: Resource) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        where = f"{resource.kind} {resource.name} cannot be removed"
        match resource.kind:
            case "container":
                with _errors(where, but=(_GONE, _NOT_IN_THAT_STATE)):  # the latter: it is being removed
                    self._api.remove_container(resource.identity, v=True, force=True)
            case "network":
                try:
                    with _errors(where, but=(_GONE,)):
                        self._api.remove_network(resource.identity)
                except EngineError as error:
                    if "active endpoints" in str(error) and not self._is_used(resource.identity):
                        text = (
                            "Docker has lost count of its containers, of which none is left, until it is started again"
                        )
                        raise StuckNetwork(f"{where}: {text}", error.status) from error
                    raise
            case "volume":
                with _errors(where, but=(_GONE,)):
                    self._api.remove_volume(resource.identity)

    def _is_used(self, network: str) -> bool:
        found: dict[str, Any] = {}
        with _errors(f"network {network[:12]}", but=(_GONE,)):
            found = self._api.inspect_network(network)
        return bool(found.get("Containers"))

    def close(self) -> None:
        """See :class:`~orchestrator.containers.interface.Engine`."""
        self._api.close()


class _Names(dict[str, str]):
    """Words for containers in messages, by the engine's names: their own names where they were made here."""

    def __missing__(self, container: str) -> str:
        return f"container {container[:12]}"


class _Conversation:
    """A command that is talked to; a :class:`~orchestrator.containers.interface.CommandConnection`."""

    def __init__(self, stream: Any, what: str) -> None:
        self._stream = stream
        self._connection = getattr(stream, "_sock", stream)  # of the SDK's file object; the socket itself over TLS
        self._connection.settimeout(_TIMEOUT_S)
        self._what = what
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        with _errors(self._what):
            self._connection.sendall(data)

    def receive(self) -> tuple[int, bytes] | None:
        received = self._received
        while True:
            if len(received) >= _FRAME.size:
                stream, length = _FRAME.unpack_from(received)
                end = _FRAME.size + length
                if len(received) >= end:
                    data = bytes(received[_FRAME.size : end])
                    del received[:end]
                    return stream, data
            with _errors(self._what):
                chunk = self._connection.recv(1 << 16)
            if not chunk:
                return None
            received += chunk

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        _close(self._stream)


class _SafeStream:
    """Output of a container, with errors of ours."""

    def __init__(self, stream: Any, since_ns: int) -> None:
        self._stream, self._since_ns = stream, since_ns

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with _errors("output of a container"):
            for line in self._stream:
                instant, _, data = line.partition(b" ")
                time_ns = parse_instant(instant.decode("ascii", errors="replace"))
                if time_ns >= self._since_ns:
                    yield time_ns, data

    def close(self) -> None:
        _close(self._stream)


class _SafeEventStream:
    """Changes of containers, with errors of ours."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[ContainerEvent]:
        with _errors("events"):
            for event in self._stream:
                actor = event["Actor"]
                exit_code = int(actor["Attributes"].get("exitCode") or 0)
                yield ContainerEvent(actor["ID"], event["Action"], int(event["timeNano"]), exit_code)

    def close(self) -> None:
        _close(self._stream)


def parse_instant(text: str) -> int:
    """Return what the engine writes as ``2026-01-02T03:04:05.123456789Z``, Unix time in ns; 0 for anything else."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        return 0
    seconds = int(datetime.fromisoformat(f"{found[1]}+00:00").timestamp())
    return seconds * NS_PER_S + int((found[2] or "").ljust(9, "0"))


def _close(stream: Any) -> None:
    with suppress(OSError, DockerException, AttributeError):  # closed already, by its other end
        stream.close()


def _converse(stream: Any, data: bytes, is_running: Callable[[], bool]) -> bytes:
    """Write a command's standard input and read all that it writes, both at once: it may write before it has read.

    The engine does not end the connection of a command that ends without having read all its input.
    """
    connection = getattr(stream, "_sock", stream)  # of the SDK's file object; the socket itself over TLS
    received = bytearray()
    with closing(stream):
        writer = threading.Thread(target=_send_all, args=(connection, data), daemon=True)
        writer.start()
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        has_ended = False
        while True:
            if readable.poll(_LOOK_EVERY_MS):
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                received += chunk
            elif has_ended:  # and nothing has come since
                break
            else:
                has_ended = not is_running()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # which ends the writer
        writer.join()
    return _payloads(bytes(received))


def _payloads(received: bytes) -> bytes:
    """Return the contents of the frames that a command's outputs come in, one after the other."""
    output, position = bytearray(), 0
    while position + _FRAME.size <= len(received):
        _, length = _FRAME.unpack_from(received, position)
        position += _FRAME.size
        output += received[position : position + length]
        position += length
    return bytes(output)


def _send_all(connection: Any, data: bytes) -> None:
    with suppress(OSError):  # the command has ended without reading it all
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def _host_config(spec: ContainerSpec) -> dict[str, Any]:
    if spec.network_of is not None:
        network_mode = f"container:{spec.network_of}"
    elif spec.host_network:
        network_mode = "host"
    else:
        network_mode = next(iter(spec.networks), "none")
    return {
        "cap_drop": ["ALL"],
        "cap_add": list(spec.capabilities),
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "mounts": [Mount(bind.target, str(bind.source), type="bind", read_only=bind.read_only) for bind in spec.binds],
        "tmpfs": {path: f"size={size},mode=1777,nosuid,nodev" for path, size in spec.tmpfs.items()},
        "network_mode": network_mode,
        "nano_cpus": None if spec.cpus is None else round(spec.cpus * 1e9),
        "mem_limit": spec.memory_bytes,
        "memswap_limit": spec.memory_bytes,  # of both together: none of it is swap
        "shm_size": spec.shm_bytes,
        "sysctls": dict(spec.sysctls),
        "pid_mode": "host" if spec.host_pids else None,
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG),
    }


def _state(found: Mapping[str, Any]) -> ContainerState:
    state = found["State"]
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    return ContainerState(
        status=state["Status"],
        pid=int(state.get("Pid") or 0),
        exit_code=int(state.get("ExitCode") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        error=_one_line(state.get("Error") or ""),
        addresses={
            name: (IPv4Address(at["IPAddress"]), at.get("MacAddress") or "")
            for name, at in networks.items()
            if at.get("IPAddress")
        },
    )


def _subnets(network: Mapping[str, Any]) -> tuple[IPv4Network, ...]:
    """Return the IPv4 networks of a network; those of other families are nobody's rival."""
    subnets = []
    for pool in (network.get("IPAM") or {}).get("Config") or []:
        with suppress(ValueError):
            subnets.append(IPv4Network(pool.get("Subnet") or "", strict=False))
    return tuple(subnets)


def _label_filter(labels: Labels) -> dict[str, list[str]]:
    return {"label": [f"{key}={value}" if value else key for key, value in labels.items()]}


@contextmanager
def _errors(what: str, but: Sequence[int] = ()) -> Iterator[None]:
    """Turn the SDK's errors into ours, and end the block without one where the engine's status is in ``but``."""
    try:
        yield
    except APIError as error:
        if error.status_code in but:
            return
        text = error.explanation if isinstance(error.explanation, str) else str(error)
        raise EngineError(f"{what}: {_one_line(text)}", error.status_code) from error
    except (DockerException, requests.RequestException, OSError, json.JSONDecodeError) as error:
        raise EngineError(f"{what}: the engine does not answer: {_one_line(str(_root_cause(error)))}") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())
