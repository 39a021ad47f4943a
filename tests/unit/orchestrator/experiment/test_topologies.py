"""Every kind of topology can be asked for, and mistakes end in one line."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from node.core.errors import ConfigError
from node.core.topology import Topology
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.topologies import TopologyConfig, build_topology

ADAPTER: TypeAdapter[Any] = TypeAdapter(TopologyConfig)

KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({}, 66),
    "ring": ({}, 12),
    "k_regular": ({"degree": 3}, 18),
    "small_world": ({"degree": 4, "rewire_probability": 0.2}, 24),
    "torus": ({"rows": 3, "columns": 4}, 24),
    "exponential": ({}, 36),
    "erdos_renyi": ({"edge_probability": 1.0}, 66),
    "star": ({}, 11),
    "complete_bipartite": ({}, 36),
    "edge_list": ({"file": "path.txt"}, 11),
}


def build(fields: dict[str, Any], base_dir: Path = Path(), nodes: int = 12, seed: int = 1) -> Topology:
    return build_topology(ADAPTER.validate_python(fields), nodes, seed, InputFiles([base_dir]))


def test_every_kind_is_listed_here() -> None:
    union = get_args(get_args(TopologyConfig)[0])
    assert {part.model_fields["kind"].default for part in union} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind: str, tmp_path: Path) -> None:
    (tmp_path / "path.txt").write_text("\n".join(f"{i} {i + 1}" for i in range(11)))
    fields, edges = KINDS[kind]
    graph = build({"kind": kind, **fields}, tmp_path)
    assert graph.num_nodes == 12
    assert graph.is_connected()
    assert graph.num_edges == edges
    assert graph == build({"kind": kind, **fields}, tmp_path)


def test_seeds_differ() -> None:
    fields = {"kind": "erdos_renyi", "edge_probability": 0.5}
    assert build(fields, seed=1) != build(fields, seed=2)


def test_a_disconnected_graph_is_refused_with_its_sizes(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("0 1\n1 2\n3 4\n")
    with pytest.raises(ConfigError) as caught:
        build({"kind": "edge_list", "file": "g.txt"}, tmp_path, nodes=6)
    assert str(caught.value) == ("topology.kind=edge_list: must be connected, has 3 components of sizes 3, 2, 1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "torus"}, "nodes=13: must be a product"),
        ({"kind": "k_regular", "degree": 3}, "topology.degree=3: nodes x degree = 39 must be even"),
        ({"kind": "edge_list", "file": "none.txt"}, "topology.file=none.txt: must be a readable text file"),
        ({"kind": "edge_list", "file": "bad.txt"}, "topology.file=bad.txt:1: edge=0 99: both ends must be"),
    ],
)
def test_mistakes_name_the_key(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("0 99\n")
    with pytest.raises(ConfigError) as caught:
        build(fields, tmp_path, nodes=13)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unknown_kinds_and_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"kind": "moebius"})
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"kind": "ring", "degree": 2})
