"""The description of one node: everything that it must know to run, as plain values.

A :class:`NodeConfig` holds no live object: no socket, no algorithm that has begun, no loaded data. So it can be written
to a file (:mod:`node.config_file`) and built anywhere (:mod:`node.build`): in a process that was forked from a warm
parent, in a new interpreter, in a container. Times are testbed time in nanoseconds unless they say otherwise.

A node is told nothing that it does not use: capacities and partitions are changed by the emulator or by the kernel,
and models are tested by the orchestrator. Of these changes it knows bounds
(:class:`~node.core.link_bounds.RateBounds`), from which its waits and buffers follow. What is laid over its paths
besides rates, and its own speed, are its own to apply.
"""

import json
from dataclasses import dataclass

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    InstanceOf,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.config_base import ConfigModel, first_problem
from node.core.compute import ComputePlan
from node.core.errors import ConfigError
from node.core.link_bounds import RateBounds
from node.core.links import NetworkPlan
from node.core.topology import Topology
from node.core.types import IndexVector, NodeId, Vector
from node.core.units import NEVER_NS
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.host.credentials import Credentials
from node.learning.config import LearningConfig

INT64_MAX = 2**63 - 1


@dataclass(frozen=True, eq=False)
class Beginning:
    """Point from which a node begins: the start of an experiment, or where an earlier part of it ended.

    Attributes:
        params: Its model, shape (num_params,), float32.
        rounds: Rounds done before.
        local_steps: Local steps done before.
        life: How often the node has come back after it had gone down, in this part of the run.
        down_since_ns: When it had gone down then, testbed time; None in its first life.
    """

    params: Vector
    rounds: int = 0
    local_steps: int = 0
    life: int = 0
    down_since_ns: int | None = None


class NodeAlgorithm(ConfigModel):
    """The algorithm that all nodes run."""

    model_config = ConfigDict(strict=True)

    kind: str
    local_steps: int = Field(ge=1, le=INT64_MAX, description="H: local steps in a round")
    parameters: SerializeAsAny[AlgorithmConfig]

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in ALGORITHMS:
            raise ValueError(f"must be one of {', '.join(ALGORITHMS)}")
        return kind

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_that_kind(cls, value: object, info: ValidationInfo) -> AlgorithmConfig:
        if "kind" not in info.data:  # that is the error to tell
            return AlgorithmConfig()
        declared = ALGORITHMS[info.data["kind"]].config
        if isinstance(value, declared):
            return value
        try:
            return declared.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None


