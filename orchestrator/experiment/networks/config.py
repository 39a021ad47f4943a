"""The ``network`` section of the experiment file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from node.config_base import ConfigModel
from node.core.bounds import ENTRIES_MAX, FACTOR_MAX, MBPS_MAX, MBPS_MIN, MS_MAX, NODES_MAX, TIME_S_MAX
from orchestrator.experiment.fedscale_files import CLIENT_ORDER_TEXT, ClientOrder


class UniformPreset(ConfigModel):
    """All nodes have the same access link."""

    kind: Literal["uniform"] = "uniform"
    bandwidth_mbps: float | None = Field(
        default=60.0,
        ge=MBPS_MIN,
        le=MBPS_MAX,
        description="up and down, 10^6 bits a second; null is unlimited",
    )
    up_mbps: float | None = Field(default=None, ge=MBPS_MIN, le=MBPS_MAX, description="up, where it differs")
    down_mbps: float | None = Field(default=None, ge=MBPS_MIN, le=MBPS_MAX, description="down, where it differs")
    latency_ms: float = Field(default=1.0, ge=0, le=MS_MAX, description="one way")
    jitter_ms: float = Field(default=0.0, ge=0, le=MS_MAX, description="standard deviation of the latency")
    loss_percent: float = Field(default=0.0, ge=0, lt=100, description="share of packets lost")


class StragglersPreset(ConfigModel):
    """Like uniform, with some access links slower.

    A straggler has round(Normal(bandwidth_mbps / factor, jitter_mbps)) Mbit/s in both directions, at least
    1 and at most bandwidth_mbps; with jitter_mbps 0 exactly bandwidth_mbps / factor.
    """

    kind: Literal["stragglers"] = "stragglers"
    bandwidth_mbps: float = Field(default=60.0, ge=MBPS_MIN, le=MBPS_MAX, description="of the other nodes, up and down")
    count: int = Field(ge=0, le=NODES_MAX, description="how many nodes are slow")
    factor: float = Field(default=5.0, ge=1, le=FACTOR_MAX, description="how many times slower")
    jitter_mbps: float = Field(default=1.0, ge=0, le=MBPS_MAX, description="spread of the stragglers' bandwidths")
    placement: Literal["random", "lowest_ids"] = Field(
        default="random",
        description="which nodes are slow; lowest_ids is DivShare's public file, which ties them to the first data",
    )
    latency_ms: float = Field(default=1.0, ge=0, le=MS_MAX, description="one way")
    jitter_ms: float = Field(default=0.0, ge=0, le=MS_MAX, description="standard deviation of the latency")
    loss_percent: float = Field(default=0.0, ge=0, lt=100, description="share of packets lost")

    @model_validator(mode="after")
    def _bandwidth_can_be_rounded(self) -> "StragglersPreset":
        if self.count and self.jitter_mbps and self.bandwidth_mbps / self.factor < 1:
            raise ValueError(
                f"jitter_mbps={self.jitter_mbps}: must be 0 where bandwidth_mbps / factor is below 1 Mbit/s"
            )
        return self


class RegionsPreset(ConfigModel):
    """Nodes in regions, with a bandwidth per pair of regions."""

    kind: Literal["regions"] = "regions"
    file: str | None = Field(default=None, min_length=1, description="JSON file of regions; without it ten AWS regions")
    latency: Literal["constant", "rtt", "pinged"] = Field(
        default="constant",
        description="constant is what DivShare's public file does; rtt takes half of the file's rtt_ms,"
        " which is unverified for the built-in regions; pinged takes half of its pinged_rtt_ms, which for these is a"
        " sample of cloudping.co",
    )
    latency_ms: float = Field(
        default=1.0, ge=0, le=MS_MAX, description="one way between regions, with latency: constant"
    )
    intra_region_mbps: float | None = Field(
        default=1000.0, ge=MBPS_MIN, le=MBPS_MAX, description="between nodes of a region; null is unlimited"
    )
    intra_region_latency_ms: float = Field(default=0.5, ge=0, le=MS_MAX, description="one way within a region")
    access_mbps: float | None = Field(
        default=None, ge=MBPS_MIN, le=MBPS_MAX, description="further limit of each node, up and down"
    )
    jitter_ms: float = Field(default=0.0, ge=0, le=MS_MAX, description="standard deviation of the latency")
    loss_percent: float = Field(default=0.0, ge=0, lt=100, description="share of packets lost")

    @model_validator(mode="after")
    def _latency_has_one_source(self) -> "RegionsPreset":
        if self.latency != "constant" and self.latency_ms != type(self).model_fields["latency_ms"].default:
            raise ValueError(f"latency_ms={self.latency_ms}: must be left out with latency: {self.latency}")
        return self


class ProfilesPreset(ConfigModel):
    """Access links as they were measured: homes, mobile networks, satellites.

    Nodes are dealt to profiles by their shares. A path between two nodes meets the access links of both: half of each
    one's round-trip time is the latency one way. Where a profile's source gives a distribution, each node draws its own
    place in it: one for its rates, one for its round-trip time and jitter.
    """

    kind: Literal["profiles"] = "profiles"
    shares: dict[str, Annotated[float, Field(gt=0, le=FACTOR_MAX)]] = Field(
        min_length=1,
        max_length=ENTRIES_MAX,
        description="profile: its share of the nodes, relative to the other shares, such as {mobile_4g: 1}",
    )
    file: str | None = Field(
        default=None, min_length=1, description="JSON file of profiles; without it those that come with Fragmesh"
    )
    placement: Literal["random", "in_order"] = Field(
        default="random", description="which nodes have which profile; in_order deals them in the order of shares"
    )
    figures: Literal["drawn", "median"] = Field(
        default="drawn", description="drawn from the distributions of a profile's source, or the middle of each"
    )


class CapacitiesPreset(ConfigModel):
    """Access links from a file of FedScale's device capacities, as JSON: `communication` up and down, in kbit/s."""

    kind: Literal["capacities"] = "capacities"
    file: str = Field(min_length=1, description="path, relative to the experiment file")
    clients: ClientOrder = Field(default="in_order", description=CLIENT_ORDER_TEXT)
    latency_ms: float = Field(default=1.0, ge=0, le=MS_MAX, description="one way")
    jitter_ms: float = Field(default=0.0, ge=0, le=MS_MAX, description="standard deviation of the latency")
    loss_percent: float = Field(default=0.0, ge=0, lt=100, description="share of packets lost")


