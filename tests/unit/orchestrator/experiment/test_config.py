"""The experiment file: what it refuses, and that each refusal is one line with file, key, value and bound."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from node.core.errors import ConfigError
from orchestrator.experiment.config import ExperimentConfig, parse_experiment, read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.experiment.runtimes import PLANNED, RUNTIMES

BASE: dict[str, Any] = {"name": "t", "nodes": 8, "learning": {}, "network": {}, "stop": {"rounds": 1}}

REQUIRED: dict[str, Any] = {
    "alpha": 0.5,
    "count": 1,
    "degree": 4,
    "destination": 1,
    "edge_probability": 0.5,
    "file": "f.txt",
    "path": "images",
    "shares": {"mobile_4g": 1},
    "source": 0,
    "transfers": 2,
}
"""Values of the keys that some section cannot do without."""

ENTRIES: dict[str, dict[str, Any]] = {
    "degrade": {"nodes": 0, "latency_ms": 1},
    "trace": {"nodes": 0, "file": "t.csv"},
    "partition": {"groups": [0, 1]},
    "isolate": {"nodes": 0},
    "crash": {"nodes": 0},
    "restart": {"nodes": 0},
    "pause": {"nodes": 0, "for_s": 1},
    "slow_cpu": {"nodes": 0, "factor": 2},
    "availability": {"file": "t.json"},
    "kollaps": {"file": "t.xml"},
}
"""An entry of the schedule for each action."""

OPTIONAL = ("capacities",)
"""Sections that a file may say are absent."""

TAGS = ("kind", "action")
"""Keys that tell the members of a union apart."""


def members(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from members(argument)


def sections(model: type[BaseModel], path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every section that a file can have: (path, model), each member of a union on its own."""
    yield path, model
    for name, field in model.model_fields.items():
        is_list = getattr(field.annotation, "__origin__", None) is tuple
        for member in members(field.annotation):
            yield from sections(member, (*path, name, 0) if is_list else (*path, name))


def dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def content(path: tuple[str | int, ...], model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """A file with one section of a kind, and some values in it."""
    result = copy.deepcopy(BASE)
    place: Any = result
    for part, following in zip(path, (*path, "")[1:], strict=True):
        if isinstance(place, list):
            place.append({})
        else:
            place.setdefault(part, [] if isinstance(following, int) else {})
        place = place[part]
    if path and path[0] in ("network", "learning", "topology", "compute"):
        place.update({name: REQUIRED[name] for name, field in model.model_fields.items() if field.is_required()})
        if "kind" in model.model_fields:
            place["kind"] = model.model_fields["kind"].default
        if place.get("kind") == "regions":
            result["network"]["model"] = "pairwise"
        if isinstance(path[-1], int):  # an override must change something, and a trace somebody
            place["latency_ms" if "source" in place else "node"] = 1
    if path and path[0] == "schedule":
        entry = result["schedule"][0]
        if len(path) == 2:
            action = model.model_fields["action"].default
            place.update({"action": action, **ENTRIES[action]})
        else:  # a share of some nodes
            place["fraction"] = 0.5
            entry["action"] = "crash" if "nodes" in entry else "partition"
            if "groups" in entry:
                entry["groups"].append(1)
    place.update(values)
    return result


def refusal(given: dict[str, Any], place: str = "f.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        parse_experiment(given, place)
    message = str(caught.value)
    assert message.startswith(f"{place}: ")
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix(f"{place}: ")


def bounds(field: FieldInfo) -> dict[str, Any]:
    return {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(item, name, None) is not None
    }


def kinds(annotation: Any) -> set[Any]:
    arguments = getattr(annotation, "__args__", ())
    return set().union(*map(kinds, arguments)) if arguments else {annotation}


SECTIONS = [
    pytest.param(path, model, id=f"{dotted(path)}-{model.__name__}") for path, model in sections(ExperimentConfig, ())
]
LEAVES = [
    pytest.param(path, model, name, field, id=f"{dotted((*path, name))}-{model.__name__}")
    for path, model in sections(ExperimentConfig, ())
    for name, field in model.model_fields.items()
    if name not in TAGS and not list(members(field.annotation))
]


def leaf_types(annotation: Any, field: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Every type inside an annotation, with what bounds it."""
    metadata = list(getattr(annotation, "__metadata__", ())) + list(getattr(field, "metadata", ()))
    bounds = [inner for item in metadata for inner in getattr(item, "metadata", [item])]
    arguments = getattr(getattr(annotation, "__origin__", annotation), "__args__", getattr(annotation, "__args__", ()))
    if not arguments:
        yield annotation, bounds
    for argument in arguments:
        for leaf, inner in leaf_types(argument, None):
            yield leaf, [*bounds, *inner]


@pytest.mark.parametrize(("path", "model", "name", "field"), LEAVES)
def test_every_number_and_every_list_has_bounds(
    path: tuple[str | int, ...], model: type[BaseModel], name: str, field: FieldInfo
) -> None:
    """Or products of legal numbers overflow, and a list may take for ever."""
    checked_elsewhere = {"slowdown", "pair", "targets"}  # against the number of nodes, or they bound nothing
    for leaf, bounds in leaf_types(field.annotation, field):
        if leaf in (int, float) and name not in checked_elsewhere:
            assert any(hasattr(bound, "ge") or hasattr(bound, "gt") for bound in bounds), name
            assert any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in bounds), name
    if getattr(field.annotation, "__origin__", None) is tuple and name != "pair":
        assert any(hasattr(bound, "max_length") for bound in field.metadata), name


# --- every key of every section -----------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "model", "name", "field"), LEAVES)
def test_every_key_names_itself_and_its_bound(
    path: tuple[str | int, ...], model: type[BaseModel], name: str, field: FieldInfo
) -> None:
    """What lies outside a bound is refused, and so is what is no value of this kind at all."""
    key = dotted((*path, name))
    types = kinds(field.annotation)
    wrong: list[tuple[Any, str]] = [({"a": {"b": 1}}, key)]
    for bound, value in bounds(field).items():
        step = 1 if int in types else abs(value) / 2 or 0.5
        outside = {"ge": value - step, "gt": value, "le": value + step, "lt": value}[bound]
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}[bound]
        shown = f"{value:g}" if isinstance(value, float) else value
        wrong.append((outside, f"{key}={outside}: must be {words} {shown}"))
    is_list = getattr(field.annotation, "__origin__", None) is tuple or name in (
        "pair",
        "pairs",
        "targets",
        "slowdown",
        "shares",
    )
    if types & {int, float} and not is_list:
        wrong += [
            ("60 Mbit", f"{key}='60 Mbit': must be a"),
            ([1], f"{key}=[1]: must be a"),
            (True, f"{key}=true: must"),
            ("1", f"{key}='1': must be a"),
        ]
    if bool in types:
        wrong += [(value, f"{key}={value}: must be true or false") for value in (0, 1, 1.0, "on")]
    if float in types and not is_list:
        wrong += [(value, f"{key}={value}: must be a finite number") for value in (float("nan"), float("inf"))]
    for value, start in wrong:
        message = refusal(content(path, model, {name: value}))
        assert message.startswith(start), (value, message)


@pytest.mark.parametrize(("path", "model"), SECTIONS)
def test_every_section_refuses_unknown_keys_and_other_shapes(
    path: tuple[str | int, ...], model: type[BaseModel]
) -> None:
    message = refusal(content(path, model, {"zzzz": 1}))
    assert message.startswith(f"{dotted((*path, 'zzzz'))}: unknown key; known here: ")
    known = [name for name in model.model_fields if name not in TAGS]
    if known:
        longest = max(known, key=len)
        misspelt = longest[:-1]
        assert refusal(content(path, model, {misspelt: 1})).startswith(
            f"{dotted((*path, misspelt))}: unknown key; did you mean {longest}?"
        )
    if path and not isinstance(path[-1], int):
        for other in (None, 5, "text", [1]):
            if path[0] == "schedule":
                continue  # whose selectors may be numbers, texts and lists
            if other is None and path[-1] in OPTIONAL:
                continue
            given = copy.deepcopy(BASE)
            place = given
            for part in path[:-1]:
                place = place.setdefault(str(part), {})
            place[str(path[-1])] = other
            if f"{dotted(path)}=" not in (message := refusal(given)):
                assert message.startswith(dotted(path)), message


def test_every_bounded_number_is_walked_through() -> None:
    """The walk finds what it should: a floor below the number of keys that there are today."""
    assert len(list(LEAVES)) > 90
    assert (
        sum(bool(bounds(field)) for _, model in sections(ExperimentConfig, ()) for field in model.model_fields.values())
        > 60
    )


UNIONS = ["topology", "learning.dataset", "learning.model", "learning.partition", "network.preset", "network.sender"]


@pytest.mark.parametrize("key", UNIONS)
def test_every_union_names_its_kinds(key: str) -> None:
    *outer, last = key.split(".")
    for value, start in (({}, "missing: must be one of "), ({"kind": "nonesuch"}, "must be one of ")):
        given = copy.deepcopy(BASE)
        place = given
        for part in outer:
            place = place[part]
        place[last] = value
        message = refusal(given)
        assert message.startswith(f"{key}.kind")
        listed = message.split(start)[1].split(", ")
        assert len(listed) >= 2
        assert all(word.isidentifier() for word in listed)


def test_the_algorithm_and_the_runtime_name_their_kinds() -> None:
    assert refusal({**BASE, "algorithm": {"kind": "fedavg"}}).startswith(
        "algorithm.kind=fedavg: must be one of adpsgd, "
    )
    *others, last = RUNTIMES
    assert refusal({**BASE, "runtime": "cloud"}) == f"runtime=cloud: must be one of {', '.join(others)} or {last}"


@pytest.mark.parametrize("runtime", PLANNED)
def test_a_runtime_that_is_planned_is_refused_as_such(runtime: str) -> None:
    message = refusal({**BASE, "runtime": runtime})
    assert message.startswith(f"runtime={runtime}: is planned and not part of this version: must be one of simulation")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(param=st.sampled_from([p.values for p in LEAVES]), value=JSON)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(param: Any, value: object) -> None:
    path, model, name, _ = param
    with suppress(ConfigError):
        parse_experiment(content(path, model, {name: value}), "f.yaml")
        return
    refusal(content(path, model, {name: value}))


# --- rules between keys -------------------------------------------------------------------------------------


def direct(overrides: object = (), traces: object = (), **preset: object) -> dict[str, Any]:
    """Links that nothing shapes, and what a test adds to them."""
    unlimited = {"kind": "uniform", "bandwidth_mbps": None, "latency_ms": 0, **preset}
    network = {"links": "direct", "preset": unlimited, "overrides": overrides, "traces": traces}
    return {"runtime": "processes", "network": network}


def test_direct_links_are_taken_where_nothing_is_to_be_shaped() -> None:
    assert parse_experiment({**BASE, **direct()}, "f.yaml").network.links == "direct"


@pytest.mark.parametrize(
    ("runtime", "tls", "encrypted"),
    [
        ("processes", None, False),
        ("processes", True, True),
        ("processes", False, False),
        ("simulation", None, False),
        ("simulation", False, False),
    ],
)
def test_who_encrypts(runtime: str, tls: bool | None, encrypted: bool) -> None:
    config = parse_experiment({**BASE, "runtime": runtime, "network": {"tls": tls}}, "f.yaml")
    assert config.tls == encrypted
    assert ("traffic" in make_plan(config, Path()).describe()) == encrypted


@pytest.mark.parametrize("runtime", ["simulation", "processes"])
@pytest.mark.parametrize(("tls", "framed"), [(None, True), (True, True), (False, False)])
def test_sizes_of_framing_are_the_same_in_all_runtimes(runtime: str, tls: bool | None, framed: bool) -> None:
    network = {"framing": "ethernet", "tls": tls}
    config = parse_experiment({**BASE, "runtime": runtime, "network": network}, "f.yaml")
    assert config.tls == (runtime == "processes" and tls is True), "nothing is sent in a simulation"
    framing = make_plan(config, Path()).network.framing
    assert framing is not None
    assert framing.tls == framed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop": {}}, "stop: must give time_s, rounds or both"),
        ({"name": "a b"}, "name='a b': must match pattern"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"nodes": 8.5}, "nodes=8.5: must be a whole number"),
        ({"nodes": True}, "nodes=true: must be a whole number, not true or false"),
        ({"nodes": "8"}, "nodes='8': must be a whole number, without quotes"),
        ({"nodes": 8.0}, "nodes=8.0: must be a whole number, written without a point or an exponent"),
        ({"seed": " 1"}, "seed=' 1': must be a whole number"),
        ({"compute": {"step_time_ms": "2e1"}}, "compute.step_time_ms='2e1': must be a number, without quotes"),
        ({"evaluation": {"max_samples": "9"}}, "evaluation.max_samples='9': must be a whole number, without quotes"),
        ({"output": {"messages": 1}}, "output.messages=1: must be true or false"),
        ({"output": {"messages": 0.0}}, "output.messages=0.0: must be true or false"),
        ({"output": {"messages": "on"}}, "output.messages=on: must be true or false"),
        ({"output": {"messages": "true"}}, "output.messages='true': must be true or false, without quotes"),
        ({"output": {"targets": [0.5, "0.6"]}}, "output.targets[1]='0.6': must be a number, without quotes"),
        ({"topology": {"kind": "torus", "rows": "2"}}, "topology.rows='2': must be a whole number, without quotes"),
        ({"algorithm": {"divshare": {"recipients": "3"}}}, "algorithm.divshare.recipients='3': must be a whole number"),
        ({"learning": None}, "learning=null: must hold keys and values"),
        (
            {"compute": {"stragglers": {"count": 2, "placement": "same_as_network"}}},
            "compute.stragglers.count=2: must be 0 with placement=same_as_network",
        ),
        ({"compute": {"slowdown": {"a": 2}}}, "compute.slowdown.a=a: must be a whole number"),
        *(
            (
                {"compute": {"slowdown": {1: 2, key: 3}}},
                f"compute.slowdown.{key}='{key}': must be a whole number in plain",
            )
            for key in ("01", "+1", "1.0", " 1", "1_0", "-0", "\u0661")
        ),
        ({"compute": {"slowdown": {1: float("nan")}}}, "compute.slowdown.1=nan: must be a finite number"),
        ({"compute": {"slowdown": {1: True}}}, "compute.slowdown.1=true: must be a number, not true or false"),
        ({"compute": {"slowdown": {1: "2"}}}, "compute.slowdown.1='2': must be a number, without quotes"),
        ({"output": {"targets": [0.5, float("nan")]}}, "output.targets[1]=nan: must be a finite number"),
        ({"network": {"bandwidth_kbps": 3}}, "network.bandwidth_kbps: unknown key; known here: model, preset"),
        (
            {"network": {"preset": {"kind": "uniform", "bandwidth_kbps": 3}}},
            "network.preset.bandwidth_kbps: unknown key; did you mean bandwidth_mbps?",
        ),
        (
            {"network": {"preset": {"kind": "uniform", "bandwidth_mbps": "60 Mbit"}}},
            "network.preset.bandwidth_mbps='60 Mbit': must be a number, without its unit, which is in the key",
        ),
        (
            {"network": {"preset": {"kind": "regions"}}},
            "network.model=access: must be pairwise with preset.kind=regions",
        ),
        (
            {"network": {"overrides": [{"source": 1, "destination": 1}]}},
            "network.overrides[0].destination=1: must differ",
        ),
        ({"network": {"traces": [{"file": "x"}]}}, "network.traces[0].node=None, pair=None: must give exactly one"),
        (direct(bandwidth_mbps=60), "network.preset.bandwidth_mbps=60: must be null with links: direct"),
        (direct(up_mbps=0.5), "network.preset.up_mbps=0.5: must be null with links: direct"),
        (direct(down_mbps=2), "network.preset.down_mbps=2: must be null with links: direct"),
        (direct(latency_ms=1), "network.preset.latency_ms=1: must be 0 with links: direct"),
        (direct(jitter_ms=0.5), "network.preset.jitter_ms=0.5: must be 0 with links: direct"),
        (direct(loss_percent=2), "network.preset.loss_percent=2: must be 0 with links: direct"),
        (
            {"network": {"links": "direct", "preset": {"kind": "stragglers", "count": 1}}},
            "network.preset.kind=stragglers: must be uniform with links: direct, which nothing shapes",
        ),
        (
            direct(overrides=[{"source": 0, "destination": 1, "latency_ms": 0}]),
            "network.links=direct: must come without overrides, as nothing shapes direct links",
        ),
        (direct(traces=[{"node": 0, "file": "x"}]), "network.links=direct: must come without traces"),
        (
            {**direct(), "runtime": "simulation"},
            "network.links=direct: must be emulated with runtime: simulation, which has no real ones",
        ),
        (
            {"network": {"framing": "ethernet", "message_header_bytes": 0}},
            "network.message_header_bytes=0: must be left out with framing: ethernet, whose headers are those of real",
        ),
        (
            {"network": {"framing": "ethernet", "transport": "datagram"}},
            "network.transport=datagram: must be reliable with framing: ethernet, which is TCP's",
        ),
        (
            {"runtime": "processes", "network": {**direct()["network"], "framing": "ethernet"}},
            "network.framing=ethernet: must be none with links: direct, which nothing shapes",
        ),
        ({"network": {"framing": "ip"}}, "network.framing=ip: must be one of none or ethernet"),
        ({"network": {"tls": "auto"}}, "network.tls=auto: must be true or false"),
        ({"network": {"tls": True}}, "network.tls=true: must be absent with runtime: simulation"),
        ({"learning": {"partition": {"kind": "dirichlet"}}}, "learning.partition.alpha: missing"),
        ({"a\nb": 1}, "'a\\nb': unknown key"),
        ({"name": "x" * 5000}, "name='xxx"),
        ({"name": "x\ud800"}, "holds half of a surrogate pair"),
    ],
)
def test_rules(given: dict[str, Any], message: str) -> None:
    assert refusal({**BASE, **given}).startswith(message)


def test_a_missing_section_is_named() -> None:
    assert refusal({key: value for key, value in BASE.items() if key != "stop"}) == "stop: missing"
    assert refusal({}) == "name: missing (and 4 more)"


def test_a_whole_number_is_a_number_like_others() -> None:
    config = parse_experiment({**BASE, "compute": {"step_time_ms": 5, "slowdown": {3: 2}}, "stop": {"time_s": 9}}, "f")
    assert (config.compute.step_time_ms, config.compute.slowdown, config.stop.time_s) == (5.0, {3: 2.0}, 9.0)


# --- reading ------------------------------------------------------------------------------------------------

TEXT = yaml.safe_dump(BASE)


def read(tmp_path: Path, text: str | bytes, *overrides: str) -> ExperimentConfig:
    file = tmp_path / "e.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_experiment(file, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: \xff\xfe", "cannot be read: is not UTF-8 text"),
        ("a: [1, 2", "line 1, column 9: expected ',' or ']'"),
        ("a: 1\n b: 2\n", "line 2, column 3: mapping values are not allowed here"),
        ("a: 1\nnodes: 2\na: 3\n", "line 3, column 1: key given twice: a"),
        ("stop: {rounds: 1, rounds: 2}", "line 1, column 19: key given twice: rounds"),
        ("- a\n- b\n", "must hold keys and values, holds list"),
        ("", "must hold keys and values, holds NoneType"),
        ("just text", "must hold keys and values, holds str"),
        ("? [a]\n: b", "line 1, column 3: found unhashable key"),
        ("a: *b", "line 1, column 4: found undefined alias"),
        ("a: !!python/object:os.system b", "line 1, column 4: could not determine a constructor"),
        ("--- {a: 1}\n--- {b: 2}", "line 2, column 1: but found another document"),
        ("a: \x00", "cannot be read: line 1 holds a zero byte"),
        ("a: 2024-13-45", "line 1, column 4: 2024-13-45: must be in quotes, as YAML 1.1 takes it for a date"),
        ("a: " + "9" * 5000, "line 1, column 4: a number of 5,000 digits: must have at most 400"),
        ("a: !!bool maybe", "line 1, column 4: could not determine a constructor for the tag"),
        ("[" * 3000, "is nested too deeply"),
    ],
)
def test_files_that_are_no_experiment(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'e.yaml'}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.yaml", "No such file or directory"), (".", "Is a directory"), ("e/x", "Not a directory")],
)
def test_files_that_cannot_be_read(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "e").write_text("")
    with pytest.raises(ConfigError) as caught:
        read_experiment(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be read: {reason}"


# --- overrides ----------------------------------------------------------------------------------------------


def test_numbers_with_an_exponent_need_no_point(tmp_path: Path) -> None:
    """YAML 1.1 wants a dot in 1e-3, which nobody remembers."""
    text = yaml.safe_dump({**BASE, "learning": {}}).replace(
        "learning: {}", "learning: {optimizer: {learning_rate: 1e-3}}"
    )
    assert read(tmp_path, text).learning.optimizer.learning_rate == 0.001


def test_overrides_reach_new_and_known_keys(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        TEXT + "compute: {slowdown: {3: 2.0}}\noutput:\n",
        "nodes=5",
        "algorithm.divshare.omega=0.5",
        "network.preset={kind: uniform, latency_ms: 7}",
        "compute.slowdown.3=4",
        "output.messages=false",
        "stop.time_s=1e1",
    )
    assert config.nodes == 5
    assert config.algorithm.divshare.omega == 0.5  # type: ignore[attr-defined]
    assert config.network.preset.latency_ms == 7
    assert config.compute.slowdown == {3: 4.0}
    assert config.output.messages is False
    assert config.stop.time_s == 10.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nodes", "must look like key.key=value"),
        ("=3", "must look like key.key=value"),
        ("a..b=3", "must look like key.key=value"),
        ("nodes.x=3", "nodes is 8 and has no keys"),
        ("network.overrides.0.source=3", "overrides is [{'source': 1}] and has no keys"),
        ("nodes=[1", "line 1, column 3: expected ',' or ']'"),
        ("nodes={a: 1, a: 2}", "line 1, column 8: key given twice: a"),
        ("nodes=2024-13-45", "line 1, column 1: 2024-13-45: must be in quotes"),
    ],
)
def test_wrong_overrides(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TEXT.replace("network: {}", "network: {overrides: [{source: 1}]}"), override)
    assert str(caught.value).startswith(f"--set {override}: {message}")
    assert "\n" not in str(caught.value)


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"e\.yaml: nodes=0: must be at least 1"):
        read(tmp_path, TEXT, "nodes=0")
    with pytest.raises(ConfigError, match="stop: must give time_s"):
        read(tmp_path, TEXT, "stop={}")


@pytest.mark.parametrize(
    ("labels", "few", "many"), [("auto", True, False), ("always", True, True), ("never", False, False)]
)
def test_single_peers_have_metrics_where_nodes_are_few_or_when_it_is_asked_for(
    labels: str, few: bool, many: bool
) -> None:
    observe = parse_experiment({**BASE, "observe": {"peer_labels": labels}}, "f.yaml").observe
    assert observe.labels_peers(32) is few
    assert observe.labels_peers(33) is many
    assert observe.metrics
