"""Framing of messages, against a slow one that cuts a message into pieces as the protocols do."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.framing import (
    ENVELOPE_BYTES,
    ETHERNET_HEADER_BYTES,
    FRAME_HEADER_BYTES,
    MTU_BYTES,
    MTU_BYTES_MIN,
    PROBE_HEADER_BYTES,
    TCP_IP_BYTES,
    Framing,
)
from node.transport.envelope import PREFIX_BYTES, pack
from node.transport.frames import HEADER_BYTES
from node.transport.pb.peer_pb2 import Envelope, Probe, Receipt

SIZES = st.integers(0, 4_000_000)
FRAMINGS = st.builds(
    Framing, tls=st.booleans(), mtu=st.integers(MTU_BYTES_MIN, 9_000), segments=st.sampled_from([1, 2, 3, 43])
)


def pieces(total: int, most: int) -> list[int]:
    cut = []
    while total:
        cut.append(min(total, most))
        total -= cut[-1]
    return cut


def packets_of(framing: Framing, body: int) -> list[int]:
    """What each packet carries of a message's stream."""
    grpc_bytes = 5 + len(pack([(bytes(44), 1, 1)])) - 44 + 44 + body
    stream = sum(9 + piece for piece in pieces(grpc_bytes, 2**20)) + 2 * 13
    if framing.tls:
        stream = sum(5 + piece + 1 + 16 for piece in pieces(stream, 16_284))
    return pieces(stream, framing.mtu - 20 - 32)


@given(framing=FRAMINGS, body=SIZES)
def test_a_message_is_the_frames_of_its_packets(framing: Framing, body: int) -> None:
    packets = packets_of(framing, body)
    assert framing.packets(body) == len(packets)
    assert framing.message_bytes(body) == sum(14 + 20 + 32 + packet for packet in packets)
    acknowledged = len(pieces(len(packets), max(2, framing.segments)))
    if acknowledged == 1 and len(packets) > 1:
        acknowledged = 2
    receipt = 50 + (22 if framing.tls else 0)
    assert framing.acknowledgement_bytes(body) == 66 * acknowledged + receipt
    assert framing.link_bytes(body) == framing.message_bytes(body) + framing.acknowledgement_bytes(body)


@given(framing=FRAMINGS, body=SIZES, more=st.integers(1, 100_000))
def test_more_never_takes_less_and_all_take_more_than_they_hold(framing: Framing, body: int, more: int) -> None:
    assert framing.message_bytes(body + more) >= framing.message_bytes(body) + more
    assert framing.link_bytes(body + more) > framing.link_bytes(body) > framing.message_bytes(body) > body


@given(framing=FRAMINGS, body=st.integers(0, 40_000))
def test_a_packet_more_begins_exactly_where_one_is_full(framing: Framing, body: int) -> None:
    room = framing.mtu - TCP_IP_BYTES
    spare = -framing.stream_bytes(body) % room
    full = body + spare
    if framing.stream_bytes(full) % room:  # a TLS record has begun in between
        return
    assert framing.packets(full) == framing.packets(body)
    assert framing.message_bytes(full) == framing.packets(full) * (framing.mtu + ETHERNET_HEADER_BYTES)
    assert framing.packets(full + 1) == framing.packets(full) + 1


@given(framing=FRAMINGS, padding=st.integers(1_000, 2_000_000))
def test_a_probe_is_the_packets_of_its_envelope(framing: Framing, padding: int) -> None:
    envelope = len(Envelope(probe=Probe(sequence=0, sent_ns=0, padding=bytes(padding)), due_ns=[0]).SerializeToString())
    assert abs(envelope - padding - PROBE_HEADER_BYTES) <= 3, "lengths are longer for longer ones"
    stream = padding + PROBE_HEADER_BYTES + 5
    stream += 9 * len(pieces(stream, 2**20))
    if framing.tls:
        stream += 22 * len(pieces(stream, 16_284))
    packets = len(pieces(stream, framing.mtu - TCP_IP_BYTES))
    # The model has the boundaries of frames, records and packets a few bytes elsewhere.
    boundary = 9 + 22 + 66
    assert abs(framing.lone_probe_bytes(padding) - stream - 66 * packets) <= boundary
    # Among others it fills packets, of which at most every other one is acknowledged.
    full = stream / (framing.mtu - TCP_IP_BYTES)
    assert stream + 66 * full - boundary <= framing.queued_probe_bytes(padding) <= stream + 99 * full + boundary


def test_figures_of_the_model() -> None:
    """Bytes on a link of 1,500, counted by hand, and the headers that the transport really writes."""
    assert HEADER_BYTES == FRAME_HEADER_BYTES
    assert PREFIX_BYTES == ENVELOPE_BYTES
    plain, encrypted = Framing(tls=False), Framing()
    # 44 + 24 + 5 + 9 + 26 = 108 bytes in one packet of 66.
    assert plain.message_bytes(0) == 174
    assert encrypted.message_bytes(0) == 196
    # A model of 100,000 bytes: 100,108 bytes in 70 packets, and 7 records of TLS.
    assert plain.message_bytes(100_000) == 100_108 + 70 * 66
    assert encrypted.message_bytes(100_000) == 100_108 + 7 * 22 + 70 * 66
    assert plain.acknowledgement_bytes(100_000) == 35 * 66 + 50
    assert Framing(tls=False, segments=16).acknowledgement_bytes(100_000) == 5 * 66 + 50
    assert plain.mtu == MTU_BYTES == 1_500


def test_a_receipt_is_as_long_as_is_charged() -> None:
    """Its three totals, in a run of some length, with gRPC's and HTTP/2's prefixes and two WINDOW_UPDATEs."""
    for frames, size in ((1_000, 100_000_000), (100_000, 10**10)):
        receipt = len(Receipt(frames=frames, frame_bytes=size).SerializeToString()) + 5 + 9 + 26
        assert abs(receipt - 50) <= 3
