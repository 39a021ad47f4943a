"""From the ``network`` section to a :class:`~node.core.links.NetworkPlan`; pure but for reading named
files."""

from dataclasses import replace
from importlib import resources
from math import inf
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from node.core.bounds import CHANGES_MAX, MBPS_MAX, MBPS_MIN, MS_MAX, REGIONS_MAX
from node.core.errors import ConfigError
from node.core.framing import MTU_BYTES, Framing
from node.core.links import CapacityChange, NetworkPlan
from node.core.rng import stream
from node.core.sender_policy import PER_PEER, SERIAL, SenderPolicy, parallel
from node.core.units import ms_to_ns, s_to_ns
from node.host.text_files import shorten
from orchestrator.experiment.fedscale_files import clients_of, device_stream, read_capacities
from orchestrator.experiment.input_files import InputFiles, json_in
from orchestrator.experiment.networks.config import (
    CapacitiesPreset,
    KollapsPreset,
    NetworkConfig,
    OverrideConfig,
    ParallelSender,
    PerPeerSender,
    ProfilesPreset,
    RegionsPreset,
    SenderConfig,
    SerialSender,
    StragglersPreset,
    TraceConfig,
    UniformPreset,
)
from orchestrator.experiment.networks.draft import Draft, FloatMatrix, check_node
from orchestrator.experiment.networks.kollaps_star import kollaps_star
from orchestrator.experiment.networks.profiles import profile_network
from orchestrator.experiment.trace_files import read_bandwidths
from orchestrator.shaping.line_rates import packet_segments


def build_network(config: NetworkConfig, num_nodes: int, seed: int, files: InputFiles) -> NetworkPlan:
    """The network that a configuration asks for.

    With ``model: pairwise`` the uniform and stragglers presets give each pair (s, d) its own link of the
    lesser of up[s] and down[d], and leave the access links unlimited.

    Args:
        config: The ``network`` section.
        num_nodes: How many nodes there are.
        seed: The experiment's seed; straggler places and bandwidths depend on nothing else.
        files: Where named files are looked for.

    Raises:
        ConfigError: A node number, a count or a file is wrong; one line with the place.
    """
    if isinstance(config.preset, StragglersPreset) and (count := config.preset.count) > num_nodes:
        raise ConfigError(f"nodes={num_nodes}: must be at least {count}, as network.preset.count={count}")
    try:
        draft = _preset(config, num_nodes, seed, files)
        for index, override in enumerate(config.overrides):
            _apply(draft, override, num_nodes, f"overrides[{index}]")
        changes = _changes(config.traces, num_nodes, files)
    except ConfigError as error:
        raise ConfigError(f"network.{error}") from None
    for array in (draft.up_mbps, draft.down_mbps, draft.pair_mbps, draft.loss):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    plan = NetworkPlan(
        model=config.model,
        up_mbps=draft.up_mbps,
        down_mbps=draft.down_mbps,
        pair_mbps=draft.pair_mbps,
        latency_ns=_nanoseconds(draft.latency_ms),
        jitter_ns=_nanoseconds(draft.jitter_ms),
        loss=draft.loss,
        sender=_sender_policy(config.sender),
        transport=config.transport,
        header_bytes=config.message_header_bytes,
        changes=changes,
        stragglers=draft.stragglers,
    )
    if config.framing == "none":
        return plan
    # The same in all runtimes, or their results could not be compared: encrypted unless the file says no.
    segments = packet_segments(plan, MTU_BYTES)
    return replace(plan, framing=Framing(tls=config.tls is not False, mtu=MTU_BYTES, segments=segments))


def _sender_policy(sender: SenderConfig) -> SenderPolicy:
    match sender:
        case SerialSender():
            return SERIAL
        case ParallelSender(transfers=transfers):
            return parallel(transfers)
        case PerPeerSender():
            return PER_PEER
        case _:
            assert_never(sender)


def _preset(config: NetworkConfig, num_nodes: int, seed: int, files: InputFiles) -> Draft:
    preset = config.preset
    match preset:
        case UniformPreset():
            draft = _uniform(preset, num_nodes)
        case StragglersPreset():
            draft = _stragglers(preset, num_nodes, seed)
        case RegionsPreset():
            return _regions(preset, num_nodes, files)
        case ProfilesPreset():
            draft = profile_network(preset, num_nodes, seed, files)
        case CapacitiesPreset():
            draft = _capacities(preset, num_nodes, seed, files)
        case KollapsPreset():
            draft = kollaps_star(preset, num_nodes, files)
        case _:
            assert_never(preset)
    if config.model == "pairwise":
        draft.pair_mbps = np.minimum(draft.up_mbps[:, None], draft.down_mbps[None, :])
        np.fill_diagonal(draft.pair_mbps, inf)
        draft.up_mbps = np.full(num_nodes, inf)
        draft.down_mbps = np.full(num_nodes, inf)
    return draft


