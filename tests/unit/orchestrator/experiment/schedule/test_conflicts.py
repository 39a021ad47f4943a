"""Entries that do not go together, or with the network, are refused; those that do are taken."""

from pathlib import Path
from typing import Any

import pytest

from node.core.errors import ConfigError
from node.core.schedule import Place
from orchestrator.experiment.schedule.conflicts import describe_place
from tests.unit.orchestrator.experiment.schedule.entries import network_of, resolved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rate").write_text("time_s,bandwidth_mbps\n0,4\n1,5\n3,8\n")
    (tmp_path / "delay").write_text("time_s,latency_ms\n0,4\n1,5\n")
    return tmp_path


def trace(file: str = "rate", **fields: Any) -> dict[str, Any]:
    return {"action": "trace", "file": file, **fields}


def refusal(*entries: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(*entries, **more)
    return str(caught.value)


def test_links_have_names() -> None:
    assert describe_place(Place("up", 3, -1)) == "the uplink of node 3"
    assert describe_place(Place("down", -1, 2)) == "the downlink of node 2"
    assert describe_place(Place("pair", 1, 2)) == "the path from node 1 to node 2"


def test_two_traces_of_one_link(folder: Path) -> None:
    def apart(*entries: dict[str, Any]) -> None:
        resolved(*entries, folder=folder)

    start = "must be apart from schedule[0], whose file "
    message = refusal(trace(nodes=2), trace("delay", nodes="all", at_s=4, direction="down"), folder=folder)
    assert message == f"schedule[1].file=delay: {start}the downlink of node 2 follows at 4 s"
    message = refusal(trace(nodes=2, at_s=3), trace(nodes=2, until_s=3.5), folder=folder)
    assert message == f"schedule[1].file=rate: {start}the uplink of node 2 follows at 3 s"
    often = trace(pairs=[[0, 1]], for_s=1, every_s=4)
    message = refusal(often, trace(pairs=[[1, 0]], at_s=5.5, for_s=3, both_ways=False), folder=folder)
    assert message == f"schedule[1].file=rate: {start}the path from node 1 to node 0 follows at 8 s"
    apart(trace(nodes=2, until_s=3), trace(nodes=2, at_s=3))
    apart(trace(nodes=2, direction="up"), trace(nodes=2, direction="down"), trace(nodes=3), trace(pairs=[[2, 3]]))
    apart(often, trace(pairs=[[0, 1]], at_s=5, for_s=3), trace(pairs=[[1, 0]], at_s=1, for_s=3))


def test_a_trace_over_a_link_that_the_network_traces(folder: Path) -> None:
    network = network_of(folder=folder, traces=[{"node": 1, "direction": "up", "file": "rate"}])
    message = refusal(trace(nodes=1), network=network, folder=folder)
    assert message == "schedule[0].file=rate: must be apart from network.traces, which the uplink of node 1 follows"
    resolved(trace(nodes=1, direction="down"), trace(nodes=2), network=network, folder=folder)


def test_a_factor_of_a_bandwidth_that_is_not_there(folder: Path) -> None:
    half = {"action": "degrade", "bandwidth_factor": 0.5}
    message = refusal({**half, "pairs": [[0, 1]]})
    assert message == (
        "schedule[0].bandwidth_factor=0.5: must be of a link with a bandwidth of its own, which the path from node 0 to"
        " node 1 has not; bandwidth_mbps sets one"
    )
    open_down = network_of(preset={"kind": "uniform", "bandwidth_mbps": None, "up_mbps": 5})
    assert "which the downlink of node 0 has not" in refusal({**half, "nodes": 0}, network=open_down)
    resolved({**half, "nodes": 0, "direction": "up"}, network=open_down)
    # A limit is none of its own: it may come and go without the factor.
    assert "has not" in refusal(
        {**half, "pairs": [[0, 1]]}, {"action": "degrade", "pairs": [[0, 1]], "bandwidth_mbps": 1}
    )
    resolved({**half, "pairs": [[0, 1]]}, trace(pairs=[[0, 1]]), folder=folder)
    assert "has not" in refusal({**half, "pairs": [[0, 1]]}, trace("delay", pairs=[[0, 1]]), folder=folder)
    traced = network_of(folder=folder, traces=[{"pair": [0, 1], "file": "rate"}])
    resolved({**half, "pairs": [[0, 1]], "both_ways": False}, network=traced)


def test_a_factor_of_a_latency_that_is_not_there() -> None:
    slow = {"action": "degrade", "nodes": 0, "latency_factor": 3}
    resolved(slow)
    network = network_of(preset={"kind": "uniform", "latency_ms": 0})
    message = refusal(slow, network=network)
    assert message == "schedule[0].latency_factor=3: must be of a network with latency; latency_ms adds some"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [
                {"action": "degrade", "nodes": 2, "bandwidth_factor": 1e-6, "at_s": 1},
                {"action": "degrade", "nodes": "0-3", "bandwidth_factor": 1e-3, "at_s": 3, "for_s": 2},
                {"action": "degrade", "nodes": 5, "bandwidth_factor": 1e-6},
            ],
            "schedule[1]: leaves the downlink of node 2 1e-08 Mbit/s at 3 s: must be 0, or at least 1e-06",
        ),
        (
            [
                {"action": "degrade", "nodes": 2, "latency_factor": 1e6, "direction": "up"},
                {"action": "degrade", "nodes": 3, "latency_factor": 1e4, "direction": "down"},
            ],
            "schedule[1]: latencies may add up to 1e+10 ms with those of other entries: must be at most 1e+09",
        ),
        (
            [{"action": "degrade", "nodes": 2, "latency_ms": 1e9}],
            "schedule[0]: latencies may add up to 2e+09 ms with those of other entries: must be at most 1e+09",
        ),
        (
            [{"action": "degrade", "pairs": [[0, 1]], "loss_percent": 99.995}],
            "schedule[0]: losses may add up to 99.995 % with those of other entries: must be at most 99.99",
        ),
        (
            [
                {"action": "degrade", "nodes": "all", "loss_percent": 99},
                {"action": "degrade", "pairs": [[0, 1]], "loss_percent": 50},
            ],
            "schedule[1]: losses may add up to 99.995 % with those of other entries: must be at most 99.99",
        ),
    ],
    ids=lambda part: part[13:50] if isinstance(part, str) else "",
)
def test_entries_that_are_too_much_together(entries: list[dict[str, Any]], message: str) -> None:
    assert refusal(*entries) == message


def test_a_link_may_stand_still() -> None:
    found = resolved({"action": "degrade", "nodes": 2, "bandwidth_mbps": 0, "for_s": 1})
    assert found.network.at_time(0).is_parked(2, 3)
    assert not found.network.at_time(10**9).is_parked(2, 3)
