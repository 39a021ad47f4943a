"""Selectors name the nodes that they say, and nothing that is not there."""

from typing import Any

import numpy as np
import pytest

from node.core.errors import ConfigError
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.schedule.config import IsolateEntry
from orchestrator.experiment.schedule.selectors import NodeGroups, in_short, select
from tests.unit.orchestrator.experiment.schedule.entries import resolved

GROUPS = NodeGroups(8, frozenset({1, 5}))
BASE: dict[str, Any] = {"name": "t", "nodes": 8, "learning": {}, "network": {}, "stop": {"rounds": 1}}


def read(nodes: object) -> Any:
    """A selector as the file's declaration reads it."""
    (entry,) = parse_experiment({**BASE, "schedule": [{"action": "isolate", "nodes": nodes}]}, "f").schedule
    assert isinstance(entry, IsolateEntry)
    return entry.nodes


def selected(nodes: object, seed: int = 1, groups: NodeGroups = GROUPS) -> tuple[int, ...]:
    return select(read(nodes), groups, np.random.default_rng(seed), "schedule[0].nodes")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (3, (3,)),
        ("2-2", (2,)),
        ("0-3", (0, 1, 2, 3)),
        ("all", tuple(range(8))),
        ("stragglers", (1, 5)),
        ("fast", (0, 2, 3, 4, 6, 7)),
        ([7, "1-2", "stragglers", 2], (1, 2, 5, 7)),
        ({"fraction": 1}, tuple(range(8))),
        ({"fraction": 1, "of": "stragglers"}, (1, 5)),
        ([0, {"fraction": 1.0, "of": "6-7"}], (0, 6, 7)),
    ],
    ids=str,
)
def test_nodes(nodes: object, expected: tuple[int, ...]) -> None:
    assert selected(nodes) == expected


def test_a_fraction_is_drawn_from_the_seed() -> None:
    drawn = {selected({"fraction": 0.5, "of": "all"}, seed) for seed in range(20)}
    assert len(drawn) > 10
    assert all(len(nodes) == 4 and list(nodes) == sorted(set(nodes)) for nodes in drawn)
    assert selected({"fraction": 0.5}, 3) == selected({"fraction": 0.5}, 3)
    assert len(selected({"fraction": 0.0625})) == 1  # half a node is one
    assert set(selected({"fraction": 0.5, "of": "fast"})) <= {0, 2, 3, 4, 6, 7}


def test_a_fraction_depends_on_the_seed_and_the_entry_alone() -> None:
    half = {"action": "isolate", "nodes": {"fraction": 0.5}, "for_s": 1}
    other = {"action": "isolate", "nodes": {"fraction": 0.25, "of": "0-3"}, "at_s": 3}
    first, second = (each.nodes for each in resolved(half, half).entries)
    assert first != second
    assert resolved(other, half).entries[1].nodes == second
    assert resolved(half, half, seed=2).entries[0].nodes != first


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (8, "=8: must be between 0 and 7"),
        ([1, 9], "[1]=9: must be between 0 and 7"),
        ("6-8", "=6-8: must be between 0 and 7"),
        ({"fraction": 0.5, "of": "0-8"}, ".of=0-8: must be between 0 and 7"),
        ({"fraction": 0.05}, ".fraction=0.05: must be larger: it gives none of 8 nodes"),
        ([0, {"fraction": 0.2, "of": "stragglers"}], "[1].fraction=0.2: must be larger: it gives none of 2 nodes"),
    ],
    ids=str,
)
def test_nodes_that_are_not_there(nodes: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        selected(nodes)
    assert str(caught.value) == f"schedule[0].nodes{message}"


def test_groups_that_are_empty() -> None:
    with pytest.raises(ConfigError, match=r"nodes=stragglers: must be nodes that are there: neither network nor"):
        selected("stragglers", groups=NodeGroups(8, frozenset()))
    with pytest.raises(ConfigError, match=r"nodes=fast: must be nodes that are there: all are stragglers"):
        selected("fast", groups=NodeGroups(2, frozenset({0, 1})))
    assert selected("fast", groups=NodeGroups(2, frozenset())) == (0, 1)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("slow", '=slow: must be a range such as "0-4", or one of all, fast, stragglers'),
        ("4-1", "='4-1': must be a range whose first node is not above its last"),
        ("-1", "='-1': must be a range such as"),
        ("1", "='1': must be a range such as"),
        (-1, "=-1: must be at least 0"),
        (10_000, "=10000: must be below 10000"),
        (1.0, "=1.0: must be a whole number, written without a point"),
        (True, "=true: must be a whole number, not true or false"),
        (None, "=null: must be a node, a range such as"),
        ([], "=[]: must have at least 1 entries"),
        ([[1]], "[0]=[1]: must be a node, a range such as"),
        ([0, "x"], "[1]=x: must be a range such as"),
        ({}, ".fraction: missing"),
        ({"fraction": 0}, ".fraction=0: must be above 0"),
        ({"fraction": 1.5}, ".fraction=1.5: must be at most 1"),
        ({"fraction": 1, "of": 3}, ".of=3: must be text"),
        ({"fraction": 1, "of": "none"}, ".of=none: must be a range such as"),
        ([1, {"fraction": 1, "off": 3}], "[1].off: unknown key; did you mean of?"),
    ],
    ids=str,
)
def test_what_is_no_selector(nodes: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(nodes)
    assert str(caught.value).startswith(f"f: schedule[0].nodes{message}")


def test_in_short() -> None:
    assert in_short(()) == ""
    assert in_short((0,)) == "0"
    assert in_short((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert in_short(tuple(range(0, 200, 2)), 20) == "0,2,4,6,8,10,12,1..."
