from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("hello", "probe", "frame", "number", "due_ns")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DUE_NS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    probe: Probe
    frame: _containers.RepeatedScalarFieldContainer[bytes]
    number: _containers.RepeatedScalarFieldContainer[int]
    due_ns: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., frame: _Optional[_Iterable[bytes]] = ..., number: _Optional[_Iterable[int]] = ..., due_ns: _Optional[_Iterable[int]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("wire_version", "run_id", "sender", "plan_id", "window_bytes", "receipts_within_ms", "life")
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_WITHIN_MS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    wire_version: int
    run_id: str
    sender: int
    plan_id: int
    window_bytes: int
    receipts_within_ms: int
    life: int
    def __init__(self, wire_version: _Optional[int] = ..., run_id: _Optional[str] = ..., sender: _Optional[int] = ..., plan_id: _Optional[int] = ..., window_bytes: _Optional[int] = ..., receipts_within_ms: _Optional[int] = ..., life: _Optional[int] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("sequence", "sent_ns", "padding")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_ns: int
    padding: bytes
    def __init__(self, sequence: _Optional[int] = ..., sent_ns: _Optional[int] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("frames", "frame_bytes", "frames_rejected", "echo")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    frames: int
    frame_bytes: int
    frames_rejected: int
    echo: Echo
    def __init__(self, frames: _Optional[int] = ..., frame_bytes: _Optional[int] = ..., frames_rejected: _Optional[int] = ..., echo: _Optional[_Union[Echo, _Mapping]] = ...) -> None: ...

class Echo(_message.Message):
    __slots__ = ("sequence", "sent_ns", "padding_bytes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    PADDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_ns: int
    padding_bytes: int
    def __init__(self, sequence: _Optional[int] = ..., sent_ns: _Optional[int] = ..., padding_bytes: _Optional[int] = ...) -> None: ...
