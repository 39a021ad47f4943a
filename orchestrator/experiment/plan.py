"""From an experiment file to what runs: pure, without data, torch or a network.

A :class:`Plan` holds every decision that does not need the data set: the graph, the links, the compute speed
and the algorithm of each node. All runtimes start from it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import Algorithm, NodeContext
from node.core.bounds import TIME_S_MAX
from node.core.compute import ComputePlan
from node.core.errors import ConfigError, DataError
from node.core.links import NetworkPlan
from node.core.rng import stream
from node.core.schedule import Schedule, speeds_of
from node.core.topology import Topology
from node.core.types import NodeId
from node.core.units import NS_PER_MS, NS_PER_S, ms_to_ns, s_to_ns
from node.learning.config import check_compatible
from orchestrator.experiment.config import ComputeConfig, ExperimentConfig, StopConfig
from orchestrator.experiment.fedscale_files import STEP_MS_MIN, clients_of, device_stream, read_capacities
from orchestrator.experiment.input_files import InputFile, InputFiles
from orchestrator.experiment.load import Load, describe_load, offered_load
from orchestrator.experiment.networks import build_network
from orchestrator.experiment.schedule import PlannedEntry, ResolvedSchedule, Surroundings, resolve_schedule
from orchestrator.experiment.schedule.timeline import describe_schedule
from orchestrator.experiment.topologies import build_topology

NOTHING_PLANNED: Final = Schedule()


@dataclass(frozen=True)
class Plan:
    """One experiment, resolved as far as it can be without data.

    ``place`` names the experiment file and begins the messages about it; empty without a file. ``inputs`` are the files
    that it names. ``entries`` are those of its schedule, and ``schedule`` is what they make together; ``network`` and
    ``compute`` have it within them, so that only who executes crashes or tells of the schedule needs to read it.
    """

    config: ExperimentConfig
    topology: Topology
    network: NetworkPlan
    compute: ComputePlan
    place: str = ""
    inputs: tuple[InputFile, ...] = ()
    schedule: Schedule = NOTHING_PLANNED
    entries: tuple[PlannedEntry, ...] = ()

    @property
    def algorithm(self) -> AlgorithmConfig:
        """Parameters of the algorithm that runs."""
        return self.config.algorithm.selected

    @property
    def stragglers(self) -> frozenset[int]:
        """Nodes slowed on purpose, in communication or in compute."""
        return self.network.stragglers | self.compute.stragglers

    @property
    def end_ns(self) -> int | None:
        """Instant at which the run ends at the latest; None when only rounds end it."""
        return None if self.config.stop.time_s is None else s_to_ns(self.config.stop.time_s)

    def algorithms(self, tensor_sizes: tuple[int, ...]) -> list[Algorithm]:
        """One state machine a node.

        Raises:
            ConfigError: The algorithm's parameters do not fit the network or the model.
        """
        _check_algorithm(self.config, self.topology, tensor_sizes)
        return [self.algorithm_of(NodeId(node), tensor_sizes) for node in range(self.config.nodes)]

    def first_algorithm(self, tensor_sizes: tuple[int, ...]) -> Algorithm:
        """The state machine of node 0; raises as :meth:`algorithms`. Those of all nodes may take gigabytes."""
        _check_algorithm(self.config, self.topology, tensor_sizes)
        return self.algorithm_of(NodeId(0), tensor_sizes)

    def algorithm_of(self, node: NodeId, tensor_sizes: tuple[int, ...], *, life: int = 0) -> Algorithm:
        """The state machine of one node, of which :meth:`algorithms` has no complaint.

        Args:
            node: Which node.
            tensor_sizes: Of the model.
            life: How often the node has come back: its draws are others each time.
        """
        context = NodeContext(
            node=node,
            topology=self.topology,
            tensor_sizes=tensor_sizes,
            local_steps=self.config.algorithm.local_steps,
            seed=self.config.seed,
            stream_key=node + life * self.config.nodes if life else None,
        )
        return ALGORITHMS[self.config.algorithm.kind].make(context, self.algorithm)

    def sizes(self, num_params: int) -> dict[str, str]:
        """Describe what follows from the number of parameters: how long one whole model and a round take,
        and the load on the links."""
        model_bytes = self.network.wire_dtype.value_bytes * num_params
        slowest, fastest = float(self.network.up_mbps.min()), float(self.network.up_mbps.max())
        rounds_s = [ns * self.config.algorithm.local_steps / NS_PER_S for ns in self.compute.step_ns]
        rows = {"a round's compute": f"{_span(rounds_s)} s", "a whole model": f"{model_bytes:,} bytes"}
        if np.isfinite(fastest):
            on_link = model_bytes if self.network.framing is None else self.network.link_bytes(model_bytes)
            rows["a whole model on an uplink"] = f"{_span([on_link * 8e-6 / fastest, on_link * 8e-6 / slowest])} s"
        load = self.load(num_params)
        if load is not None:
            is_serial = self.config.network.sender.kind == "serial"
            rows |= describe_load(load, self.stragglers, is_serial=is_serial)
        return rows

    def load(self, num_params: int) -> Load | None:
        """The load on the links; None of direct links, of which nothing is known."""
        if self.config.network.links == "direct":
            return None
        traffic = [self.algorithm.traffic(self.topology, NodeId(node)) for node in range(self.config.nodes)]
        steps = self.config.algorithm.local_steps
        return offered_load(traffic, num_params, self.network, self.compute, self.topology, steps)

    def describe(self) -> dict[str, str]:
        """The plan in words: what -> how, in the order of a table."""
        config, network = self.config, self.network
        degrees = [self.topology.degree(node) for node in range(config.nodes)]
        up = network.up_mbps
        rows = {
            "algorithm": _words(config.algorithm.kind, self.algorithm),
            "local steps in a round": str(config.algorithm.local_steps),
            "topology": f"{config.topology.kind}, degree {_span(degrees)}",
            "model and data": f"{config.learning.model.kind} on {config.learning.dataset.kind},"
            f" {_words(config.learning.partition.kind, config.learning.partition)}",
            "optimizer": f"SGD, {_words('', config.learning.optimizer)}, batch {config.learning.batch_size},"
            f" {config.learning.precision}",
            "compute": f"{_span([ns / NS_PER_MS for ns in self.compute.step_ns])} ms a local step,"
            f" jitter {config.compute.jitter_percent:g} %",
            "network": "direct links, which nothing shapes"
            if config.network.links == "direct"
            else f"{network.model}, {_words(config.network.preset.kind, config.network.preset)}",
            "uplinks": "unlimited" if np.isinf(up).all() else f"{_span(up.tolist())} Mbit/s",
            "sender": f"{network.sender}, {network.transport} transport",
            "stragglers": ", ".join(str(node) for node in sorted(self.stragglers)) or "none",
            "schedule": describe_schedule(self.entries),
            "stop": _stop(config.stop),
            "evaluation": f"every {config.evaluation.interval_s:g} s, {config.evaluation.model},"
            f" {config.evaluation.max_samples or 'all'} test samples",
        }
        if (framing := network.framing) is not None:
            rows["framing"] = (
                f"ethernet: bandwidths are of lines, {'with' if framing.tls else 'without'} TLS; of 100 kB"
                f" {100e5 / framing.link_bytes(100_000):.1f} % of a line are the message's"
            )
        if config.tls:
            rows["traffic"] = "encrypted, with certificates made for the run"
        return {name: text.replace(" ,", ",") for name, text in rows.items()}


def _stop(stop: StopConfig) -> str:
    rules = [] if stop.time_s is None else [f"{stop.time_s:g} s"]
    rules += [] if stop.rounds is None else [f"{stop.rounds} rounds"]
    return " or ".join(rules)


def _words(kind: str, section: BaseModel) -> str:
    """A kind and its settings on one line."""
    values = section.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    settings = ", ".join(f"{key} {_shown(value)}" for key, value in values.items())
    return f"{kind} ({settings})" if kind and settings else kind or settings


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " + ".join(f"{_shown(part)} {name}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def make_plan(config: ExperimentConfig, base_dir: Path, place: str = "", inputs: InputFiles | None = None) -> Plan:
    """Resolve an experiment.

    Args:
        config: The experiment.
        base_dir: Folder of the experiment file; relative paths in the file start there.
        place: The experiment file as the user named it, for messages; empty without a file.
        inputs: Where files that the experiment names are looked for; None for ``base_dir`` alone.

    Raises:
        ConfigError: Parts of the experiment do not fit together.
    """
    with errors_naming(place):
        return _make_plan(config, InputFiles([base_dir]) if inputs is None else inputs, place)


@contextmanager
def errors_naming(place: str) -> Iterator[None]:
    """Begin the messages of wrong input with where it stands; nothing is added for an empty place."""
    try:
        yield
    except (ConfigError, DataError) as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error}") from error


def _make_plan(config: ExperimentConfig, files: InputFiles, place: str) -> Plan:
    topology = build_topology(config.topology, config.nodes, config.seed, files)
    network = build_network(config.network, config.nodes, config.seed, files)
    network = replace(network, wire_dtype=config.wire.dtype)
    steps_ms = _step_times_ms(config, files)
    compute = _compute_plan(config.compute, steps_ms, config.seed, network.stragglers)
    resolved = resolve_schedule(
        config.schedule,
        Surroundings(
            network=network,
            is_direct=config.network.links == "direct",
            stragglers=network.stragglers | compute.stragglers,
            seed=config.seed,
            end_ns=None if config.stop.time_s is None else s_to_ns(config.stop.time_s),
            runtime=config.runtime,
            files=files,
        ),
    )
    compute = replace(compute, speeds=speeds_of(resolved.schedule.node_states()))
    _check_products(config, compute)
    check_compatible(config.learning)
    _check_targets(config)
    _check_algorithm(config, topology, _ANY_MODEL)
    _check_loss(config, network, resolved.network)
    _check_crashes(config, resolved)
    found = tuple(files.found.values())
    return Plan(
        config=config,
        topology=topology,
        network=resolved.network,
        compute=compute,
        place=place,
        inputs=found,
        schedule=resolved.schedule,
        entries=resolved.entries,
    )


def _check_loss(config: ExperimentConfig, network: NetworkPlan, scheduled: NetworkPlan) -> None:
    """Refuse losses under which an algorithm would stop for good: of the network, or of its schedule."""
    if not (config.algorithm.selected.needs_every_message and network.transport == "datagram" and scheduled.may_lose):
        return
    why = f"{config.algorithm.kind} stops for good when a message is lost"
    if network.may_lose:
        raise ConfigError(f"network.transport=datagram: {why}; must be reliable, or without loss")
    raise ConfigError(f"network.transport=datagram: {why}, as under schedule; must be reliable, or without loss there")


def _check_crashes(config: ExperimentConfig, resolved: ResolvedSchedule) -> None:
    """Refuse ends of nodes under which an algorithm would stop for good, or a run without a time never end."""
    down = [span for span in resolved.schedule.nodes if span.kind == "down"]
    if not down:
        return
    number, action = next((each.number, each.entry.action) for each in resolved.entries if each.takes_down)
    kind, algorithm = config.algorithm.kind, config.algorithm.selected
    if not algorithm.goes_on_without_peers:
        raise ConfigError(
            f"schedule[{number}].action={action}: must be absent with algorithm.kind={kind}, which waits for every"
            f" message and would stop for good; or set algorithm.{kind}.on_missing_peer: skip"
        )
    if algorithm.is_synchronous and config.stop.rounds is not None:
        raise ConfigError(
            f"stop.rounds={config.stop.rounds}: must be left out with schedule[{number}].action={action} and"
            f" algorithm.kind={kind}: a node that was away has more rounds to do than its neighbors, and would wait for"
            " them for good"
        )
    if config.stop.time_s is None and any(span.end_ns is None for span in down):
        raise ConfigError(
            f"schedule[{number}].action={action}: must end, or come with stop.time_s: a node that stays away never does"
            " its rounds"
        )


_ANY_MODEL = (2**62,)
"""Stands for a model that is not known yet and large enough for anything: what else is wrong shows without data."""


def _check_algorithm(config: ExperimentConfig, topology: Topology, tensor_sizes: tuple[int, ...]) -> None:
    """Refuse an algorithm's parameters that fit neither the network nor the model, under their keys in the file."""
    try:
        config.algorithm.selected.check(topology, tensor_sizes)
    except ConfigError as error:
        message = str(error)
        outside = message.startswith("topology:")  # what is wrong is not in the algorithm's section
        section = f"algorithm.kind={config.algorithm.kind}: the " if outside else f"algorithm.{config.algorithm.kind}."
        raise ConfigError(section + message.replace("topology:", "topology", 1)) from None


