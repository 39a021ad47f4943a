"""Everything that a run with containers finds and checks before it makes anything: engine, images, addresses, kernel.

Each thing that is missing is one line with what to do. Only images are made here, which are no run's, and what dead
orchestrators have left is removed.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import numpy as np

from node.core.errors import ConfigError
from node.core.link_bounds import rate_bounds, round_trip_ns_max
from node.core.links import NetworkPlan
from node.core.units import NS_PER_MS
from node.transport.frames import HEADER_BYTES
from node.transport.window import bound_bytes
from orchestrator.containers.cleanup import describe, reap, remove_labelled
from orchestrator.containers.facts import EngineFacts, check_memory
from orchestrator.containers.image_builds import BuildOptions, BuiltImage, have_image, named_image
from orchestrator.containers.image_recipes import ImageRecipe, node_recipe, shaper_recipe
from orchestrator.containers.interface import ContainerSpec, Engine, EngineError
from orchestrator.containers.networks import plan_networks
from orchestrator.containers.ownership import Owner, RunScope
from orchestrator.containers.shell import ContainerShell
from orchestrator.experiment.config import DockerConfig
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.conflicts import first_that_loses
from orchestrator.host.doctor import NODE_MODELS
from orchestrator.report.text import format_bytes
from orchestrator.shaping.node_shaping import KernelOptions, partitions_of, plan_node
from orchestrator.shaping.probe import NETEM, TBF, ShapingAbilities, probe_shaping

SUBNET_KEY: Final = "docker.subnet"
IMAGE_KEY: Final = "docker.image"

CONTAINER_MEMORY_BYTES: Final = 200 * 10**6
"""Memory of a node in a container besides models: its libraries, of which containers share what they read from the
image, its training worker and its connections."""

MEMORY_LIMIT: Final = (10**9, 4)
"""Limit of a node's memory where the experiment has none: at least so many bytes, and so many times what it needs."""

_IPV4: Final = Path("/proc/sys/net/ipv4")

_NOT_OF_HOSTS: Final = IPv4Network("0.0.0.0/8"), IPv4Network("127.0.0.0/8"), IPv4Network("224.0.0.0/3")
"""Addresses of this network, of this machine, and of groups and what is reserved (RFC 1122, 3.2.1.3)."""


