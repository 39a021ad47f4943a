"""YAML as the testbed reads and writes it: the core schema of YAML 1.2, within bounds.

A plain value that YAML 1.1 reads as something else (``010``, ``1:30``, ``1_000``, ``0b1``, ``yes``, a date) is refused,
since its writer may have meant either. What the two versions agree on, or what is in quotes, is read. Keys are unique,
no tags but those of texts, lists and mappings are known, and an alias counts as what it repeats: neither a cycle nor a
small text that stands for a huge value gets through.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, nan
from typing import Any, Final, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from node.core.bounds import JSON_DIGITS_MAX, YAML_DEPTH_MAX, YAML_VALUES_MAX
from node.core.errors import ConfigError
from node.host.text_files import shorten

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's scanner where there is one: some ten times faster."""

_PLAIN_WORDS_BYTES: Final = 2**16
"""Size of a text up to which PyYAML's own scanner, whose words are clearer, is asked what is wrong."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL: Final = re.compile(r"0o[0-7]+", re.ASCII)
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_INFINITE: Final = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NANS: Final = frozenset({".nan", ".NaN", ".NAN"})

_OLD_FLAGS: Final = re.compile(r"(?:y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)")
_OLD_OCTAL: Final = re.compile(r"[-+]?0[0-9_]+", re.ASCII)
_OLD_BINARY: Final = re.compile(r"[-+]?0b[01_]+|[-+]0x[0-9a-fA-F_]+|0x[0-9a-fA-F_]*_[0-9a-fA-F_]*", re.ASCII)
_OLD_BASE_60: Final = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?", re.ASCII)
_OLD_GROUPS: Final = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?", re.ASCII)
_OLD_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?", re.ASCII)

_TOO_DEEP: Final = f"is nested too deeply: must be at most {YAML_DEPTH_MAX} levels"
_CORE: Final = "tag:yaml.org,2002:"
_MERGE: Final = object()
"""Stands for the key ``<<``, which takes in the keys of other mappings."""


def parse_yaml(text: str, place: str) -> Any:
    """Read one document: None, bool, int, float, str, list and dict.

    Args:
        text: The document.
        place: What it is, at the beginning of messages.

    Raises:
        ConfigError: It is not YAML, holds what is refused, or goes beyond a bound; one line.
    """
    try:
        return _Builder(place).build(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        if "maximum nesting" in str(error):  # libyaml's own bound, which lies far above ours
            raise ConfigError(f"{place}: {_TOO_DEEP}") from None
        raise ConfigError(f"{place}: {_problem(text, error)}") from None
    except UnicodeEncodeError as error:  # half of a surrogate pair, from an argument that is not UTF-8
        raise ConfigError(f"{place}: is not YAML: unacceptable character {error.object[error.start]!r}") from None


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Write plain values so that :func:`parse_yaml`, and readers of YAML 1.1, read them as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not plainly one."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if not text.isprintable():
        style: str | None = '"'  # the one style that writes every letter out
    else:
        style = None if _old_reading(text) is None and isinstance(plain_value(text), str) else "'"
    return dumper.represent_scalar(f"{_CORE}str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _problem(text: str, error: yaml.YAMLError) -> str:
    """The scanner's complaint and its place, in a line."""
    if len(text) <= _PLAIN_WORDS_BYTES:
        try:
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):
                pass
        except yaml.YAMLError as clearer:
            error = clearer
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {shorten(error.problem, 200)}"
    return f"is not YAML: {str(error).splitlines()[0]}"


