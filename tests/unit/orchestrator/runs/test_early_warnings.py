"""Warnings while a run lasts: they are the checks that it would fail at its end, and no others."""

import pytest

from node.core.counters import NodeCounters
from node.core.types import NodeId
from node.transport.control_values import NodeStatus, Phase
from orchestrator.runs import early_warnings
from orchestrator.runs.early_warnings import LOOK_EVERY_S, EarlyWarnings


@pytest.fixture(autouse=True)
def pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_warnings, "host_pressure", lambda: 63.4)


def status(node: int = 0, *, overrun_ns: int = 0, in_flight: int = 0, rejected: int = 0) -> NodeStatus:
    counters = NodeCounters(
        rounds=10,
        declared_ns=1000,
        overrun_ns=overrun_ns,
        overruns=int(overrun_ns > 0),
        in_flight_bytes_max=in_flight,
        in_flight_bytes_bound=100,
    )
    refused = {"checksum": rejected} if rejected else {}
    return NodeStatus(NodeId(node), Phase.RUNNING, counters=counters, messages_rejected=refused)


def test_a_run_in_which_all_is_well_has_none() -> None:
    assert EarlyWarnings().look([status(0, overrun_ns=10), status(1)], [10_000_000, -1], 0.0) == ()
    assert EarlyWarnings().look([], [], 0.0) == ()


@pytest.mark.parametrize(
    ("statuses", "late_ns", "warning"),
    [
        ([status(), status(1, overrun_ns=20)], [], "training longer than declared: 2 % (tolerance: at most 1 %"),
        ([status(in_flight=101)], [], "bytes in flight: 101 bytes (tolerance: at most)"),
        ([status(rejected=3)], [], "messages refused on arrival: 3 messages (tolerance: none)"),
        ([status()], [51_000_000], "delay of planned faults of nodes, the worst: 51 ms (tolerance: 50 ms"),
        ([status()], [None], "delay of planned faults of nodes, the worst: 0 ms (tolerance: 50 ms, and none missed)"),
    ],
)
def test_a_check_that_fails_is_told_with_what_presses(
    statuses: list[NodeStatus], late_ns: list[int | None], warning: str
) -> None:
    first, second = EarlyWarnings().look(statuses, late_ns, 0.0)
    assert first.startswith(warning)
    assert second == "processes waited for the host's cores for 63 % of the last 10 s"


def test_nodes_are_looked_at_once_a_second() -> None:
    warnings = EarlyWarnings()
    assert warnings.look([status()], [], 0.0) == ()
    assert warnings.look([status(rejected=1)], [], LOOK_EVERY_S / 2) == ()
    assert len(warnings.look([status(rejected=1)], [], LOOK_EVERY_S)) == 2
    assert len(warnings.look([status()], [], 1.5 * LOOK_EVERY_S)) == 2
