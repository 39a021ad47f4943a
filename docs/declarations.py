"""Declarations read as documentation: configuration models, enumerations, docstrings, the command line.

Each function takes an object of the code and returns rows or paragraphs of Markdown. :mod:`generated_pages` puts
them together.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Table = list[list[str]]


# --- Markdown ------------------------------------------------------------------------------------------------


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; a bar or a line break inside a cell would end it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text as a span of code."""
    return f"`{text}`"


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: one kind of quotes for code, no stray emphasis, no roles."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":\w+:`~?([^`]+)`", lambda found: code(found[1].rsplit(".", 1)[-1]), text)
    return re.sub(r"(?<=\w)\*(?=\w)", r"\\*", text.replace("``", "`"))


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(markdown(docstring).split("\n\n")[0].split())


def sentence(text: str) -> str:
    """A description as a sentence: it begins with a capital letter and ends with a full stop."""
    text = " ".join(text.split())
    if re.match(r"[a-z]+\b(?![_:(=])", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", ":", "]")) or not text else text + "."


# --- configuration models ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key of a configuration model as its documentation shows it.

    Attributes:
        name: The key itself.
        path: The same with the keys that lead to it, joined by dots.
        value: The kind of value, in words.
        default: The value that holds when the key is left out; "required" if it must be given.
        bounds: The bounds of the value; empty if there are none.
        text: One sentence.
        choices: The values of an enumeration and a sentence for each.
        inner: The models that the value is made of: none, one, or one for each ``kind``.
        many: Whether the value is a list of these models.
    """

    name: str
    path: str
    value: str
    default: str
    bounds: str
    text: str
    choices: Mapping[str, str]
    inner: tuple[type[BaseModel], ...]
    many: bool


TAGS = ("kind", "action")
"""Keys that tell the members of a tagged union apart."""


def keys_of(model: type[BaseModel], prefix: str = "") -> list[Key]:
    """The keys of a model in the order of their declaration, without the tag of a union's member."""
    return [
        _key(name, prefix + name, field)
        for name, field in model.model_fields.items()
        if not (name in TAGS and get_origin(field.annotation) is Literal)
    ]


def tag_of(model: type[BaseModel]) -> tuple[str, str]:
    """The key, and its value, that select a member of a tagged union."""
    key = next(name for name in TAGS if name in model.model_fields)
    return key, str(get_args(model.model_fields[key].annotation)[0])


def key_table(keys: Iterable[Key]) -> str:
    """One row a key. The heading above says where in the file they stand."""
    rows = [[code(key.name), key.value, key.default, key.bounds, key.text] for key in keys]
    return table(["key", "type", "default", "bounds", "meaning"], rows)


def choice_lists(keys: Iterable[Key]) -> Iterator[str]:
    """For each key that is an enumeration, its values with a sentence each."""
    for key in keys:
        if any(key.choices.values()):
            items = [f"- `{value}`: {text}" for value, text in key.choices.items()]
            yield f"Values of `{key.name}`:\n\n" + "\n".join(items)


def _key(name: str, path: str, field: FieldInfo) -> Key:
    inner, many = _models(field.annotation)
    text = sentence(markdown(field.description))
    if not text and len(inner) == 1:
        text = first_paragraph(inspect.getdoc(inner[0]))
    elif not text and inner:
        text = f"Its key `{tag_of(inner[0])[0]}` is one of {', '.join(code(tag_of(model)[1]) for model in inner)}."
    return Key(
        name=name,
        path=path,
        value=_type(field.annotation),
        default=_default(field),
        bounds=_bounds(field.metadata),
        text=text,
        choices=_choices(field.annotation),
        inner=inner,
        many=many,
    )


