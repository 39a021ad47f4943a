"""Bytes that a message takes on an Ethernet link: its frame, and all that carries it.

From the inside out, with where each figure comes from:

====================  ============================================================================================
frame                 44 bytes and the body (:mod:`node.transport.frames`)
envelope              24 bytes (:mod:`node.transport.envelope`)
gRPC                  5 bytes: compressed or not, and the length
HTTP/2                9 bytes for each DATA frame of up to a mebibyte, for which our channels ask; and for each message
                      26 bytes of WINDOW_UPDATE, of the stream and of the connection, that answer the last receipt
TLS 1.3               22 bytes for each record of up to 16,284 bytes, as gRPC cuts them: a header of 5, a type of 1, a
                      tag of 16
TCP, IPv4, Ethernet   66 bytes for each packet: 32 with timestamps, 20, and 14, as the kernel's traffic control counts
                      them: without preamble, checksum and gap
====================  ============================================================================================

A link carries the other direction's acknowledgements as well. TCP acknowledges every other packet, or every one that
holds more segments than two; the last packet back carries a receipt of 50 bytes. All of it is charged to the
message that causes it (:meth:`Framing.link_bytes`), as if it went the message's way: a node that receives as much as it
sends has just so much less of its uplink. Where all traffic goes one way, the link is faster by
:meth:`Framing.acknowledgement_bytes`: at most 2.3 % of a message that fills its packets.

Messages are charged as if each began a packet of its own. Small ones that wait for a stream share packets, envelopes
and receipts, and take less. Not counted either: connections that are made, and packets that TCP sends again.
"""

from dataclasses import dataclass
from typing import Final

FRAME_HEADER_BYTES: Final = 44
ENVELOPE_BYTES: Final = 24
GRPC_PREFIX_BYTES: Final = 5
HTTP2_HEADER_BYTES: Final = 9
HTTP2_FRAME_BYTES: Final = 1 << 20
"""The longest DATA frame, for which our channels and servers ask. Larger than a fragment, so that one is a single DATA
frame where the default of 16 KiB would make three."""
WINDOW_UPDATES_BYTES: Final = 26
RECEIPT_BYTES: Final = 50
"""A receipt of three numbers with its prefixes, and the WINDOW_UPDATE that answers the message."""
PROBE_HEADER_BYTES: Final = 18
"""Header of a large probe: its envelope without its padding."""
TLS_RECORD_BYTES: Final = 22
TLS_CONTENT_BYTES: Final = 16_284
TCP_IP_BYTES: Final = 52
ETHERNET_HEADER_BYTES: Final = 14
MTU_BYTES: Final = 1_500
MTU_BYTES_MIN: Final = 576
MTU_BYTES_MAX: Final = 65_535
SEGMENTS_MAX: Final = 65_535

_CARRIED_BYTES = FRAME_HEADER_BYTES + ENVELOPE_BYTES + WINDOW_UPDATES_BYTES
"""Bytes that a message has in the place of a probe's header."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Framing of messages on Ethernet links.

    Attributes:
        tls: Whether streams are encrypted.
        mtu: The largest IP packet, bytes.
        segments: Segments that travel as one packet, which is acknowledged at once; 1 where links are slow.
    """

    tls: bool = True
    mtu: int = MTU_BYTES
    segments: int = 1

    def stream_bytes(self, body_bytes: int) -> int:
        """Bytes of a message in the stream of TCP."""
        in_grpc = FRAME_HEADER_BYTES + body_bytes + ENVELOPE_BYTES + GRPC_PREFIX_BYTES
        in_http2 = in_grpc + HTTP2_HEADER_BYTES * -(-in_grpc // HTTP2_FRAME_BYTES) + WINDOW_UPDATES_BYTES
        return in_http2 + (TLS_RECORD_BYTES * -(-in_http2 // TLS_CONTENT_BYTES) if self.tls else 0)

    def packets(self, body_bytes: int) -> int:
        """Packets of a message, at least 1."""
        return -(-self.stream_bytes(body_bytes) // (self.mtu - TCP_IP_BYTES))

    def message_bytes(self, body_bytes: int) -> int:
        """Bytes of a message and its framing on an Ethernet link, one way."""
        headers = self.packets(body_bytes) * (TCP_IP_BYTES + ETHERNET_HEADER_BYTES)
        return self.stream_bytes(body_bytes) + headers

    @property
    def receipt_bytes(self) -> int:
        """Bytes of a receipt in the stream back."""
        return RECEIPT_BYTES + (TLS_RECORD_BYTES if self.tls else 0)

    def acknowledgement_bytes(self, body_bytes: int) -> int:
        """Bytes that come back for a message: acknowledgements and its receipt."""
        sent = self.packets(body_bytes)
        # Several packets are acknowledged at once, before the receiver has read them and can say so.
        packets = max(min(2, sent), -(-sent // max(2, self.segments)))
        return packets * (TCP_IP_BYTES + ETHERNET_HEADER_BYTES) + self.receipt_bytes

    def link_bytes(self, body_bytes: int) -> int:
        """Bytes of a link's capacity that a message takes: its own, and what comes back for it."""
        return self.message_bytes(body_bytes) + self.acknowledgement_bytes(body_bytes)

    def queued_probe_bytes(self, padding_bytes: int) -> float:
        """Bytes of a link's capacity that a large probe takes among others that wait too: together they fill packets.

        Nothing answers but acknowledgements.
        """
        stream = self.stream_bytes(_probe_body_bytes(padding_bytes))
        packets = stream / (self.mtu - TCP_IP_BYTES)
        return stream + (packets + packets / max(2, self.segments)) * (TCP_IP_BYTES + ETHERNET_HEADER_BYTES)

    def lone_probe_bytes(self, padding_bytes: int) -> int:
        """Bytes that a large probe has to wait for on a link that carries nothing else: its own, one way."""
        return self.message_bytes(_probe_body_bytes(padding_bytes))


def _probe_body_bytes(padding_bytes: int) -> int:
    """Bytes of the body of a message that is as long as a probe."""
    return max(0, padding_bytes + PROBE_HEADER_BYTES - _CARRIED_BYTES)
