"""Any experiment's nodes survive their files; any damage of a file is refused, or changes nothing."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.algorithms.registry import ALGORITHMS
from node.config import Beginning, NodeConfig
from node.config_file import read_node_config, write_node_files
from node.core.errors import ConfigError
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.steps import Steps
from node.host.clock import Clock
from node.learning.build import partition_dataset
from node.learning.datasets import load_dataset
from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.node_configs import RunPart, node_configs
from orchestrator.experiment.plan import make_plan
from orchestrator.runs.certificates import issue_credentials
from tests.node_files import check_same, edit_json, through_files

NODES = 8
ISSUED = issue_credentials("t-1", NODES, timedelta(hours=1))
SIZES = (30, 10)

TOPOLOGIES: list[dict[str, Any]] = [
    {"kind": "full"},
    {"kind": "ring"},
    {"kind": "star"},
    {"kind": "torus"},
    {"kind": "exponential"},
    {"kind": "complete_bipartite"},
    {"kind": "k_regular", "degree": 3},
    {"kind": "small_world", "degree": 4},
    {"kind": "erdos_renyi", "edge_probability": 0.7},
]
NETWORKS: list[dict[str, Any]] = [
    {},
    {"preset": {"kind": "uniform", "bandwidth_mbps": 3, "latency_ms": 0.1, "jitter_ms": 0.3, "loss_percent": 1}},
    {"preset": {"kind": "stragglers", "count": 2, "factor": 5}},
    {"model": "pairwise", "preset": {"kind": "regions"}, "sender": {"kind": "parallel", "transfers": 3}},
    {
        "model": "pairwise",
        "preset": {"kind": "regions", "latency": "rtt", "jitter_ms": 2, "loss_percent": 0.5},
        "message_header_bytes": 0,
    },
    {"framing": "ethernet", "tls": False},
    {"overrides": [{"source": 0, "destination": 1, "bandwidth_mbps": 1, "latency_ms": 3, "loss_percent": 2}]},
]
CLASSES: dict[str, Any] = {
    "dataset": {"kind": "synthetic", "samples": 400, "test_samples": 10, "features": 3, "classes": 4},
    "model": {"kind": "logistic_regression"},
}
RATINGS: dict[str, Any] = {"dataset": {"kind": "synthetic_ratings"}, "model": {"kind": "matrix_factorization"}}
LEARNING: list[dict[str, Any]] = [
    {**CLASSES, "partition": {"kind": "iid"}, "optimizer": {"learning_rate": 0.1, "momentum": 0.9}},
    {**CLASSES, "partition": {"kind": "k_shards", "shards": 2}, "precision": "bfloat16"},
    {**CLASSES, "partition": {"kind": "dirichlet", "alpha": 0.3}},
    {**RATINGS, "partition": {"kind": "by_user"}},
    {**RATINGS, "partition": {"kind": "iid"}},
]


def nodes_of(**sections: Any) -> list[NodeConfig]:
    """The nodes of an experiment; three local algorithms fit any topology, the others are told what fits them."""
    content = {
        "name": "t",
        "nodes": NODES,
        "algorithm": {"kind": "local"},
        "learning": LEARNING[0],
        "network": {},
        "stop": {"rounds": 1},
        **sections,
    }
    plan = make_plan(parse_experiment(content, "f.yaml"), Path())
    learning = plan.config.learning
    split = partition_dataset(learning, load_dataset(learning.dataset, None, 1), NODES, 1)
    rng = np.random.default_rng(3)
    beginnings = [Beginning(rng.standard_normal(40).astype(np.float32), node, 2 * node) for node in range(NODES)]
    part = RunPart("t-1", Clock(7, 1.5), 0, 60.0, SIZES, "127.0.0.1:4711", "127.0.0.1", None, ISSUED.nodes)
    return node_configs(plan, part, split.train_indices, beginnings)


def check_round_trip(configs: list[NodeConfig]) -> None:
    for found, wanted in zip(through_files(configs), configs, strict=True):
        check_same(found, wanted)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm(kind: str) -> None:
    section: dict[str, Any] = {
        "kind": kind,
        "divshare": {"recipients": 2, "flush": "all", "layout": "strided", "omega": 0.3},
        "swift_divshare": {"recipients": 2},
        "adpsgd_pingpong": {"recipients": 2},
        "epidemic": {"recipients": 2},
    }
    check_round_trip(
        nodes_of(algorithm=section, topology={"kind": "complete_bipartite" if kind == "adpsgd" else "full"})
    )


@pytest.mark.parametrize("section", TOPOLOGIES, ids=lambda section: section["kind"])
def test_every_topology(section: dict[str, Any]) -> None:
    check_round_trip(nodes_of(topology=section))


@pytest.mark.parametrize("section", NETWORKS, ids=range(len(NETWORKS)))
def test_every_network(section: dict[str, Any]) -> None:
    check_round_trip(nodes_of(network=section))


@pytest.mark.parametrize("section", LEARNING, ids=lambda section: section["partition"]["kind"])
def test_every_partition(section: dict[str, Any]) -> None:
    check_round_trip(nodes_of(learning=section))


OVERLAYS = st.builds(
    Overlay,
    bandwidth_factor=st.floats(0.1, 3.0),
    latency_factor=st.floats(0.0, 5.0),
    latency_ns=st.integers(0, 10**15),
    jitter_ns=st.floats(0.0, 1e15),
    loss=st.floats(0.0, 0.999),
)
PLACES = st.sampled_from(
    [Place("up", 3, -1), Place("down", -1, 0), *(Place("pair", s, d) for s, d in ((0, 1), (1, 0), (2, 5), (7, 2)))]
)
TIMES = st.lists(st.integers(0, 2**62), min_size=2, max_size=2, unique=True).map(sorted)
SPANS = st.lists(st.builds(lambda times, *rest: LinkSpan(*times, *rest), TIMES, PLACES, OVERLAYS), max_size=12)
PARTITIONS = st.lists(st.lists(st.integers(-1, 3), min_size=NODES, max_size=NODES).map(tuple), max_size=3).map(tuple)
SPEEDS = st.dictionaries(
    st.integers(0, NODES - 1),
    st.lists(st.tuples(st.integers(0, 2**62), st.floats(0, 10)), max_size=5, unique_by=lambda item: item[0]).map(
        lambda steps: (
            Steps(1.0, *(tuple(column) for column in zip(*sorted(steps), strict=True))) if steps else Steps(1.0)
        )
    ),
)


@settings(max_examples=60, deadline=None)
@given(spans=SPANS, partitions=PARTITIONS, speeds=SPEEDS, seed=st.integers(0, NODES - 1))
def test_every_schedule(
    spans: list[LinkSpan], partitions: tuple[tuple[int, ...], ...], speeds: dict[int, Steps[float]], seed: int
) -> None:
    """And each node finds on its own paths what the whole network has there, at any time."""
    first = WRITTEN[0]
    network = scheduled(replace(first.network, partitions=partitions), Schedule(links=tuple(spans)))
    compute = replace(first.compute, speeds=speeds)
    update = {"network": network, "compute": compute}
    found = through_files([config.model_copy(update=update) for config in WRITTEN])
    for config, wanted in zip(found, WRITTEN, strict=True):
        check_same(config, wanted.model_copy(update=update))
    times_ns = {0, 2**62, *(time_ns for span in spans for time_ns in (span.begin_ns, span.end_ns or 0))}
    for time_ns in times_ns:
        for peer in set(range(NODES)) - {seed}:
            assert found[seed].network.path(seed, peer, time_ns) == network.path(seed, peer, time_ns)
            assert found[seed].network.path(peer, seed, time_ns) == network.path(peer, seed, time_ns)


# --- damage -------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["node-0002.json", "node-0002.npz", "node-0002.pem", "common.npz"]), data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject) -> None:
    """A bit is flipped, a byte removed or added, or the end is missing: refused in one line, or equal in meaning."""
    with TemporaryDirectory() as folder:
        path = write_node_files(Path(folder), WRITTEN)[2]
        file = Path(folder) / name
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "remove", "add", "cut"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "remove":
                del content[place]
            case "add":
                content.insert(place, data.draw(st.integers(0, 255)))
            case "cut":
                del content[place:]
        file.write_bytes(content)
        found = read_or_refuse(path)
        if found is not None:
            check_same(found, WRITTEN[2])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=JSON)
def test_values_of_any_kind(data: st.DataObject, value: Any) -> None:
    """Any value in any place of the JSON file, under a digest that fits: never an error of another kind."""
    with TemporaryDirectory() as folder:
        path = write_node_files(Path(folder), WRITTEN)[2]

        def edit(content: dict[str, Any]) -> None:
            while True:
                key = data.draw(st.sampled_from(sorted(content)))
                if not isinstance(content[key], dict) or not content[key] or data.draw(st.booleans()):
                    content[key] = value
                    return
                content = content[key]

        edit_json(path, edit)
        read_or_refuse(path)


def read_or_refuse(path: Path) -> NodeConfig | None:
    """The node, or None where a file of it was refused in one line."""
    try:
        return read_node_config(path)
    except ConfigError as error:
        refusal = str(error)
    assert refusal.startswith(str(path.parent))
    assert "\n" not in refusal
    return None


WRITTEN = nodes_of(network=NETWORKS[3], algorithm={"kind": "divshare", "divshare": {"recipients": 2}})