class KollapsPreset(ConfigModel):
    """Access links from the services and links of an experiment of Kollaps in which all services share one bridge.

    Replicas of services are nodes, in the file's order. What its section `dynamic` says is an entry of the schedule.
    """

    kind: Literal["kollaps"] = "kollaps"
    file: str = Field(min_length=1, description="path, relative to the experiment file")


PresetConfig = Annotated[
    UniformPreset | StragglersPreset | RegionsPreset | ProfilesPreset | CapacitiesPreset | KollapsPreset,
    Field(discriminator="kind"),
]


class SerialSender(ConfigModel):
    """A node sends one message after the other, each with its whole uplink."""

    kind: Literal["serial"] = "serial"


class ParallelSender(ConfigModel):
    """A node sends several messages at once, which share its uplink."""

    kind: Literal["parallel"] = "parallel"
    transfers: int = Field(ge=2, le=NODES_MAX, description="messages under way at once")


class PerPeerSender(ConfigModel):
    """A queue and a connection for each peer: all send at once and share the uplink; a slow peer blocks only its own.

    This is how the public code of DivShare, AD-PSGD and SWIFT sends.
    """

    kind: Literal["per_peer"] = "per_peer"


SenderConfig = Annotated[SerialSender | ParallelSender | PerPeerSender, Field(discriminator="kind")]


class OverrideConfig(ConfigModel):
    """One direction of one pair that differs from the preset; what is left out stays."""

    source: int = Field(ge=0, lt=NODES_MAX, description="the sending node")
    destination: int = Field(ge=0, lt=NODES_MAX, description="the receiving node")
    bandwidth_mbps: float | None = Field(
        default=None, ge=MBPS_MIN, le=MBPS_MAX, description="limit of the pair, besides the access links"
    )
    latency_ms: float | None = Field(default=None, ge=0, le=MS_MAX, description="one way")
    jitter_ms: float | None = Field(default=None, ge=0, le=MS_MAX, description="standard deviation of the latency")
    loss_percent: float | None = Field(default=None, ge=0, lt=100, description="share of packets lost")

    @model_validator(mode="after")
    def _says_something(self) -> "OverrideConfig":
        if self.source == self.destination:
            raise ValueError(f"destination={self.destination}: must differ from source")
        if not self.model_fields_set - {"source", "destination"}:
            raise ValueError("override: must set one of bandwidth_mbps, latency_ms, jitter_ms, loss_percent")
        return self


class TraceConfig(ConfigModel):
    """A bandwidth that changes over time, read from a CSV file with the columns time_s,bandwidth_mbps.

    Each row holds until the next one's time. Before the first row the preset holds. After the last one its
    bandwidth stays, or with ``repeat`` the file starts again at that moment, so that the last row's time
    is the period and its bandwidth does not count.
    """

    node: int | None = Field(default=None, ge=0, lt=NODES_MAX, description="the node whose access link changes")
    pair: tuple[int, int] | None = Field(default=None, description="or [source, destination], whose own limit changes")
    file: str = Field(min_length=1, description="path, relative to the experiment file")
    direction: Literal["up", "down", "both"] = Field(default="both", description="which side of the node's access link")
    repeat: bool = Field(default=False, description="start again after the last row")
    repeat_until_s: float = Field(
        default=3600.0, gt=0, le=TIME_S_MAX, description="no repetition begins after this time"
    )

    @model_validator(mode="after")
    def _names_one_place(self) -> "TraceConfig":
        if (self.node is None) == (self.pair is None):
            raise ValueError(f"node={self.node}, pair={self.pair}: must give exactly one of them")
        if self.pair is not None:
            if min(self.pair) < 0 or self.pair[0] == self.pair[1]:
                raise ValueError(f"pair={list(self.pair)}: must be two different nodes, >= 0")
            if self.direction != "both":
                raise ValueError(f"direction={self.direction}: must be left out with pair, which has its own")
        return self