@dataclass(slots=True)
class _Open:
    """A list or mapping that has begun.

    Attributes:
        value: What it has so far.
        is_mapping: Whether keys and values come in turn.
        anchor: Its name, if it has one.
        began: How many values there were before it.
        depth: Levels above it.
        key: The key whose value comes next; None between two pairs.
        keys: Its keys so far, as text: ``1`` and ``'1'`` are one key to whoever reads the file.
        merged: Mappings that ``<<`` named; their keys give way to the mapping's own.
        deepest: The deepest level in it so far.
    """

    value: Any
    is_mapping: bool
    anchor: str | None
    began: int
    depth: int
    key: tuple[Any] | None = None
    keys: set[str] = field(default_factory=set)
    merged: list[dict[Any, Any]] = field(default_factory=list)
    deepest: int = 0


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A value that has a name: how many values it holds, and how many levels."""

    value: Any
    size: int
    levels: int


class _Builder:
    """Makes values from the parser's events, without recursion.

    State:
        _open: Lists and mappings that have begun and not ended, outermost first.
        _named: Complete values that have a name.
        _values: Values so far, each alias counting as what it repeats.
        _documents: Documents that have begun.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._open: list[_Open] = []
        self._named: dict[str, _Anchored] = {}
        self._values = 0
        self._documents = 0

    def build(self, events: Iterator[Event]) -> Any:
        """Return the value of the one document; None for an empty text."""
        result: Any = None
        for event in events:
            match event:
                case ScalarEvent():
                    value = self._scalar(event)
                    self._count(event, 1, 0)
                    result = self._complete(event, value, event.anchor, 1, 0)
                case SequenceStartEvent() | MappingStartEvent():
                    self._begin(event)
                case SequenceEndEvent() | MappingEndEvent():
                    result = self._end(event)
                case AliasEvent():
                    known = self._named.get(event.anchor or "")
                    if known is None:
                        name = shorten(event.anchor)
                        self._refuse(event, f"found undefined alias: *{name} stands for nothing that ended before it")
                    self._count(event, known.size, known.levels)
                    # A copy, so that an override in one place changes nothing in the other.
                    result = self._complete(event, deepcopy(known.value), None, known.size, known.levels)
                case DocumentStartEvent():
                    self._documents += 1
                    if self._documents > 1:
                        self._refuse(event, "but found another document")
        return result

    def _refuse(self, event: Event, what: str) -> NoReturn:
        mark = event.start_mark
        assert mark is not None, "both scanners mark every event"
        raise ConfigError(f"{self._place}: line {mark.line + 1}, column {mark.column + 1}: {what}")

    def _count(self, event: Event, size: int, levels: int) -> None:
        """Count what comes, before it is taken in."""
        self._values += size
        if self._values > YAML_VALUES_MAX:
            self._refuse(event, f"holds too much: must be at most {YAML_VALUES_MAX:,} keys and values")
        level = len(self._open) + levels
        if level > YAML_DEPTH_MAX:
            raise ConfigError(f"{self._place}: {_TOO_DEEP}")
        if self._open:
            self._open[-1].deepest = max(self._open[-1].deepest, level)

    def _begin(self, event: Any) -> None:
        is_mapping = isinstance(event, MappingStartEvent)
        self._check_tag(event, "map" if is_mapping else "seq")
        if self._takes_key():
            self._refuse(event, "found unhashable key")
        self._named.pop(event.anchor, None)  # within itself the name stands for nothing
        value: Any = {} if is_mapping else []
        self._open.append(_Open(value, is_mapping, event.anchor, self._values, len(self._open)))
        self._count(event, 1, 0)

    def _end(self, event: Event) -> Any:
        done = self._open.pop()
        if self._open:
            self._open[-1].deepest = max(self._open[-1].deepest, done.deepest)
        for other in done.merged:
            for key, value in other.items():
                if str(key) not in done.keys:
                    done.keys.add(str(key))
                    done.value[key] = value
        size, levels = self._values - done.began, done.deepest - done.depth
        return self._complete(event, done.value, done.anchor, size, levels)

    def _complete(self, event: Event, value: Any, anchor: str | None, size: int, levels: int) -> Any:
        """Put a complete value where it belongs, and remember its name."""
        if anchor is not None:
            self._named[anchor] = _Anchored(value, size, levels)
        if not self._open:
            return value
        within = self._open[-1]
        if not within.is_mapping:
            within.value.append(value)
        elif within.key is None:
            self._take_key(event, within, value)
        else:
            (key,), within.key = within.key, None
            if key is _MERGE:
                self._merge(event, within, value)
            else:
                within.value[key] = value
        return value

    def _take_key(self, event: Event, within: _Open, key: Any) -> None:
        if isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
            within.key = (_MERGE,)
            return
        if isinstance(key, dict | list):
            self._refuse(event, "found unhashable key")
        if not isinstance(key, str | int) or isinstance(key, bool):
            self._refuse(event, f"key={shorten(event.value) if isinstance(event, ScalarEvent) else key}: must be text")
        if key in within.value or str(key) in within.keys:
            self._refuse(event, f"key given twice: {shorten(key)}")
        within.keys.add(str(key))
        within.key = (key,)

    def _merge(self, event: Event, within: _Open, value: Any) -> None:
        others = value if isinstance(value, list) else [value]
        if not all(isinstance(other, dict) for other in others):
            self._refuse(event, "<<: must be a mapping or a list of mappings")
        within.merged += others

    def _takes_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_mapping and self._open[-1].key is None

    def _check_tag(self, event: NodeEvent, *expected: str) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", *(f"{_CORE}{name}" for name in expected)):
            self._refuse(event, f"could not determine a constructor for the tag {shorten(tag)!r}")

    def _scalar(self, event: ScalarEvent) -> Any:
        self._check_tag(event, "str")
        text: str = event.value
        if event.tag is not None or not event.implicit[0]:  # in quotes, a block, or said to be text
            return text
        value, complaint = _resolve(text)
        if complaint is not None:
            self._refuse(event, complaint)
        return value


@lru_cache(maxsize=10_000)
def _resolve(text: str) -> tuple[Any, str | None]:
    """A plain value, or why it is refused. Remembered, as keys come again and again."""
    old = _old_reading(text)
    if old is not None:
        return None, f"{shorten(text)}: {old}"
    if len(text) > JSON_DIGITS_MAX and (_INT.fullmatch(text) or _OCTAL.fullmatch(text) or _HEX.fullmatch(text)):
        return None, f"a number of {len(text):,} digits: must have at most {JSON_DIGITS_MAX}"
    return plain_value(text), None


def _old_reading(text: str) -> str | None:
    """Return why a plain value is refused: YAML 1.1 reads it otherwise than YAML 1.2 does; None if it is not."""
    if _OLD_FLAGS.fullmatch(text):
        return "must be true or false, or in quotes, as YAML 1.1 takes it for one of them and YAML 1.2 for text"
    if _INT.fullmatch(text) and not _OLD_OCTAL.fullmatch(text):
        return None
    if _OLD_OCTAL.fullmatch(text) or _OLD_BINARY.fullmatch(text) or _OLD_BASE_60.fullmatch(text):
        return "must be a decimal number, or in quotes, as versions of YAML read it differently (bases 2, 8 and 60)"
    if "_" in text and _OLD_GROUPS.fullmatch(text):
        return "must be a number without underscores, or in quotes, as versions of YAML read it differently"
    if _OLD_DATE.fullmatch(text):
        return "must be in quotes, as YAML 1.1 takes it for a date"
    return None


def plain_value(text: str) -> Any:
    """Resolve a plain value by the core schema of YAML 1.2 (chapter 10.3 of its specification)."""
    if text in _NULLS:
        return None
    if text in _FLAGS:
        return _FLAGS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text in _NANS:
        return nan
    sign = _INFINITE.fullmatch(text)
    if sign:
        return -inf if sign[1] == "-" else inf
    return text