class NodeScalars(ConfigModel):
    """The part of a node's description that is not arrays. Its JSON form is what these fields say."""

    model_config = ConfigDict(strict=True)

    run_id: str = Field(min_length=1, max_length=255, description="the run's name")
    node: NodeId = Field(ge=0, description="which node")
    seed: int = Field(ge=0, le=INT64_MAX, description="of all randomness in the run")
    algorithm: NodeAlgorithm
    tensor_sizes: tuple[int, ...] = Field(min_length=1, description="scalars in each tensor of the model, in order")
    learning: LearningConfig
    emulator_clock: Clock = Field(description="the link emulator's time, and the time dilation")
    orchestrator: str = Field(pattern=r"^\S+:\d{1,5}$", description="where the orchestrator serves: host:port")
    emulator: str | None = Field(min_length=1, description="where the link emulator listens; null for direct links")
    data_root: str | None = Field(min_length=1, description="folder with data sets; null for data that needs no files")
    host: str = Field(min_length=1, description="address to listen on for peers")
    port: int = Field(ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    advertised: str | None = Field(
        pattern=r"^\S{1,255}$", description="host by which peers reach the node; null where it is the one to listen on"
    )
    delays_arrivals: bool = Field(
        description="hold what arrives for the latency and jitter of its link, which nothing else adds to direct links"
    )
    evaluation_interval_ns: int = Field(ge=1, le=INT64_MAX, description="between two snapshots")
    evaluate_after_training: bool = Field(
        description="hand over the model after training instead of the one after aggregation"
    )
    end_ns: int | None = Field(ge=1, le=INT64_MAX, description="when the experiment ends; null if only rounds end it")
    max_rounds: int | None = Field(ge=1, le=INT64_MAX, description="rounds in all; null for no limit")
    keep_messages: bool = Field(description="record the life of every message")
    start_timeout_s: float = Field(gt=0, description="real time that the start may take")
    metrics_host: str | None = Field(
        min_length=1, description="address on which metrics are served, on a free port; null serves none"
    )
    peer_labels: bool = Field(description="tell metrics of single peers as well")
    begin_ns: int = Field(
        ge=0, le=INT64_MAX, description="when the node begins: 0, where an earlier part ended, or when it comes back"
    )
    down_ns: int | None = Field(ge=0, le=INT64_MAX, description="when it goes down on purpose; null for never")
    rates: RateBounds = Field(description="bounds of what links have from then on, which waits and buffers follow")

    @field_validator("tensor_sizes")
    @classmethod
    def _not_empty(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError("must all be at least 1")
        return sizes

    @field_validator("emulator_clock")
    @classmethod
    def _runs_forward(cls, clock: Clock) -> Clock:
        if not clock.dilation > 0:
            raise ValueError(f"dilation={clock.dilation:g}: must be above 0")
        return clock

    @field_validator("rates")
    @classmethod
    def _can_be(cls, rates: RateBounds) -> RateBounds:
        for name in ("slowest_mbps", "fastest_mbps", "up_mbps_max", "pair_mbps_max", "standstill_ns"):
            value = getattr(rates, name)
            if value is not None and not 0 <= value <= INT64_MAX:
                raise ValueError(f"{name}={value}: must be at least 0, or null")
        if rates.slowest_mbps == 0:
            raise ValueError("slowest_mbps=0: must be above 0, or null")
        return rates

    @property
    def num_params(self) -> int:
        """d, the length of the flat parameter vector."""
        return sum(self.tensor_sizes)


class NodeConfig(NodeScalars):
    """Everything that one node must know.

    Attributes:
        topology: Who may exchange with whom; all nodes.
        network: The links of all nodes. Its changes are for the emulator alone, and a file leaves them out. Of what is
            laid over links it holds access links and the pairs of which this node is an end.
        compute: The declared compute speed of all nodes; changes of speed are this node's alone.
        pauses: Times in which nodes stand still on purpose, shape (k, 3), int64: node, begin, end; the receivers'
            among them tell nobody what has arrived until they go on.
        train_indices: The node's own samples: positions in the training set, shape (k,), int64, k >= 1.
        beginning: Where it begins.
        credentials: Its certificate and key for traffic with its peers and the orchestrator; None for plain text.

    Raises:
        ConfigError: Parts do not fit together; one line with the key, its value and the bound.
    """

    topology: InstanceOf[Topology]
    network: InstanceOf[NetworkPlan]
    compute: InstanceOf[ComputePlan]
    pauses: InstanceOf[IndexVector]
    train_indices: InstanceOf[IndexVector]
    beginning: InstanceOf[Beginning]
    credentials: InstanceOf[Credentials] | None

    @model_validator(mode="after")
    def _fits_together(self) -> "NodeConfig":
        count = self.network.num_nodes
        if self.node >= count:
            raise ConfigError(f"node={self.node}: must be below {count}, the number of nodes")
        for name, nodes in (("topology", self.topology.num_nodes), ("step_ns", len(self.compute.step_ns))):
            if nodes != count:
                raise ConfigError(f"{name}: is of {nodes} nodes, must be of {count}")
        if self.beginning.params.shape != (self.num_params,):
            text = f"must be ({self.num_params},), the sum of tensor_sizes"
            raise ConfigError(f"params: has shape {self.beginning.params.shape}, {text}")
        if self.pauses.ndim != 2 or self.pauses.shape[1] != 3:
            raise ConfigError(f"pauses: has shape {self.pauses.shape}, must be (k, 3)")
        if self.train_indices.ndim != 1 or self.train_indices.size == 0 or self.train_indices.min() < 0:
            raise ConfigError("train_indices: must be one or more positions, all at least 0")
        try:
            self.algorithm.parameters.check(self.topology, self.tensor_sizes)
        except ConfigError as error:
            raise ConfigError(f"algorithm.parameters.{error}") from None
        return self

    @property
    def pause_ns(self) -> int:
        """For how long any node stands still on purpose, at most; one that does for good does not count."""
        begin, end = self.pauses[:, 1], self.pauses[:, 2]
        return int(np.max((end - begin)[end < NEVER_NS], initial=0))

    @property
    def dtype(self) -> WireDtype:
        """Type of values on the wire."""
        return self.network.wire_dtype
