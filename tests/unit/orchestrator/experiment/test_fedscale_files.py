"""FedScale's files as JSON: which clients they give, and that every mistake names its client and field."""

import json
from typing import Any

import numpy as np
import pytest

from node.core.errors import ConfigError
from orchestrator.experiment.fedscale_files import (
    ClientAvailability,
    ClientCapacity,
    clients_of,
    read_availability,
    read_capacities,
)

THERE = {"duration": 15, "inactive": [20, 40], "finish_time": 60, "active": [10, 35], "model": "CPH1801"}
DEVICE = {"computation": 162.0, "communication": 5648.109619499134}


def test_availability_has_the_fields_that_fedscale_gives_it() -> None:
    read = read_availability(json.dumps({"7": THERE, "3": {**THERE, "active": [0, 20]}}), place="t")
    assert read == [ClientAvailability(60, ((10, 20), (35, 40))), ClientAvailability(60, ((0, 20), (20, 40)))]
    few = {"active": [5, 5], "inactive": [5, 9], "finish_time": 9}
    assert read_availability(json.dumps({"a": few}), place="t") == [ClientAvailability(9, ((5, 9),))]


def test_capacities_are_milliseconds_a_sample_and_kilobits_a_second() -> None:
    assert read_capacities(json.dumps({"1": DEVICE}), place="t") == [
        ClientCapacity(162.0, pytest.approx(5.648109619499134))
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t:1: must be JSON (Expecting value)"),
        ("{\n]", "t:2: must be JSON (Expecting property name enclosed in double quotes)"),
        ('{"a": {}, "a": {}}', "t: must be JSON (key given twice: a)"),
        ("[]", "t: must be an object of at least one client"),
        ("{}", "t: must be an object of at least one client"),
        ('{"a": 5}', "t: client a: must be an object, is 5"),
    ],
    ids=lambda part: part[:20],
)
@pytest.mark.parametrize("read", [read_availability, read_capacities])
def test_a_file_that_is_none(read: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, place="t")
    assert str(caught.value) == message


LEFT_OUT = ...  # a value of no file, with one name in every process


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"active": LEFT_OUT}, "active: missing"),
        ({"finish_time": LEFT_OUT}, "finish_time: missing"),
        ({"user": 1}, "user: unknown field; known are active, inactive, finish_time, duration, model"),
        ({"finish_time": 0}, "finish_time=0: must be a number, above 0 and at most 1e+09"),
        ({"finish_time": True}, "finish_time=True: must be a number, above 0 and at most 1e+09"),
        ({"active": 3}, "active=3: must be a list of times in seconds"),
        ({"active": [10, "35"]}, "active[1]=35: must be a number, at least 0 and at most finish_time=60"),
        ({"active": [-1, 35]}, "active[0]=-1: must be a number, at least 0 and at most finish_time=60"),
        ({"inactive": [20, 61]}, "inactive[1]=61: must be a number, at least 0 and at most finish_time=60"),
        ({"active": [10]}, "inactive: must have as many times as active, 1, has 2"),
        ({"active": [10, 19]}, "active[1]=19: must be at least inactive[0]=20"),
        ({"inactive": [9, 40]}, "inactive[0]=9: must be at least active[0]=10"),
        ({"active": [], "inactive": []}, "active: must have a time in which the client is active"),
    ],
    ids=str,
)
def test_a_wrong_availability_names_its_client(fields: dict[str, Any], message: str) -> None:
    content = {name: value for name, value in {**THERE, **fields}.items() if value is not LEFT_OUT}
    with pytest.raises(ConfigError) as caught:
        read_availability(json.dumps({"1": THERE, "9": content}), place="t")
    assert str(caught.value) == f"t: client 9: {message}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"computation": LEFT_OUT}, "computation: missing"),
        ({"memory": 4}, "memory: unknown field; known are computation, communication"),
        ({"computation": 0}, "computation=0: must be a number, at least 1e-06 and at most 1e+09"),
        ({"communication": 1e-4}, "communication=0.0001: must be a number, at least 0.001 and at most 1e+12"),
        ({"communication": None}, "communication=None: must be a number, at least 0.001 and at most 1e+12"),
    ],
    ids=str,
)
def test_a_wrong_capacity_names_its_client(fields: dict[str, Any], message: str) -> None:
    content = {name: value for name, value in {**DEVICE, **fields}.items() if value is not LEFT_OUT}
    with pytest.raises(ConfigError) as caught:
        read_capacities(json.dumps({"9": content}), place="t")
    assert str(caught.value) == f"t: client 9: {message}"


def test_clients_are_dealt_in_order_or_drawn_each_once_while_there_are_enough() -> None:
    assert clients_of(3, 8, "in_order", np.random.default_rng(1)) == [0, 1, 2, 0, 1, 2, 0, 1]
    drawn = clients_of(100, 60, "drawn", np.random.default_rng(1))
    assert len(set(drawn)) == 60
    assert drawn != sorted(drawn)
    assert drawn == clients_of(100, 60, "drawn", np.random.default_rng(1))
    again = clients_of(3, 6, "drawn", np.random.default_rng(2))
    assert sorted(again[:3]) == [0, 1, 2]
    assert again[3:] == again[:3]
