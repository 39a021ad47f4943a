"""A network in the making, in the units of the experiment file."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError

FloatMatrix = npt.NDArray[np.float64]


@dataclass(slots=True)
class Draft:
    """A plan in the making, in the units of the file. A matrix where pairs differ, else one number.

    Attributes:
        up_mbps: Of each node; inf is unlimited.
        down_mbps: Of each node; inf is unlimited.
        pair_mbps: [source, destination]; None: no limits.
        latency_ms: One way, [source, destination] where it is a matrix.
        jitter_ms: Standard deviation of the latency.
        loss: Probability that a packet is lost.
        stragglers: Nodes with a slowed access link.
    """

    up_mbps: npt.NDArray[np.float64]
    down_mbps: npt.NDArray[np.float64]
    pair_mbps: FloatMatrix | None
    latency_ms: float | FloatMatrix
    jitter_ms: float | FloatMatrix
    loss: float | FloatMatrix
    stragglers: frozenset[int] = frozenset()


class AccessSide(NamedTuple):
    """One direction of the access links of all nodes; each of shape (nodes,).

    Attributes:
        mbps: Rate, 10^6 bits a second.
        latency_ms: One way.
        jitter_ms: Standard deviation of that.
        loss: Probability that a packet is lost.
    """

    mbps: npt.NDArray[np.float64]
    latency_ms: npt.NDArray[np.float64]
    jitter_ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


def draft_of(up: AccessSide, down: AccessSide) -> Draft:
    """Return the network whose paths meet the sender's side up and the receiver's side down, as elements in series."""
    return Draft(
        up_mbps=up.mbps,
        down_mbps=down.mbps,
        pair_mbps=None,
        latency_ms=_alike(np.add.outer(up.latency_ms, down.latency_ms)),
        jitter_ms=_alike(np.hypot.outer(up.jitter_ms, down.jitter_ms)),
        loss=_alike(1.0 - np.multiply.outer(1.0 - up.loss, 1.0 - down.loss)),
    )


def _alike(pairs: FloatMatrix) -> float | FloatMatrix:
    """Return one number where all pairs are alike."""
    return float(pairs[0, 0]) if np.all(pairs == pairs[0, 0]) else pairs


def check_node(node: int, num_nodes: int, shown: str) -> None:
    """Refuse a node that is not there.

    Raises:
        ConfigError: ``shown`` begins its message.
    """
    if not 0 <= node < num_nodes:
        raise ConfigError(f"{shown}: must be between 0 and {num_nodes - 1}")
