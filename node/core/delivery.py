"""The delivery model: everything that a message meets besides its transfer.

Headers or framing, retransmissions, latency, jitter and loss.
"""

from typing import ClassVar

import numpy as np

from node.core.links import NetworkPlan, entry_of_pair
from node.core.rng import stream

_BLOCK = 64
"""Random numbers drawn at once."""


class DeliveryModel:
    """Draws latency, jitter and loss of messages and adds what carries them.

    Jitter adds a normal number of mean zero to the latency, and a delay below zero becomes zero. Each
    message draws its own, so two messages of a pair may overtake each other. Draws come from one stream
    per sender and purpose, and where jitter and loss are zero nothing is drawn.

    Args:
        plan: The network.
        seed: The experiment's seed.
    """

    rebuilt_attributes: ClassVar[frozenset[str]] = frozenset({"_plan", "_latency", "_jitter", "_loss", "_overlaid"})

    def __init__(self, plan: NetworkPlan, seed: int) -> None:
        self._seed = seed
        self._plan = plan
        self._latency = plan.latency_ns
        self._jitter = plan.jitter_ns
        self._loss = plan.loss
        self._datagram = plan.transport == "datagram"
        self._overlaid = plan.overlays != {}
        self._has_jitter = plan.may_jitter
        self._has_loss = plan.may_lose
        self._normals: dict[int, tuple[np.random.Generator, list[float]]] = {}
        self._uniforms: dict[int, tuple[np.random.Generator, list[float]]] = {}
        self._retries: dict[int, np.random.Generator] = {}

    @property
    def common_latency_ns(self) -> int | None:
        """The delay of every message at any time; None where each has its own."""
        return self._latency if isinstance(self._latency, int) and not (self._has_jitter or self._overlaid) else None

    def latency_ns(self, source: int, destination: int, at_ns: int) -> int:
        """The delay of one message after its last byte has left at a time, >= 0. Draws the jitter."""
        if self._overlaid:
            path = self._plan.path(source, destination, at_ns)
            latency, jitter = path.latency_ns, path.jitter_ns
        else:
            latency = self._latency if isinstance(self._latency, int) else int(self._latency[source, destination])
            if not self._has_jitter:
                return latency
            jitter = entry_of_pair(self._jitter, source, destination)
        return max(0, latency + round(jitter * self._normal(source))) if jitter else latency

    def link_bytes(self, size: int, source: int, destination: int, at_ns: int) -> int:
        """Bytes of a link's capacity that a message takes whose body has ``size`` bytes, retransmissions included.

        What exceeds :meth:`NetworkPlan.link_bytes` was retransmitted. With the reliable transport every packet
        that is lost, first or repeated, is sent again, so the repetitions of k packets follow a negative
        binomial law, with the loss of the time ``at_ns`` at which the message begins.
        """
        once = self._plan.link_bytes(size)
        if not self._has_loss or self._datagram:
            return once
        loss = self._loss_of(source, destination, at_ns)
        if not loss:
            return once
        generator = self._retries.get(source)
        if generator is None:
            generator = self._retries[source] = stream(self._seed, "network.retransmissions", source)
        packets = self._plan.packets(size)
        again = int(generator.negative_binomial(packets, 1.0 - loss))
        # The packets of a message are alike but for the last, shorter one: count its mean size.
        return once + -(-again * once // packets)

    def is_lost(self, size: int, source: int, destination: int, at_ns: int) -> bool:
        """Draw whether a message whose body has ``size`` bytes is lost as a whole; never with the reliable transport.

        Such a message is transmitted like any other, with the loss of the time ``at_ns`` at which its last byte has
        left, but does not arrive.
        """
        if not self._has_loss or not self._datagram:
            return False
        loss = self._loss_of(source, destination, at_ns)
        if not loss:
            return False
        packets = self._plan.packets(size)
        return bool(self._uniform(source) >= (1.0 - loss) ** packets)

    def _loss_of(self, source: int, destination: int, at_ns: int) -> float:
        if self._overlaid:
            return self._plan.path(source, destination, at_ns).loss
        return entry_of_pair(self._loss, source, destination)

    def _normal(self, node: int) -> float:
        entry = self._normals.get(node)
        if entry is None:
            entry = self._normals[node] = (stream(self._seed, "network.jitter", node), [])
        generator, block = entry
        if not block:
            block.extend(generator.standard_normal(_BLOCK).tolist())
        return block.pop()

    def _uniform(self, node: int) -> float:
        entry = self._uniforms.get(node)
        if entry is None:
            entry = self._uniforms[node] = (stream(self._seed, "network.loss", node), [])
        generator, block = entry
        if not block:
            block.extend(generator.random(_BLOCK).tolist())
        return block.pop()
