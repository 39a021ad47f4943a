"""Prometheus and Grafana beside runs: brought up once, found again by later runs, and ended when somebody says so.

They outlive the run that brought them up: people look at a run when it is over. A file tells later commands which
process or container each of them is. Where it is gone, or another program has taken its number, it is started anew.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from node.core.errors import ConfigError, RunnerError
from node.host.text_files import UnreadableText, parse_json, read_text
from orchestrator.containers.interface import Bind, ContainerSpec, Engine, EngineError
from orchestrator.containers.ownership import ROLE_LABEL, Owner, fate_of, started_at
from orchestrator.host.state_folder import state_folder
from orchestrator.observe.services import HOST, Service, ServiceName
from orchestrator.results.files import first_line_of, write_file

Provider: TypeAlias = Literal["installed", "containers"]

OBSERVE_LABEL: Final = "fragmesh.observe"
"""Label of the containers; its value is the number of the user."""

READY_WITHIN_S: Final = 120.0
"""Real time that a service may take until it answers; it takes a second or a few."""

DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens pages of this machine, whatever proxy the environment names for others."""

_END_WITHIN_S: Final = 20.0
_LOOK_S: Final = 0.05
_STATE_BYTES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Running:
    """A service that was brought up.

    Attributes:
        name: Which.
        provider: By whom.
        identity: Its process, see :class:`Owner`, or its container.
        port: Where it listens.
    """

    name: ServiceName
    provider: Provider
    identity: str
    port: int


class Carrier(Protocol):
    """A way to run services."""

    @property
    def provider(self) -> Provider:
        """Its name."""

    def start(self, service: Service) -> str:
        """Start a service, and return its identity.

        Raises:
            ConfigError: It cannot be had on this host.
            RunnerError: It does not start.
        """

    def is_up(self, identity: str) -> bool:
        """Return whether it still runs."""

    def end(self, identity: str) -> None:
        """End it, and wait until it has."""

    def last_words(self, service: Service, identity: str) -> str:
        """Return the last line that it wrote."""


