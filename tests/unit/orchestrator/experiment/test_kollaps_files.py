"""Experiments of Kollaps as XML: what is taken over, and that all else is refused in one line with its line."""

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.bounds import NODES_MAX
from node.core.errors import ConfigError
from orchestrator.experiment import kollaps_files
from orchestrator.experiment.kollaps_files import KollapsFile, LinkEvent, LinkFigures, ServiceEvent, read_kollaps


def text(dynamic: str = "", *, services: str = "", links: str = "", bridges: str = '<bridge name="s"/>') -> str:
    """A file with a service of two replicas, one of a single one, and what a test adds."""
    return f"""<experiment boot="kollaps:2.0">
<services>
<service name="dashboard" image="d" supervisor="true" port="8088"/>
<service name="a" image="i" command="['x']" replicas="2" share="false" reuse="true"/>
<service name="b" image="i"/>{services}
</services>
<bridges>{bridges}</bridges>
<links>
<link origin="a" dest="s" latency="5" jitter="1.5" drop="0.01" upload="10Mbps" download="20Mbps" network="n"/>
<link origin="b" dest="s" latency="1" upload="500Kbps" network="n"/>{links}
</links>
<dynamic>
{dynamic}
</dynamic>
</experiment>"""


def read(dynamic: str = "", **more: str) -> KollapsFile:
    return read_kollaps(text(dynamic, **more), place="k.xml")


def test_services_bridges_and_links() -> None:
    read_one = read(links='<link origin="a" dest="b" latency="0.5" upload="1Gbps" download="1Gbps" network="n"/>')
    assert dict(read_one.services) == {"a": 2, "b": 1}
    assert read_one.nodes == {"a": range(2), "b": range(2, 3)}
    assert read_one.num_nodes == 3
    assert read_one.bridges == {"s"}
    assert read_one.links == {
        ("a", "s"): LinkFigures(10, 5, 1.5, 0.01),
        ("s", "a"): LinkFigures(20, 5, 1.5, 0.01),
        ("b", "s"): LinkFigures(0.5, 1),
        ("a", "b"): LinkFigures(1000, 0.5),
        ("b", "a"): LinkFigures(1000, 0.5),
    }
    assert read_one.events == ()


def test_events_come_in_order_of_time() -> None:
    read_one = read(
        '<schedule name="b" time="9" action="crash"/>'
        '<schedule name="a" time="2.5" action="disconnect" amount="2"/>'
        '<schedule name="dashboard" time="0" action="join"/>\n'
        '<schedule origin="a" dest="s" time="4" upload="5Mbps" latency="7"/>'
        '<schedule origin="a" dest="s" time="3" action="leave"/>'
    )
    assert read_one.events == (
        ServiceEvent(2.5, 13, "a", "disconnect", 2),
        LinkEvent(3, 14, "a", "s", "leave", {}),
        LinkEvent(3, 14, "s", "a", "leave", {}),
        LinkEvent(4, 14, "a", "s", "change", {"latency_ms": 7, "mbps": 5}),
        ServiceEvent(9, 13, "b", "crash", 1),
    )


def test_download_is_the_way_back() -> None:
    read_one = read(
        '<schedule origin="a" dest="s" time="1" download="3Mbps"/>'
        '<schedule origin="a" dest="s" time="2" action="leave"/>'
        '<schedule origin="a" dest="s" time="3" action="join" upload="2Mbps" latency="6" drop="0.5" network="n"/>'
    )
    assert [
        (event.origin, event.action, dict(event.given)) for event in read_one.events if isinstance(event, LinkEvent)
    ] == [
        ("a", "change", {}),
        ("s", "change", {"mbps": 3}),
        ("a", "leave", {}),
        ("s", "leave", {}),
        ("a", "join", {"latency_ms": 6, "loss": 0.5, "mbps": 2}),
        ("s", "join", {}),
    ]


def test_a_service_whose_replicas_join_has_as_many_as_are_there_at_once() -> None:
    read_one = read(
        '<schedule name="b" time="0" action="join" amount="3"/>'
        '<schedule name="b" time="1" action="leave" amount="2"/>'
        '<schedule name="b" time="2" action="join" amount="4"/>'
    )
    assert dict(read_one.services) == {"a": 2, "b": 5}


