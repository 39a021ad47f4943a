"""Rules between the keys of one entry: each refusal is one line that names the entry."""

from typing import Any

import pytest

from node.core.errors import ConfigError
from orchestrator.experiment.config import ExperimentConfig, parse_experiment
from tests.unit.orchestrator.experiment.test_config import BASE, ENTRIES


def read(*entries: dict[str, Any]) -> ExperimentConfig:
    return parse_experiment({**BASE, "schedule": list(entries)}, "f")


@pytest.mark.parametrize("action", ENTRIES)
def test_every_action_is_read_and_written_alike(action: str) -> None:
    """What a run writes down is what it read."""
    config = read({"action": action, **ENTRIES[action]})
    (entry,) = config.schedule
    assert entry.action == action
    assert parse_experiment(config.model_dump(mode="json"), "f") == config


LINK = {"action": "degrade", "latency_ms": 1}
TRACE = {"action": "trace", "file": "t"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, ".action: missing: must be one of degrade, trace, partition, isolate, crash, restart, pause, slow_cpu"),
        ({"action": "burn"}, ".action=burn: must be one of degrade, trace, "),
        # times
        ({**LINK, "nodes": 0, "at_s": 5, "until_s": 5}, ".until_s=5: must be above at_s=5, where the entry begins"),
        ({**LINK, "nodes": 0, "at_s": -1}, ".at_s=-1: must be at least 0"),
        ({**LINK, "nodes": 0, "for_s": 1, "until_s": 2}, ".until_s=2: must be left out with for_s, but for every_s"),
        ({**LINK, "nodes": 0, "every_s": 2}, ": must have for_s where it begins every 2 s"),
        ({**LINK, "nodes": 0, "every_s": 2, "for_s": 2}, ".for_s=2: must be below every_s=2"),
        ({**LINK, "nodes": 0, "every_s": 2, "for_s": 1, "at_s": 9, "until_s": 3}, ".until_s=3: must be above at_s=9"),
        ({"action": "pause", "nodes": 0}, ": must have for_s or until_s: a pause has an end"),
        ({"action": "restart", "nodes": 0, "for_s": 1}, ".for_s: unknown key"),
        ({"action": "restart", "nodes": 0, "until_s": 1}, ".until_s=1: must be left out of a restart without every_s"),
        # links
        (LINK, ": must name nodes or pairs, and not both"),
        ({**LINK, "nodes": 0, "pairs": [[0, 1]]}, ": must name nodes or pairs, and not both"),
        ({**LINK, "nodes": 0, "both_ways": False}, ".both_ways=false: must be left out with nodes"),
        ({**LINK, "pairs": [[0, 1]], "direction": "up"}, ".direction=up: must be left out with pairs"),
        ({**LINK, "pairs": []}, ".pairs=[]: must have at least 1 entries"),
        ({**LINK, "pairs": [[0, 1], [2, 2]]}, ".pairs[1]=[2, 2]: must be two different nodes"),
        ({**LINK, "pairs": [[0, 1], [1, 0]]}, ".pairs[1]=[1, 0]: must be given once, as both ways are meant"),
        ({**LINK, "pairs": [[0, 1], [0, 1]], "both_ways": False}, ".pairs[1]=[0, 1]: must be given once"),
        ({**LINK, "pairs": [[0, -1]]}, ".pairs[0][1]=-1: must be at least 0"),
        ({**LINK, "nodes": 0, "direction": "out"}, ".direction=out: must be one of up, down or both"),
        # what they do
        ({"action": "degrade", "nodes": 0}, ": must set one of bandwidth_factor, bandwidth_mbps, latency_factor"),
        ({"action": "degrade", "nodes": 0, "bandwidth_factor": 0}, ".bandwidth_factor=0: must be above 0"),
        ({"action": "degrade", "nodes": 0, "bandwidth_mbps": 1e-9}, ".bandwidth_mbps=1e-09: must be 0, or at least"),
        ({"action": "degrade", "nodes": 0, "loss_percent": 100}, ".loss_percent=100: must be below 100"),
        ({**TRACE, "nodes": 0, "format": "mahimahi", "at_end": "hold"}, ".at_end=hold: must be loop with format"),
        ({**TRACE, "nodes": 0, "interval_ms": 10}, ".interval_ms=10: must be left out with format: csv"),
        ({"action": "partition", "groups": [0]}, ".groups=[0]: must have at least 2 entries"),
        ({"action": "crash", "nodes": 0, "model": "peer"}, ".model=peer: must be left out of a crash without an end"),
        ({"action": "crash"}, ".nodes: missing"),
        ({"action": "slow_cpu", "nodes": 0, "factor": 0.5}, ".factor=0.5: must be at least 1"),
    ],
    ids=str,
)
def test_rules(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"action": "isolate", "nodes": 0}, entry)
    assert str(caught.value).startswith(f"f: schedule[1]{message}")
    assert "\n" not in str(caught.value)


def test_pairs_of_one_way_may_be_given_for_both() -> None:
    read({**LINK, "pairs": [[0, 1], [1, 0]], "both_ways": False})


def test_a_schedule_that_is_no_list() -> None:
    for value in ({}, "x", 3, None):
        with pytest.raises(ConfigError, match=r"f: schedule=.*: must be a list"):
            parse_experiment({**BASE, "schedule": value}, "f")
    with pytest.raises(ConfigError, match=r"f: schedule\[0\]=x: must hold keys and values"):
        parse_experiment({**BASE, "schedule": ["x"]}, "f")