class NetworkConfig(ConfigModel):
    """The network between the nodes."""

    model: Literal["access", "pairwise"] = Field(
        default="access",
        description="access: a node's transfers share its up and down link; pairwise: each pair has its own link",
    )
    preset: PresetConfig = Field(default_factory=UniformPreset)
    links: Literal["emulated", "direct"] = Field(
        default="emulated",
        description="what links are made of: emulated by the testbed (with runtime: docker, shaped by the kernel), or,"
        " with a real runtime, direct: the host's own, which nothing shapes, so that no rate, latency or loss may be"
        " declared",
    )
    tls: bool | None = Field(
        default=None,
        description="encrypt what nodes send to each other and to the orchestrator, with certificates made for the run;"
        " when absent the runtime decides: processes do not, as they share one host. Real runtimes only, but for the"
        " sizes of framing: ethernet, which are of encrypted traffic in all runtimes unless this is false",
    )
    congestion_control: Literal["cubic", "reno", "bbr"] | None = Field(
        default=None, description="TCP's, of all nodes; the host's when absent. With runtime: docker only"
    )
    sender: SenderConfig = Field(default_factory=SerialSender)
    transport: Literal["reliable", "datagram"] = Field(
        default="reliable",
        description="lost packets are sent again (without congestion control), or lose the message",
    )
    framing: Literal["none", "ethernet"] = Field(
        default="none",
        description="what bandwidths are of: none: of messages with their message_header_bytes; ethernet: of the line,"
        " which carries messages in frames of Ethernet, IP, TCP, TLS and HTTP/2, and their acknowledgements",
    )
    message_header_bytes: int = Field(
        default=64,
        ge=0,
        le=2**20,
        description="added to every message's body: 44 bytes of a frame's header and what carries the frame; to be left"
        " out with framing: ethernet, where results count it but lines carry what it stands for",
    )
    overrides: tuple[OverrideConfig, ...] = Field(
        default=(), max_length=ENTRIES_MAX, description="pairs that differ from the preset"
    )
    traces: tuple[TraceConfig, ...] = Field(
        default=(), max_length=ENTRIES_MAX, description="bandwidths that change over time"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "NetworkConfig":
        if isinstance(self.preset, RegionsPreset) and self.model == "access":
            raise ValueError("model=access: must be pairwise with preset.kind=regions, whose links are pairs")
        seen: set[tuple[int, int]] = set()
        for override in self.overrides:
            pair = (override.source, override.destination)
            if pair in seen:
                raise ValueError(f"overrides: pair {list(pair)} must be given only once")
            seen.add(pair)
        self._check_that_traces_are_apart()
        if self.links == "direct":
            self._check_that_nothing_is_shaped()
        if self.framing == "ethernet":
            self._check_that_messages_are_real()
        return self

    def _check_that_traces_are_apart(self) -> None:
        """Refuse two traces of one link, which would overwrite each other."""
        first: dict[tuple[object, ...], int] = {}
        for index, trace in enumerate(self.traces):
            places: list[tuple[object, ...]] = [("pair", *trace.pair)] if trace.pair else []
            if trace.node is not None:
                places = [(way, trace.node) for way in ("up", "down") if trace.direction in (way, "both")]
            for place in places:
                if place in first:
                    which = f"pair={list(trace.pair)}" if trace.pair else f"node={trace.node}"
                    what = "pair" if trace.pair else f"{place[0]}link"
                    other = f"its {what} follows traces[{first[place]}]"
                    raise ValueError(f"traces[{index}].{which}: must be another one: {other}")
                first[place] = index

    def _check_that_messages_are_real(self) -> None:
        """Refuse with framing what real messages have not."""
        if self.message_header_bytes != type(self).model_fields["message_header_bytes"].default:
            raise ValueError(
                f"message_header_bytes={self.message_header_bytes}: must be left out with framing: ethernet, whose"
                " headers are those of real messages"
            )
        if self.transport != "reliable":
            raise ValueError(f"transport={self.transport}: must be reliable with framing: ethernet, which is TCP's")

    def _check_that_nothing_is_shaped(self) -> None:
        """Refuse whatever direct links cannot give, under its key."""
        why = "with links: direct, which nothing shapes"
        if not isinstance(self.preset, UniformPreset):
            raise ValueError(f"preset.kind={self.preset.kind}: must be uniform {why}")
        for key in ("bandwidth_mbps", "up_mbps", "down_mbps"):
            if (value := getattr(self.preset, key)) is not None:
                raise ValueError(f"preset.{key}={value:g}: must be null {why}")
        for key in ("latency_ms", "jitter_ms", "loss_percent"):
            if value := getattr(self.preset, key):
                raise ValueError(f"preset.{key}={value:g}: must be 0 {why}")
        if self.framing != "none":
            raise ValueError(f"framing={self.framing}: must be none {why}")
        for key in ("overrides", "traces"):
            if getattr(self, key):
                raise ValueError(f"links=direct: must come without {key}, as nothing shapes direct links")
