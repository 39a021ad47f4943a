"""Containers in a real Docker engine; ``tests/engine.sh`` gives a machine one.

Every test has a run of its own name, and looks for what is left of that run only: other runs may be under way.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from node.core.errors import ConfigError
from orchestrator.cli.commands import run_command_line
from orchestrator.containers import cleanup
from orchestrator.containers.cleanup import EngineRun, find_runs, reap, remove_labelled
from orchestrator.containers.engine import DockerEngine
from orchestrator.containers.group import ContainerEnd, ContainerGroup
from orchestrator.containers.image_recipes import NODE_COMMAND
from orchestrator.containers.interface import Bind, ContainerSpec, EngineError, Resource
from orchestrator.containers.networks import RunNetwork, make_networks, plan_networks
from orchestrator.containers.ownership import RUN_LABEL, Owner, RunScope
from orchestrator.containers.subnets import TakenSubnet

NOBODY = "65532:65532"
ASLEEP = ("sleep", "infinity")
INTERFACES = Path("/sys/class/net")
HERE = Owner.of_this_process()
_numbers = count(1)


def new_run() -> str:
    return f"test-{os.getpid()}-{next(_numbers)}"


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something, and return it."""
    for _ in range(6000):
        if found := condition():
            return found
        threading.Event().wait(0.01)
    pytest.fail(f"not within a minute: {what}")


def python(source: str) -> tuple[str, ...]:
    return ("python3", "-u", "-c", source)


class Run:
    """A run with networks, whose containers are started one by one."""

    def __init__(self, engine: DockerEngine, image: str, logs: Path) -> None:
        self.engine, self.image = engine, image
        self.scope = RunScope(new_run(), HERE)
        self.group = ContainerGroup(engine, self.scope, logs)
        self.networks: dict[str, RunNetwork] = {}

    def spec(self, node: int, command: Sequence[str] = ASLEEP, **more: Any) -> ContainerSpec:
        addresses = {network.name: network.address_of(node) for network in self.networks.values()}
        settings = {"user": NOBODY, "networks": addresses, "image": self.image} | more
        return ContainerSpec(self.name(node), command=command, labels=self.scope.labels("node", node), **settings)

    def start(self, node: int, command: Sequence[str] = ASLEEP, **more: Any) -> str:
        self.group.launch([self.spec(node, command, **more)])
        return self.name(node)

    def name(self, node: int) -> str:
        return self.scope.name_of("node", node)

    def identity(self, node: int) -> str:
        (found,) = self.engine.labelled(self.scope.labels("node", node))
        return found.identity

    def end(self) -> ContainerEnd:
        """Wait for one container to end."""
        ends: dict[str, ContainerEnd] = until(self.group.newly_ended, "a container that has ended")
        (end,) = ends.values()
        return end

    def has(self) -> list[Resource]:
        return has_of(self.engine, self.scope.run)


def has_of(engine: DockerEngine, run: str) -> list[Resource]:
    return engine.labelled({RUN_LABEL: run})


@contextmanager
def running(engine: DockerEngine, image: str, logs: Path) -> Iterator[Run]:
    run = Run(engine, image, logs)
    try:
        run.group.open()
        run.networks = make_networks(engine, run.scope, 4)
        yield run
    finally:
        bridges = [INTERFACES / network.interface for network in run.networks.values()]
        ports = [INTERFACES / port.name for bridge in bridges for port in bridge.glob("brif/*")]
        problems = run.group.close()
    assert problems == []
    assert run.has() == []
    assert not [interface for interface in [*bridges, *ports] if interface.exists()]


@pytest.fixture
def run(engine: DockerEngine, base_image: str, tmp_path: Path) -> Iterator[Run]:
    with running(engine, base_image, tmp_path) as made:
        yield made


# --- one container --------------------------------------------------------------------------------------------


def test_the_engine_is_of_this_machine(engine: DockerEngine) -> None:
    facts = engine.facts
    assert facts.cpus > 0
    assert facts.memory_bytes > 0
    assert facts.bridge is None or facts.bridge[1] in [found for net in engine.networks() for found in net.subnets]