def _uniform(preset: UniformPreset, num_nodes: int) -> Draft:
    both = inf if preset.bandwidth_mbps is None else preset.bandwidth_mbps
    return Draft(
        up_mbps=np.full(num_nodes, both if preset.up_mbps is None else preset.up_mbps),
        down_mbps=np.full(num_nodes, both if preset.down_mbps is None else preset.down_mbps),
        pair_mbps=None,
        latency_ms=preset.latency_ms,
        jitter_ms=preset.jitter_ms,
        loss=preset.loss_percent / 100.0,
    )


def _stragglers(preset: StragglersPreset, num_nodes: int, seed: int) -> Draft:
    """DivShare's public 60-node file: 60 Mbit/s, stragglers at round(Normal(60 / factor, 1))."""
    match preset.placement:
        case "lowest_ids":
            slow = np.arange(preset.count)
        case "random":
            # The first of one permutation, so that a larger count keeps the stragglers of a smaller one.
            slow = stream(seed, "network.stragglers").permutation(num_nodes)[: preset.count]
    mean = preset.bandwidth_mbps / preset.factor
    bandwidths = np.full(preset.count, mean)
    if preset.jitter_mbps:
        noise = stream(seed, "network.straggler_bandwidth").standard_normal(preset.count)
        bandwidths = np.maximum(np.rint(mean + preset.jitter_mbps * noise), 1.0)
    up = np.full(num_nodes, preset.bandwidth_mbps)
    up[slow] = np.minimum(bandwidths, preset.bandwidth_mbps)
    return Draft(
        up_mbps=up,
        down_mbps=up.copy(),
        pair_mbps=None,
        latency_ms=preset.latency_ms,
        jitter_ms=preset.jitter_ms,
        loss=preset.loss_percent / 100.0,
        stragglers=frozenset(slow.tolist()),
    )


def _capacities(preset: CapacitiesPreset, num_nodes: int, seed: int, files: InputFiles) -> Draft:
    text = files.read(preset.file, "preset.file")
    known = read_capacities(text, place=f"preset.file={preset.file}")
    chosen = clients_of(len(known), num_nodes, preset.clients, device_stream(seed))
    mbps = np.array([known[client].mbps for client in chosen])
    return Draft(
        up_mbps=mbps,
        down_mbps=mbps.copy(),
        pair_mbps=None,
        latency_ms=preset.latency_ms,
        jitter_ms=preset.jitter_ms,
        loss=preset.loss_percent / 100.0,
    )


def _regions(preset: RegionsPreset, num_nodes: int, files: InputFiles) -> Draft:
    """Nodes are dealt to regions in blocks of equal size, to within one node, in the file's order."""
    if preset.file is None:
        text, shown = resources.files(__package__).joinpath("aws_regions.json").read_text("utf-8"), "aws"
    else:
        text, shown = files.read(preset.file, "preset.file"), preset.file
    place = f"preset.file={shown}"
    data = json_in(text, place)
    count = _region_count(data, place)
    region = np.arange(num_nodes) * count // num_nodes
    between = np.ix_(region, region)
    inside = inf if preset.intra_region_mbps is None else preset.intra_region_mbps
    bandwidth = _matrix(data, "bandwidth_mbps", count, place, inside, least=MBPS_MIN, most=MBPS_MAX)
    pair = bandwidth[between]
    np.fill_diagonal(pair, inf)
    match preset.latency:
        case "constant":
            latency = np.full((count, count), preset.latency_ms)
            np.fill_diagonal(latency, preset.intra_region_latency_ms)
        case "rtt":
            latency = _half_of_round_trips(data, "rtt_ms", count, place, preset)
        case "pinged":
            latency = _half_of_round_trips(data, "pinged_rtt_ms", count, place, preset)
    access = inf if preset.access_mbps is None else preset.access_mbps
    same = np.all(latency == latency[0, 0])
    return Draft(
        up_mbps=np.full(num_nodes, access),
        down_mbps=np.full(num_nodes, access),
        pair_mbps=pair,
        latency_ms=float(latency[0, 0]) if same else latency[between],
        jitter_ms=preset.jitter_ms,
        loss=preset.loss_percent / 100.0,
    )


def _half_of_round_trips(data: dict[str, Any], key: str, count: int, place: str, preset: RegionsPreset) -> FloatMatrix:
    # Both ways: a file may name twice what may be named for one.
    return _matrix(data, key, count, place, 2 * preset.intra_region_latency_ms, most=2 * MS_MAX) / 2.0


def _region_count(data: Any, place: str) -> int:
    regions = data.get("regions") if isinstance(data, dict) else None
    if not isinstance(regions, list) or not regions:
        raise ConfigError(f"{place}: regions: must be a list of at least one region")
    if len(regions) > REGIONS_MAX:
        raise ConfigError(f"{place}: regions: must be at most {REGIONS_MAX}, are {len(regions)}")
    return len(regions)


