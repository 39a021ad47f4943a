"""A scanner of PromQL: which series an expression selects, and inside of which functions. Prometheus judges syntax."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKENS = re.compile(
    r"""\s+ | (?P<string>"(?:[^"\\]|\\.)*") | (?P<variable>\$\{?\w+\}?) | (?P<number>\d[\d.]*(?:e[+-]?\d+)?)
    | (?P<name>[a-zA-Z_:][\w:]*) | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<other>.)""",
    re.VERBOSE,
)
LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
OPERATORS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count", "topk", "bottomk", "count_values", "quantile", "stddev"})
CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Selector:
    """One selector of an expression.

    Attributes:
        metric: The name of its series.
        matchers: Label, operator and value of each matcher.
        window: Its range without brackets; empty: an instant.
        inside: Functions and aggregations around it, the innermost last.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    window: str
    inside: tuple[str, ...]


def scan(expr: str) -> list[Selector]:
    """The selectors of an expression, in order.

    Raises:
        ValueError: Brackets do not match.
    """
    return list(_Scanner(expr).selectors())


def grouping_labels(expr: str) -> set[str]:
    """Labels that the expression groups or matches by, and those that ``count_values`` makes."""
    lists = re.findall(rf"\b(?:{'|'.join(LABEL_LISTS)})\s*\(([^)]*)\)", expr)
    made = set(re.findall(r'count_values(?:\s+by\s*\([^)]*\))?\s*\(\s*"(\w+)"', expr))
    return {label.strip() for names in lists for label in names.split(",") if label.strip()} - made


def variables(text: str) -> set[str]:
    """Names of Grafana's variables in a text."""
    return {plain or braced for plain, braced in re.findall(r"\$(?:(\w+)|\{(\w+)[:}])", text)}


class _Scanner:
    def __init__(self, expr: str) -> None:
        self._tokens = [(str(m.lastgroup), m.group()) for m in TOKENS.finditer(expr) if m.lastgroup]
        self._expr = expr
        self._at = 0

    def selectors(self) -> Iterator[Selector]:
        around: list[tuple[str, str]] = []
        pending = ""
        while self._at < len(self._tokens):
            kind, text = self._next()
            if kind == "open":
                around.append((text, pending))
                pending = ""
            elif kind == "close":
                if not around or CLOSING[around.pop()[0]] != text:
                    raise ValueError(f"brackets do not match: {self._expr}")
            elif kind == "name" and text in LABEL_LISTS:
                self._bracketed("(")
            elif kind == "name" and (text in AGGREGATIONS or self._peek() == "("):
                pending = text
            elif kind == "name" and text not in OPERATORS and "[" not in [opened for opened, _ in around]:
                yield Selector(
                    text, _matchers(self._bracketed("{")), self._bracketed("["), tuple(f for _, f in around if f)
                )
        if around:
            raise ValueError(f"brackets do not match: {self._expr}")

    def _next(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _bracketed(self, opening: str) -> str:
        """The text up to the closing bracket if the next token is the opening one."""
        if self._peek() != opening:
            return ""
        self._next()
        texts = []
        while self._peek() != CLOSING[opening]:
            if self._at >= len(self._tokens):
                raise ValueError(f"brackets do not match: {self._expr}")
            texts.append(self._next()[1])
        self._next()
        return "".join(texts)


def _matchers(text: str) -> tuple[tuple[str, str, str], ...]:
    found = re.findall(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"', text)
    return tuple((label, operator, value) for label, operator, value in found)
