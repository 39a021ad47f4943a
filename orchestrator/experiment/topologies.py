"""Topologies of the experiment file, and how they become graphs."""

from typing import Annotated, Literal, assert_never

from pydantic import Field

from node.config_base import ConfigModel
from node.core import topology as graphs
from node.core.bounds import NODES_MAX
from node.core.errors import ConfigError
from node.core.rng import stream
from node.core.topology import Topology
from orchestrator.experiment.input_files import InputFiles


class FullTopology(ConfigModel):
    """Everyone is everyone's neighbor."""

    kind: Literal["full"] = "full"


class RingTopology(ConfigModel):
    """A cycle."""

    kind: Literal["ring"] = "ring"


class KRegularTopology(ConfigModel):
    """A random connected graph in which all nodes have the same degree."""

    kind: Literal["k_regular"] = "k_regular"
    degree: int = Field(ge=1, le=NODES_MAX, description="neighbors per node; nodes x degree must be even")


class SmallWorldTopology(ConfigModel):
    """A Watts-Strogatz graph: a ring lattice with some edges rewired at random."""

    kind: Literal["small_world"] = "small_world"
    degree: int = Field(default=4, ge=2, le=NODES_MAX, description="mean number of neighbors, even")
    rewire_probability: float = Field(default=0.1, ge=0, le=1, description="share of edges moved at random")


class TorusTopology(ConfigModel):
    """A grid that wraps around; without sides, the most nearly square one."""

    kind: Literal["torus"] = "torus"
    rows: int | None = Field(default=None, ge=2, le=NODES_MAX, description="rows of the grid")
    columns: int | None = Field(default=None, ge=2, le=NODES_MAX, description="columns of the grid")


class ExponentialTopology(ConfigModel):
    """Node i is joined to i +- 1, 2, 4, 8, ..."""

    kind: Literal["exponential"] = "exponential"


class ErdosRenyiTopology(ConfigModel):
    """Every pair is joined with the same probability."""

    kind: Literal["erdos_renyi"] = "erdos_renyi"
    edge_probability: float = Field(gt=0, le=1, description="probability of each edge")


class StarTopology(ConfigModel):
    """Node 0 in the centre."""

    kind: Literal["star"] = "star"


class CompleteBipartiteTopology(ConfigModel):
    """Even nodes against odd nodes."""

    kind: Literal["complete_bipartite"] = "complete_bipartite"


class EdgeListTopology(ConfigModel):
    """The edges of a text file: two node numbers a line, ``#`` starts a comment."""

    kind: Literal["edge_list"] = "edge_list"
    file: str = Field(min_length=1, description="path, relative to the experiment file")


TopologyConfig = Annotated[
    FullTopology
    | RingTopology
    | KRegularTopology
    | SmallWorldTopology
    | TorusTopology
    | ExponentialTopology
    | ErdosRenyiTopology
    | StarTopology
    | CompleteBipartiteTopology
    | EdgeListTopology,
    Field(discriminator="kind"),
]


def build_topology(config: TopologyConfig, num_nodes: int, seed: int, files: InputFiles) -> Topology:
    """The graph that a configuration asks for.

    Args:
        config: The ``topology`` section.
        num_nodes: How many nodes there are, >= 1.
        seed: The experiment's seed; random graphs depend on nothing else.
        files: Where an edge list is looked for.

    Raises:
        ConfigError: The graph does not exist for this many nodes, is not connected, or its file is wrong.
    """
    try:
        graph = _build(config, num_nodes, seed, files)
    except ConfigError as error:
        raise ConfigError(_with_key(str(error), config.kind)) from None
    components = graph.components()
    if len(components) > 1:
        sizes = sorted(map(len, components), reverse=True)
        shown = ", ".join(map(str, sizes[:8])) + (", ..." if len(sizes) > 8 else "")
        raise ConfigError(
            f"topology.kind={config.kind}: must be connected, has {len(sizes)} components of sizes {shown}"
        )
    return graph


def _with_key(message: str, kind: str) -> str:
    """A message about a graph in the words of the file, where the number of nodes stands outside the section."""
    if message.startswith("num_nodes="):
        return f"{message.removeprefix('num_')} (topology.kind={kind})"
    return f"topology.{message.replace('num_nodes', 'nodes')}"


def _build(config: TopologyConfig, num_nodes: int, seed: int, files: InputFiles) -> Topology:
    rng = stream(seed, "topology")
    match config:
        case FullTopology():
            return graphs.full(num_nodes)
        case RingTopology():
            return graphs.ring(num_nodes)
        case KRegularTopology(degree=degree):
            return graphs.k_regular(num_nodes, degree=degree, rng=rng)
        case SmallWorldTopology(degree=degree, rewire_probability=probability):
            return graphs.small_world(num_nodes, degree=degree, rewire_probability=probability, rng=rng)
        case TorusTopology(rows=rows, columns=columns):
            return graphs.torus(num_nodes, rows=rows, columns=columns)
        case ExponentialTopology():
            return graphs.exponential(num_nodes)
        case ErdosRenyiTopology(edge_probability=probability):
            return graphs.erdos_renyi(num_nodes, edge_probability=probability, rng=rng)
        case StarTopology():
            return graphs.star(num_nodes)
        case CompleteBipartiteTopology():
            return graphs.complete_bipartite(num_nodes)
        case EdgeListTopology(file=file):
            return graphs.parse_edge_list(files.read(file, "file"), num_nodes, place=f"file={file}")
        case _:
            assert_never(config)