class Teller(Protocol):
    """The use of a :class:`~orchestrator.progress.progress.Progress`; see there."""

    def preparing(self, what: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Backend:
    """An engine in which an experiment can run.

    Attributes:
        engine: The engine.
        node_image: The image of nodes.
        shaper_image: The image of the helper that shapes; None where nothing is shaped.
        abilities: The kernel's; None where nothing is shaped.
        netem: Whether the kernel adds latency, jitter and loss. Else the receiving nodes add the first two.
        subnet: Addresses that the experiment names; None for free ones.
        congestion_control: TCP's, of all nodes.
    """

    engine: Engine
    node_image: BuiltImage
    shaper_image: BuiltImage | None
    abilities: ShapingAbilities | None
    netem: bool
    subnet: IPv4Network | None
    congestion_control: str

    @property
    def links_name(self) -> str:
        """Name of what shapes links, for people."""
        return "kernel: htb and netem" if self.netem else "kernel: htb, latency by the receivers' delay line"

    def to_json(self) -> dict[str, Any]:
        """Return what ``environment.json`` records of it."""
        facts = self.engine.facts
        images = {"node": self.node_image, "shaper": self.shaper_image}
        return {
            "engine": f"{facts.product} {facts.version}",
            "images": {kind: f"{image.name} {image.facts.identity}" for kind, image in images.items() if image},
            "latency_by": None if self.abilities is None else "kernel" if self.netem else "receiver",
            "tc": None if self.abilities is None else self.abilities.tc_version,
            "kernel_lacks": {} if self.abilities is None else dict(self.abilities.problems),
            "sysctls": sysctls(self.congestion_control),
        }


def sysctls(congestion_control: str) -> dict[str, str]:
    """Return the settings of TCP in each node's namespace.

    A connection that was idle would else begin slowly again, though its link is as free as before. One over a link that
    stands still would be given up after a quarter of an hour; with the most retries that there are it lives for hours.
    """
    return {
        "net.ipv4.tcp_congestion_control": congestion_control,
        "net.ipv4.tcp_slow_start_after_idle": "0",
        "net.ipv4.tcp_retries2": "255",
    }


def find_backend(plan: Plan, engine: Engine, display: Teller, environment: Mapping[str, str] = os.environ) -> Backend:
    """Check everything that does not depend on the model, build images that are missing, and remove what is left over.

    Raises:
        ConfigError: The experiment cannot run here; one line.
    """
    settings = plan.config.docker
    subnet, congestion_control, shaped = _check_settings(plan, engine)
    with _as_config_errors():
        _reap(engine, display)
        plan_networks(engine, plan.config.nodes, wanted=subnet, place=SUBNET_KEY)
        shaper = _have(engine, shaper_recipe(), environment, display) if shaped else None
        if settings.image is None:
            image = _have(engine, node_recipe(), environment, display)
        else:
            image = named_image(engine, settings.image, node_recipe(), IMAGE_KEY)
        abilities = None if shaper is None else _probe(engine, shaper.name)
    netem = False if abilities is None else _choose_netem(plan, abilities)
    if abilities is not None and not abilities.cuts_links and partitions_of(plan.network):
        raise ConfigError(f"schedule: a partition needs tbf where the kernel shapes: {abilities.problems[TBF]}")
    return Backend(engine, image, shaper, abilities, netem, subnet, congestion_control)


def foresee(plan: Plan, engine: Engine, num_params: int) -> dict[str, str]:
    """Say what a run would need of an engine, and change nothing there: no image is built, nothing is removed.

    What the kernel can shape shows in a run, or in ``fragmesh doctor`` without a file.

    Returns:
        Rows for people.

    Raises:
        ConfigError: The experiment cannot run there; one line.
    """
    subnet, congestion_control, shaped = _check_settings(plan, engine)
    needed = _check_memory(plan, engine.facts, num_params)
    settings = plan.config.docker
    recipes = [node_recipe(), *([shaper_recipe()] if shaped else [])]
    with _as_config_errors():
        subnets = plan_networks(engine, plan.config.nodes, wanted=subnet, place=SUBNET_KEY)
        if settings.image is not None:
            named_image(engine, settings.image, recipes.pop(0), IMAGE_KEY)
        missing = [recipe.tag for recipe in recipes if engine.find_image(recipe.tag) is None]
    facts, nodes = engine.facts, plan.config.nodes
    return {
        "engine": f"{facts.product} {facts.version}, {facts.cpus} processors, {format_bytes(facts.memory_bytes)}",
        "memory in containers": f"about {format_bytes(nodes * needed)}, {format_bytes(needed)} a node",
        "networks": ", ".join(map(str, subnets)),
        "congestion control": congestion_control,
        "images": f"to be built first: {', '.join(missing)}" if missing else "there",
    }


def _check_settings(plan: Plan, engine: Engine) -> tuple[IPv4Network | None, str, bool]:
    """Check what needs nothing made: returns the subnet, the congestion control, and whether links are shaped."""
    config = plan.config
    shaped = config.network.links != "direct"
    subnet = _subnet(config.docker.subnet)
    congestion_control = _congestion_control(config.network.congestion_control)
    _check_transport(plan)
    if not shaped:
        _check_neighbours(plan)
    _check_limits(config.docker, engine.facts)
    return subnet, congestion_control, shaped


def _check_limits(settings: DockerConfig, facts: EngineFacts) -> None:
    """Refuse limits of nodes that the engine cannot give."""
    if settings.cpus is not None:
        if not facts.limits_cpus:
            raise ConfigError(f"docker.cpus={settings.cpus:g}: must be absent: this kernel limits no processor time")
        if settings.cpus > facts.cpus:
            raise ConfigError(f"docker.cpus={settings.cpus:g}: must be at most {facts.cpus}, the engine's processors")
    if settings.memory_mb is not None and not facts.limits_memory:
        raise ConfigError(f"docker.memory_mb={settings.memory_mb}: must be absent: this kernel limits no memory")


def check_model(plan: Plan, lines: NetworkPlan, backend: Backend, num_params: int, dilation: float) -> list[int]:
    """Check what depends on the model and on the time dilation.

    Args:
        plan: The experiment; what is refused is told in its figures, where it can be.
        lines: Its network as the kernel is asked for it.
        backend: The engine and the kernel.
        num_params: Scalars of a model.
        dilation: Real seconds a testbed second.

    Returns:
        The most segments that travel as one packet (``gso_max_segs``), of each node's device; nothing where nothing is
        shaped.

    Raises:
        ConfigError: There is too little memory, or the kernel cannot be told the links.
    """
    _check_memory(plan, backend.engine.facts, num_params)
    if backend.abilities is None:
        return []
    addresses = {node: f"198.18.{node // 250}.{1 + node % 250}" for node in range(plan.config.nodes)}

    def segments(asked: Plan) -> list[int]:
        options = kernel_options(asked, backend, num_params, dilation)
        return [plan_node(asked.network, node, addresses, options).tree.gso_segments for node in addresses]

    try:
        return segments(replace(plan, network=lines))
    except ConfigError:
        segments(plan)
        raise


def _check_memory(plan: Plan, facts: EngineFacts, num_params: int) -> int:
    """Check that the engine and the limit have the memory that a node needs, which is returned; bytes."""
    needed, memory_mb = memory_needed(num_params), plan.config.docker.memory_mb
    if memory_mb is not None and memory_mb * 10**6 < needed:
        raise ConfigError(f"docker.memory_mb={memory_mb}: must be at least {-(-needed // 10**6)}, which a node needs")
    check_memory(facts, plan.config.nodes, needed)
    return needed


def kernel_options(plan: Plan, backend: Backend, num_params: int, dilation: float) -> KernelOptions:
    """Return what the shaping of all nodes depends on besides the network."""
    network = plan.network
    frame_bytes = HEADER_BYTES + network.wire_dtype.value_bytes * num_params
    in_flight = bound_bytes(
        frame_bytes,
        transfers=network.sender.transfers,
        bandwidth_mbps=rate_bounds(network, 0).fastest_mbps,
        round_trip_ms=int(np.max(round_trip_ns_max(network))) / NS_PER_MS,
    )
    return KernelOptions(netem=backend.netem, time_dilation=dilation, in_flight_bytes=in_flight)


def memory_needed(num_params: int) -> int:
    """Return the memory that a node needs, bytes."""
    return CONTAINER_MEMORY_BYTES + NODE_MODELS * 4 * num_params


def memory_limit(memory_mb: int | None, num_params: int) -> int:
    """Return the memory that a node may use, bytes; ``memory_mb`` is what the experiment says."""
    if memory_mb is not None:
        return memory_mb * 10**6
    least, times = MEMORY_LIMIT
    return max(least, times * memory_needed(num_params))


def _subnet(text: str | None) -> IPv4Network | None:
    if text is None:
        return None
    try:
        subnet = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise ConfigError(f"{SUBNET_KEY}={text}: must be an IPv4 network, such as 10.9.0.0/23") from None
    if any(map(subnet.overlaps, _NOT_OF_HOSTS)):
        raise ConfigError(f"{SUBNET_KEY}={text}: must be of addresses that hosts may have, such as 10.9.0.0/23")
    return subnet


def _congestion_control(wanted: str | None) -> str:
    """Return TCP's congestion control: what is wanted, if a namespace may have it, or the host's."""
    try:
        allowed = (_IPV4 / "tcp_allowed_congestion_control").read_text(encoding="ascii").split()
        default = (_IPV4 / "tcp_congestion_control").read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from None
    chosen = wanted or default
    if chosen not in allowed:
        key = "network.congestion_control"
        what = f"{key}={chosen}" if wanted else f"{key}: the host's is {chosen}"
        raise ConfigError(
            f"{what}: must be one of {', '.join(allowed)}, which this kernel lets containers choose"
            " (sysctl net.ipv4.tcp_allowed_congestion_control)"
        )
    return chosen


def _check_transport(plan: Plan) -> None:
    if plan.config.network.transport == "datagram" and plan.network.may_lose:
        raise ConfigError("network.transport=datagram: must be reliable with runtime: docker, whose links carry TCP")


def _check_neighbours(plan: Plan) -> None:
    """Refuse too many nodes where nobody tells them their neighbours (:mod:`orchestrator.shaping.neighbours`)."""
    sysctl, bound = "net.ipv4.neigh.default.gc_thresh3", _IPV4 / "neigh/default/gc_thresh3"
    try:
        room = int(bound.read_text(encoding="ascii"))
    except (OSError, ValueError):  # in a container of its own, say: the run will tell
        return
    # One for each direction of an edge, and one for each way between a node and the orchestrator.
    needed = 2 * (plan.topology.num_edges + plan.config.nodes)
    if needed > room:
        raise ConfigError(
            f"network.links=direct: must be emulated, or {sysctl} at least {needed:,} (it is {room:,}): so many"
            f" entries of this machine's neighbour table are what {plan.config.nodes} nodes need"
        )


def _reap(engine: Engine, display: Teller) -> None:
    left, problems = reap(engine, Owner.of_this_process())
    for run in left:
        display.note(f"removing what {run.run} has left: {describe(run.resources)}; {run.owner}")
    for problem in problems:
        display.note(problem)


def _have(engine: Engine, recipe: ImageRecipe, environment: Mapping[str, str], display: Teller) -> BuiltImage:
    if engine.find_image(recipe.tag) is None:
        display.preparing(f"building the image {recipe.tag}, once: some minutes")
    image = have_image(engine, recipe, BuildOptions.from_environment(environment), lambda line: None)
    if image.build_s is not None:
        display.note(f"built the image {image.name} in {image.build_s:.0f} s")
    return image


def _probe(engine: Engine, image: str) -> ShapingAbilities:
    """Try what the kernel can shape, in a container of its own that has no network but what the probe makes."""
    scope = RunScope(f"probe-{uuid4().hex[:12]}", Owner.of_this_process())
    spec = ContainerSpec(
        scope.name_of("probe"), image, labels=scope.labels("probe"), user="0:0", capabilities=["NET_ADMIN"]
    )
    try:
        abilities = _probe_in(engine, spec)
    finally:
        remove_labelled(engine, scope.labels())
    if not abilities.shapes_rates:
        part, reason = next((part, reason) for part, reason in abilities.problems.items() if part not in (NETEM, TBF))
        raise ConfigError(
            f"network.links=emulated: this kernel cannot shape links: {part}: {reason}; fragmesh doctor says more"
        )
    return abilities


def _probe_in(engine: Engine, spec: ContainerSpec) -> ShapingAbilities:
    container = engine.create_container(spec)
    engine.start(container)
    shell = ContainerShell(engine, container)
    try:
        return probe_shaping((), shell.run)
    finally:
        shell.close()


def _choose_netem(plan: Plan, abilities: ShapingAbilities) -> bool:
    """Say whether the kernel adds latency, by the experiment and by what the kernel can."""
    wanted = plan.config.docker.latency_by
    reason = abilities.problems.get(NETEM, "")
    if wanted == "kernel" and not abilities.has_netem:
        raise ConfigError(f"docker.latency_by=kernel: must be auto or receiver: this kernel has no netem ({reason})")
    netem = abilities.has_netem and wanted != "receiver"
    if not netem and plan.network.may_lose:
        why = "docker.latency_by=receiver loses no packets" if abilities.has_netem else f"no netem ({reason})"
        culprit = None if np.any(plan.network.loss) else first_that_loses(plan.entries, plan.schedule)
        place = "" if culprit is None else f"{culprit.place}.action={culprit.entry.action}: "
        raise ConfigError(
            f"{place}loss_percent: must be 0 where the kernel does not lose packets: {why}; a kernel with netem does,"
            " and runtime: processes"
        )
    return netem


@contextmanager
def _as_config_errors() -> Iterator[None]:
    """Nothing of the run is there yet, so whatever the engine refuses is about this host and not about the run."""
    try:
        yield
    except EngineError as error:
        raise ConfigError(str(error)) from error