def _matrix(
    data: dict[str, Any], key: str, count: int, place: str, diagonal: float, *, most: float, least: float = 0.0
) -> FloatMatrix:
    """A square matrix of positive numbers; the diagonal, which the file leaves null, is given.

    Only what a file says about a region's own pair is replaced: a number there wins.
    """
    bound = f"above 0, {f'from {least:g} ' if least else ''}to {most:g}"
    rows = data.get(key)
    if not isinstance(rows, list) or len(rows) != count:
        raise ConfigError(f"{place}: {key}: must be a matrix of {count} x {count}, one row per region")
    matrix = np.empty((count, count))
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != count:
            raise ConfigError(f"{place}: {key}[{i}]: must be a row of {count} values")
        for j, value in enumerate(row):
            if i == j and value is None:
                matrix[i, j] = diagonal
            elif isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most and value:
                matrix[i, j] = value
            else:
                shown = shorten(value)
                raise ConfigError(f"{place}: {key}[{i}][{j}]={shown}: must be a number {bound}")
    return matrix


def _apply(draft: Draft, override: OverrideConfig, num_nodes: int, place: str) -> None:
    source, destination = override.source, override.destination
    for name, node in (("source", source), ("destination", destination)):
        check_node(node, num_nodes, f"{place}.{name}={node}")
    if override.bandwidth_mbps is not None:
        if draft.pair_mbps is None:
            draft.pair_mbps = np.full((num_nodes, num_nodes), inf)
        draft.pair_mbps[source, destination] = override.bandwidth_mbps
    if override.latency_ms is not None:
        draft.latency_ms = _widen(draft.latency_ms, num_nodes)
        draft.latency_ms[source, destination] = override.latency_ms
    if override.jitter_ms is not None:
        draft.jitter_ms = _widen(draft.jitter_ms, num_nodes)
        draft.jitter_ms[source, destination] = override.jitter_ms
    if override.loss_percent is not None:
        draft.loss = _widen(draft.loss, num_nodes)
        draft.loss[source, destination] = override.loss_percent / 100.0


def _changes(
    traces: tuple[TraceConfig, ...], num_nodes: int, files: InputFiles
) -> tuple[tuple[int, CapacityChange], ...]:
    changes: list[tuple[int, CapacityChange]] = []
    known: dict[str, list[tuple[float, float]]] = {}
    for index, trace in enumerate(traces):
        place = f"traces[{index}]"
        if trace.node is not None:
            check_node(trace.node, num_nodes, f"{place}.node={trace.node}")
        if trace.pair is not None:
            for node in trace.pair:
                check_node(node, num_nodes, f"{place}.pair={list(trace.pair)}")
        if trace.file not in known:
            text = files.read(trace.file, f"{place}.file")
            known[trace.file] = read_bandwidths(text, place=f"{place}.file={trace.file}")
        rows = _repeated(known[trace.file], trace, place)
        if len(changes) + 2 * len(rows) > CHANGES_MAX:
            raise ConfigError(f"{place}: gives more changes than all traces may together, {CHANGES_MAX:,}")
        for time_s, mbps in rows:
            at_ns = s_to_ns(time_s)
            if trace.pair is not None:
                changes.append((at_ns, CapacityChange("pair", trace.pair[0], trace.pair[1], mbps)))
                continue
            assert trace.node is not None
            if trace.direction in ("up", "both"):
                changes.append((at_ns, CapacityChange("up", trace.node, -1, mbps)))
            if trace.direction in ("down", "both"):
                changes.append((at_ns, CapacityChange("down", -1, trace.node, mbps)))
    return tuple(sorted(changes, key=lambda change: change[0]))


def _repeated(rows: list[tuple[float, float]], trace: TraceConfig, place: str) -> list[tuple[float, float]]:
    if not trace.repeat:
        return rows
    period = rows[-1][0]
    if rows[0][0] != 0 or period == 0:
        raise ConfigError(f"{place}.repeat=True: must have a first row at time 0 and a later one")
    rounds = trace.repeat_until_s // period + 1
    if rounds * len(rows) > CHANGES_MAX:
        raise ConfigError(
            f"{place}.repeat_until_s={trace.repeat_until_s}: must give at most {CHANGES_MAX} changes,"
            f" not {rounds * len(rows):.6g}"
        )
    return [(turn * period + time_s, mbps) for turn in range(int(rounds)) for time_s, mbps in rows[:-1]]


def _widen(value: float | FloatMatrix, num_nodes: int) -> FloatMatrix:
    return value if isinstance(value, np.ndarray) else np.full((num_nodes, num_nodes), value)


def _nanoseconds(milliseconds: float | FloatMatrix) -> int | npt.NDArray[np.int64]:
    if not isinstance(milliseconds, np.ndarray):
        return ms_to_ns(milliseconds)
    matrix = np.rint(milliseconds * ms_to_ns(1)).astype(np.int64)
    matrix.flags.writeable = False
    return matrix
