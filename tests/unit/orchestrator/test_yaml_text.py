"""YAML is read by one rule, within bounds, and written so that it is read as it was."""

import math
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from node.core.bounds import YAML_VALUES_MAX
from node.core.errors import ConfigError
from orchestrator import yaml_text
from orchestrator.yaml_text import dump_yaml, parse_yaml


@pytest.fixture(autouse=True, params=["libyaml", "python"])
def scanner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's scanners: not every host has the fast one."""
    if request.param == "python":
        monkeypatch.setattr(yaml_text, "_LOADER", yaml.SafeLoader)


def refusal(text: str) -> str:
    began = time.process_time()
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "f")
    assert time.process_time() - began < 20  # of processor time, with the slower scanner
    message = str(refused.value)
    assert message.startswith("f: ")
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix("f: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6", 6),
        ("-6", -6),
        ("0", 0),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E-3", -0.0015),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yess", "yess"),
        ("'yes'", "yes"),
        ('"010"', "010"),
        ("!!str 010", "010"),
        ("5 s", "5 s"),
        ("1.2.3", "1.2.3"),
        ("a: {b: [1, x]}\nc:", {"a": {"b": [1, "x"]}, "c": None}),
        ("3: 2.0", {3: 2.0}),
        ("a: &x {b: [1]}\nc: *x", {"a": {"b": [1]}, "c": {"b": [1]}}),
        ("a: &x {1: 2}\nd: {<<: *x, '1': 3}", {"a": {1: 2}, "d": {"1": 3}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("'<<': 1", {"<<": 1}),
        ("a: |\n  yes\n", {"a": "yes\n"}),
    ],
)
def test_values(text: str, value: Any) -> None:
    read = parse_yaml(text, "f")
    assert (read, type(read)) == (value, type(value))


def test_what_an_alias_repeats_is_a_copy() -> None:
    content = parse_yaml("a: &x {b: 1}\nc: *x", "f")
    content["c"]["b"] = 2
    assert content["a"]["b"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 010", "line 1, column 4: 010: must be a decimal number, or in quotes"),
        ("a: -0_1", "line 1, column 4: -0_1: must be a decimal number"),
        ("a: 0b110", "line 1, column 4: 0b110: must be a decimal number"),
        ("a: 1:30", "line 1, column 4: 1:30: must be a decimal number"),
        ("a: 190:20:30.15", "line 1, column 4: 190:20:30.15: must be a decimal number"),
        ("a: 1_000", "line 1, column 4: 1_000: must be a number without underscores"),
        ("a: 1_0.5", "line 1, column 4: 1_0.5: must be a number without underscores"),
        ("a: 2020-01-01", "line 1, column 4: 2020-01-01: must be in quotes"),
        *(
            (f"- {word}", f"line 1, column 3: {word}: must be true or false")
            for word in ("yes", "No", "ON", "off", "y")
        ),
        ("yes: 1", "line 1, column 1: yes: must be true or false, or in quotes"),
        ("a: 1\n'a': 2", "line 2, column 1: key given twice: a"),
        ("{1: 2, '1': 3}", "line 1, column 8: key given twice: 1"),
        ("{1: 2, 0x1: 3}", "line 1, column 8: key given twice: 1"),
        ("{1.5: 2}", "line 1, column 2: key=1.5: must be text"),
        ("{true: 2}", "line 1, column 2: key=true: must be text"),
        ("? [a]\n: 1", "line 1, column 3: found unhashable key"),
        ("? &x a\n: *y", "line 2, column 3: found undefined alias: *y"),
        ("<<: 1", "line 1, column 5: <<: must be a mapping"),
        ("a: !!python/name:os.system x", "line 1, column 4: could not determine a constructor for the tag"),
        ("a: !!binary eA==", "line 1, column 4: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("\udcff", "is not YAML: unacceptable character"),
        ("\x07", "is not YAML: unacceptable character #x0007"),
        ("a: " + "9" * 401, "line 1, column 4: a number of 401 digits: must have at most 400"),
        ("a: " + "0x" + "f" * 5000, "line 1, column 4: a number of 5,002 digits"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


LISTS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
MAPPINGS = "".join(f"a{i}: &a{i} {{{', '.join(f'{k}: *a{i - 1}' for k in 'bcdefg')}}}\n" for i in range(1, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [*x]", "line 1, column 8: found undefined alias: *x"),
        ("&x {a: *x}", "line 1, column 8: found undefined alias: *x"),
        ("a: &x 1\nb: &x [*x]", "line 2, column 8: found undefined alias: *x"),
        (f"a0: &a0 [x]\n{LISTS}", "line 6, column "),
        (f"a0: &a0 {{x: 1}}\n{MAPPINGS}", "line 7, column "),
        ("a0: &a0 []\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 50)), "is nested too deeply"),
        ("[" * 3000, "is nested too deeply: must be at most 32 levels"),
        ("[" * 100_000, "is nested too deeply: must be at most 32 levels"),
        ("{a: " * 40 + "}" * 40, "is nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(60)), "is nested too deeply"),
    ],
)
def test_small_texts_that_stand_for_much(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


def test_the_number_of_values_is_bounded() -> None:
    text = "[" + "0," * (YAML_VALUES_MAX - 1) + "]"
    assert len(parse_yaml(text, "f")) == YAML_VALUES_MAX - 1
    message = refusal("[" + "0," * YAML_VALUES_MAX + "]")
    assert message.endswith(f"holds too much: must be at most {YAML_VALUES_MAX:,} keys and values")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
    | st.sampled_from(["1e3", "0o17", "010", "1:30", "yes", "null", "", ".nan", "<<", "=", "1_0", "2020-01-01", "~"])
)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    assert parse_yaml(dump_yaml({"a": value}), "f") == {"a": value}
    assert yaml.safe_load(dump_yaml({"a": value})) == {"a": value}
