"""Adding a figure touches two places: its line in ``node/core/counters.py``, and the place that counts it.

All else follows from the line, and each test here says what to do where it does not.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.core.counters import (
    FIGURES,
    NodeCounters,
    add_counters,
    counter_values,
    counters_from,
    subtract_counters,
)
from node.core.links import NetworkPlan
from node.core.types import NodeId
from node.transport.control_values import ModelSnapshot, NodeStatus, Phase, SnapshotPurpose
from node.transport.control_wire import snapshot_from_wire, snapshot_head, status_from_wire, status_to_wire
from orchestrator.fidelity import Measured, NodeFigures, judge
from orchestrator.results.schema import COLUMN_MEANINGS, CURVE_COLUMNS, NODE_COLUMNS, JsonObject
from orchestrator.results.summary import summarize
from orchestrator.runs.collection import totals_of
from orchestrator.runs.snapshots import Part
from tests.unit.orchestrator.synthetic_runs import facts

ROOT = Path(__file__).resolve().parents[2]
BASE = counters_from({name: 1_000 + 10 * index for index, name in enumerate(FIGURES)})
"""Of each figure another value, none as at the start."""


def one_more(name: str) -> NodeCounters:
    return replace(BASE, **{name: getattr(BASE, name) + 1})


def shown_in_summary(counters: NodeCounters) -> JsonObject:
    capacity = np.array([8.0, 8.0])
    network = NetworkPlan("access", capacity, capacity)
    parts = [Part(0, 10**9, 1.0, [counters, counters])]
    totals = totals_of(parts, network, begin_ns=0, wall_s=1.0, status="done", error=None)
    curve = {name: np.zeros(1) for name in CURVE_COLUMNS}
    return summarize(facts(nodes=2), totals, curve, None, 1)


def shown_in_fidelity(counters: NodeCounters) -> JsonObject:
    node = NodeFigures(0, counters, blocks=10, loop_late_p99_ns=0, arrivals=10, late_p99_ns=0, late_max_ns=0)
    return judge(Measured(runtime="processes", time_dilation=1.0, links=None, nodes=(node,)))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_is(name: str) -> None:
    figure = FIGURES[name]
    assert re.fullmatch(r"[A-Z].*[.]", figure.help), f"{name}: help must be one sentence"
    assert figure.unit or figure.is_gauge, f"{name}: a counter must have a unit"
    for unit in ("bytes", "ns"):
        in_name = re.search(rf"(^|_){unit}(_|$)", name) is not None
        assert in_name == (figure.unit == unit), f"{name}: the name must tell the unit {figure.unit!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_counted(name: str) -> None:
    sources = [path for path in (ROOT / "node").rglob("*.py") if path.name != "counters.py" and "pb" not in path.parts]
    assert any(re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in sources), (
        f"{name}: nothing in node/ counts it: add it up in node/sim/world.py, node/runtime/driver.py or"
        " node/runtime/sending.py, or set it in Driver.current_counters"
    )


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_reaches_the_orchestrator(name: str) -> None:
    counters = one_more(name)
    advice = f"{name}: the messages carry it by name: keep it a plain number field of NodeCounters"
    status = NodeStatus(NodeId(0), Phase.RUNNING, counters=counters)
    assert status_from_wire(status_to_wire(status), 1).counters == counters, advice
    snapshot = ModelSnapshot(NodeId(0), SnapshotPurpose.FINAL, 5, counters)
    assert snapshot_from_wire(snapshot_head(snapshot, "run", memoryview(b"")), 1).counters == counters, advice
    assert counters_from(counter_values(counters)) == counters, advice


@pytest.mark.parametrize("name", FIGURES)
def test_users_see_a_figure_where_its_line_says(name: str) -> None:
    match FIGURES[name].shown:
        case "summary":
            assert shown_in_summary(one_more(name)) != shown_in_summary(BASE), (
                f"{name}: summary.json does not depend on it: add it to sum_counters in node/core/counters.py,"
                " or declare where else it is shown"
            )
        case "nodes":
            assert name in NODE_COLUMNS, f"{name}: no column of nodes.parquet, which come from FIGURES"
            assert COLUMN_MEANINGS["nodes.parquet"][name], f"{name}: its column has no meaning"
        case "fidelity":
            assert shown_in_fidelity(one_more(name)) != shown_in_fidelity(BASE), (
                f"{name}: fidelity.json does not depend on it: judge it or tell it in orchestrator/fidelity.py,"
                " or declare where else it is shown"
            )


def test_parts_of_a_run_add_up_and_states_are_the_last_ones() -> None:
    earlier, later = NodeCounters(rounds=3, train_loss=0.5, queued_messages=9), NodeCounters(rounds=4, train_loss=0.25)
    both = add_counters(earlier, later)
    assert (both.rounds, both.train_loss, both.queued_messages) == (7, 0.25, 0)
    assert subtract_counters(earlier, both) == later


def test_of_what_is_as_at_the_start_nothing_is_told() -> None:
    assert counter_values(NodeCounters()) == {}
    assert counter_values(NodeCounters(rounds=2, train_loss=0.0)) == {"rounds": 2, "train_loss": 0.0}
    assert repr(counters_from({"rounds": 2, "train_loss": None, "unknown": 1})) == repr(NodeCounters(rounds=2))
