"""Clients that come and go: the times in which their nodes are away, and what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.core.bounds import CHANGES_MAX
from node.core.errors import ConfigError
from node.core.schedule import NodeSpan
from orchestrator.experiment.schedule import resolve
from orchestrator.experiment.schedule.resolve import ResolvedSchedule
from tests.unit.orchestrator.experiment.schedule.entries import S, resolved

MORNING = {"active": [1, 6], "inactive": [4, 8], "finish_time": 10}
ALWAYS = {"active": [0, 3], "inactive": [3, 7], "finish_time": 7}
LATE = {"active": [5], "inactive": [10], "finish_time": 10}


def told(
    folder: Path, *clients: dict[str, Any], others: tuple[dict[str, Any], ...] = (), **fields: Any
) -> ResolvedSchedule:
    (folder / "t.json").write_text(json.dumps(dict(enumerate(clients))))
    around = {name: fields.pop(name) for name in ("runtime", "time_s", "seed") if name in fields}
    return resolved({"action": "availability", "file": "t.json", **fields}, *others, folder=folder, **around)


def away(found: ResolvedSchedule, node: int = 0) -> list[tuple[float, float | None]]:
    spans = [span for span in found.schedule.nodes if span.node == node]
    return [(span.begin_ns / S, None if span.end_ns is None else span.end_ns / S) for span in spans]


def test_a_node_is_down_while_its_client_is_inactive_again_and_again(tmp_path: Path) -> None:
    found = told(tmp_path, MORNING, nodes=[0])
    # From 8 s to 11 s in one: the end of a period and the begin of the next one.
    assert away(found) == [(0, 1), (4, 6), (8, 11), (14, 16), (18, 21)]
    assert {(span.kind, span.model) for span in found.schedule.nodes} == {("down", "last")}
    assert found.entries[0].nodes == (0,)
    assert found.entries[0].takes_down
    assert found.entries[0].to_json()["away_s"] == [[0, 0, 1], [0, 4, 6], [0, 8, 11], [0, 14, 16], [0, 18, 21]]


@pytest.mark.parametrize(
    ("client", "fields", "expected"),
    [
        (ALWAYS, {}, []),
        (LATE, {}, [(0, 5), (10, 15)]),
        (MORNING, {"at_s": 2}, [(2, 3), (6, 8), (10, 13), (16, 18)]),
        (MORNING, {"at_s": 2, "for_s": 7}, [(2, 3), (6, 8)]),
        (MORNING, {"until_s": 9}, [(0, 1), (4, 6), (8, 9)]),
        (MORNING, {"speedup": 0.5}, [(0, 2), (8, 12), (16, 22)]),
        (MORNING, {"speedup": 10, "for_s": 1}, [(0, 0.1), (0.4, 0.6), (0.8, 1)]),
        ({**MORNING, "active": [1, 4]}, {"for_s": 10}, [(0, 1), (8, 10)]),
        ({**MORNING, "finish_time": 1e6}, {"for_s": 20}, [(0, 1), (4, 6), (8, 20)]),
    ],
    ids=str,
)
def test_times(
    client: dict[str, Any], fields: dict[str, Any], expected: list[tuple[float, float]], tmp_path: Path
) -> None:
    assert away(told(tmp_path, client, nodes=[0], **fields)) == expected


def test_a_node_may_stand_still_instead(tmp_path: Path) -> None:
    found = told(tmp_path, MORNING, nodes=3, inactive="pause", until_s=5)
    assert found.schedule.nodes == (NodeSpan(0, S, 3, "paused"), NodeSpan(4 * S, 5 * S, 3, "paused"))
    assert not found.entries[0].takes_down


def test_each_node_is_a_client_in_order_or_as_drawn(tmp_path: Path) -> None:
    found = told(tmp_path, MORNING, ALWAYS, LATE, model="peer")
    assert found.entries[0].nodes == tuple(range(8))
    for node, client in enumerate([MORNING, ALWAYS, LATE] * 2 + [MORNING, ALWAYS]):
        assert len(away(found, node)) == {id(MORNING): 5, id(ALWAYS): 0, id(LATE): 2}[id(client)]
    assert {span.model for span in found.schedule.nodes} == {"peer"}
    clients = [{**LATE, "active": [number]} for number in range(1, 9)]

    def begins(seed: int) -> list[float | None]:
        drawn = told(tmp_path, *clients, clients="drawn", seed=seed)
        return [away(drawn, node)[0][1] for node in range(8)]

    assert sorted(begins(1)) == list(range(1, 9))  # type: ignore[type-var]
    assert begins(1) == begins(1)
    assert begins(1) != begins(2)


def refusal(folder: Path, *clients: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        told(folder, *clients, **fields)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("f.yaml: ")


@pytest.mark.parametrize(
    ("client", "fields", "message"),
    [
        (
            {**MORNING, "finish_time": 172_800},
            {},
            "schedule[0].file=t.json: finish_time=172800 at speedup=1 must not be beyond stop.time_s=20; speedup"
            " shortens it, for_s or until_s cuts it",
        ),
        (
            MORNING,
            {"time_s": None},
            "schedule[0].file=t.json: must come with for_s or until_s, or with stop.time_s: it repeats",
        ),
        (
            MORNING,
            {"speedup": 1e6, "for_s": 19},
            f"schedule[0]: must give fewer changes: all entries and traces together may give {CHANGES_MAX:,}",
        ),
        (
            {"active": [0], "inactive": [1e-4], "finish_time": 1},
            {"speedup": 1e6},
            "schedule[0].speedup=1e+06: must be less: it leaves a client no time to be active",
        ),
        ({"active": [0]}, {}, "schedule[0].file=t.json: client 0: inactive: missing"),
        (MORNING, {"at_s": 20}, "schedule[0].at_s=20: must be below stop.time_s=20, where the run ends"),
        (MORNING, {"nodes": 8}, "schedule[0].nodes=8: must be between 0 and 7"),
        (
            MORNING,
            {"every_s": 3, "for_s": 1},
            "schedule[0].every_s=3: must be left out with a file that has its own times",
        ),
        (
            MORNING,
            {"inactive": "pause", "model": "common"},
            "schedule[0].model=common: must be left out with inactive: pause, which keeps a node's own",
        ),
        (MORNING, {"inactive": "leave"}, "schedule[0].inactive=leave: must be one of crash or pause"),
        (MORNING, {"clients": "random"}, "schedule[0].clients=random: must be one of in_order or drawn"),
        (MORNING, {"speedup": 0}, "schedule[0].speedup=0: must be above 0"),
        (
            MORNING,
            {"runtime": "docker"},
            "schedule[0].action=availability: must be without crash with runtime: docker, which cannot do it yet",
        ),
        (
            MORNING,
            {"runtime": "docker", "inactive": "pause"},
            "schedule[0].action=availability: must be without pause with runtime: docker, which cannot do it yet",
        ),
        (
            MORNING,
            {"others": ({"action": "crash", "nodes": 0, "at_s": 5, "for_s": 2},)},
            "schedule[1].nodes: must not take down node 0 at 5 s: schedule[0] has it down from 4 s to 6 s",
        ),
    ],
    ids=str,
)
def test_what_cannot_be(
    client: dict[str, Any], fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "runtime" in fields:
        monkeypatch.setattr(resolve, "ABILITIES", {"docker": ("degrade",)})
    found = refusal(tmp_path, client, **fields)
    assert found.startswith(message), found


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^schedule\[0\]\.file=t\.json: must be a readable text file \("):
        resolved({"action": "availability", "file": "t.json"}, folder=tmp_path)
