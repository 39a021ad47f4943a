"""Profiles of access links, each figure with its source: from a JSON file to the links of nodes; pure but for its file.

A file has ``sources`` (name -> what and where it is) and ``profiles``. A profile has the figures of :data:`FIGURES`,
each an object with ``source``, a name among the sources, and either ``value``, a number, or ``quantiles``, a list of
[share, value] with shares from 0 to 1 in increasing order. A distribution is a straight line between its quantiles, and
keeps its first and last value beyond them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from math import floor
from typing import Any, Final, NamedTuple

import numpy as np

from node.core.bounds import ENTRIES_MAX, MBPS_MAX, MBPS_MIN, MS_MAX
from node.core.errors import ConfigError
from node.core.rng import stream
from node.core.types import Float64Vector
from node.host.text_files import shorten
from orchestrator.experiment.input_files import InputFiles, json_in
from orchestrator.experiment.networks.config import ProfilesPreset
from orchestrator.experiment.networks.draft import AccessSide, Draft, draft_of

BUILT_IN: Final = "access_profiles.json"
"""Profiles that come with Fragmesh."""


class FigureRule(NamedTuple):
    """Bounds of a figure, both included.

    Attributes:
        least: The least.
        most: The most.
        default: Its value where a profile does not give it; None where it must.
    """

    least: float
    most: float
    default: float | None = None


FIGURES: Final[Mapping[str, FigureRule]] = {
    "down_mbps": FigureRule(MBPS_MIN, MBPS_MAX),
    "up_mbps": FigureRule(MBPS_MIN, MBPS_MAX),
    "rtt_ms": FigureRule(0.0, MS_MAX),
    "rtt_jitter_ms": FigureRule(0.0, MS_MAX, 0.0),
    "loss_percent": FigureRule(0.0, 99.0, 0.0),
}
"""Figures of a profile: rates, round-trip time over the access link with its standard deviation, loss of each way."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values of a figure over the links that were measured.

    Attributes:
        shares: Increasing, in [0, 1].
        values: The value up to which so many of them lie.
    """

    shares: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, share: Float64Vector) -> Float64Vector:
        """Return the values at shares in [0, 1]."""
        return np.interp(share, self.shares, self.values)


Profile = Mapping[str, Distribution]
"""The figures of one profile, all of them."""


def profile_network(preset: ProfilesPreset, num_nodes: int, seed: int, files: InputFiles) -> Draft:
    """Return the network of access links that a preset asks for.

    Raises:
        ConfigError: The file is wrong, or has no profile of a name.
    """
    profiles = read_profiles(preset, files)
    for name in preset.shares:
        if name not in profiles:
            raise ConfigError(f"preset.shares.{shorten(name)}: must be one of {', '.join(profiles)}")
    dealt = _dealt(preset, num_nodes, seed)
    # Two places for each node, drawn for all whatever their profiles are: a changed share changes no other node's.
    places = stream(seed, "network.profiles").random((2, num_nodes))
    if preset.figures == "median":
        places[:] = 0.5
    found = {name: np.empty(num_nodes) for name in FIGURES}
    for profile in preset.shares:
        nodes = np.array([node for node, name in enumerate(dealt) if name == profile], dtype=np.int64)
        for figure, distribution in profiles[profile].items():
            place = places[0] if figure in ("down_mbps", "up_mbps") else places[1]
            found[figure][nodes] = distribution.at(place[nodes])
    # Half of a round trip's variance is that of one way.
    way = found["rtt_ms"] / 2.0, found["rtt_jitter_ms"] / np.sqrt(2.0), found["loss_percent"] / 100.0
    return draft_of(AccessSide(found["up_mbps"], *way), AccessSide(found["down_mbps"], *way))


def _dealt(preset: ProfilesPreset, num_nodes: int, seed: int) -> list[str]:
    """Return the profile of each node: whole numbers of nodes, those with the largest rests rounded up."""
    total = sum(preset.shares.values())
    wanted = {name: share / total * num_nodes for name, share in preset.shares.items()}
    counts = {name: floor(number) for name, number in wanted.items()}
    by_rest = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    for name in by_rest[: num_nodes - sum(counts.values())]:
        counts[name] += 1
    dealt = [name for name, count in counts.items() for _ in range(count)]
    if preset.placement == "in_order":
        return dealt
    order = stream(seed, "network.profile_places").permutation(num_nodes)
    return [dealt[index] for index in order.tolist()]


# -- files -------------------------------------------------------------------------------------------------------


def read_profiles(preset: ProfilesPreset, files: InputFiles) -> dict[str, Profile]:
    """Read the profiles of a preset's file, or those that come with Fragmesh.

    Raises:
        ConfigError: The message names the profile and the figure.
    """
    if preset.file is None:
        text, place = resources.files(__package__).joinpath(BUILT_IN).read_text("utf-8"), f"preset.file={BUILT_IN}"
    else:
        text, place = files.read(preset.file, "preset.file"), f"preset.file={preset.file}"
    content = json_in(text, place)
    sources, profiles = (_object(content, key, place) for key in ("sources", "profiles"))
    if not 1 <= len(profiles) <= ENTRIES_MAX:
        raise ConfigError(f"{place}: profiles: must be 1 to {ENTRIES_MAX:,}, are {len(profiles)}")
    return {name: _profile(fields, sources, f"{place}: {shorten(name)}") for name, fields in profiles.items()}


def _object(content: object, key: str, place: str) -> dict[str, Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: {key}: must be an object")
    return found


def _profile(fields: object, sources: Mapping[str, Any], place: str) -> dict[str, Distribution]:
    if not isinstance(fields, dict):
        raise ConfigError(f"{place}: must be an object, is {shorten(fields)}")
    for name in fields:
        if name not in FIGURES and name != "about":
            raise ConfigError(f"{place}: {shorten(name)}: unknown figure; known are about, {', '.join(FIGURES)}")
    found: dict[str, Distribution] = {}
    for name, rule in FIGURES.items():
        if name in fields:
            found[name] = _figure(fields[name], rule, sources, f"{place}: {name}")
        elif rule.default is None:
            raise ConfigError(f"{place}: {name}: missing")
        else:
            found[name] = Distribution((0.0,), (rule.default,))
    return found


def _figure(given: object, rule: FigureRule, sources: Mapping[str, Any], place: str) -> Distribution:
    keys = set(given) if isinstance(given, dict) else set()
    if not isinstance(given, dict) or keys not in ({"source", "value"}, {"source", "quantiles"}):
        raise ConfigError(f"{place}={shorten(given)}: must be an object with source, and value or quantiles")
    if not isinstance(given["source"], str) or given["source"] not in sources:
        raise ConfigError(f"{place}.source={shorten(given['source'])}: must be one of the file's sources")
    if "value" in given:
        return Distribution((0.0,), (_bounded(given["value"], rule.least, rule.most, f"{place}.value"),))
    quantiles = given["quantiles"]
    if not isinstance(quantiles, list) or not 1 <= len(quantiles) <= ENTRIES_MAX:
        raise ConfigError(f"{place}.quantiles={shorten(quantiles)}: must be a list of [share, value]")
    shares: list[float] = []
    values: list[float] = []
    for index, pair in enumerate(quantiles):
        where = f"{place}.quantiles[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise ConfigError(f"{where}={shorten(pair)}: must be [share, value]")
        shares.append(_bounded(pair[0], 0.0, 1.0, where))
        values.append(_bounded(pair[1], rule.least, rule.most, where))
        if index and not shares[-2] < shares[-1]:
            raise ConfigError(f"{where}={shorten(pair)}: must have a share above the one before, {shares[-2]:g}")
        if index and values[-1] < values[-2]:
            raise ConfigError(
                f"{where}={shorten(pair)}: must have a value at least that of the one before, {values[-2]:g}"
            )
    return Distribution(tuple(shares), tuple(values))


def _bounded(value: object, least: float, most: float, place: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{place}={shorten(value)}: must be a number, at least {least:g} and at most {most:g}")
    return float(value)