def _check_targets(config: ExperimentConfig) -> None:
    if config.learning.dataset.is_ratings:
        return  # an RMSE has no upper bound
    for index, target in enumerate(config.output.targets or ()):
        if not 0 <= target <= 1:
            raise ConfigError(f"output.targets[{index}]={target:g}: must be an accuracy between 0 and 1")


def _check_products(config: ExperimentConfig, compute: ComputePlan) -> None:
    """Refuse numbers that are within their bounds while what they make together is not."""
    rounds_s = [ns / NS_PER_S * config.algorithm.local_steps for ns in compute.step_ns]
    slowest_s = max(rounds_s)
    if slowest_s > TIME_S_MAX:
        raise ConfigError(
            f"compute.step_time_ms={config.compute.step_time_ms:g}: must be less: a round of the slowest node takes"
            f" {slowest_s:.3g} s with its factors and algorithm.local_steps={config.algorithm.local_steps}, may take"
            f" {TIME_S_MAX:g}"
        )
    for node, speed in compute.speeds.items():
        slowest = min((value for value in speed.values if value), default=1.0)
        if rounds_s[node] / slowest > TIME_S_MAX:
            raise ConfigError(
                f"schedule: slow_cpu must have smaller factors: at speed {slowest:.3g} a round of node {node} takes"
                f" {rounds_s[node] / slowest:.3g} s, may take {TIME_S_MAX:g}"
            )


