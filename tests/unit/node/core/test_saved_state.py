"""Objects as plain data and back: what is shared stays shared, and nothing unknown gets through."""

import json
import sys
from array import array
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest

from node.config_base import ConfigModel
from node.core.errors import ConfigError
from node.core.rng import stream
from node.core.saved_state import CannotSaveError, State, decode, encode, savable_classes


class Color(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Frozen:
    number: int
    other: object


class Part:
    __slots__ = ("name", "whole")

    def __init__(self, name: str, whole: object) -> None:
        self.name = name
        self.whole = whole


class Machine:
    """An anchor: holds something that cannot be saved."""

    rebuilt_attributes = frozenset({"callback"})

    def __init__(self) -> None:
        self.callback = print
        self.parts: list[object] = []


class Parameters(ConfigModel):
    number: float
    color: Color


class Loose:
    """Neither slots nor an anchor."""


def name(kind: type) -> str:
    return f"{__name__}.{kind.__name__}"


CLASSES = (Color, Frozen, Machine, Part, Loose)


def stored(state: State) -> State:
    """As if it had been in a file."""
    return State(json.loads(json.dumps(state.structure)), [values.copy() for values in state.arrays])


def there_and_back(root: object) -> Any:
    return decode(stored(encode(root, CLASSES, [])), CLASSES, [])


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, -1, 2**62, 0.1, -0.0, float("inf"), "ü\n", (), (1, (2.5, "x")), [], [1, [2]], {}),
        *(
            {"a": [1]},
            {(1, "x"): None},
            {3: 4, -5: 2**40},
            {1: True},
            deque([1, 2]),
            deque([1], 2),
            array("q", [1, -2]),
            array("i"),
        ),
        *(Color.RED, Frozen(1, (Frozen(2, None),))),
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)  # the sign of zero, True instead of 1, the order of a dictionary


def test_the_order_of_dictionaries_is_kept() -> None:
    assert list(there_and_back({3: 1, 1: 2, 2: 3})) == [3, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3)])
def test_arrays_keep_bits_type_shape_and_whether_they_may_be_changed(dtype: type, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    fixed = values[::-1]  # not contiguous
    fixed.setflags(write=False)
    back, back_fixed = there_and_back([values, fixed])
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(back_fixed, fixed)
    assert back.flags.writeable
    assert not back_fixed.flags.writeable


def test_what_is_shared_stays_shared_and_what_is_equal_stays_apart() -> None:
    model, twin = np.ones(3, np.float32), np.ones(3, np.float32)
    inner = [model]
    part = Part("p", None)
    part.whole = [part, inner]  # a circle
    back, back_model, back_twin, back_inner = there_and_back((part, model, twin, inner))
    assert back.whole[0] is back
    assert back.whole[1] is back_inner
    assert back_inner[0] is back_model
    assert back_model is not back_twin


def test_a_generator_goes_on_where_it_was() -> None:
    generator = stream(1, "test")
    generator.standard_normal(5)
    generator.integers(10, dtype=np.int32)  # leaves half a draw behind
    back = there_and_back(generator)
    assert back.integers(2**40, size=9).tolist() == generator.integers(2**40, size=9).tolist()


def test_an_anchor_is_filled_in_and_keeps_what_it_was_made_with() -> None:
    saved, made = Machine(), Machine()
    saved.parts = [Part("a", saved)]
    made.callback = repr
    root = decode(stored(encode([saved], CLASSES, [saved])), CLASSES, [made])
    assert root[0] is made
    assert made.callback is repr
    part = made.parts[0]
    assert isinstance(part, Part)
    assert part.whole is made


@pytest.mark.parametrize(
    "value", [print, object(), {1, 2}, np.float32(1), np.array([None]), b"x", np.random.Generator(np.random.MT19937())]
)
def test_what_is_not_in_the_table_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot save"):
        encode([value], CLASSES, [])


def test_a_class_that_leaves_something_or_has_no_slots_must_be_an_anchor() -> None:
    for value in (Machine(), Loose()):
        with pytest.raises(AssertionError, match="anchor"):
            encode(value, CLASSES, [])


def test_the_classes_of_a_module_that_can_be_saved_are_found() -> None:
    """Enumerations, parameters and classes with only slots; no anchors, none with a dictionary, none imported."""
    module = sys.modules[__name__]
    assert savable_classes([module]) == {Color, Frozen, Part, Parameters}
    value = Parameters(number=0.1, color=Color.RED)
    assert decode(stored(encode(value, savable_classes([module]), [])), [Parameters], []) == value


def test_what_cannot_be_saved_is_named_with_what_to_do_about_it() -> None:
    machine = Machine()
    machine.parts = [Part("a", [{1: print}])]
    with pytest.raises(CannotSaveError) as caught:
        encode(machine, [Part], [machine])
    text = str(caught.value)
    assert text.startswith(f"{name(Part)}.whole: cannot save a builtins.builtin_function_or_method; ")
    assert "classes with __slots__" in text
    assert text.endswith(
        "; name the attribute in Part.rebuilt_attributes if the constructor makes it and nothing changes it"
    )
    assert "\n" not in text


def structure_of(root: object) -> dict[str, Any]:
    return stored(encode(root, CLASSES, [])).structure


@pytest.mark.parametrize(
    "structure",
    [
        {},
        {"root": {"ref": 0}, "records": []},
        {"root": {"call": "print"}, "records": []},
        {"root": {"enum": [name(Color), "BLUE"]}, "records": []},
        {"root": {"enum": [name(Frozen), "number"]}, "records": []},
        {"root": {"ref": 0}, "records": [["object", "Path", {}]]},
        {"root": {"ref": 0}, "records": [["object", name(Part), {"name": "x"}]]},
        {"root": {"ref": 0}, "records": [["object", name(Part), {"name": "x", "whole": 1, "more": 2}]]},
        {"root": {"ref": 0}, "records": [["anchor", 0, name(Machine), {}]]},
        {"root": {"ref": 0}, "records": [["ndarray", 0, True]]},
        {"root": {"ref": 0}, "records": [["array", "u", 0]]},
        {"root": {"ref": 0}, "records": [["eval", "1"]]},
    ],
    ids=str,
)
def test_another_structure_is_refused_in_one_line(structure: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^not a state that this version can read \(.*\)$"):
        decode(State(structure, []), CLASSES, [])


def test_an_anchor_with_other_attributes_is_refused() -> None:
    saved, made = Machine(), Machine()
    state = stored(encode(saved, CLASSES, [saved]))
    made.added = 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"Machine: other attributes: \['added'\]"):
        decode(state, CLASSES, [made])
