"""The ``schedule`` section of the experiment file: a list of entries, told apart by their ``action``.

Times are testbed time. An entry holds from its begin up to its end and not at it, so that one entry may begin where
another one ends.
"""

import re
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from node.config_base import ConfigModel
from node.core.bounds import ENTRIES_MAX, FACTOR_MAX, MBPS_MAX, MBPS_MIN, MS_MAX, NODES_MAX, TIME_S_MAX
from node.core.schedule import Comeback
from orchestrator.experiment.fedscale_files import CLIENT_ORDER_TEXT, ClientOrder

# -- nodes -------------------------------------------------------------------------------------------------------

GROUPS_OF_NODES: Final = ("all", "fast", "stragglers")
"""Groups that a selector can name. Stragglers are slowed in the network or in compute, the others are fast."""

RANGE: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})", re.ASCII)
"""A range of nodes, both ends included."""


def _known_word(word: str) -> str:
    found = RANGE.fullmatch(word)
    if found is None and word not in GROUPS_OF_NODES:
        raise PydanticCustomError(
            "selector", 'must be a range such as "0-4", or one of {groups}', {"groups": ", ".join(GROUPS_OF_NODES)}
        )
    if found is not None and int(found[1]) > int(found[2]):
        raise PydanticCustomError("selector", "must be a range whose first node is not above its last")
    return word


NodeIndex: TypeAlias = Annotated[int, Field(ge=0, lt=NODES_MAX)]
NodeWord: TypeAlias = Annotated[str, AfterValidator(_known_word)]


class FractionSelector(ConfigModel):
    """A share of some nodes, drawn once for the entry: from the seed and the entry's place in the list."""

    fraction: float = Field(gt=0, le=1, description="share of the nodes, rounded to a whole number of them")
    of: NodeWord = Field("all", description='of which nodes: all, fast, stragglers or a range such as "0-4"')


SELECTOR_TAGS: Final = ("[index]", "[word]", "[fraction]", "[list]")
"""Marks of a selector's forms in pydantic's paths, which a file does not have."""


def _form(value: object) -> str | None:
    """Return the mark of the form that a selector has; None for none."""
    if isinstance(value, int | float):  # a number that is not whole is refused as a number
        return "[index]"
    if isinstance(value, str):
        return "[word]"
    if isinstance(value, dict | FractionSelector):
        return "[fraction]"
    return "[list]" if isinstance(value, list | tuple) else None


_FORMS: Final = Discriminator(
    _form,
    custom_error_type="selector",
    custom_error_message='must be a node, a range such as "0-4", all, fast, stragglers, a fraction, or a list of these',
)

OneSelector: TypeAlias = Annotated[
    Annotated[NodeIndex, Tag("[index]")]
    | Annotated[NodeWord, Tag("[word]")]
    | Annotated[FractionSelector, Tag("[fraction]")],
    _FORMS,
]
Selector: TypeAlias = Annotated[
    Annotated[NodeIndex, Tag("[index]")]
    | Annotated[NodeWord, Tag("[word]")]
    | Annotated[FractionSelector, Tag("[fraction]")]
    | Annotated[tuple[OneSelector, ...], Field(min_length=1, max_length=ENTRIES_MAX), Tag("[list]")],
    _FORMS,
]

_NODES: Final = (
    'which nodes: an index, a range such as "0-4", all, fast, stragglers, {fraction: 0.3, of: all}, or a list of these'
)

# -- times -------------------------------------------------------------------------------------------------------


class EntryBase(ConfigModel):
    """Keys that every entry has."""

    at_s: float = Field(0.0, ge=0, le=TIME_S_MAX, description="when it begins, in testbed time")
    until_s: float | None = Field(
        None,
        gt=0,
        le=TIME_S_MAX,
        description="when it ends; with every_s, when it has begun for the last time: none begins at or after it",
    )
    every_s: float | None = Field(
        None, ge=1e-6, le=TIME_S_MAX, description="begin again each so many seconds, to until_s or the end of the run"
    )

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> "EntryBase":
        if self.until_s is not None and self.until_s <= self.at_s:
            raise ValueError(f"until_s={self.until_s:g}: must be above at_s={self.at_s:g}, where the entry begins")
        return self


class SpanEntry(EntryBase):
    """Keys of an entry that holds for a while."""

    for_s: float | None = Field(
        None, ge=1e-9, le=TIME_S_MAX, description="how long it holds; to until_s, else to the end of the run, if absent"
    )

    @model_validator(mode="after")
    def _has_one_end(self) -> "SpanEntry":
        if self.every_s is None:
            if self.for_s is not None and self.until_s is not None:
                raise ValueError(f"until_s={self.until_s:g}: must be left out with for_s, but for every_s")
        elif self.for_s is None:
            raise ValueError(f"must have for_s where it begins every {self.every_s:g} s")
        elif self.for_s >= self.every_s:
            raise ValueError(f"for_s={self.for_s:g}: must be below every_s={self.every_s:g}")
        return self

    @property
    def has_end(self) -> bool:
        """Tell whether it ends before the run does."""
        return self.for_s is not None or self.until_s is not None


