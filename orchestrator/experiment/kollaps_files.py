"""Experiments of Kollaps as files: the XML that its users write, text in, values out; pure.

Kollaps (miguelammatos/Kollaps, ``kollaps/Kollapslib/XMLGraphParser.py`` and ``NetGraph.py``) describes a network in
three sections, ``services`` (containers, each with a number of replicas), ``bridges`` and ``links``, and its changes in
a fourth one, ``dynamic``, whose elements ``schedule`` tell what a service or a link does at a time in seconds. Latency
and jitter are milliseconds, ``drop`` is a probability, and bandwidths are whole numbers of Kbps, Mbps or Gbps, powers
of ten. THUNDERSTORM translates its own language into this XML.

Of an XML file only elements and attributes are taken. One with a document type is refused, so that there are no
entities to expand; elements are counted and their depth is bounded.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, NoReturn, TypeAlias, cast, get_args
from xml.parsers import expat

from node.core.bounds import MBPS_MAX, MBPS_MIN, MS_MAX, NODES_MAX, TIME_S_MAX, TRACE_ROWS_MAX
from node.core.errors import ConfigError
from node.host.text_files import parse_number, shorten

DEPTH_MAX: Final = 3
"""Levels of elements: the experiment, a section, and what stands in it."""

LINK_MS_MAX: Final = MS_MAX / 2
"""The longest latency of a link: a path is made of two."""

SECTIONS: Final[Mapping[str, str]] = {
    "services": "service",
    "bridges": "bridge",
    "links": "link",
    "dynamic": "schedule",
}
"""The element that each section holds."""

ServiceAction: TypeAlias = Literal["join", "leave", "crash", "disconnect", "reconnect"]
LinkAction: TypeAlias = Literal["join", "leave", "change"]

_BANDWIDTH: Final = re.compile(r"([0-9]{1,12})([KMG])bps", re.ASCII)
_MBPS: Final = {"K": 1e-3, "M": 1.0, "G": 1e3}


class LinkFigures(NamedTuple):
    """State of one direction of a link.

    Attributes:
        mbps: 10^6 bits a second.
        latency_ms: One way.
        jitter_ms: Standard deviation of the latency.
        loss: Probability that a packet is lost, in [0, 1).
    """

    mbps: float
    latency_ms: float
    jitter_ms: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """Something that replicas of a service do.

    Attributes:
        time_s: When.
        line: Of the file.
        service: Which.
        action: What.
        amount: How many replicas, >= 1.
    """

    time_s: float
    line: int
    service: str
    action: ServiceAction
    amount: int


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something that one direction of a link does.

    Attributes:
        time_s: When.
        line: Of the file.
        origin: Where the direction begins.
        dest: Where it ends.
        action: What; a link that joins again may change as well.
        given: The figures that are set, by their name in :class:`LinkFigures`.
    """

    time_s: float
    line: int
    origin: str
    dest: str
    action: LinkAction
    given: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class KollapsFile:
    """Content of a file.

    Attributes:
        services: Replicas of each service, in the file's order, without those that only watch.
        bridges: Names.
        links: Each direction of each link, (origin, destination) -> figures at the start.
        events: In order of time, and of the file where times are equal.
    """

    services: Mapping[str, int]
    bridges: frozenset[str]
    links: Mapping[tuple[str, str], LinkFigures]
    events: tuple[ServiceEvent | LinkEvent, ...]

    @property
    def nodes(self) -> dict[str, range]:
        """Return the nodes that each service is: its replicas, one service after the other."""
        found: dict[str, range] = {}
        first = 0
        for service, replicas in self.services.items():
            found[service] = range(first, first + replicas)
            first += replicas
        return found

    @property
    def num_nodes(self) -> int:
        """Return how many replicas there are."""
        return sum(self.services.values())


def read_kollaps(text: str, *, place: str) -> KollapsFile:
    """Read an experiment of Kollaps.

    Args:
        text: The XML file.
        place: Where the experiment names it.

    Raises:
        ConfigError: It is no such file, or says what is not taken over; the message names file and line.
    """
    # Step 1: elements by their section, which may come in any order.
    found: dict[str, list[_Element]] = {name: [] for name in SECTIONS.values()}
    for element in _elements(text, place):
        found[element.tag].append(element)
    # Step 2: what there is.
    known: set[str] = set()
    watching: set[str] = set()
    replicas: dict[str, int] = {}
    fixed: set[str] = set()
    for element in found["service"]:
        name = element.name("name", known)
        if "supervisor" in element.attributes:
            watching.add(name)
            continue
        replicas[name] = element.whole("replicas", NODES_MAX, default=1)
        if element.attributes.get("share") == "true":
            element.refuse("share=true: must be false: replicas that share one link are not taken over")
        if element.attributes.get("reuse") == "false":
            fixed.add(name)
    bridges: set[str] = set()
    for element in found["bridge"]:
        bridges.add(element.name("name", known))
    links: dict[tuple[str, str], LinkFigures] = {}
    known -= watching
    for element in found["link"]:
        _add_link(element, known, links)
    # Step 3: what happens. Whoever only watches is no node.
    events: list[ServiceEvent | LinkEvent] = []
    for element in found["schedule"]:
        if element.attributes.get("name") not in watching:
            events += _events(element, replicas, bridges, links)
    events.sort(key=lambda event: event.time_s)
    content = KollapsFile(_needed(replicas, fixed, events, place), frozenset(bridges), links, tuple(events))
    if not 1 <= content.num_nodes <= NODES_MAX:
        raise ConfigError(
            f"{place}: services: must have 1 to {NODES_MAX:,} replicas together, have {content.num_nodes:,}"
        )
    return content


