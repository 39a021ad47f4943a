"""Rates of lines that carry messages with their framing: what to ask the kernel for so that messages get their own.

The kernel shapes whole Ethernet frames. Where ``network.framing`` is ``none``, ``bandwidth_mbps`` is what messages get,
so the lines must be faster, by the bytes that messages take on a line over the bytes that are counted of them. One
factor serves all links. It is that of the messages of an experiment together, so whole rounds take as long as they
should; where messages differ in size, the small ones among them take longer than their share and the large ones less
(:attr:`LineRates.factor_min`, :attr:`LineRates.factor_max`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from node.core.framing import ETHERNET_HEADER_BYTES, Framing
from node.core.links import CapacityChange, LinkChange, NetworkPlan
from orchestrator.shaping.kernel_units import GSO_BYTES_MAX, PARKED_BPS, UNLIMITED_BPS, burst_bytes, gso_segments


def packet_segments(network: NetworkPlan, mtu: int) -> int:
    """Segments that travel as one packet where the kernel shapes a network, by its slowest link.

    A node all of whose own links are faster sends longer packets, which are acknowledged less often.
    """
    rates = [network.up_mbps.min(), network.down_mbps.min(), *(change.mbps for _, change in network.capacity_changes())]
    if network.pair_mbps is not None:
        rates.append(network.pair_mbps.min())
    slowest = float(min(rates))
    each_packet_counts = network.may_jitter or network.may_lose
    slowest_bps = UNLIMITED_BPS if slowest == inf else max(PARKED_BPS, round(slowest * 1e6))
    most = GSO_BYTES_MAX // (mtu + ETHERNET_HEADER_BYTES)
    return min(most, gso_segments(slowest_bps, mtu, each_packet_counts=each_packet_counts))


@dataclass(frozen=True, eq=False)
class LineRates:
    """Rates to ask the kernel for.

    Attributes:
        network: The network with the rates of its lines; the one that was given where factor is 1.
        factor: Rate of a line by the rate that messages are to get.
        framing: What carries messages on the lines.
        factor_min: The same for the largest messages alone, which get more than their rate by factor / factor_min.
        factor_max: The same for the smallest, which get less.
    """

    network: NetworkPlan
    factor: float
    framing: Framing
    factor_min: float
    factor_max: float

    def messages_mbps(self, probes_mbps: float, probe_bytes: float) -> float:
        """Return the rate that a link has in the network's terms, where large probes came at some rate and others wait.

        Args:
            probes_mbps: Rate of the probes' padding, 10^6 bits a second.
            probe_bytes: Padding of each.
        """
        return probes_mbps * self.framing.queued_probe_bytes(round(probe_bytes)) / probe_bytes / self.factor

    def probe_ms(self, probe_bytes: int, mbps: float) -> float:
        """Return how long one large probe takes on a link that is idle, without its latency; testbed milliseconds.

        Args:
            probe_bytes: Its padding.
            mbps: Rate of the link in the network's terms.
        """
        return self.framing.lone_probe_bytes(probe_bytes) * 8e-3 / (mbps * self.factor)

    def saved_bytes(self, mbps: float) -> int:
        """Return what such a link may let through at once after a pause: a bucket, and a packet that overdraws it."""
        return 2 * burst_bytes(round(mbps * self.factor * 1e6), self.framing.mtu)

    def to_json(self) -> dict[str, float]:
        """Return the factors, for ``environment.json``."""
        return {"factor": self.factor, "factor_min": self.factor_min, "factor_max": self.factor_max}


def line_rates(network: NetworkPlan, messages: Mapping[int, float], *, tls: bool, mtu: int) -> LineRates:
    """Find the rates of lines on which the messages of an experiment get the rates of its network.

    Args:
        network: The network. Where it has a framing, its rates are those of lines already.
        messages: Bytes of a body -> how many such messages there are, in any unit.
        tls: Whether streams are encrypted.
        mtu: The largest packet of the links' devices, bytes.
    """
    if network.framing is not None:
        return LineRates(network, 1.0, network.framing, 1.0, 1.0)
    framing = Framing(tls=tls, mtu=mtu, segments=packet_segments(network, mtu))
    if not messages:
        return LineRates(network, 1.0, framing, 1.0, 1.0)
    on_line = {body: framing.link_bytes(body) for body in messages}
    counted = {body: max(1, network.link_bytes(body)) for body in messages}
    ratios = [on_line[body] / counted[body] for body in messages]
    total = sum(count * counted[body] for body, count in messages.items())
    factor = sum(count * on_line[body] for body, count in messages.items()) / total
    scaled = replace(
        network,
        up_mbps=network.up_mbps * factor,
        down_mbps=network.down_mbps * factor,
        pair_mbps=None if network.pair_mbps is None else network.pair_mbps * factor,
        changes=tuple((at_ns, _scaled(change, factor)) for at_ns, change in network.changes),
    )
    return LineRates(scaled, factor, framing, min(ratios), max(ratios))


def _scaled(change: LinkChange, factor: float) -> LinkChange:
    return replace(change, mbps=change.mbps * factor) if isinstance(change, CapacityChange) else change