# -- links -------------------------------------------------------------------------------------------------------


class LinkEntry(SpanEntry):
    """Keys of an entry that is laid over links: of nodes' access, or of pairs."""

    nodes: Selector | None = Field(None, description=f"over the access links of {_NODES.removeprefix('which ')}")
    direction: Literal["up", "down", "both"] = Field("both", description="which side of the access links of nodes")
    pairs: tuple[tuple[NodeIndex, NodeIndex], ...] | None = Field(
        None,
        min_length=1,
        max_length=ENTRIES_MAX,
        description="or over the paths of pairs: [[source, destination], ...]",
    )
    both_ways: bool = Field(True, description="over the way back of each pair as well")

    @model_validator(mode="after")
    def _names_one_kind_of_link(self) -> "LinkEntry":
        if (self.nodes is None) == (self.pairs is None):
            raise ValueError("must name nodes or pairs, and not both")
        if self.pairs is None:
            if not self.both_ways:
                raise ValueError("both_ways=false: must be left out with nodes, which have a direction")
            return self
        if self.direction != "both":
            raise ValueError(f"direction={self.direction}: must be left out with pairs, which have both_ways")
        seen: set[tuple[int, int]] = set()
        for index, (source, destination) in enumerate(self.pairs):
            place = f"pairs[{index}]=[{source}, {destination}]"
            if source == destination:
                raise ValueError(f"{place}: must be two different nodes")
            if (source, destination) in seen:
                raise ValueError(f"{place}: must be given once" + ", as both ways are meant" * self.both_ways)
            seen |= {(source, destination), (destination, source)} if self.both_ways else {(source, destination)}
        return self


class DegradeEntry(LinkEntry):
    """Lays a factor, a limit or a delay over links; what several entries lay over one link works together.

    Over a node's access it counts for all paths from the node (up) or to it (down): latency that is added to both
    sides of two nodes is added twice to the path between them.
    """

    action: Literal["degrade"] = "degrade"
    bandwidth_factor: float | None = Field(
        None, gt=0, le=FACTOR_MAX, description="times the link's own bandwidth, which it must have"
    )
    bandwidth_mbps: float | None = Field(
        None, ge=0, le=MBPS_MAX, description="no more than this, 10^6 bits a second; at 0 transfers stand still"
    )
    latency_factor: float | None = Field(None, ge=0, le=FACTOR_MAX, description="times the latency of the path")
    latency_ms: float | None = Field(None, ge=0, le=MS_MAX, description="added to the latency, one way")
    jitter_ms: float | None = Field(
        None, ge=0, le=MS_MAX, description="standard deviation, added as of independent ones"
    )
    loss_percent: float | None = Field(None, ge=0, lt=100, description="share of packets lost besides the path's own")

    @model_validator(mode="after")
    def _says_something(self) -> "DegradeEntry":
        if all(getattr(self, name) is None for name in EFFECTS):
            raise ValueError(f"must set one of {', '.join(EFFECTS)}")
        if self.bandwidth_mbps and self.bandwidth_mbps < MBPS_MIN:
            raise ValueError(f"bandwidth_mbps={self.bandwidth_mbps:g}: must be 0, or at least {MBPS_MIN:g}")
        return self


EFFECTS: Final = ("bandwidth_factor", "bandwidth_mbps", "latency_factor", "latency_ms", "jitter_ms", "loss_percent")
"""The keys of which an entry that degrades has one at least."""


class TraceEntry(LinkEntry):
    """Lets links follow a file over time, from the entry's begin on.

    A CSV file has the column time_s and one or more of bandwidth_mbps, latency_ms and loss_percent. Each row holds
    until the next one's time; before the first row the link is as it would be. Bandwidth takes the place of the link's
    own, latency and loss come on top. A file of packet-delivery opportunities, as Mahimahi takes them, becomes the mean
    bandwidth of each interval.
    """

    action: Literal["trace"] = "trace"
    file: str = Field(min_length=1, description="path, relative to the experiment file")
    format: Literal["csv", "mahimahi"] = Field("csv", description="what the file holds")
    at_end: Literal["hold", "loop", "undo"] | None = Field(
        None,
        description="after the last row: hold its values, start again (its time is the period and its values do not"
        " count), or undo: its time is the end; hold when absent, and loop for mahimahi, which can do nothing else",
    )
    interval_ms: int = Field(100, ge=1, le=10**9, description="length of the intervals of a mahimahi trace")

    @model_validator(mode="after")
    def _fits_its_format(self) -> "TraceEntry":
        if self.format == "mahimahi" and self.at_end not in (None, "loop"):
            raise ValueError(f"at_end={self.at_end}: must be loop with format: mahimahi")
        if self.format == "csv" and self.interval_ms != type(self).model_fields["interval_ms"].default:
            raise ValueError(f"interval_ms={self.interval_ms}: must be left out with format: csv")
        return self

    @property
    def ending(self) -> Literal["hold", "loop", "undo"]:
        """Return what happens after the last row."""
        return self.at_end or ("loop" if self.format == "mahimahi" else "hold")