def _models(annotation: Any) -> tuple[tuple[type[BaseModel], ...], bool]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin in (Union, UnionType):
        found = dict.fromkeys(model for member in get_args(annotation) for model in _models(member)[0])
        return tuple(found), False
    if origin is tuple:
        return _models(get_args(annotation)[0])[0], True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,), False
    return (), False


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        members = [member for member in arguments if member is not NoneType]
        kinds = list(dict.fromkeys(map(_type, members)))
        words = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        return f"{words} or `null`" if NoneType in arguments else words
    if origin is Literal:
        return ", ".join(code(value) for value in arguments)
    if origin is tuple:
        if Ellipsis not in arguments:
            return f"list of {len(arguments)}: {', '.join(_type(member) for member in arguments)}"
        return f"list of {_PLURALS.get(arguments[0]) or _plural(_type(arguments[0]))}"
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(code(member.value) for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS[annotation]


_WORDS: dict[Any, str] = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def _plural(words: str) -> str:
    if words == "section":
        return "sections"
    if " or " in words and "list" not in words:
        return "these"
    return f"pairs, each a {words}" if words.startswith("list") else f"values, each a {words}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore[misc,call-arg]
    return _value(value)


def _value(value: object) -> str:
    if isinstance(value, BaseModel):
        tag = getattr(value, "kind", None) if "kind" in type(value).model_fields else None
        return f"`kind: {tag}`" if tag else "its defaults"
    if isinstance(value, Enum):
        return code(value.value)
    if value is None or isinstance(value, bool):
        return code({None: "null", True: "true", False: "false"}[value])
    if value == () or value == {}:
        return "none"
    return code(f"{value:g}" if isinstance(value, float) else value)


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _bounds(metadata: Iterable[Any]) -> str:
    found = []
    for item in metadata:
        found += [f"{sign} {_number(getattr(item, name))}" for name, sign in _SIGNS.items() if hasattr(item, name)]
        if getattr(item, "min_length", None):
            found.append("not empty" if item.min_length == 1 else f"at least {item.min_length} entries")
        if getattr(item, "max_length", None):
            found.append(f"at most {item.max_length} entries")
        if getattr(item, "pattern", None):
            found.append(f"matches `{item.pattern}`")
    return ", ".join(found)


def _number(value: float) -> str:
    if isinstance(value, int) and value > 2**53:
        return f"2^{value.bit_length() - 1}" if value & (value - 1) == 0 else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _choices(annotation: Any) -> dict[str, str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return enumeration(annotation)
    members = [_choices(member) for member in get_args(annotation) if isinstance(member, type)]
    return next((found for found in members if found), {})


def enumeration(values: type[Enum]) -> dict[str, str]:
    """The values of an enumeration and the string that stands below each member; empty where there is none."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(values))).body
    assert isinstance(declared, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for statement in declared.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        elif name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            texts[name] = " ".join(markdown(str(statement.value.value)).split())
    return {str(member.value): texts.get(member.name, "") for member in values}


# --- docstrings ----------------------------------------------------------------------------------------------


def attributes(documented: type) -> dict[str, str]:
    """The section "Attributes:" of a class: name -> sentence. "a, b: text" describes both names."""
    text = inspect.cleandoc(documented.__doc__ or "")
    found = re.search(r"^(?:Attributes|State):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    result: dict[str, str] = {}
    for item in re.split(r"\n(?=\S)", textwrap.dedent(found[1]).strip()) if found else ():
        names, _, meaning = item.partition(":")
        for name in names.split(","):
            result[name.strip()] = " ".join(markdown(meaning).split())
    return result


LABELS = ("Paper", "States", "Parameters", "Details matched", "Departures", "Try it")
"""How the paragraphs of an algorithm's docstring begin, in this order; a paragraph without one continues the last."""


def labelled_sections(docstring: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of an algorithm's docstring, and the text under each of :data:`LABELS`.

    A label that stands alone before its colon is left out; one with more words is a part of its sentence.
    """
    title, *paragraphs = markdown(docstring).split("\n\n")
    sections: dict[str, list[str]] = {}
    label = ""
    for paragraph in paragraphs:
        found = re.match(rf"({'|'.join(LABELS)})\b(:?)", paragraph)
        if found is not None and found[1] not in sections:
            label = found[1]
            if found[2]:
                paragraph = paragraph[found.end() :].strip()
                paragraph = paragraph if label == "Paper" else sentence_case(paragraph)  # authors keep their case
        sections.setdefault(label, []).append(paragraph)
    return " ".join(title.split()), {name: "\n\n".join(parts) for name, parts in sections.items()}


def sentence_case(text: str) -> str:
    """The text with a capital letter at its beginning, unless it begins with code."""
    return text[:1].upper() + text[1:]


# --- the command line ----------------------------------------------------------------------------------------


def command_page(program: str, name: str, command: Any) -> str:
    """One command: what it does, how it is called, its arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    parts = [f"## `{program} {name}`", markdown(command.help)]
    usage = " ".join([program, name, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)])
    parts.append(f"```text\n{usage}\n```")
    rows = [[code(_usage(p)), sentence(p.help or "")] for p in arguments]
    rows += [[_option(p), sentence(p.help or "")] for p in options]
    parts.append(table(["argument or option", "meaning"], rows))
    return "\n\n".join(parts)


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name if argument.required else f"[{name}]")


def _option(option: Any) -> str:
    value = "" if option.is_flag else " " + (option.metavar or option.name.upper())
    names = ", ".join([*option.opts, *option.secondary_opts])
    return code(names + value)