def refusal(content: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_kollaps(content, place="k.xml")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "k.xml:1: must be XML (no element found)"),
        ("<experiment>\n<services>", "k.xml:2: must be XML (no element found)"),
        ("<experiment>\n&x;</experiment>", "k.xml:2: must be XML (undefined entity)"),
        ('<!DOCTYPE e [<!ENTITY x "y">]>\n<experiment/>', "k.xml:1: document type: must be absent"),
        ("<topology/>", "k.xml:1: element topology: must be experiment at the top"),
        (
            "<experiment><nodes/></experiment>",
            "k.xml:1: element nodes: must be services, bridges, links, dynamic in exp",
        ),
        ("<experiment><links><service/></links></experiment>", "k.xml:1: element service: must be link in links"),
        (
            "<experiment><links>\n<link><x/></link></links></experiment>",
            "k.xml:2: element x: must be no element in link",
        ),
        ("<experiment/>", "k.xml: services: must have 1 to 10,000 replicas together, have 0"),
    ],
    ids=lambda part: part[:40],
)
def test_what_is_no_such_file(content: str, message: str) -> None:
    assert refusal(content).startswith(message)


def test_entities_are_not_expanded() -> None:
    """A few lines that would become gigabytes."""
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    assert "document type" in refusal(f'<!DOCTYPE e [<!ENTITY e0 "x">{entities}]><experiment boot="&e9;"/>')


def test_elements_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kollaps_files, "TRACE_ROWS_MAX", 6)
    assert read().num_nodes == 3
    monkeypatch.setattr(kollaps_files, "TRACE_ROWS_MAX", 5)
    assert refusal(text()) == "k.xml:10: must have at most 5 elements"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"services": '<service image="i"/>'}, "5: service: name: missing"),
        ({"services": '<service name="a"/>'}, "5: name=a: must be given once"),
        ({"services": '<service name="dashboard"/>'}, "5: name=dashboard: must be given once"),
        ({"bridges": '<bridge name="a"/>'}, "7: name=a: must be given once"),
        (
            {"services": '<service name="c" replicas="0"/>'},
            "5: replicas=0: must be a whole number, at least 1 and at most 10,000",
        ),
        ({"services": '<service name="c" replicas="1e2"/>'}, "5: replicas=1e2: must be a whole number"),
        (
            {"services": '<service name="c" share="true"/>'},
            "5: share=true: must be false: replicas that share one link are",
        ),
        (
            {"services": f'<service name="c" replicas="{NODES_MAX}"/>'},
            " services: must have 1 to 10,000 replicas together, have",
        ),
        (
            {"links": '<link origin="a" dest="z" latency="1" upload="1Mbps"/>'},
            "10: dest=z: must be a service or a bridge",
        ),
        ({"links": '<link origin="a" dest="a" latency="1" upload="1Mbps"/>'}, "10: dest=a: must differ from origin"),
        ({"links": '<link origin="s" dest="b" upload="1Mbps"/>'}, "10: link: latency: missing"),
        ({"links": '<link origin="s" dest="b" latency="1"/>'}, "10: link: upload: missing"),
        ({"links": '<link origin="s" dest="a" latency="1" upload="1Mbps"/>'}, "10: link s to a: must be given once"),
        (
            {"links": '<link origin="s" dest="b" latency="-1" upload="1Mbps"/>'},
            "10: latency=-1: must be a number, at least 0 and at most 5e+08",
        ),
        (
            {"links": '<link origin="s" dest="b" latency="x" upload="1Mbps"/>'},
            "10: latency=x: must be a number, at least 0",
        ),
        (
            {"links": '<link origin="s" dest="b" latency="1" drop="1" upload="1Mbps"/>'},
            "10: drop=1: must be a number, at least 0 and below 1",
        ),
        (
            {"links": '<link origin="s" dest="b" latency="1" upload="1.5Mbps"/>'},
            "10: upload=1.5Mbps: must be a whole number of Kbps, Mbps or Gbps, such as 10Mbps",
        ),
        (
            {"links": '<link origin="s" dest="b" latency="1" upload="9999999999Gbps"/>'},
            "10: upload=9999999999Gbps: must be at most 1e+09 Mbps",
        ),
        (
            {"links": '<link origin="s" dest="b" latency="1" upload="1Mbps" queue="9"/>'},
            "10: link: queue: is not taken over; known here are origin, dest, latency, jitter, drop, upload, download",
        ),
    ],
    ids=str,
)
def test_services_and_links_that_cannot_be(more: dict[str, str], message: str) -> None:
    assert refusal(text(**more)).startswith(f"k.xml:{message}")


