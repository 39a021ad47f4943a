"""Examples of public formats in the simulator: what their files say happens to nodes and links."""

from pathlib import Path

import numpy as np
import pytest

from node.core.algorithm import Algorithm
from node.core.training import QuadraticTrainer
from node.core.types import NodeId
from node.core.units import s_to_ns
from node.sim.node_faults import NodeFates
from node.sim.world import World
from orchestrator.experiment.config import read_experiment
from orchestrator.experiment.plan import Plan, make_plan
from tests.simulation.build import NUM_PARAMS
from tests.simulation.test_conservation import check_bytes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "deploy" / "experiments"


def planned(name: str, *overrides: str) -> Plan:
    file = EXPERIMENTS / f"{name}.yaml"
    return make_plan(read_experiment(file, overrides), file.parent)


def world_of(plan: Plan) -> World:
    """The world of a plan, with quadratic objectives in place of its data."""
    targets = np.random.default_rng(1).standard_normal((plan.config.nodes, NUM_PARAMS)).astype(np.float32)
    trainer = QuadraticTrainer(targets, 0.1)

    def make(node: NodeId, life: int) -> Algorithm:
        return plan.algorithm_of(node, trainer.tensor_sizes, life=life)

    made = World(
        algorithms=[make(NodeId(node), 0) for node in range(plan.config.nodes)],
        trainer=trainer,
        network=plan.network,
        compute=plan.compute,
        seed=plan.config.seed,
    )
    if states := plan.schedule.node_states():
        made.let_happen(NodeFates(states, make))
    return made


@pytest.mark.parametrize(("name", "until_s"), [("phones", 900), ("kollaps-star", 17), ("mixed-access", 5)])
def test_an_example_runs(name: str, until_s: float) -> None:
    plan = planned(name)
    w = world_of(plan)
    w.advance(s_to_ns(until_s))
    check_bytes(w)
    assert min(node.counters.rounds for node in w.nodes) > 0
    assert w.totals.messages["aggregated"] > 100
    assert planned(name).schedule == plan.schedule


def test_a_phone_works_as_long_as_it_is_there_and_as_fast_as_it_is() -> None:
    plan = planned("phones", "algorithm.kind=local")
    w = world_of(plan)
    w.advance(s_to_ns(3600))
    states = plan.schedule.node_states()
    for node in w.nodes:
        away = [one for one in plan.entries[0].told.absences if one.node == node.index]
        assert node.index in states
        away_ns = sum(min(one.end_ns or 0, s_to_ns(3600)) - one.begin_ns for one in away)
        whole_rounds = (s_to_ns(3600) - away_ns) / (16 * plan.compute.step_ns[node.index])
        # A round that ends with a crash is lost, and the model of before is trained again.
        assert whole_rounds - len(away) - 1 <= node.counters.rounds <= whole_rounds