# -- elements ----------------------------------------------------------------------------------------------------


class _Element(NamedTuple):
    """An element that stands in a section, and where."""

    tag: str
    attributes: Mapping[str, str]
    line: int
    place: str

    def refuse(self, what: str) -> NoReturn:
        raise ConfigError(f"{self.place}:{self.line}: {what}")

    def text(self, key: str) -> str:
        if not (value := self.attributes.get(key, "")):
            self.refuse(f"{self.tag}: {key}: missing")
        return value

    def name(self, key: str, known: set[str]) -> str:
        """Return a name, which is known from then on."""
        if (value := self.text(key)) in known:
            self.refuse(f"{key}={shorten(value)}: must be given once")
        known.add(value)
        return value

    def number(self, key: str, most: float, *, below: bool = False) -> float:
        text = self.text(key)
        try:
            value = parse_number(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= most or (below and value == most):
            self.refuse(
                f"{key}={shorten(text)}: must be a number, at least 0 and {'below' if below else 'at most'} {most:g}"
            )
        return value

    def whole(self, key: str, most: int, *, default: int) -> int:
        text = self.attributes.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
            self.refuse(f"{key}={shorten(text)}: must be a whole number, at least 1 and at most {most:,}")
        return int(text)

    def mbps(self, key: str) -> float:
        text = self.text(key)
        if (found := _BANDWIDTH.fullmatch(text)) is None:
            self.refuse(f"{key}={shorten(text)}: must be a whole number of Kbps, Mbps or Gbps, such as 10Mbps")
        value = int(found[1]) * _MBPS[found[2]]
        if value and not MBPS_MIN <= value <= MBPS_MAX:
            self.refuse(f"{key}={shorten(text)}: must be at most {MBPS_MAX:g} Mbps")
        return value

    def only(self, *known: str) -> None:
        for key in self.attributes:
            if key not in known:
                self.refuse(f"{self.tag}: {shorten(key)}: is not taken over; known here are {', '.join(known)}")


def _elements(text: str, place: str) -> Iterator[_Element]:
    """Yield the elements of the sections, in the file's order."""
    parser = expat.ParserCreate()
    path: list[str] = []
    found: list[_Element] = []

    def refuse(what: str) -> NoReturn:
        raise ConfigError(f"{place}:{parser.CurrentLineNumber}: {what}")

    def doctype(*_: object) -> None:
        refuse("document type: must be absent, as entities are not taken over")

    def start(tag: str, attributes: dict[str, str]) -> None:
        known = (("experiment",), tuple(SECTIONS), (SECTIONS.get(path[-1], ""),) if path else ())
        if len(path) >= DEPTH_MAX or tag not in known[len(path)]:
            expected = ", ".join(known[len(path)]) if len(path) < DEPTH_MAX else "no element"
            refuse(f"element {shorten(tag)}: must be {expected} {'in ' + path[-1] if path else 'at the top'}")
        path.append(tag)
        if len(path) == DEPTH_MAX:
            if len(found) >= TRACE_ROWS_MAX:
                refuse(f"must have at most {TRACE_ROWS_MAX:,} elements")
            found.append(_Element(tag, attributes, parser.CurrentLineNumber, place))

    def end(_: str) -> None:
        path.pop()

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ConfigError(f"{place}:{error.lineno}: must be XML ({expat.ErrorString(error.code)})") from None
    yield from found


# -- links -------------------------------------------------------------------------------------------------------

_LINK: Final = ("origin", "dest", "latency", "jitter", "drop", "upload", "download", "network")


def _add_link(element: _Element, known: set[str], links: dict[tuple[str, str], LinkFigures]) -> None:
    element.only(*_LINK)
    origin, dest = element.text("origin"), element.text("dest")
    for key, name in (("origin", origin), ("dest", dest)):
        if name not in known:
            element.refuse(f"{key}={shorten(name)}: must be a service or a bridge")
    if origin == dest:
        element.refuse(f"dest={shorten(dest)}: must differ from origin")
    element.text("latency")
    figures = LinkFigures(element.mbps("upload"), **_path_figures(element))
    ways = {(origin, dest): figures}
    if "download" in element.attributes:
        ways[dest, origin] = figures._replace(mbps=element.mbps("download"))
    for way in ways:
        if way in links:
            element.refuse(f"link {shorten(way[0])} to {shorten(way[1])}: must be given once")
    links.update(ways)


def _path_figures(element: _Element) -> dict[str, float]:
    """Return latency, jitter and loss as far as an element gives them."""
    figures: dict[str, float] = {}
    for key, name in (("latency", "latency_ms"), ("jitter", "jitter_ms")):
        if key in element.attributes:
            figures[name] = element.number(key, LINK_MS_MAX)
    if "drop" in element.attributes:
        figures["loss"] = element.number("drop", 1.0, below=True)
    return figures


# -- events ------------------------------------------------------------------------------------------------------


def _events(
    element: _Element,
    services: Mapping[str, int],
    bridges: set[str],
    links: Mapping[tuple[str, str], LinkFigures],
) -> list[ServiceEvent] | list[LinkEvent]:
    time_s = element.number("time", TIME_S_MAX)
    if "name" not in element.attributes:
        return _link_events(element, time_s, bridges, links)
    element.only("name", "time", "action", "amount")
    name, action = element.text("name"), element.text("action")
    if name in bridges:
        element.refuse(f"name={shorten(name)}: must be a service: bridges that join or leave are not taken over")
    if name not in services:
        element.refuse(f"name={shorten(name)}: must be a service of the file")
    if action not in get_args(ServiceAction):
        element.refuse(f"action={shorten(action)}: must be one of {', '.join(get_args(ServiceAction))}")
    amount = element.whole("amount", NODES_MAX, default=1)
    return [ServiceEvent(time_s, element.line, name, cast(ServiceAction, action), amount)]


def _link_events(
    element: _Element, time_s: float, bridges: set[str], links: Mapping[tuple[str, str], LinkFigures]
) -> list[LinkEvent]:
    element.only("origin", "dest", "time", "action", *_LINK[2:])
    origin, dest = element.text("origin"), element.text("dest")
    if (origin, dest) not in links:
        element.refuse(f"link {shorten(origin)} to {shorten(dest)}: must be one of the file's links")
    if origin in bridges and dest in bridges:
        element.refuse(
            f"link {shorten(origin)} to {shorten(dest)}: must begin or end at a service: links between bridges are not"
            " taken over"
        )
    action = element.attributes.get("action", "change")
    if "action" in element.attributes and action not in ("join", "leave"):
        element.refuse(f"action={shorten(action)}: must be join or leave")
    there = _path_figures(element)
    if "upload" in element.attributes:
        there["mbps"] = element.mbps("upload")
    if action == "leave" and there:
        element.refuse("action=leave: must come without figures of the link")
    back = {"mbps": element.mbps("download")} if "download" in element.attributes else {}
    if action == "change" and not (there or back):
        element.refuse("schedule: must set one of latency, jitter, drop, upload, download")
    if back and (dest, origin) not in links:
        element.refuse(f"download={element.text('download')}: must be left out of a link that has none")
    is_both = (dest, origin) in links and (action != "change" or bool(back))
    made = LinkEvent(time_s, element.line, origin, dest, cast(LinkAction, action), there)
    _check_only_worse(element, links[origin, dest], there)
    return [made, replace(made, origin=dest, dest=origin, given=back)] if is_both else [made]


def _check_only_worse(element: _Element, first: LinkFigures, given: Mapping[str, float]) -> None:
    """Refuse less latency, jitter or loss than a link begins with: a schedule adds them and takes none away."""
    for key, name in (("latency", "latency_ms"), ("jitter", "jitter_ms"), ("drop", "loss")):
        if given.get(name, first._asdict()[name]) < (least := first._asdict()[name]):
            element.refuse(
                f"{key}={element.text(key)}: must be at least {least:g}, which the link begins with: less is not taken"
                " over"
            )


def _needed(
    replicas: Mapping[str, int], fixed: set[str], events: Sequence[ServiceEvent | LinkEvent], place: str
) -> dict[str, int]:
    """Return how many replicas each service needs: of one whose replicas join, the most that are there at a time."""
    found: dict[str, int] = {}
    of_service: dict[str, list[ServiceEvent]] = {service: [] for service in replicas}
    for event in events:
        if isinstance(event, ServiceEvent):
            of_service[event.service].append(event)
    for service, number in replicas.items():
        own = of_service[service]
        joins = [event for event in own if event.action == "join"]
        if joins and service in fixed:
            raise ConfigError(
                f"{place}:{joins[0].line}: name={shorten(service)}: must reuse its replicas: reuse=false is not taken"
                " over"
            )
        there, most = (0, 0) if joins else (number, number)
        for event in own:
            if event.action == "join":
                there += event.amount
            elif event.action in ("leave", "crash"):
                there -= event.amount
            if there < 0:
                raise ConfigError(
                    f"{place}:{event.line}: amount={event.amount}: must be at most {there + event.amount}, the replicas"
                    f" of {shorten(service)} that are there"
                )
            most = max(most, there)
        found[service] = most
    return found
