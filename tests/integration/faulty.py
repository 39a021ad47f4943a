"""The command line with something broken or held on purpose: ``python -m tests.integration.faulty FAULTS ARGUMENTS``.

``FAULTS`` are joined by commas; ``-`` is none. Each is the name of a function below, or ``ACTION:MOMENT:COUNT``: do
something when a run comes to one of its :data:`MOMENTS` for the COUNT-th time, counted over all its processes, before
anything of that moment happens. So a test decides at which event of a run something happens, and nothing depends on
how fast the host is. Faults change what the run's processes inherit, before anything is forked. Waits that only make
sense for real experiments are shortened, so that a test takes seconds.
"""

import fcntl
import importlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

VICTIM = 1
"""The node that a fault strikes."""

GATES = "FRAGMESH_TEST_GATES"
"""Environment: the folder in which a run says where it is held, and is let go; see :class:`started.Gate`."""

LEAST_CHECKPOINT_INTERVAL_S = 0.1
"""What ``output.checkpoint_every_s`` must at least be."""

PATIENCE_S = 600.0
"""What takes so long has failed, on whatever host."""


# --- moments and actions -------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A call that a run makes.

    Attributes:
        module: Where the function is defined.
        name: Its name there, of a method with its class.
        is_meant: Whether these arguments are the moment.
    """

    module: str
    name: str
    is_meant: Callable[..., bool] = lambda *_, **__: True


def _hands_over(name: str) -> Callable[..., bool]:
    return lambda client, records, *_: client._node == VICTIM and records == name


MOMENTS = {
    "data": Moment("node.learning.datasets", "load_dataset"),
    "create": Moment("orchestrator.results.writer", "RunWriter.create"),
    "line": Moment("orchestrator.results.writer", "RunWriter.add"),
    "checkpoint": Moment("orchestrator.results.checkpoint", "write_checkpoint"),
    "evaluation": Moment("node.learning.trainer", "Learner.evaluate"),
    "finish": Moment("orchestrator.results.writer", "RunWriter.finish"),
    "report": Moment("orchestrator.report.page", "write_report"),
    # Of real processes: the orchestrator takes a node's model; the victim hands over what it has.
    "kept": Moment("orchestrator.runs.snapshots", "Snapshots.keep"),
    "model": Moment(
        "node.transport.control_client", "ControlClient.upload_snapshot", lambda _, info, *__: info.node == VICTIM
    ),
    "measurement": Moment("node.transport.control_client", "ControlClient.upload_records", _hands_over("measurement")),
    "records": Moment("node.transport.control_client", "ControlClient.upload_records", _hands_over("messages")),
}
"""In the order in which a run comes to them. One model is handed over at each evaluation, the first at 0 s."""


def _hold(gate: str) -> None:
    """Say that the run is here, and wait until the test lets it go on. Signals are handled meanwhile."""
    folder = Path(os.environ[GATES])
    pipe = os.open(folder / f"{gate}.gate", os.O_RDONLY)
    (folder / f"{gate}.reached").touch()
    os.read(pipe, 1)
    os.close(pipe)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children():
        child.kill()


ACTIONS: dict[str, Callable[[str], None]] = {
    "hold": _hold,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "interrupt": lambda _: os.kill(os.getpid(), signal.SIGINT),
    "kill_worker": lambda _: _kill_children(),
    # The next checkpoint is due then, however fast the host is.
    "checkpoint_due": lambda _: time.sleep(LEAST_CHECKPOINT_INTERVAL_S),
}


def _at(action: str, moment: Moment, count: int, name: str) -> None:
    """Replace a function by one that acts at its ``count``-th call, wherever it has been imported to."""
    module: Any = importlib.import_module(moment.module)
    *owner, attribute = moment.name.split(".")
    place = getattr(module, owner[0]) if owner else module
    found = inspect.getattr_static(place, attribute)
    real = found.__func__ if isinstance(found, classmethod) else found

    def acting(*arguments: Any, **options: Any) -> Any:
        if moment.is_meant(*arguments, **options) and _next_number(name) == count:
            ACTIONS[action](name)
        return real(*arguments, **options)

    if owner:
        setattr(place, attribute, classmethod(acting) if isinstance(found, classmethod) else acting)
        return
    _replace(module, attribute, acting)


def _replace(module: ModuleType, name: str, value: object) -> None:
    """Replace what a module defines, there and wherever it has been imported to."""
    real = vars(module)[name]
    for other in list(sys.modules.values()):
        if vars(other).get(name) is real:
            setattr(other, name, value)


def _next_number(name: str) -> int:
    """Count, in a file, because processes of the run share the count."""
    with (Path(os.environ[GATES]) / f"{name}.count").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b".")
        file.flush()
        return file.tell()


# --- faults of real processes --------------------------------------------------------------------------------------


def _before_run(act: Callable[[], object]) -> None:
    """Let the victim do something in its own process, when it would begin."""
    import node.build
    import node.runtime.process

    real = node.runtime.process.run_node

    def run_node(config: Any, *arguments: Any) -> int:
        if config.node == VICTIM:
            act()
        return real(config, *arguments)

    _replace(node.build, "run_node", run_node)


def killed_before_start() -> None:
    _before_run(lambda: os.kill(os.getpid(), signal.SIGKILL))


def stuck_before_start() -> None:
    _before_run(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def held_before_start() -> None:
    _before_run(lambda: _hold("held_before_start"))


def patient_start() -> None:
    """Let the time to get ready begin when all but the victim are: how long they take is no matter of these tests."""
    from node.transport.control_client import ControlClient

    connect, barrier = ControlClient.connect, ControlClient.barrier
    setattr(ControlClient, "connect", lambda self, _: connect(self, PATIENCE_S))  # noqa: B010
    setattr(ControlClient, "barrier", lambda self, point, _: barrier(self, point, PATIENCE_S))  # noqa: B010
    _when_others_are_ready(lambda: None)


def late_to_start() -> None:
    """The victim begins when all others are ready and wait for it."""
    path = Path(os.environ[GATES]) / "late_to_start.gate"
    os.mkfifo(path)
    gate = os.open(path, os.O_RDWR)
    _before_run(lambda: _hold("late_to_start"))
    _when_others_are_ready(lambda: os.write(gate, b"."))


def _when_others_are_ready(act: Callable[[], object]) -> None:
    """Do something in the orchestrator before it begins to count the time in which the victim must get ready."""
    from orchestrator.runs.control_server import ControlServer

    reached = ControlServer.reached

    async def later(self: Any, point: str, timeout_s: float, expected: Any = None) -> None:
        if point == "ready":
            others = set(range(self._num_nodes)) - {VICTIM}
            barrier = self._barriers.expect(point, None)
            while not others <= barrier.arrived.keys():
                await self._barriers.changed.wait()
            act()
        await reached(self, point, timeout_s, expected)

    setattr(ControlServer, "reached", later)  # noqa: B010


def bug_in_node() -> None:
    def act() -> None:
        raise LookupError("something that nobody thought of")

    _before_run(act)


def other_version() -> None:
    import node.transport.control_client as module

    _before_run(lambda: setattr(module, "CONTROL_VERSION", 77))


def other_wire_version() -> None:
    """Only of what the victim says to its peers, as if the orchestrator had not looked."""
    import node.transport.peer_client as module

    _before_run(lambda: setattr(module, "WIRE_VERSION", 77))


def unreachable() -> None:
    """The victim tells an address at which nobody answers."""
    import node.transport.peer_server as module

    class Elsewhere(module.PeerServer):
        async def start(self, host: str, port: int, advertised: str | None = None) -> str:
            await super().start(host, port, advertised)
            return f"{host}:9"

    _before_run(lambda: _replace(module, "PeerServer", Elsewhere))


def advertised() -> None:
    """Nodes listen on all addresses of the host, and each tells its peers one of its own."""
    import orchestrator.experiment.node_configs as module

    real = module.node_configs

    def node_configs(*arguments: Any) -> list[Any]:
        return [
            config.model_copy(update={"host": "0.0.0.0", "advertised": f"127.0.0.{2 + config.node}"})
            for config in real(*arguments)
        ]

    _replace(module, "node_configs", node_configs)


def damaged_file() -> None:
    """The victim's file is not what was written."""
    import node.config_file

    real = node.config_file.write_node_files

    def write(*arguments: Any) -> list[Path]:
        files = real(*arguments)
        content = json.loads(files[VICTIM].read_text())
        files[VICTIM].write_text(json.dumps({**content, "digest": "0" * 64}))
        return files

    _replace(node.config_file, "write_node_files", write)


