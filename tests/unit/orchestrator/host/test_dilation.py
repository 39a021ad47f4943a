"""The recommended time dilation: what it rests on and what bounds it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.plan import Plan, make_plan
from orchestrator.host.costs import HostCosts
from orchestrator.host.dilation import (
    DILATION_MAX,
    LOAD_MAX,
    NODE_LOAD_MAX,
    observe_traffic,
    real_seconds,
    recommend,
    round_up,
)

SIZES = (9_000, 1_000)
COSTS = HostCosts(message_cpu_s=0.4e-3, byte_cpu_s=3e-9, round_cpu_s=4e-3, round_param_cpu_s=20e-9, path_s=2.5e-3)


def planned(folder: Path = Path(), **changes: Any) -> Plan:
    content: dict[str, Any] = {
        "name": "x",
        "nodes": 8,
        "algorithm": {"kind": "local", "local_steps": 10, "divshare": {"recipients": 3}, "adpsgd": {"roles": "parity"}},
        "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
        "compute": {"step_time_ms": 10},
        "network": {"preset": {"kind": "uniform", "bandwidth_mbps": None}},
        "stop": {"time_s": 30},
    }
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(content.get(key), dict) else value
    return make_plan(parse_experiment(content, "x"), folder)


def with_kind(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"kind": kind, "local_steps": 10, kind: parameters}


def test_a_host_with_room_needs_no_dilation() -> None:
    found = recommend(planned(), SIZES, step_seconds=0.001, cores=10, costs=COSTS)
    assert found.dilation == 1.0
    assert found.demand_cores == found.training_cores == pytest.approx(0.8)
    assert found.reasons[-1] == "nothing bounds it: 0.80 of 10 cores are needed"


def test_cores_bound_it() -> None:
    found = recommend(planned(compute={"jitter_percent": 5}), SIZES, step_seconds=0.004, cores=2, costs=COSTS)
    assert found.training_cores == pytest.approx(3.2)
    assert found.dilation == 3.0  # 3.2 / 1.2 = 2.67
    assert "the host's cores bound it, mostly by training" in found.reasons[-1]


def test_rounds_that_end_together_bound_it_on_a_small_host() -> None:
    found = recommend(planned(), SIZES, step_seconds=1e-5, cores=2, costs=COSTS)
    assert found.dilation == 5.0  # eight nodes, 4 ms each and a little for the model, on two cores, within 4 ms
    assert "rounds that end together bound it" in found.reasons[-1]
    apart = planned(compute={"jitter_percent": 5})
    assert recommend(apart, SIZES, step_seconds=1e-5, cores=2, costs=COSTS).dilation == 1.0


def test_messages_that_begin_at_once_count_where_rounds_end_together() -> None:
    """Four fragments to three nodes each reach most of seven peers: as many messages begin as there are places."""
    kind = with_kind("divshare", recipients=3, omega=0.25)
    found = {}
    for sender in ({"kind": "serial"}, {"kind": "parallel", "transfers": 3}, {"kind": "per_peer"}):
        plan = planned(algorithm=kind, network={"sender": sender})
        costs = HostCosts(2e-3, 0.0, 0.0, 0.0, 0.0)
        found[sender["kind"]] = recommend(plan, SIZES, step_seconds=1e-5, cores=8, costs=costs).dilation
    # Eight nodes on eight cores, 2 ms a message, within 4 ms.
    assert found == {"serial": 1.0, "parallel": 1.5, "per_peer": 3.5}


def test_a_sender_with_a_queue_for_each_peer_uses_all_links_of_its_pairs_at_once() -> None:
    kind = with_kind("adpsgd", roles="parity")
    pairwise = {"model": "pairwise", "preset": {"kind": "uniform", "bandwidth_mbps": 0.2}}
    rates = []
    for sender in ({"kind": "serial"}, {"kind": "per_peer"}):
        plan = planned(algorithm=kind, network={**pairwise, "sender": sender})
        rates.append(recommend(plan, SIZES, step_seconds=1e-5, cores=8, costs=COSTS).message_cores)
    assert rates[1] == pytest.approx(7 * rates[0])


def test_what_is_recommended_follows_the_host() -> None:
    plan = planned(algorithm=with_kind("divshare", recipients=3))
    slow = recommend(plan, SIZES, step_seconds=1e-5, cores=2, costs=COSTS)
    cheap = HostCosts(0.1e-3, 3e-9, 0.5e-3, 20e-9, 2.5e-3)
    # Eight nodes on two cores: 4.6 ms a node, each with its first message, and 0.8 ms, within 4 ms.
    assert slow.dilation == 5.0
    assert recommend(plan, SIZES, step_seconds=1e-5, cores=2, costs=cheap).dilation == 1.0
    alone = planned()  # sends nothing
    assert recommend(alone, SIZES, step_seconds=1e-5, cores=2, costs=COSTS).reasons[-1].count("16.8 ms") == 1
    assert "what 8 nodes do then takes 18.4 ms" in slow.reasons[-1]


def test_links_without_latency_show_what_the_host_takes() -> None:
    at_once = planned(network={"preset": {"kind": "uniform", "bandwidth_mbps": 10, "latency_ms": 0}})
    found = recommend(at_once, SIZES, step_seconds=1e-5, cores=100, costs=COSTS)
    assert found.dilation == 3.5  # 2.5 ms of the host within 0.8 ms
    assert "links without latency bound it" in found.reasons[-1]
    covered = planned(network={"preset": {"kind": "uniform", "bandwidth_mbps": 10, "latency_ms": 1}})
    assert recommend(covered, SIZES, step_seconds=1e-5, cores=100, costs=COSTS).dilation == 1.0


def test_one_node_bounds_it_on_a_large_host() -> None:
    found = recommend(planned(), SIZES, step_seconds=0.0161, cores=128, costs=COSTS)
    assert found.dilation == 2.25  # 16.1 ms into 80 % of 10 ms
    assert "one node's training bounds it" in found.reasons[-1]


def test_a_slowed_node_trains_less() -> None:
    slow = planned(compute={"stragglers": {"count": 4, "factor": 4}})
    assert recommend(slow, SIZES, step_seconds=0.004, cores=2, costs=COSTS).training_cores == pytest.approx(
        4 * 0.4 + 4 * 0.1
    )


def test_messages_are_bounded_by_rounds_and_by_links() -> None:
    divshare = planned(algorithm=with_kind("divshare", recipients=3))
    cost_s = COSTS.message_cpu_s + COSTS.byte_cpu_s * (4_000 + 64)
    # 10 fragments to 3 nodes each, in a round of 100 ms.
    assert recommend(divshare, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores == pytest.approx(
        8 * 300 * cost_s
    )
    narrow = planned(
        algorithm=with_kind("divshare", recipients=3), network={"preset": {"kind": "uniform", "bandwidth_mbps": 2}}
    )
    by_link = 2e6 / 8 / (4_000 + 64)
    assert recommend(narrow, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores == pytest.approx(
        8 * by_link * cost_s
    )
    half = planned(algorithm=with_kind("divshare", recipients=3), wire={"dtype": "float16"})
    assert recommend(half, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores == pytest.approx(
        8 * 300 * (COSTS.message_cpu_s + COSTS.byte_cpu_s * (2_000 + 64))
    )


def test_links_of_pairs_count() -> None:
    network = {
        "model": "pairwise",
        "preset": {"kind": "uniform", "bandwidth_mbps": 2},
        "sender": {"kind": "parallel", "transfers": 3},
    }
    pairwise = planned(algorithm=with_kind("divshare", recipients=3), network=network)
    assert pairwise.network.pair_mbps is not None
    one = planned(algorithm=with_kind("divshare", recipients=3), network={"preset": network["preset"]})
    cores = [recommend(plan, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores for plan in (one, pairwise)]
    assert cores[1] == pytest.approx(3 * cores[0])


@pytest.mark.parametrize("ends", [{"node": 0, "direction": "up"}, {"pair": [0, 1]}], ids=["access", "pairwise"])
def test_a_link_counts_as_what_it_is_at_most(ends: dict[str, Any], tmp_path: Path) -> None:
    """One link is ten times as fast for a while; changes of a downlink send nothing."""
    (tmp_path / "faster.csv").write_text("time_s,bandwidth_mbps\n0,2\n1,20\n2,0.5\n")
    base = {"model": "pairwise" if "pair" in ends else "access", "preset": {"kind": "uniform", "bandwidth_mbps": 2}}
    cores = []
    for traces in ([], [{**ends, "file": "faster.csv"}], [{"node": 0, "direction": "down", "file": "faster.csv"}]):
        # So many messages that links bound them, and not rounds.
        kind = with_kind("divshare", recipients=7) | {"local_steps": 1}
        plan = planned(tmp_path, algorithm=kind, network={**base, "traces": traces})
        cores.append(recommend(plan, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores)
    one = cores[0] / 8  # of a node
    assert cores[1] == pytest.approx(cores[0] + 9 * one)
    assert cores[2] == pytest.approx(cores[0])


def test_the_shortest_of_different_paths_and_a_single_node() -> None:
    """Where no latency hides what the host takes, the shortest path bounds the dilation; a single node has none."""
    near = [{"source": a, "destination": b, "latency_ms": 0} for a, b in ((0, 1), (1, 0))]
    preset = {"kind": "uniform", "bandwidth_mbps": 10, "latency_ms": 50}
    for overrides, expected in (([], 1.0), (near[:1], 1.0), (near, 3.5)):
        plan = planned(network={"preset": preset, "overrides": overrides})
        assert recommend(plan, SIZES, step_seconds=1e-5, cores=100, costs=COSTS).dilation == expected
    assert recommend(planned(nodes=1), SIZES, step_seconds=1e-5, cores=100, costs=COSTS).dilation == 1.0


def test_answers_count_as_messages() -> None:
    asks = planned(algorithm=with_kind("adpsgd", roles="parity"))
    cost_s = COSTS.message_cpu_s + COSTS.byte_cpu_s * (40_000 + 64)
    # Four nodes ask once a round of 100 ms and are answered.
    assert recommend(asks, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores == pytest.approx(
        4 * 2 * 10 * cost_s
    )
    chained = planned(
        algorithm=with_kind("adpsgd", roles="parity", exchange="continuous"),
        network={"preset": {"kind": "uniform", "bandwidth_mbps": 60}},
    )
    by_link = 60e6 / 8 / (40_000 + 64)
    assert recommend(chained, SIZES, step_seconds=1e-6, cores=2, costs=COSTS).message_cores == pytest.approx(
        4 * 2 * by_link * cost_s
    )
    blocking = observe_traffic(
        planned(algorithm=with_kind("adpsgd", roles="parity", form="blocking")).algorithms(SIZES)[0], 10_000
    )
    assert (blocking.messages_per_round, blocking.chains) == (1.0, False)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_can_be_watched(kind: str) -> None:
    plan = planned(algorithm=planned().config.algorithm.model_dump(mode="json") | {"kind": kind})
    found = recommend(plan, SIZES, step_seconds=0.001, cores=2, costs=COSTS)
    assert (found.message_cores > 0) == (kind != "local")
    assert len(found.reasons) == 3


def test_an_experiment_that_no_dilation_makes_fit_is_refused() -> None:
    fast = planned(compute={"step_time_ms": 1e-5})
    with pytest.raises(ConfigError, match=r"^compute\.step_time_ms=1e-05: this host takes 2 ms a step"):
        recommend(fast, SIZES, step_seconds=0.002, cores=2, costs=COSTS)


@given(st.floats(0.0, DILATION_MAX))
def test_rounding_goes_up_and_not_far(dilation: float) -> None:
    rounded = round_up(dilation)
    assert rounded >= max(1.0, dilation)
    assert rounded <= max(1.0, 1.3334 * dilation)
    assert round_up(rounded) == rounded


def test_the_rounded_values_are_the_usual_ones() -> None:
    values = (0, 1, 1.01, 1.3, 1.6, 1.8, 2.1, 2.3, 2.6, 3.1, 3.6, 4.5, 5.5, 7, 9, 11, 99, 9_999)
    assert [round_up(value) for value in values] == [
        *(1, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12.5, 100, 10_000),
    ]


GOSSIP = planned(algorithm=with_kind("divshare", recipients=3))


@given(st.floats(1e-5, 0.1), st.integers(1, 64))
def test_what_is_recommended_fits_the_host(step_seconds: float, cores: int) -> None:
    found = recommend(GOSSIP, SIZES, step_seconds=step_seconds, cores=cores, costs=COSTS)
    assert found.demand_cores / found.dilation <= LOAD_MAX * cores * 1.0001
    assert step_seconds / found.dilation <= NODE_LOAD_MAX * 0.010 * 1.0001


def test_real_time_of_a_run() -> None:
    assert real_seconds(planned(), 2.5) == (75.0, False)
    assert real_seconds(planned(stop={"time_s": None, "rounds": 50}), 2.0) == (10.0, True)  # 50 rounds of 100 ms
    assert real_seconds(planned(stop={"time_s": 3, "rounds": 50}), 2.0) == (6.0, False)
