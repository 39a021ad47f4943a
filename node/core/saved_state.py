"""Objects as plain data and back, so that a run can be continued: nothing is pickled, no code is named by a file.

A state is a graph of objects: algorithms compare models and messages with ``is``, and one message waits for several
recipients. :func:`encode` turns such a graph into values that JSON knows and a list of arrays, and keeps sharing;
:func:`decode` makes the graph again. A file can only name classes that the caller allows, most simply all
:func:`savable_classes` of some modules: the classes themselves are the table.

A program builds some things again from its input and does not save them: callbacks, the graph of neighbors, a trainer.
An object that holds such things is an *anchor*. It is made anew, without a file, and :func:`decode` fills in the rest
of it. Its class may name attributes to leave as the constructor made them, in ``rebuilt_attributes``. Other classes
need ``__slots__``, so that it is known what an object of them holds, and leave nothing.

Everything else of an object is saved, so that an attribute that is added to a class cannot be forgotten.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError, RunnerError

_SAVABLE = (
    "numbers, text, lists, deques, tuples, dictionaries, arrays, generators of node.core.rng, and enumerations,"
    " parameters and classes with __slots__ that stand in node.core or in the file of the algorithm"
)

_DTYPE_KINDS = "biuf"
_ARRAY_CODES = "ilqd"


@dataclass(frozen=True, eq=False)
class State:
    """An encoded graph.

    Attributes:
        structure: Of values that JSON knows, NaN and infinite numbers among them.
        arrays: C-contiguous, of numbers. Those of :func:`encode` share memory with what was encoded, and as long as one
            is held an ``array.array`` cannot grow: write them and drop them before anything goes on.
    """

    structure: dict[str, Any]
    arrays: list[npt.NDArray[Any]]


class CannotSaveError(RunnerError, TypeError):
    """An object holds something that cannot be saved. The message is one line that says what to do about it."""


def savable_classes(modules: Iterable[ModuleType]) -> frozenset[type]:
    """Return the classes defined in some modules whose objects can be saved without being anchors.

    These are enumerations, declared parameters (pydantic models), and classes all of whose attributes are slots.
    """
    return frozenset(
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and _is_savable(kind)
    )


def _is_savable(kind: type) -> bool:
    return issubclass(kind, Enum) or _is_parameters(kind) or not (kind.__dictoffset__ or _rebuilt(kind))


def _is_parameters(kind: type) -> bool:
    """Tell whether this is a pydantic model: it is frozen, and it writes and reads itself."""
    return hasattr(kind, "model_dump_json") and hasattr(kind, "model_validate_json")


def _rebuilt(kind: type) -> frozenset[str]:
    """Names of the attributes that the constructor makes and nothing changes; only anchors have such."""
    return getattr(kind, "rebuilt_attributes", frozenset())


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def encode(root: object, classes: Iterable[type], anchors: Sequence[object]) -> State:
    """Take a graph apart.

    Args:
        root: Where it begins.
        classes: Of which objects it may consist, besides plain values and anchors.
        anchors: Objects that :func:`decode` is given as well, in the same order.

    Raises:
        CannotSaveError: Something is of a type that cannot be saved.
    """
    encoder = _Encoder(classes, anchors)
    encoded = encoder.value(root)
    return State({"root": encoded, "records": encoder.records}, encoder.arrays)


def decode(state: State, classes: Iterable[type], anchors: Sequence[object]) -> Any:
    """Put a graph together again.

    Args:
        state: As :func:`encode` gave it. Its arrays become part of the graph.
        classes: As for :func:`encode`.
        anchors: Objects like those given to :func:`encode`, made anew from the same input; they are filled in. Changed
            in part if the state turns out to be wrong.

    Returns:
        The root.

    Raises:
        ConfigError: This is not a state of these classes.
    """
    try:
        return _Decoder(state, classes, anchors).root()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"not a state that this version can read ({type(error).__name__}: {error})") from error


def _attributes(instance: object) -> list[str]:
    """Names of all attributes an object has, whether in slots or not."""
    slots = [name for kind in type(instance).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(instance, "__dict__", ())]


class _Encoder:
    """Gives every object that can be shared a number and a record of what it holds."""

    def __init__(self, classes: Iterable[type], anchors: Sequence[object]) -> None:
        self.records: list[list[Any]] = []
        self.arrays: list[npt.NDArray[Any]] = []
        self._classes = frozenset(classes)
        self._anchors = {id(anchor): place for place, anchor in enumerate(anchors)}
        self._numbers: dict[int, int] = {}
        self._seen: list[object] = []  # kept alive, so that no two objects have one identity

    def value(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is tuple:
            return {"tuple": [self.value(item) for item in value]}
        if isinstance(value, Enum) and kind in self._classes:
            return {"enum": [_name(kind), value.name]}
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.records)
            self._seen.append(value)
            record: list[Any] = []
            self.records.append(record)
            record.extend(self._record(value, kind))
        return {"ref": number}

    def _record(self, value: Any, kind: type) -> list[Any]:
        place = self._anchors.get(id(value))
        if place is not None:
            return ["anchor", place, _name(kind), self._held(value, _rebuilt(kind))]
        if kind is np.ndarray:
            return ["ndarray", self._array(value), bool(value.flags.writeable)]
        if kind is list:
            return ["list", [self.value(item) for item in value]]
        if kind is deque:
            return ["deque", [self.value(item) for item in value], value.maxlen]
        if kind is dict:
            return self._mapping(value)
        if kind is array:
            return ["array", value.typecode, self._array(np.frombuffer(value, dtype=value.typecode))]
        if kind is np.random.Generator and type(value.bit_generator) is np.random.PCG64:
            return ["generator", value.bit_generator.state]
        if kind not in self._classes:
            raise CannotSaveError(f"cannot save a {_name(kind)}; {_SAVABLE} can be saved")
        if _is_parameters(kind):
            return ["parameters", _name(kind), value.model_dump_json()]
        # An object that is made without its constructor must be known whole from its class.
        assert not _rebuilt(kind), f"{kind.__name__}: must be an anchor"
        assert not hasattr(value, "__dict__"), f"{kind.__name__}: must have only slots, or be an anchor"
        return ["object", _name(kind), self._held(value, frozenset())]

    def _held(self, value: object, rebuilt: frozenset[str]) -> dict[str, Any]:
        held, kind = {}, type(value)
        for name in _attributes(value):
            if name in rebuilt:
                continue
            item = getattr(value, name)
            try:
                held[name] = self.value(item)
            except CannotSaveError as error:
                if error.__cause__ is not None:
                    raise  # the innermost attribute is named already
                raise CannotSaveError(
                    f"{_name(kind)}.{name}: {error}; name the attribute in {kind.__name__}.rebuilt_attributes if the"
                    " constructor makes it and nothing changes it"
                ) from error
        return held

    def _mapping(self, value: dict[Any, Any]) -> list[Any]:
        if value and all(type(item) is int for pair in value.items() for item in pair):
            # One of these has an entry a message.
            return ["numbers", self._array(np.array(list(value))), self._array(np.array(list(value.values())))]
        return ["dict", [[self.value(key), self.value(item)] for key, item in value.items()]]

    def _array(self, values: npt.NDArray[Any]) -> int:
        if values.dtype.kind not in _DTYPE_KINDS:
            raise TypeError(f"cannot save an array of {values.dtype}")
        self.arrays.append(values if values.flags.c_contiguous else values.copy(order="C"))
        return len(self.arrays) - 1


class _Decoder:
    """Makes all objects first and fills them then, because they may refer to each other in any order."""

    def __init__(self, state: State, classes: Iterable[type], anchors: Sequence[object]) -> None:
        self._encoded = state.structure["root"]
        self._records: list[list[Any]] = state.structure["records"]
        self._arrays = state.arrays
        self._by_name = {_name(kind): kind for kind in classes}
        self._anchors = anchors
        self._objects: list[Any] = []

    def root(self) -> Any:
        self._objects = [self._made(*record) for record in self._records]
        for instance, record in zip(self._objects, self._records, strict=True):
            self._fill(instance, *record)
        return self._value(self._encoded)

    def _made(self, kind: str, *details: Any) -> Any:
        match kind:
            case "list":
                return []
            case "deque":
                return deque(maxlen=details[1])
            case "dict" | "numbers":
                return {}
            case "ndarray":
                values = self._arrays[details[0]]
                values.flags.writeable = details[1]
                return values
            case "array":
                if details[0] not in _ARRAY_CODES:
                    raise ValueError(f"array of {details[0]!r}")
                return array(details[0], self._arrays[details[1]].astype(details[0]).tobytes())
            case "generator":
                return np.random.Generator(np.random.PCG64(0))
            case "anchor":
                anchor = self._anchors[details[0]]
                if _name(type(anchor)) != details[1]:
                    raise TypeError(f"{details[1]} in place of {_name(type(anchor))}")
                return anchor
            case "parameters":
                return self._by_name[details[0]].model_validate_json(details[1])  # type: ignore[attr-defined]
            case "object":
                return object.__new__(self._by_name[details[0]])
        raise ValueError(f"a record of kind {kind!r}")

    def _fill(self, instance: Any, kind: str, *details: Any) -> None:
        match kind:
            case "list" | "deque":
                instance.extend(self._value(item) for item in details[0])
            case "dict":
                for key, item in details[0]:
                    instance[self._value(key)] = self._value(item)
            case "numbers":
                instance.update(zip(*(self._arrays[number].tolist() for number in details), strict=True))
            case "generator":
                instance.bit_generator.state = details[0]
            case "anchor":
                self._set(instance, details[2])
            case "object":
                self._set(instance, details[1])

    def _set(self, instance: object, held: dict[str, Any]) -> None:
        expected = set(_attributes(instance)) - _rebuilt(type(instance))
        if set(held) != expected:
            raise ValueError(f"{type(instance).__name__}: other attributes: {sorted(set(held) ^ expected)}")
        for name, value in held.items():
            object.__setattr__(instance, name, self._value(value))  # also where the class is frozen

    def _value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        match kind:
            case "ref":
                return self._objects[content]
            case "tuple":
                return tuple(self._value(item) for item in content)
            case "enum":
                return self._by_name[content[0]][content[1]]  # type: ignore[index]
        raise ValueError(f"a value of kind {kind!r}")