def expired() -> None:
    """Certificates whose time was over before the run began."""
    import orchestrator.runs.certificates as module

    setattr(module, "CLOCKS_APART", timedelta(days=20_000))  # noqa: B010
    _set_patience("CERTIFIED_S", (-1e9, -1e9))


def swapped_keys() -> None:
    """The victim has the credentials of the node after it."""
    import orchestrator.experiment.node_configs as module

    real = module.node_configs

    def node_configs(*arguments: Any) -> list[Any]:
        configs = real(*arguments)
        credentials = configs[VICTIM + 1].credentials
        configs[VICTIM] = configs[VICTIM].model_copy(update={"credentials": credentials})
        return configs

    _replace(module, "node_configs", node_configs)


def damaged_frames() -> None:
    """One bit of every frame that the victim sends is not what it was."""
    import node.runtime.outgoing as module

    real = module.encode

    def encode(*arguments: Any) -> bytes:
        frame = bytearray(real(*arguments))
        frame[-1] ^= 1
        return bytes(frame)

    _before_run(lambda: _replace(module, "encode", encode))


def damaged_records() -> None:
    from node.runtime.message_records import Records

    _before_run(lambda: setattr(Records, "to_bytes", lambda self, now_ns: b"PK\x03\x04 no archive"))


def _set_patience(name: str, value: object) -> None:
    """Replace one of the bounds of a real run, wherever it stands."""
    import orchestrator.runtimes.processes

    assert orchestrator.runtimes.processes
    places = [
        module for key, module in sys.modules.items() if key.startswith("orchestrator.") and hasattr(module, name)
    ]
    assert places, f"nobody defines {name}"
    for module in places:
        setattr(module, name, value)


