from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterRequest(_message.Message):
    __slots__ = ("control_version", "wire_version", "software_version", "run_id", "node", "peer_address", "pid", "num_params", "plan_id", "metrics_address")
    CONTROL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMS_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    control_version: int
    wire_version: int
    software_version: str
    run_id: str
    node: int
    peer_address: str
    pid: int
    num_params: int
    plan_id: int
    metrics_address: str
    def __init__(self, control_version: _Optional[int] = ..., wire_version: _Optional[int] = ..., software_version: _Optional[str] = ..., run_id: _Optional[str] = ..., node: _Optional[int] = ..., peer_address: _Optional[str] = ..., pid: _Optional[int] = ..., num_params: _Optional[int] = ..., plan_id: _Optional[int] = ..., metrics_address: _Optional[str] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("registered", "refused")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    refused: Refused
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("num_nodes", "status_period_ns")
    NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    STATUS_PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    num_nodes: int
    status_period_ns: int
    def __init__(self, num_nodes: _Optional[int] = ..., status_period_ns: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "text")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Refused.Reason]
        REASON_VERSION: _ClassVar[Refused.Reason]
        REASON_RUN: _ClassVar[Refused.Reason]
        REASON_NODE: _ClassVar[Refused.Reason]
        REASON_DUPLICATE: _ClassVar[Refused.Reason]
        REASON_PLAN: _ClassVar[Refused.Reason]
        REASON_ENDED: _ClassVar[Refused.Reason]
        REASON_CERTIFICATE: _ClassVar[Refused.Reason]
    REASON_UNSPECIFIED: Refused.Reason
    REASON_VERSION: Refused.Reason
    REASON_RUN: Refused.Reason
    REASON_NODE: Refused.Reason
    REASON_DUPLICATE: Refused.Reason
    REASON_PLAN: Refused.Reason
    REASON_ENDED: Refused.Reason
    REASON_CERTIFICATE: Refused.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    reason: Refused.Reason
    text: str
    def __init__(self, reason: _Optional[_Union[Refused.Reason, str]] = ..., text: _Optional[str] = ...) -> None: ...

class BarrierRequest(_message.Message):
    __slots__ = ("run_id", "node", "point")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node: int
    point: str
    def __init__(self, run_id: _Optional[str] = ..., node: _Optional[int] = ..., point: _Optional[str] = ...) -> None: ...

class BarrierState(_message.Message):
    __slots__ = ("missing", "released", "peers")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    released: bool
    peers: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    def __init__(self, missing: _Optional[_Iterable[int]] = ..., released: bool = ..., peers: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ...) -> None: ...