def _step_times_ms(config: ExperimentConfig, files: InputFiles) -> list[float]:
    """Return how long a local step of each node takes before anything slows it."""
    capacities = config.compute.capacities
    if capacities is None:
        return [config.compute.step_time_ms] * config.nodes
    text = files.read(capacities.file, "compute.capacities.file")
    known = read_capacities(text, place=f"compute.capacities.file={capacities.file}")
    chosen = clients_of(len(known), config.nodes, capacities.clients, device_stream(config.seed))
    samples = capacities.factor * config.learning.batch_size
    steps_ms = [max(STEP_MS_MIN, samples * known[client].sample_ms) for client in chosen]
    if max(steps_ms) > 1e3 * TIME_S_MAX:
        raise ConfigError(
            f"compute.capacities.factor={capacities.factor:g}: must be less: a local step takes {max(steps_ms):.3g} ms,"
            f" may take {1e3 * TIME_S_MAX:g}"
        )
    return steps_ms


def _compute_plan(
    config: ComputeConfig, steps_ms: Sequence[float], seed: int, network_stragglers: frozenset[int]
) -> ComputePlan:
    num_nodes, slow = len(steps_ms), config.stragglers
    if slow.count > num_nodes:
        raise ConfigError(f"nodes={num_nodes}: must be at least {slow.count}, as compute.stragglers.count={slow.count}")
    match slow.placement:
        case "random":
            drawn = stream(seed, "compute-stragglers").permutation(num_nodes)[: slow.count]
            nodes = frozenset(int(node) for node in drawn)
        case "lowest_ids":
            nodes = frozenset(range(slow.count))
        case "same_as_network":
            nodes = network_stragglers
    factors = [slow.factor if node in nodes else 1.0 for node in range(num_nodes)]
    for node, factor in config.slowdown.items():
        if not 0 <= node < num_nodes:
            raise ConfigError(f"compute.slowdown.{node}: must be a node between 0 and {num_nodes - 1}")
        if factor < 1:
            raise ConfigError(f"compute.slowdown.{node}={factor}: must be at least 1")
        factors[node] *= factor
    return ComputePlan(
        step_ns=tuple(ms_to_ns(step_ms * factor) for step_ms, factor in zip(steps_ms, factors, strict=True)),
        jitter=config.jitter_percent / 100.0,
        stragglers=frozenset(node for node, factor in enumerate(factors) if factor > 1),
    )