def no_emulator() -> None:
    """A host on which no link emulator can be started."""
    import orchestrator.runtimes.processes as module

    def start_emulator(*_: Any) -> None:
        raise AssertionError("an emulator was started")

    _replace(module, "start_emulator", start_emulator)


def patient_end() -> None:
    """On a busy host eight interpreters that end at once take longer than anyone waits for a node that hangs."""
    _set_patience("HAND_OVER_S", PATIENCE_S)


def short_grace() -> None:
    """Nodes have all the time to hand over until the victim alone has not ended; its time is then over."""
    from orchestrator.runs.supervision import Supervisor

    _set_patience("HAND_OVER_S", PATIENCE_S)
    now_s = Supervisor._now_s

    def later(self: Any) -> float:
        others = (watched for node, watched in self.nodes.items() if node != VICTIM)
        return now_s() + (2 * PATIENCE_S if all(watched.end for watched in others) else 0.0)

    setattr(Supervisor, "_now_s", later)  # noqa: B010


def short_stall() -> None:
    _set_patience("STALL_S", 2.0)


def patient_scrape() -> None:
    """Nodes and orchestrator that somebody has scraped wait for a last scrape, however late it is."""
    from node.host.metrics_server import Scrapes

    def until_s(self: Any) -> float:
        return float(self.now_s() + (0.0 if self._last_s is None else PATIENCE_S))

    setattr(Scrapes, "expected_until_s", until_s)  # noqa: B010
    _set_patience("LAST_SCRAPE_S", PATIENCE_S)


def unserved_metrics() -> None:
    """The victim is told to serve its metrics on an address that is not this host's."""
    import orchestrator.experiment.node_configs as module

    real = module.node_configs

    def node_configs(*arguments: Any) -> list[Any]:
        configs = real(*arguments)
        configs[VICTIM] = configs[VICTIM].model_copy(update={"metrics_host": "192.0.2.1"})
        return configs

    _replace(module, "node_configs", node_configs)


# --- the program ---------------------------------------------------------------------------------------------------


def no_report() -> None:
    """Figures take a second, and have tests of their own."""
    name = "orchestrator.report.page"

    def write_report(run: Any, tell: Any = None) -> None:
        (run.path / "report.html").write_text("</html>\n")

    if name in sys.modules:
        _replace(sys.modules[name], "write_report", write_report)
    else:  # whose import is most of the time
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name])["write_report"] = write_report


def short_measurement() -> None:
    _set_patience("MEASURE_TESTBED_S", (0.2, 0.2))


def _inject(fault: str) -> None:
    action, *where = fault.split(":")
    if where:
        _at(action, MOMENTS[where[0]], int(where[1]), fault)
    else:
        globals()[fault]()


def main() -> None:
    """Be the command line with the faults of the first argument."""
    for fault in sys.argv.pop(1).split(","):
        if fault != "-":
            _inject(fault)
    from orchestrator.cli import commands

    commands.main()


if __name__ == "__main__":
    main()