A_LINK = 'origin="a" dest="s" time="1"'


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ('name="a" action="join"', "schedule: time: missing"),
        ('name="a" time="-1" action="join"', "time=-1: must be a number, at least 0 and at most 1e+09"),
        ('name="a" time="nan" action="join"', "time=nan: must be a number"),
        ('name="a" time="1"', "schedule: action: missing"),
        ('name="a" time="1" action="stop"', "action=stop: must be one of join, leave, crash, disconnect, reconnect"),
        (
            'name="a" time="1" action="crash" amount="0"',
            "amount=0: must be a whole number, at least 1 and at most 10,000",
        ),
        (
            'name="a" time="1" action="crash" amount="3"',
            "amount=3: must be at most 2, the replicas of a that are there",
        ),
        (
            'name="a" time="1" action="crash" upload="1Mbps"',
            "schedule: upload: is not taken over; known here are name, time",
        ),
        ('name="z" time="1" action="crash"', "name=z: must be a service of the file"),
        (
            'name="s" time="1" action="leave"',
            "name=s: must be a service: bridges that join or leave are not taken over",
        ),
        ('time="1" upload="1Mbps"', "schedule: origin: missing"),
        ('origin="a" dest="b" time="1" upload="1Mbps"', "link a to b: must be one of the file's links"),
        (A_LINK, "schedule: must set one of latency, jitter, drop, upload, download"),
        (f'{A_LINK} action="crash"', "action=crash: must be join or leave"),
        (f'{A_LINK} action="change" upload="1Mbps"', "action=change: must be join or leave"),
        (f'{A_LINK} action="leave" upload="1Mbps"', "action=leave: must come without figures of the link"),
        (f'{A_LINK} latency="4"', "latency=4: must be at least 5, which the link begins with: less is not taken over"),
        (f'{A_LINK} jitter="1"', "jitter=1: must be at least 1.5, which the link begins with"),
        (f'{A_LINK} drop="0"', "drop=0: must be at least 0.01, which the link begins with"),
        ('origin="b" dest="s" time="1" download="1Mbps"', "download=1Mbps: must be left out of a link that has none"),
        (
            f'{A_LINK} corrupt="0.1"',
            "schedule: corrupt: is not taken over; known here are origin, dest, time, action, latency",
        ),
    ],
    ids=lambda part: part[:50],
)
def test_events_that_cannot_be(event: str, message: str) -> None:
    assert refusal(text(f"<schedule {event}/>")).startswith(f"k.xml:13: {message}")


def test_what_has_no_counterpart_is_refused() -> None:
    two = '<bridge name="s"/><bridge name="t"/>'
    between = '<link origin="s" dest="t" latency="1" upload="1Mbps"/>'
    event = '<schedule origin="s" dest="t" time="1" upload="2Mbps"/>'
    assert refusal(text(event, bridges=two, links=between)) == (
        "k.xml:13: link s to t: must begin or end at a service: links between bridges are not taken over"
    )
    fresh = '<service name="c" reuse="false"/>'
    assert refusal(text('<schedule name="c" time="1" action="join"/>', services=fresh)) == (
        "k.xml:13: name=c: must reuse its replicas: reuse=false is not taken over"
    )


@given(st.text(max_size=60), st.sampled_from(["time", "amount", "action", "name", "drop", "upload", "latency"]))
def test_any_attribute_is_taken_or_refused_in_one_line(value: str, key: str) -> None:
    escaped = "".join(f"&#{ord(letter)};" for letter in value if letter.isprintable())
    given_ones = {"name": "a", "time": "1", "action": "crash"} if key in ("time", "amount", "action", "name") else {}
    base = given_ones or {"origin": "a", "dest": "s", "time": "1", "latency": "9"}
    attributes = " ".join(f'{name}="{one}"' for name, one in {**base, key: escaped}.items())
    content = text(f"<schedule {attributes}/>")
    try:
        events = read_kollaps(content, place="k.xml").events
    except ConfigError:
        refusal(content)
    else:
        assert all(isfinite(event.time_s) for event in events)
