"""The shaping of a run's nodes by one helper, with namespaces in memory."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from node.core.errors import RunnerError
from node.core.links import CapacityChange, NetworkPlan
from node.core.schedule import LinkSpan, Overlay, PartitionSpan, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.types import NodeId
from node.core.units import NS_PER_S
from orchestrator.containers.cpu_use import CpuCounters
from orchestrator.containers.interface import EngineError
from orchestrator.runtimes.docker_shaping import (
    LinkShaper,
    PlannedChanges,
    data_device,
    instants_of,
    receivers_laid_over,
)
from orchestrator.runtimes.docker_watch import NodeLook
from orchestrator.shaping.backend import NetworkNamespace
from orchestrator.shaping.batch import Batch
from orchestrator.shaping.node_shaping import KernelOptions
from tests.unit.orchestrator.shaping.fake_kernel import FakeKernel
from tests.unit.orchestrator.shaping.networks import network, tree

TREE = tree(network())
ADDRESSES = {NodeId(node): IPv4Address(f"10.1.0.{2 + node}") for node in range(3)}
PIDS = {NodeId(node): 100 + node for node in range(3)}
CHANGES = (
    (NS_PER_S, CapacityChange("up", 0, -1, 4.0)),
    (NS_PER_S, CapacityChange("down", -1, 1, 5.0)),
    (2 * NS_PER_S, CapacityChange("pair", 2, 0, 6.0)),
)


class Helper:
    """A helper whose shells enter namespaces in memory, of processes that live.

    State:
        kernels: The namespaces by process.
        touched: Files that were made.
        refused: Processes whose namespace refuses every batch.
        broken: Whether a shell ends with its next command.
    """

    def __init__(self) -> None:
        self.kernels = {pid: FakeKernel() for pid in PIDS.values()}
        self.touched: list[str] = []
        self.refused: set[int] = set()
        self.broken = False
        self.opened: list[Helper.Shell] = []
        self._lock = threading.Lock()

    def open(self) -> Any:
        self.opened.append(Helper.Shell(self))
        return self.opened[-1]

    class Shell:
        def __init__(self, helper: "Helper") -> None:
            self._helper = helper
            self.is_open = True

        def run(self, words: Sequence[str], text: str = "") -> tuple[int, str, str]:
            assert self.is_open
            if self._helper.broken:
                self._helper.broken = False
                raise EngineError("the shell in a container has ended")
            with self._helper._lock:
                return self._helper.answer(list(words), text)

        def close(self) -> None:
            self.is_open = False

    def answer(self, words: list[str], text: str) -> tuple[int, str, str]:
        match words:
            case ["touch", *paths]:
                self.touched += paths
                return 0, "", ""
            case ["sh", "-c", _, "cpu", *pids]:
                return 0, "".join(f"@@ {pid}\nnr_periods {pid}\nnr_throttled 1\nthrottled_time 7\n" for pid in pids), ""
            case ["test", "-d", path]:
                return 0 if int(path.rpartition("/")[2]) in self.kernels else 1, "", ""
            case ["nsenter", "-t", pid, "-n", *command]:
                if int(pid) not in self.kernels:
                    return 1, "", f"nsenter: cannot open /proc/{pid}/ns/net: No such file or directory"
                return self._in(int(pid), command, text)
        raise AssertionError(words)

    def _in(self, pid: int, command: list[str], text: str) -> tuple[int, str, str]:
        kernel = self.kernels[pid]
        match command[:2]:
            case ["ip", "-o"]:
                own = command[-1].removesuffix("32") + "16"
                return 0, f"7: eth1    inet {own} brd 10.1.255.255 scope global eth1\\ valid_lft forever\n", ""
            case ["sh", "-c"]:
                return 0, kernel.print_all(TREE), ""
            case [program, "-batch"]:
                if pid in self.refused:
                    return 1, "", "RTNETLINK answers: Operation not permitted\nCommand failed -:1\n"
                lines = tuple(text.splitlines())
                kernel.carry_out(Batch(lines) if program == "ip" else Batch((), lines))
                return 0, "", ""
        raise AssertionError(command)


@pytest.fixture
def helper() -> Helper:
    return Helper()


Make = Callable[..., LinkShaper]


@pytest.fixture
def make(helper: Helper) -> Iterator[Make]:
    made: list[LinkShaper] = []

    def shaper(plan: NetworkPlan | None = None, begin_ns: int = 0, dilation: float = 1.0) -> LinkShaper:
        options = KernelOptions(netem=False, time_dilation=dilation)
        made.append(
            LinkShaper(plan or network(10.0, 10.0, changes=CHANGES), ADDRESSES, options, helper.open, begin_ns=begin_ns)
        )
        return made[-1]

    yield shaper
    for one in made:
        one.close()
    assert not [shell for shell in helper.opened if shell.is_open]


def ceil(helper: Helper, pid: int, name: str = "fa01:1", device: str = "eth1") -> float:
    """Mbit/s of a class."""
    return float(helper.kernels[pid].devices[device].classes[name]["ceil"]) / 1e6


def forget_filter(helper: Helper, pid: int, to: int) -> None:
    """Let somebody remove a node's filter to another one."""
    filters = helper.kernels[pid].devices["eth1"].filters
    (key,) = [key for key, (_, address, _) in filters.items() if address == str(ADDRESSES[NodeId(to)])]
    del filters[key]