class PeerAddress(_message.Message):
    __slots__ = ("node", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: int
    address: str
    def __init__(self, node: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class Counters(_message.Message):
    __slots__ = ("whole", "real")
    class WholeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RealEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    whole: _containers.ScalarMap[str, int]
    real: _containers.ScalarMap[str, float]
    def __init__(self, whole: _Optional[_Mapping[str, int]] = ..., real: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("node", "phase", "time_ns", "messages_rejected", "unreachable", "counters", "failure", "waiting_for", "story", "at_rest", "diverged_ns", "sending_to", "waits_on")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[Status.Phase]
        PHASE_PREPARING: _ClassVar[Status.Phase]
        PHASE_WAITING: _ClassVar[Status.Phase]
        PHASE_RUNNING: _ClassVar[Status.Phase]
        PHASE_DONE: _ClassVar[Status.Phase]
        PHASE_STOPPING: _ClassVar[Status.Phase]
        PHASE_FAILED: _ClassVar[Status.Phase]
        PHASE_DIVERGED: _ClassVar[Status.Phase]
        PHASE_DOWN: _ClassVar[Status.Phase]
    PHASE_UNSPECIFIED: Status.Phase
    PHASE_PREPARING: Status.Phase
    PHASE_WAITING: Status.Phase
    PHASE_RUNNING: Status.Phase
    PHASE_DONE: Status.Phase
    PHASE_STOPPING: Status.Phase
    PHASE_FAILED: Status.Phase
    PHASE_DIVERGED: Status.Phase
    PHASE_DOWN: Status.Phase
    class MessagesRejectedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    STORY_FIELD_NUMBER: _ClassVar[int]
    AT_REST_FIELD_NUMBER: _ClassVar[int]
    DIVERGED_NS_FIELD_NUMBER: _ClassVar[int]
    SENDING_TO_FIELD_NUMBER: _ClassVar[int]
    WAITS_ON_FIELD_NUMBER: _ClassVar[int]
    node: int
    phase: Status.Phase
    time_ns: int
    messages_rejected: _containers.ScalarMap[str, int]
    unreachable: _containers.RepeatedScalarFieldContainer[int]
    counters: Counters
    failure: str
    waiting_for: str
    story: _containers.RepeatedScalarFieldContainer[str]
    at_rest: bool
    diverged_ns: int
    sending_to: _containers.RepeatedScalarFieldContainer[int]
    waits_on: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[int] = ..., phase: _Optional[_Union[Status.Phase, str]] = ..., time_ns: _Optional[int] = ..., messages_rejected: _Optional[_Mapping[str, int]] = ..., unreachable: _Optional[_Iterable[int]] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., failure: _Optional[str] = ..., waiting_for: _Optional[str] = ..., story: _Optional[_Iterable[str]] = ..., at_rest: bool = ..., diverged_ns: _Optional[int] = ..., sending_to: _Optional[_Iterable[int]] = ..., waits_on: _Optional[_Iterable[int]] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("start", "stop", "measure")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    start: Start
    stop: Stop
    measure: Measure
    def __init__(self, start: _Optional[_Union[Start, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., measure: _Optional[_Union[Measure, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("start_unix_ns", "start_monotonic_ns")
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    START_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    start_unix_ns: int
    start_monotonic_ns: int
    def __init__(self, start_unix_ns: _Optional[int] = ..., start_monotonic_ns: _Optional[int] = ...) -> None: ...

class Measure(_message.Message):
    __slots__ = ("duration_ns",)
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    duration_ns: int
    def __init__(self, duration_ns: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "grace_ns", "snapshot")
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_NS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    grace_ns: int
    snapshot: bool
    def __init__(self, reason: _Optional[str] = ..., grace_ns: _Optional[int] = ..., snapshot: bool = ...) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: SnapshotHead
    data: bytes
    def __init__(self, head: _Optional[_Union[SnapshotHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SnapshotHead(_message.Message):
    __slots__ = ("run_id", "node", "purpose", "time_ns", "num_params", "crc32", "counters")
    class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PURPOSE_UNSPECIFIED: _ClassVar[SnapshotHead.Purpose]
        PURPOSE_EVALUATION: _ClassVar[SnapshotHead.Purpose]
        PURPOSE_FINAL: _ClassVar[SnapshotHead.Purpose]
    PURPOSE_UNSPECIFIED: SnapshotHead.Purpose
    PURPOSE_EVALUATION: SnapshotHead.Purpose
    PURPOSE_FINAL: SnapshotHead.Purpose
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMS_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node: int
    purpose: SnapshotHead.Purpose
    time_ns: int
    num_params: int
    crc32: int
    counters: Counters
    def __init__(self, run_id: _Optional[str] = ..., node: _Optional[int] = ..., purpose: _Optional[_Union[SnapshotHead.Purpose, str]] = ..., time_ns: _Optional[int] = ..., num_params: _Optional[int] = ..., crc32: _Optional[int] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ...) -> None: ...

class SnapshotReceipt(_message.Message):
    __slots__ = ("data_bytes",)
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    data_bytes: int
    def __init__(self, data_bytes: _Optional[int] = ...) -> None: ...

class RecordsPart(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: RecordsHead
    data: bytes
    def __init__(self, head: _Optional[_Union[RecordsHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class RecordsHead(_message.Message):
    __slots__ = ("run_id", "node", "name", "data_bytes", "crc32")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node: int
    name: str
    data_bytes: int
    crc32: int
    def __init__(self, run_id: _Optional[str] = ..., node: _Optional[int] = ..., name: _Optional[str] = ..., data_bytes: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...

class RecordsReceipt(_message.Message):
    __slots__ = ("data_bytes",)
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    data_bytes: int
    def __init__(self, data_bytes: _Optional[int] = ...) -> None: ...