LOOK = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def can_write(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return type(error).__name__
    return True
print(json.dumps({
    "user": os.getuid(), "group": os.getgid(),
    "capabilities": [status[key].strip() for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "gains_nothing": status["NoNewPrivs"].strip(),
    "socket": os.path.exists("/var/run/docker.sock"),
    "root": can_write("/x"), "tmp": can_write("/tmp/x"), "bound": can_write("/given/x"),
    "given": open("/given/file").read(),
    "tmp_bytes": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
    "setting": open("/proc/sys/net/ipv4/tcp_slow_start_after_idle").read().strip(),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "variable": os.environ["VARIABLE"],
}))
"""


def test_a_container_is_as_tight_as_it_can_be(run: Run, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("content")
    name = run.start(
        0,
        python(LOOK),
        binds=[Bind(given, "/given")],
        tmpfs={"/tmp": 2**20},
        sysctls={"net.ipv4.tcp_slow_start_after_idle": "0"},
        environment={"VARIABLE": "value"},
    )
    assert run.end() == ContainerEnd("ended with code 0", failed=False)
    assert json.loads(run.group.log_of(name).read_text()) == {
        "user": 65_532,
        "group": 65_532,
        "capabilities": ["0" * 16] * 4,
        "gains_nothing": "1",
        "socket": False,
        "root": "OSError",
        "tmp": True,
        "bound": "OSError",
        "given": "content",
        "tmp_bytes": 2**20,
        "setting": "0",
        "processes": 1,
        "variable": "value",
    }


def test_memory_and_processors_are_limited(run: Run) -> None:
    hungry = "data = []\nwhile True: data.append(bytearray(2**20))"
    run.start(0, python(hungry), memory_bytes=64 * 2**20)
    assert run.end() == ContainerEnd("was killed by the kernel for want of memory", failed=True)
    name = run.start(1, cpus=0.5)
    quota = "cat /sys/fs/cgroup/cpu.max 2> /dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    assert run.group.execute(name, ["sh", "-c", quota])[1].split()[0] == "50000"


def test_a_helper_has_the_capabilities_that_it_is_given_in_a_node_s_network(run: Run) -> None:
    name = run.start(0)
    helper = ContainerSpec(
        run.scope.name_of("shaper", 0),
        run.image,
        ASLEEP,
        labels=run.scope.labels("shaper", 0),
        user="0:0",
        network_of=name,
        capabilities=["NET_ADMIN"],
    )
    run.group.launch([helper])
    assert run.group.execute(name, ["ip", "link", "set", "dev", "lo", "mtu", "1234"])[0] != 0
    assert run.group.execute(helper.name, ["ip", "link", "set", "dev", "lo", "mtu", "1234"]) == (0, "")
    assert run.group.execute(name, ["cat", "/sys/class/net/lo/mtu"]) == (0, "1234\n")


def test_a_command_gets_its_input_and_both_its_outputs(run: Run) -> None:
    name = run.start(0)
    text = "".join(f"line {number}\n" for number in range(100_000))
    assert run.group.execute(name, ["cat"], text) == (0, text)
    code, output = run.group.execute(name, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (code, sorted(output.split())) == (3, ["err", "out"])
    assert run.group.execute(name, ["true"], text)[0] == 0  # which reads nothing
    with pytest.raises(EngineError):
        run.engine.execute("0" * 64, ["true"])


def test_output_is_in_the_log_while_the_container_runs(run: Run) -> None:
    name = run.start(0, ("sh", "-c", "echo out; echo err >&2; exec sleep infinity"))
    log = run.group.log_of(name)
    until(lambda: log.exists() and sorted(log.read_text().split()) == ["err", "out"], "both lines")
    assert log.name == "node-0000.log"


def test_an_end_comes_after_all_output(run: Run) -> None:
    """Several at once: an engine that is busy breaks off its streams before the last lines.

    They have no networks, of which it could lose count, see StuckNetwork.
    """
    names = [run.name(node) for node in range(4)]
    run.group.launch([run.spec(node, ("sh", "-c", "seq 20000; exit 7"), networks={}) for node in range(4)])
    ends: dict[str, ContainerEnd] = {}
    until(lambda: ends.update(run.group.newly_ended()) or len(ends) == len(names), "all ends")
    assert ends == dict.fromkeys(names, ContainerEnd("ended with code 7", failed=True))
    for name in names:
        assert run.group.log_of(name).read_text().split() == [str(number) for number in range(1, 20_001)]


def test_a_container_that_is_killed_from_outside(run: Run) -> None:
    run.start(0)
    run.engine.kill(run.identity(0))
    assert run.end() == ContainerEnd("was killed by SIGKILL", failed=True)


def test_commands_that_come_too_late_do_nothing(run: Run) -> None:
    run.start(0)
    identity = run.identity(0)
    run.engine.unpause(identity)
    run.engine.pause(identity)
    run.engine.pause(identity)
    run.engine.kill(identity)
    until(lambda: run.engine.inspect(identity).status == "exited", "the end")  # type: ignore[union-attr]
    for command in (run.engine.pause, run.engine.unpause, run.engine.kill):
        command(identity)
        command("0" * 64)
    assert run.engine.inspect("0" * 64) is None


TICKS = "import time\nfor tick in range(10**9):\n    print(tick)\n    time.sleep(0.01)"


def test_a_paused_container_stands_still_until_it_goes_on_and_can_be_killed(run: Run) -> None:
    name = run.start(0, python(TICKS))
    log = run.group.log_of(name)
    until(lambda: log.exists() and len(log.read_text().split()) > 5, "a few ticks")
    run.group.pause(name)
    until(lambda: run.group.states([name])[name].status == "paused", "the pause")
    stands = [log.read_text()]
    threading.Event().wait(0.3)  # then nothing more happens
    stands.append(log.read_text())
    threading.Event().wait(0.3)
    stands.append(log.read_text())
    assert stands[1] == stands[2]
    run.group.resume(name)
    until(lambda: len(log.read_text()) > len(stands[2]), "another tick")
    run.group.pause(name)
    run.group.kill(name)
    until(lambda: run.group.states([name])[name].status == "exited", "the end")
    assert run.group.newly_ended() == {}


def test_a_restart_is_seen_and_the_log_goes_on(run: Run) -> None:
    name = run.start(0, ("sh", "-c", "echo begun; exec sleep infinity"))
    log = run.group.log_of(name)
    until(lambda: log.exists() and log.read_text() == "begun\n", "its output")
    before = run.group.states([name])[name]
    identity = run.identity(0)
    run.engine.kill(identity)
    assert run.end().how == "was killed by SIGKILL"
    run.engine.start(identity)
    assert until(run.group.newly_restarted, "the restart") == [name]
    after = run.group.states([name])[name]
    assert after.pid not in (0, before.pid)
    assert {key: address for key, (address, _) in after.addresses.items()} == {
        key: address for key, (address, _) in before.addresses.items()
    }
    until(lambda: log.read_text() == "begun\nbegun\n", "its output again, and only once")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"command": ("no-such-program",)}, "no-such-program"),
        ({"image": "fragmesh-no-such-image"}, "[Nn]o such image"),
        ({"binds": [Bind(Path("/no/such/folder"), "/given")]}, "/no/such/folder"),
        ({"sysctls": {"net.ipv4.no_such_setting": "1"}}, "no_such_setting"),
    ],
)
def test_what_cannot_start_is_one_line_and_leaves_nothing(run: Run, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(EngineError, match=reason) as raised:
        run.group.launch([run.spec(0), run.spec(1, **more), run.spec(2)])
    assert str(raised.value).startswith(f"node 1: container {run.name(1)} cannot be ")
    assert "\n" not in str(raised.value)


# --- the image of nodes ---------------------------------------------------------------------------------------


def test_a_node_starts_in_its_image(run: Run, node_image: str) -> None:
    """Read-only, as nobody, with no network, it gets as far as its file."""
    name = run.start(0, (*NODE_COMMAND, "--config", "/no/such.json"), image=node_image, user="", tmpfs={"/tmp": 2**24})
    assert run.end() == ContainerEnd("ended with code 2", failed=True)
    assert run.group.log_of(name).read_text() == "error: /no/such.json: cannot be read: No such file or directory\n"


TRAIN = """
import os, sys, node.build, torch
from node.learning.config import DigitsConfig
from node.learning.datasets import load_dataset
assert len(load_dataset(DigitsConfig(), None, 1).train) > 1000
assert not [path for path in sys.path if path and os.access(path, os.W_OK)]
compiled = [module.__cached__ for module in (node.build, torch) if not os.path.exists(module.__cached__)]
print(os.getuid(), torch.__version__, compiled)
"""


def test_a_node_has_its_libraries_compiled_and_cannot_change_them(run: Run, node_image: str) -> None:
    name = run.start(0, ("python", "-c", TRAIN), image=node_image, user="", tmpfs={"/tmp": 2**24})
    end = run.end()
    words = run.group.log_of(name).read_text().split()
    assert not end.failed, words
    assert words[0] == "65532"
    assert words[1].endswith("+cpu")
    assert words[2] == "[]"


# --- networks -------------------------------------------------------------------------------------------------

SERVE = (
    "import socket\ns = socket.create_server(('', 5000))\nprint('ready')\nwhile True: s.accept()[0].sendall(b'hello')"
)


def reach(address: Any, port: int = 5000, timeout_s: int = 60) -> tuple[str, ...]:
    target = f"('{address}', {port}), timeout={timeout_s}"
    return python(f"import socket; print(socket.create_connection({target}).recv(5).decode())")


def test_nodes_reach_each_other_and_this_machine(run: Run) -> None:
    name = run.start(0, python(SERVE))
    until(lambda: run.group.log_of(name).exists() and "ready" in run.group.log_of(name).read_text(), "the server")
    client = run.start(1)
    for network in run.networks.values():
        assert run.group.execute(client, reach(network.address_of(0))) == (0, "hello\n")
    control = run.networks["control"]
    with socket.create_server((str(control.gateway), 0)) as server:
        port = server.getsockname()[1]
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
        answer.start()
        assert run.group.execute(client, reach(control.gateway, port)) == (0, "hello\n")
        answer.join()
    assert run.group.states([name])[name].addresses.keys() == {network.name for network in run.networks.values()}


def test_runs_side_by_side_do_not_touch_each_other(
    engine: DockerEngine, base_image: str, run: Run, tmp_path: Path
) -> None:
    name = run.start(0, python(SERVE))
    until(lambda: run.group.log_of(name).exists() and "ready" in run.group.log_of(name).read_text(), "the server")
    (tmp_path / "other").mkdir()
    with running(engine, base_image, tmp_path / "other") as other:
        client = other.start(0)
        mine, others = ({network.subnet for network in each.networks.values()} for each in (run, other))
        assert not [pair for a in mine for b in others if a.overlaps(b) for pair in [(a, b)]]
        assert other.group.execute(client, reach(run.networks["data"].address_of(0), timeout_s=1))[0] != 0
        assert len(run.has()) == len(other.has()) == 3
    assert run.group.states([name])[name].status == "running"
    assert run.group.newly_ended() == {}
    assert len(run.has()) == 3


def test_a_subnet_in_use_is_refused(engine: DockerEngine, run: Run) -> None:
    data = run.networks["data"]
    wide = data.subnet.supernet(new_prefix=20)
    with pytest.raises(ConfigError, match=rf"^docker\.subnet={wide}: must be free: .* is the Docker network "):
        plan_networks(engine, 4, wanted=wide, place="docker.subnet")


def test_the_engine_itself_refuses_addresses_that_another_run_took(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs choose the same at once: the later one is told so by the engine, and chooses again."""
    from orchestrator.containers import networks

    choose, refused = networks.choose_subnets, []

    def choose_blindly(number: int, nodes: int, taken: Sequence[TakenSubnet]) -> Any:
        if not refused:
            refused.append(True)
            return [run.networks["data"].subnet, run.networks["control"].subnet]
        return choose(number, nodes, taken)

    monkeypatch.setattr(networks, "choose_subnets", choose_blindly)
    other = RunScope(new_run(), HERE)
    try:
        made = make_networks(run.engine, other, 4)
        assert refused
        mine = [network.subnet for network in run.networks.values()]
        assert not [network for network in made.values() if network.subnet in mine]
    finally:
        assert remove_labelled(run.engine, other.labels()) == []


# --- what a killed orchestrator leaves --------------------------------------------------------------------------


class Orphans:
    """An orchestrator in a process of its own, to be killed."""

    def __init__(self, image: str, logs: Path, nodes: int = 2) -> None:
        self.run = new_run()
        command = [sys.executable, "-m", "tests.integration.orphan", self.run, image, str(nodes), str(logs)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def until(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        pytest.fail(f"it ended before {word}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def found(engine: DockerEngine, run: str) -> EngineRun:
    (group,) = [each for each in find_runs(engine, HERE) if each.run == run]
    return group


def see_only(monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    """Let cleaning up see these runs only: orphans of tests beside this one are theirs."""
    monkeypatch.setattr(
        cleanup, "find_runs", lambda engine, here: [each for each in find_runs(engine, here) if each.run in runs]
    )


def end_by_kill(engine: DockerEngine, image: str, logs: Path, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill an orchestrator at a moment, and see that the next start removes what it left."""
    orphans = Orphans(image, logs)
    see_only(monkeypatch, orphans.run)
    try:
        orphans.until(word)
        assert found(engine, orphans.run).fate == "alive"
    finally:
        orphans.kill()
    left = found(engine, orphans.run)
    assert left.fate == "gone"
    assert {resource.kind for resource in left.resources} >= {"network"}

    def reaped() -> bool:  # what the engine was still making when it was killed comes a moment later
        reap(engine, HERE)
        return has_of(engine, orphans.run) == []

    until(reaped, "nothing that is left")


@pytest.mark.parametrize("word", ["networks", "containers"])
def test_the_next_start_removes_what_a_killed_orchestrator_left(
    engine: DockerEngine, base_image: str, run: Run, tmp_path: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = run.start(0)
    end_by_kill(engine, base_image, tmp_path, word, monkeypatch)
    assert run.group.states([name])[name].status == "running"  # nothing of a run whose orchestrator lives
    assert len(run.has()) == 3


def test_what_cannot_be_judged_is_left_alone(engine: DockerEngine, base_image: str) -> None:
    """A stranger's run, and one of which no process is known."""
    stranger = RunScope(new_run(), Owner("elsewhere", "b", "n", HERE.user, 1, 1))
    for scope, labels in ((stranger, stranger.labels("node", 0)), (stranger, {RUN_LABEL: stranger.run})):
        engine.create_container(ContainerSpec(f"{scope.run}-{len(labels)}", base_image, ASLEEP, labels=labels))
    try:
        reap(engine, HERE)
        assert len(has_of(engine, stranger.run)) == 2
        assert {each.fate for each in find_runs(engine, HERE) if each.run == stranger.run} == {"foreign"}
    finally:
        assert remove_labelled(engine, {RUN_LABEL: stranger.run}) == []


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the command line; return its exit code and what it printed."""
    code = run_command_line([*arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_ps_and_down_show_and_remove_a_run(
    engine: DockerEngine,
    base_image: str,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run.start(0)
    orphans = Orphans(base_image, tmp_path)
    orphans.until("containers")
    orphans.kill()
    see_only(monkeypatch, run.scope.run, orphans.run)
    code, printed, _ = call(capsys, "ps", "--json")
    shown = {each["run"]: each for each in json.loads(printed)["containers"]}
    assert code == 0
    assert (shown[run.scope.run]["fate"], shown[orphans.run]["fate"]) == ("alive", "gone")
    assert len(shown[orphans.run]["resources"]) == 4
    # Step 1: without an option, what nobody needs any more.
    code, printed, _ = call(capsys, "down")
    assert code == 0
    assert f"removed: {orphans.run}: 2 containers, 2 networks; " in printed
    assert f"left alone: {run.scope.run}: 1 container, 2 networks; process {os.getpid()}" in printed
    assert has_of(engine, orphans.run) == []
    # Step 2: by name, whoever needs it.
    code, printed, _ = call(capsys, "down", "--run", run.scope.run)
    assert code == 0
    assert printed == f"removed: {run.scope.run}: 1 container, 2 networks; process {os.getpid()}\n"
    assert has_of(engine, run.scope.run) == []
    # Step 3: what is not there is a mistake.
    code, _, printed = call(capsys, "down", "--run", run.scope.run)
    assert code == 2
    assert printed == f"error: --run={run.scope.run}: there is no such run in the engine; fragmesh ps lists them\n"
    assert call(capsys, "down", "--run", "x", "--all")[0] == 2


# --- again and again --------------------------------------------------------------------------------------------


def start_and_stop(engine: DockerEngine, image: str, logs: Path, nodes: int) -> None:
    with running(engine, image, logs) as run:
        run.group.launch([run.spec(node) for node in range(nodes)])
        run.group.pause(run.name(0))


def test_nothing_is_left_after_a_start_and_a_stop(engine: DockerEngine, base_image: str, tmp_path: Path) -> None:
    for _ in range(2):
        start_and_stop(engine, base_image, tmp_path, nodes=4)


CYCLES: Final = 30
KILLS: Final = 10


@pytest.mark.long
def test_nothing_is_left_after_thirty_starts_and_stops(engine: DockerEngine, base_image: str, tmp_path: Path) -> None:
    for _ in range(CYCLES):
        start_and_stop(engine, base_image, tmp_path, nodes=4)


@pytest.mark.long
def test_nothing_is_left_after_ten_killed_orchestrators(
    engine: DockerEngine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(KILLS):
        end_by_kill(engine, base_image, tmp_path, ("networks", "containers")[number % 2], monkeypatch)