def test_every_node_is_shaped_in_its_own_namespace(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    for node, pid in PIDS.items():
        filters = helper.kernels[pid].devices["eth1"].filters.values()
        assert {address for _, address, _ in filters} == {str(ADDRESSES[peer]) for peer in PIDS if peer != node}


def test_every_node_knows_its_peers_without_asking_and_waits_as_long_as_time_is_dilated(
    make: Make, helper: Helper
) -> None:
    make(dilation=4.0).shape(PIDS)
    hardware = {address: f"02:42:0a:01:00:{2 + node:02x}" for node, address in ADDRESSES.items()}
    for node, pid in PIDS.items():
        kernel = helper.kernels[pid]
        assert kernel.devices["eth1"].address == hardware[ADDRESSES[node]]
        assert kernel.patience == "800ms"
        assert kernel.neighbours == {str(ADDRESSES[peer]): hardware[ADDRESSES[peer]] for peer in PIDS if peer != node}


def test_rates_hold_nothing_back_while_nodes_connect(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    classes = [(device, name) for device in ("eth1", "fm-eth1") for name in ("fa01:1", "fa01:101", "fa01:102")]
    assert {ceil(helper, 100, name, device) for device, name in classes} == {100_000.0}
    lines = len(helper.kernels[100].done)
    shaper.limit()
    assert (ceil(helper, 100), ceil(helper, 100, device="fm-eth1")) == (10.0, 10.0)
    # Nothing but the rates of the two access links: no pair of this network has one of its own.
    assert len(helper.kernels[100].done) == lines + 2
    # A container that is started again now has its rates from the beginning.
    helper.kernels[200] = FakeKernel()
    shaper.shape({NodeId(1): 200})
    assert ceil(helper, 200) == 10.0


def test_rates_that_cannot_be_set_are_one_line(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    helper.refused.add(101)
    with pytest.raises(RunnerError, match=r"^node 1: tc class replace .*: RTNETLINK answers: Operation not permitted$"):
        shaper.limit()


def test_what_is_shaped_again_costs_nothing(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    lines = [len(kernel.done) for kernel in helper.kernels.values()]
    shaper.shape(PIDS)
    assert [len(kernel.done) for kernel in helper.kernels.values()] == lines


def test_a_part_that_goes_on_has_the_capacities_of_its_time(make: Make, helper: Helper) -> None:
    shaper = make(begin_ns=NS_PER_S)
    shaper.shape(PIDS)
    shaper.limit()
    assert (ceil(helper, 100), ceil(helper, 101)) == (4.0, 10.0)
    assert ceil(helper, 101, device="fm-eth1") == 5.0


def test_gates_are_opened_in_the_file_systems_of_the_containers(make: Make, helper: Helper) -> None:
    make().open_gates("/run/gate/open", [])  # all have ended meanwhile
    assert helper.touched == []
    make().open_gates("/run/gate/open", [100, 102])
    assert helper.touched == ["/proc/100/root/run/gate/open", "/proc/102/root/run/gate/open"]


def test_what_cannot_be_shaped_is_one_line(make: Make, helper: Helper) -> None:
    helper.refused.add(101)
    with pytest.raises(RunnerError, match=r"^node 1: ip link .*: RTNETLINK answers: Operation not permitted$"):
        make().shape(PIDS)


def test_what_is_not_as_planned_is_told(make: Make, helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper.kernels[102], "carry_out", lambda batch: None)  # says yes and does nothing
    with pytest.raises(
        RunnerError, match=r"^links of node 2 are not shaped as planned: eth1: gso_max_segs=65535: must"
    ):
        make().shape(PIDS)


def test_a_look_at_counters_compares_nothing(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    compared = shaper.compared
    looks = shaper.look(compare=False)
    assert looks.keys() == PIDS.keys()
    for node, look in looks.items():
        assert isinstance(look, NodeLook)
        assert look.counters.egress.keys() == look.tree.egress.leaves.keys()
        assert look.cpu == CpuCounters(PIDS[node], 1, 7, None)
    assert (shaper.compared, shaper.differences) == (compared, [])


def test_what_somebody_changed_is_seen_at_the_end(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    compared, pieces = shaper.compared, TREE.pieces
    forget_filter(helper, 101, to=0)
    del helper.kernels[102]  # gone, and nobody has said so
    looks = shaper.look(compare=True)
    assert compared == 3 * pieces
    assert shaper.compared == compared + 2 * pieces
    assert shaper.differences == ["node 1, eth1 filter to fa01:100: present=False: must be True"]
    assert looks[NodeId(2)] == "node 2: ip and tc: nsenter: cannot open /proc/102/ns/net: No such file or directory"


@pytest.mark.parametrize("when", ["before it is prepared", "after that"])
def test_what_somebody_changed_is_mended_with_the_next_change_and_not_forgotten(
    when: str, make: Make, helper: Helper
) -> None:
    shaper = make()
    shaper.shape(PIDS)
    nodes = [NodeId(0), NodeId(1)]
    if when == "before it is prepared":
        forget_filter(helper, 100, to=1)
    change = shaper.prepare(NS_PER_S, nodes)
    if when == "after that":
        forget_filter(helper, 100, to=1)
    change.make()
    assert change.confirm() == []
    addresses = [address for _, address, _ in helper.kernels[100].devices["eth1"].filters.values()]
    assert str(ADDRESSES[NodeId(1)]) in addresses
    assert shaper.differences == ["node 0, eth1 filter to fa01:101: present=False: must be True"]


def test_a_shell_that_failed_is_not_used_again(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    helper.broken = True
    with pytest.raises(EngineError):
        shaper.open_gates("/g", [100])
    shaper.open_gates("/g", [100])
    assert helper.touched == ["/proc/100/root/g"]
    assert [shell.is_open for shell in helper.opened].count(False) == 1


def test_a_change_is_prepared_made_and_confirmed(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    shaper.limit()
    done = [len(kernel.done) for kernel in helper.kernels.values()]
    nodes = [NodeId(0), NodeId(1)]
    change = shaper.prepare(NS_PER_S, nodes)
    assert [len(kernel.done) for kernel in helper.kernels.values()] == done
    change.make()
    # A class that is changed is one line; the rest is as it was.
    assert [len(kernel.done) for kernel in helper.kernels.values()] == [done[0] + 1, done[1] + 1, done[2]]
    assert ceil(helper, 100) == 4.0
    assert ceil(helper, 101, device="fm-eth1") == 5.0
    assert change.confirm() == []
    # A container that is started again now gets what is in force now.
    helper.kernels[200] = FakeKernel()
    shaper.shape({NodeId(0): 200})
    assert ceil(helper, 200) == 4.0


def test_who_was_started_again_after_a_change_was_prepared_has_it_in_the_end(make: Make, helper: Helper) -> None:
    """It was away when the change was prepared, and shaped as of the time before: that is no difference to be told."""
    shaper = make()
    shaper.shape(PIDS)
    shaper.limit()
    shaper.forget(NodeId(0))
    change = shaper.prepare(NS_PER_S, [NodeId(0), NodeId(1)])
    helper.kernels[200] = FakeKernel()
    shaper.shape({NodeId(0): 200})
    assert ceil(helper, 200) != 4.0
    change.make()
    assert change.confirm() == []
    assert ceil(helper, 200) == 4.0
    assert shaper.differences == []


def test_a_change_that_fails_is_told(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    shaper.limit()
    helper.refused.add(100)
    change = shaper.prepare(NS_PER_S, [NodeId(0), NodeId(1)])
    change.make()
    (problem,) = change.confirm()
    assert problem.startswith("node 0: tc class replace dev eth1 ")
    assert problem.endswith(": RTNETLINK answers: Operation not permitted")
    assert ceil(helper, 101, device="fm-eth1") == 5.0


def test_the_links_of_a_node_that_has_ended_are_no_failure(make: Make, helper: Helper) -> None:
    shaper = make()
    shaper.shape(PIDS)
    shaper.limit()
    change = shaper.prepare(NS_PER_S, [NodeId(0), NodeId(1)])
    del helper.kernels[100]
    change.make()
    assert change.confirm() == []
    del helper.kernels[101]
    shaper.forget(NodeId(1))
    change = shaper.prepare(2 * NS_PER_S, [NodeId(0), NodeId(1), NodeId(2)])
    change.make()
    assert change.confirm() == []
    assert ceil(helper, 102, "fa01:100") == 6.0


def test_instants_name_the_nodes_in_whose_namespaces_capacities_change() -> None:
    assert instants_of(network(changes=CHANGES)) == {NS_PER_S: [0, 1], 2 * NS_PER_S: [2]}
    assert instants_of(network()) == {}


class Made:
    """Changes that only tell when they were made."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.at_ns: dict[int, int] = {}
        self.problems: dict[int, list[str]] = {}

    def prepare(self, time_ns: int, nodes: Sequence[NodeId]) -> Any:
        self.events.append(("prepared", time_ns))
        made = self

        class One:
            def make(self) -> None:
                made.at_ns[time_ns] = time.monotonic_ns()

            def confirm(self) -> list[str]:
                made.events.append(("confirmed", time_ns))
                return made.problems.get(time_ns, [])

        return One()


def changes_made(made: Made, *, begin_ns: int = 0, end_ns: int | None = None, expected: int) -> PlannedChanges:
    ms = NS_PER_S // 1000
    plan = network(changes=tuple((at * ms, CapacityChange("up", 0, -1, 1.0)) for at in (1, 2, 3)))
    changes = PlannedChanges(plan, made.prepare)
    changes.begin(time.monotonic_ns(), begin_ns, end_ns, 2.0)
    for _ in range(60_000):
        if made.events.count(("confirmed", expected * ms)):
            break
        threading.Event().wait(0.001)
    else:
        pytest.fail("the changes were not made")
    changes.end()
    return changes


def test_changes_are_made_at_their_instants_and_never_before() -> None:
    made, began_ns = Made(), time.monotonic_ns()
    changes = changes_made(made, expected=3)
    assert len(changes.late_ns) == 3
    assert min(changes.late_ns) >= 0
    assert [at_ns >= began_ns + 2 * time_ns for time_ns, at_ns in made.at_ns.items()] == [True] * 3
    assert [word for word, _ in made.events] == ["prepared", "confirmed"] * 3
    assert changes.failed == []


def test_a_part_makes_the_changes_of_its_own_time() -> None:
    made = Made()
    changes_made(made, begin_ns=10**6, end_ns=3 * 10**6, expected=2)
    assert list(made.at_ns) == [2 * 10**6]


def test_a_failed_change_is_kept_and_the_next_one_made() -> None:
    made = Made()
    made.problems[10**6] = ["node 0: no"]
    changes = changes_made(made, expected=3)
    assert changes.failed == ["at 0.001 s: node 0: no"]
    assert len(changes.late_ns) == 3


def test_the_end_waits_for_no_change() -> None:
    made = Made()
    changes = PlannedChanges(network(changes=((10**18, CapacityChange("up", 0, -1, 1.0)),)), made.prepare)
    changes.begin(time.monotonic_ns(), 0, None, 1.0)
    changes.end()
    assert made.at_ns == {}


def test_a_device_is_found_by_its_address() -> None:
    printed = "12: eth0@if13    inet 198.18.1.16/24 brd 198.18.1.255 scope global eth0\\ valid_lft forever\n"
    answers = {"198.18.1.16/32": printed, "198.18.1.17/32": ""}
    namespace = NetworkNamespace("node 3", carry=lambda words, text: (0, answers[words[-1]], ""))
    assert data_device(namespace, IPv4Address("198.18.1.16")) == ("eth0", IPv4Interface("198.18.1.16/24"))
    with pytest.raises(RunnerError, match=r"^node 3: no device has the address 198\.18\.1\.17$"):
        data_device(namespace, IPv4Address("198.18.1.17"))


def schedule(*spans: LinkSpan, partitions: tuple[PartitionSpan, ...] = ()) -> NetworkPlan:
    return scheduled(network(10.0, 10.0), Schedule(links=spans, partitions=partitions))


def over(place: Place, begin_s: int, end_s: int, **overlay: Any) -> LinkSpan:
    return LinkSpan(begin_s * NS_PER_S, end_s * NS_PER_S, place, Overlay(**overlay))


def test_instants_of_a_schedule_are_those_of_the_namespaces_that_change() -> None:
    spans = (
        over(Place("down", -1, 1), 1, 2, latency_ns=7),
        over(Place("pair", 2, 0), 3, 4, loss=0.1),
        over(Place("up", 2, -1), 5, 6, jitter_ns=7.0),
        over(Place("up", 2, -1), 9, 10, bandwidth_factor=0.5),
    )
    parted = PartitionSpan(7 * NS_PER_S, 8 * NS_PER_S, (0, 0, 1))
    found = instants_of(schedule(*spans, partitions=(parted,)))
    everybody = [0, 1, 2]
    assert {time_ns // NS_PER_S: nodes for time_ns, nodes in found.items()} == {
        1: [1], 2: [1], 3: [0], 4: [0], 5: everybody, 6: everybody, 7: everybody, 8: everybody, 9: everybody,
        10: everybody,
    }  # fmt: skip


def test_what_is_laid_over_links_at_the_beginning_is_put_in_force_at_the_start() -> None:
    """Links are measured before without it; capacities and partitions hold already."""
    plan = schedule(
        over(Place("down", -1, 1), 0, 5, latency_ns=7), over(Place("up", 0, -1), 0, 5, bandwidth_factor=0.5)
    )
    assert receivers_laid_over(plan, 0) == [1]
    assert receivers_laid_over(plan, 5 * NS_PER_S) == []
    made = Made()
    changes = PlannedChanges(plan, made.prepare)
    began_ns = time.monotonic_ns()
    changes.begin(began_ns + 10**7, 2 * NS_PER_S, 3 * NS_PER_S, 1.0)
    for _ in range(60_000):
        if made.events.count(("confirmed", 2 * NS_PER_S)):
            break
        threading.Event().wait(0.001)
    else:
        pytest.fail("nothing was put in force")
    changes.end()
    assert made.at_ns[2 * NS_PER_S] >= began_ns + 10**7
    assert list(made.at_ns) == [2 * NS_PER_S]


def gate(helper: Helper, pid: int, to: int) -> int:
    """Bytes a second of a node's gate to another one."""
    return int(helper.kernels[pid].devices["eth1"].leaves[f"fa01:10{to}"]["options"]["rate"])


def test_a_partition_shuts_and_opens_gates_in_the_namespaces_of_all(make: Make, helper: Helper) -> None:
    parted = PartitionSpan(NS_PER_S, 2 * NS_PER_S, (0, 0, 1))
    shaper = make(schedule(partitions=(parted,)))
    shaper.shape(PIDS)
    shaper.limit()
    everybody = list(PIDS)
    shut, opened = 10, 12_500_000_000
    expected = {NS_PER_S: shut, 2 * NS_PER_S: opened}
    for time_ns, rate in expected.items():
        change = shaper.prepare(time_ns, everybody)
        change.make()
        assert change.confirm() == []
        assert [gate(helper, 100, 2), gate(helper, 101, 2), gate(helper, 102, 0), gate(helper, 102, 1)] == 4 * [rate]
        assert "fa01:101" in helper.kernels[100].devices["eth1"].leaves
        assert helper.kernels[100].devices["eth1"].leaves["fa01:101"]["kind"] == "bfifo"
    assert [kernel.asked for kernel in helper.kernels.values()] == [1, 1, 1]
    assert shaper.differences == []


def test_a_partition_from_the_beginning_lets_connections_be_made_and_then_holds(make: Make, helper: Helper) -> None:
    shaper = make(schedule(partitions=(PartitionSpan(0, NS_PER_S, (0, 0, 1)),)).at_time(0))
    shaper.shape(PIDS)
    assert gate(helper, 100, 2) > 10**9
    shaper.limit()
    assert gate(helper, 100, 2) == 10