class PartitionEntry(SpanEntry):
    """Sets groups of nodes apart: messages between them stand still until it ends. Who is in no group reaches all."""

    action: Literal["partition"] = "partition"
    groups: tuple[Selector, ...] = Field(
        min_length=2, max_length=ENTRIES_MAX, description=f"two or more groups without a common node; {_NODES}"
    )


class IsolateEntry(SpanEntry):
    """Sets each of some nodes apart from all others, and from each other."""

    action: Literal["isolate"] = "isolate"
    nodes: Selector = Field(description=_NODES)


# -- nodes -------------------------------------------------------------------------------------------------------


ComebackModel: TypeAlias = Annotated[
    Comeback,
    Field(description="what a node that comes back begins from: its last model, the common first one, or a peer's"),
]


class CrashEntry(SpanEntry):
    """Ends nodes without a warning, and starts them again at the entry's end; without an end they stay away."""

    action: Literal["crash"] = "crash"
    nodes: Selector = Field(description=_NODES)
    model: ComebackModel = "last"

    @model_validator(mode="after")
    def _comes_back(self) -> "CrashEntry":
        if self.model != "last" and not self.has_end:
            raise ValueError(f"model={self.model}: must be left out of a crash without an end; a restart has its own")
        return self


class RestartEntry(EntryBase):
    """Ends nodes and starts them again at once; starts those again that a crash without an end has taken away."""

    action: Literal["restart"] = "restart"
    nodes: Selector = Field(description=_NODES)
    model: ComebackModel = "last"

    @model_validator(mode="after")
    def _is_an_instant(self) -> "RestartEntry":
        if self.until_s is not None and self.every_s is None:
            raise ValueError(
                f"until_s={self.until_s:g}: must be left out of a restart without every_s: it is an instant"
            )
        return self


class PauseEntry(SpanEntry):
    """Lets nodes stand still, and go on at the entry's end as if nothing had been."""

    action: Literal["pause"] = "pause"
    nodes: Selector = Field(description=_NODES)

    @model_validator(mode="after")
    def _ends(self) -> "PauseEntry":
        if not self.has_end:
            raise ValueError("must have for_s or until_s: a pause has an end")
        return self


class SlowCpuEntry(SpanEntry):
    """Lets nodes compute slowly; a local step that is under way goes on at the new speed."""

    action: Literal["slow_cpu"] = "slow_cpu"
    nodes: Selector = Field(description=_NODES)
    factor: float = Field(ge=1, le=FACTOR_MAX, description="how many times longer their local steps take")


# -- files of nodes -------------------------------------------------------------------------------------------------


class FileOfNodesEntry(SpanEntry):
    """Keys of an entry whose file says what happens to which nodes, and when."""

    nodes: Selector = Field("all", description=f"{_NODES}, in order of their numbers")
    file: str = Field(min_length=1, description="path, relative to the experiment file")
    model: ComebackModel = "last"

    @model_validator(mode="after")
    def _has_its_own_times(self) -> "FileOfNodesEntry":
        if self.every_s is not None:
            raise ValueError(f"every_s={self.every_s:g}: must be left out with a file that has its own times")
        return self


class AvailabilityEntry(FileOfNodesEntry):
    """Takes nodes away while the clients of a file are inactive: FedScale's availability, as JSON.

    The file is an object whose keys are clients. Each has `active` and `inactive`, lists of seconds, and `finish_time`,
    after which they repeat; `duration` and `model` are not used. A client is active from each time in `active` to the
    one at the same place in `inactive`.
    """

    action: Literal["availability"] = "availability"
    inactive: Literal["crash", "pause"] = Field(
        "crash", description="what happens to a node while its client is inactive"
    )
    clients: ClientOrder = Field("in_order", description=CLIENT_ORDER_TEXT)
    speedup: float = Field(1.0, gt=0, le=FACTOR_MAX, description="seconds of the file in a second of testbed time")

    @model_validator(mode="after")
    def _comes_back_with_a_model(self) -> "AvailabilityEntry":
        if self.inactive == "pause" and self.model != "last":
            raise ValueError(f"model={self.model}: must be left out with inactive: pause, which keeps a node's own")
        return self


class KollapsEntry(FileOfNodesEntry):
    """Lets happen what an experiment of Kollaps has in its section `dynamic`.

    Replicas of services are nodes, in the file's order. They join, leave, crash, disconnect and reconnect; links
    between a service and a bridge, or between two services, change, leave and join.
    """

    action: Literal["kollaps"] = "kollaps"


NodeEntry: TypeAlias = CrashEntry | RestartEntry | PauseEntry | SlowCpuEntry

ScheduleEntry: TypeAlias = Annotated[
    DegradeEntry
    | TraceEntry
    | PartitionEntry
    | IsolateEntry
    | CrashEntry
    | RestartEntry
    | PauseEntry
    | SlowCpuEntry
    | AvailabilityEntry
    | KollapsEntry,
    Field(discriminator="action"),
]

Action: TypeAlias = Literal[
    "degrade",
    "trace",
    "partition",
    "isolate",
    "crash",
    "restart",
    "pause",
    "slow_cpu",
    "availability",
    "kollaps",
]
