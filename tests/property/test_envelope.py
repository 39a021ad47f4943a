"""Envelopes written by hand against the generated code, in both directions, and against anything else."""

from hypothesis import example, given
from hypothesis import strategies as st

from node.transport.envelope import PREFIX_BYTES, Framed, pack, parse
from node.transport.pb.peer_pb2 import Envelope, Hello, Probe

NUMBERS = st.integers(0, 2**64 - 1)
FRAMES = st.lists(st.tuples(st.binary(max_size=300), NUMBERS, NUMBERS), min_size=1, max_size=4)
SIZES = (0, 1, 127, 128, 2**14 - 1, 2**14, 2**21 - 1, 2**21)
"""Where a varint's length changes."""


def found(data: bytes) -> list[tuple[bytes, int, int]]:
    content = parse(data)
    assert isinstance(content, list)
    return [(bytes(item.frame), item.number, item.due_ns) for item in content]


@given(FRAMES)
def test_what_we_write_is_what_generated_code_reads(frames: list[tuple[bytes, int, int]]) -> None:
    envelope = Envelope.FromString(pack(frames))
    assert list(zip(envelope.frame, envelope.number, envelope.due_ns, strict=True)) == frames
    assert len(pack(frames)) == sum(PREFIX_BYTES + len(frame) for frame, _, _ in frames)


@given(FRAMES)
def test_what_either_writes_is_what_we_read(frames: list[tuple[bytes, int, int]]) -> None:
    assert found(pack(frames)) == frames
    frame, number, due_ns = zip(*frames, strict=True)
    assert found(Envelope(frame=frame, number=number, due_ns=due_ns).SerializeToString()) == frames


def test_every_length_of_a_length() -> None:
    for size in SIZES:
        frames = [(bytes(size), 1, 2)]
        assert found(pack(frames)) == frames
        assert len(Envelope.FromString(pack(frames)).frame[0]) == size


def test_frames_are_views_and_aligned() -> None:
    data = pack([(bytes(44), 1, 2), (bytes(36_044), 3, 4)])
    content = parse(data)
    assert isinstance(content, list)
    offset = PREFIX_BYTES
    for item in content:
        assert isinstance(item.frame, memoryview)
        assert item.frame.obj is data
        assert offset % 4 == 0
        offset += len(item.frame) + PREFIX_BYTES


@given(st.binary(max_size=200))
@example(b"")
@example(pack([(b"frame", 1, 2)])[:-1])
@example(pack([(b"frame", 1, 2)]) + b"!")
def test_anything_is_read_as_the_generated_parser_reads_it_or_as_nothing(data: bytes) -> None:
    content = parse(data)
    if isinstance(content, list):
        envelope = Envelope.FromString(data)
        assert [bytes(item.frame) for item in content] == list(envelope.frame)


@given(FRAMES, st.data())
def test_damage_never_raises(frames: list[tuple[bytes, int, int]], data: st.DataObject) -> None:
    damaged = bytearray(pack(frames))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    content = parse(bytes(damaged))
    if isinstance(content, list):
        assert all(isinstance(item, Framed) and 0 <= item.number < 2**64 for item in content)


def test_what_is_not_a_frame_goes_through_the_generated_parser() -> None:
    hello = Hello(wire_version=1, run_id="r", sender=3, plan_id=2**63)
    assert parse(Envelope(hello=hello).SerializeToString()) == hello
    probe = Probe(sequence=1, sent_ns=2, padding=b"xyz")
    assert parse(Envelope(probe=probe, due_ns=[9]).SerializeToString()) == (probe, 9)
    assert parse(Envelope(probe=probe).SerializeToString()) == (probe, 0)


def test_what_holds_two_things_or_says_too_little_of_its_frames_is_nothing() -> None:
    assert parse(Envelope(hello=Hello(), frame=[b""], number=[0], due_ns=[0]).SerializeToString()) is None
    assert parse(Envelope(hello=Hello(), probe=Probe()).SerializeToString()) is None
    assert parse(Envelope(frame=[b"a", b"b"], number=[1], due_ns=[0, 0]).SerializeToString()) is None
    assert parse(Envelope(number=[1]).SerializeToString()) is None