class InstalledPrograms:
    """Services as processes of this user, from programs that are installed."""

    provider: Provider = "installed"

    def start(self, service: Service) -> str:
        """See :class:`Carrier`."""
        with (service.folder / "log.txt").open("wb") as log:
            try:
                process = subprocess.Popen(
                    service.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=service.folder,
                    env={**os.environ, **service.environment},
                    start_new_session=True,  # signals to the run's terminal are not for it
                )
            except OSError as error:
                raise RunnerError(f"{service.command[0]}: cannot be started: {error.strerror}") from error
        owner = replace(Owner.of_this_process(), pid=process.pid, started=started_at(process.pid) or 0)
        return owner.to_label()

    def is_up(self, identity: str) -> bool:
        """See :class:`Carrier`."""
        return fate_of(Owner.from_label(identity), Owner.of_this_process())[0] == "alive"

    def end(self, identity: str) -> None:
        """See :class:`Carrier`."""
        owner = Owner.from_label(identity)
        if owner is None:
            return
        for number, patience_s in ((signal.SIGTERM, _END_WITHIN_S), (signal.SIGKILL, _END_WITHIN_S)):
            if not self.is_up(identity):
                return
            with suppress(ProcessLookupError):
                os.kill(owner.pid, number)
            _wait_for(lambda: not self.is_up(identity), patience_s)

    def last_words(self, service: Service, identity: str) -> str:
        """See :class:`Carrier`."""
        with suppress(OSError):
            lines = (service.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            return lines[-1] if lines else ""
        return ""


class PinnedContainers:
    """Services as containers of pinned images, in the network of the host: that is where nodes are reached.

    Args:
        engine: Of this machine.
        root: The state folder, which they see.
    """

    provider: Provider = "containers"

    def __init__(self, engine: Engine, root: Path) -> None:
        self._engine = engine
        self._root = root

    def start(self, service: Service) -> str:
        """See :class:`Carrier`."""
        engine = self._engine
        if engine.find_image(service.image) is None:
            try:
                engine.pull_image(service.image)
            except EngineError as error:
                advice = f"install {service.name} and say --observe-with=installed, or load the image"
                raise ConfigError(f"image {service.image} cannot be had: {first_line_of(error)}: {advice}") from error
        user = os.getuid()
        spec = ContainerSpec(
            name=f"fragmesh-observe-{user}-{service.name}",
            image=service.image,
            command=service.arguments,
            labels={OBSERVE_LABEL: str(user), ROLE_LABEL: service.name},
            environment=service.environment,
            user=f"{user}:{os.getgid()}",
            binds=[
                Bind(self._root, str(self._root)),
                Bind(service.folder, str(service.folder), read_only=False),
            ],
            tmpfs={"/tmp": 64 * 2**20},
            host_network=True,
        )
        for left in engine.labelled(spec.labels):
            engine.remove(left)
        identity = engine.create_container(spec)
        engine.start(identity)
        return identity

    def is_up(self, identity: str) -> bool:
        """See :class:`Carrier`."""
        state = self._engine.inspect(identity)
        return state is not None and state.status == "running"

    def end(self, identity: str) -> None:
        """See :class:`Carrier`."""
        for resource in self._engine.labelled({OBSERVE_LABEL: str(os.getuid())}):
            if resource.identity == identity:
                self._engine.remove(resource)

    def last_words(self, service: Service, identity: str) -> str:
        """See :class:`Carrier`."""
        with suppress(EngineError):
            output = b"".join(piece for _, piece in self._engine.output(identity, 0, follow=False))
            lines = output.decode("utf-8", "replace").splitlines()
            return lines[-1] if lines else ""
        return ""


class Observers:
    """The services of this user.

    Args:
        root: The state folder; None for the user's.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = state_folder("observe").parent if root is None else root
        self._state = self.root / "observe" / "services.json"

    def running(self) -> list[Running]:
        """Return the services that were brought up and not ended; whether they still run is their carrier's to tell."""
        try:
            content = parse_json(read_text(self._state, _STATE_BYTES_MAX))
            return [Running(**one) for one in content]
        except (UnreadableText, ValueError, TypeError):
            return []

    def bring_up(self, services: Sequence[Service], carrier: Carrier, tell: Callable[[str], None]) -> None:
        """Start services that do not run yet, and wait until each answers.

        Raises:
            ConfigError: A port is taken, a service runs at another one, or cannot be had; nothing new is left.
            RunnerError: A service does not answer.
        """
        with self._alone():
            known = {one.name: one for one in self.running()}
            new: list[Running] = []
            try:
                for service in services:
                    if _runs_already(service, known.get(service.name), carrier):
                        _write_files(service)
                        continue
                    _check_port(service)
                    _write_files(service)
                    tell(f"starting {service.name}")
                    started = Running(service.name, carrier.provider, carrier.start(service), service.port)
                    new.append(started)
                    _await_ready(service, carrier, started.identity)
                    known[service.name] = started
                self._keep(list(known.values()))
            except BaseException:  # also an interrupt: nobody could end later what no record names
                for each in new:
                    carrier.end(each.identity)
                raise

    def take_down(self, one: Running, carrier: Carrier) -> None:
        """End a service, by the way by which it was brought up; what it stored stays."""
        with self._alone():
            carrier.end(one.identity)
            self._keep([other for other in self.running() if other != one])

    def _keep(self, running: Sequence[Running]) -> None:
        write_file(self._state, json.dumps([asdict(one) for one in running], indent=1).encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time look and start."""
        folder = self._state.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            advice = "XDG_STATE_HOME names another state folder"
            raise ConfigError(f"{error.filename or folder}: {error.strerror or error}: {advice}") from error


def grafana_command() -> tuple[str, ...] | None:
    """Return the command of an installed Grafana; None where there is none."""
    home = next((path for path in ("/usr/share/grafana", "/opt/homebrew/share/grafana") if os.path.isdir(path)), None)
    options = () if home is None else (f"--homepath={home}",)
    if (found := shutil.which("grafana")) is not None:
        return (found, "server", *options)
    found = shutil.which("grafana-server")
    return None if found is None else (found, *options)


def _runs_already(service: Service, found: Running | None, carrier: Carrier) -> bool:
    """Return whether a service runs as it is wanted.

    Raises:
        ConfigError: It runs at another port, or was brought up in the other way.
    """
    if found is None:
        return False
    if found.provider != carrier.provider:
        if not _answers(replace(service, port=found.port)):
            return False
        difference, advice = f" with --observe-with={found.provider}", "name that port and way"
    else:
        if not carrier.is_up(found.identity):
            return False
        difference, advice = "", "name that one"
        if found.port == service.port:
            return True
    raise ConfigError(
        f"{service.name} runs at port {found.port} already{difference}: {advice}, "
        "or end it with `fragmesh down --observe`"
    )


def _check_port(service: Service) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, service.port))
        except OSError as error:
            advice = f"--{service.name}-port names another one"
            raise ConfigError(
                f"--{service.name}-port={service.port}: is taken or not allowed on {HOST}: {error.strerror}: {advice}"
            ) from error


def _write_files(service: Service) -> None:
    service.folder.mkdir(parents=True, exist_ok=True)
    for path, content in service.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)


def _await_ready(service: Service, carrier: Carrier, identity: str) -> None:
    """Wait until a service answers.

    Raises:
        RunnerError: It has ended, or does not answer in time.
    """

    def is_over() -> bool:
        return _answers(service) or not carrier.is_up(identity)

    _wait_for(is_over, READY_WITHIN_S)
    if not _answers(service):
        how = f"did not answer within {READY_WITHIN_S:.0f} s" if carrier.is_up(identity) else "ended at once"
        words = carrier.last_words(service, identity)
        raise RunnerError(f"{service.name} {how}" + (f"; it said last: {words}" if words else ""))


def _answers(service: Service) -> bool:
    try:
        with DIRECT.open(service.url + service.ready_path, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _wait_for(is_so: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while not is_so() and time.monotonic() < until_s:
        time.sleep(_LOOK_S)
