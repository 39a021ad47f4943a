"""Rates that access links are to have, as metrics tell them. Pure."""

from collections.abc import Iterator
from math import isfinite
from typing import Final

import numpy as np

from node.core.links import NetworkPlan
from node.metrics import PREFIX, RUN_METRICS
from orchestrator.observe.openmetrics import AnyTrack, Family, Track
from orchestrator.observe.sampled_run import Sampling

BYTES_PER_S: Final = 125_000.0
"""Bytes a second of 1 Mbit/s."""

LINK_FAMILIES: Final = ("link_configured_rate_bytes_per_second",)
"""Families, without their prefix, that follow from the experiment."""


def configured_rates(network: NetworkPlan) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield what access links are to carry, in bytes a second, by node and direction, but for those without a limit."""
    for direction, mbps in (("up", network.up_mbps), ("down", network.down_mbps)):
        for node, rate in enumerate(mbps.tolist()):
            if isfinite(rate):
                yield (str(node), direction), rate * BYTES_PER_S


def link_families(sampling: Sampling, network: NetworkPlan) -> Iterator[Family]:
    """Yield the rates of links at the start, as a live run tells them all the time."""
    always = np.ones(len(sampling.instants_ns))
    tracks: list[AnyTrack] = [
        Track(sampling.of_run(node=node, direction=direction), always * rate)
        for (node, direction), rate in configured_rates(network)
    ]
    yield RUN_METRICS[PREFIX + LINK_FAMILIES[0]], tracks
