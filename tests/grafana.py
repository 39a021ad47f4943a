"""Grafana's part in a dashboard, as far as queries go: it puts in the variables and asks Prometheus."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.dashboard_linter import annotations_of, targets_of, variables_of

Json = dict[str, Any]
Choices = Mapping[str, str | Sequence[str]]

ALL = "$__all"
MAX_POINTS = 500


@dataclass(frozen=True)
class View:
    """A reader's view of a dashboard.

    Attributes:
        get: Asks Prometheus' interface: a path and parameters for the data of the answer.
        start_s: Begin of the time range, Unix time.
        end_s: Its end.
        choices: Values of variables, several as a sequence; others have what the dashboard gives them.
    """

    get: Callable[..., Any]
    start_s: float
    end_s: float
    choices: Choices = field(default_factory=dict)

    @property
    def sampled_s(self) -> int:
        """Time between two samples, as the reader says."""
        step = self.choices.get("step", "1s")
        assert isinstance(step, str)
        return int(step.removesuffix("s"))

    @property
    def step_s(self) -> int:
        """Time between two points on a panel."""
        return max(self.sampled_s, round((self.end_s - self.start_s) / MAX_POINTS))

    def put_in(self, expr: str, dashboard: Mapping[str, Any]) -> str:
        """Return an expression with the values of the variables, as Grafana's Prometheus source writes them."""
        values = {
            "__range": f"{max(1, round(self.end_s - self.start_s))}s",
            "__rate_interval": f"{max(self.step_s + self.sampled_s, 4 * self.sampled_s)}s",
            "__interval": f"{self.step_s}s",
        }
        for variable in dashboard["templating"]["list"]:
            name = variable["name"]
            choice = self.choices.get(name, variable.get("current", {}).get("value", ""))
            values[name] = _interpolated(choice, variable)
        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda found: values[found[1] or found[2]], expr)

    def ask(self, expr: str, *, instant: bool) -> list[Json]:
        """Return the series of an expression; ``values`` are pairs of time and value."""
        if instant:
            answer = self.get("query", query=expr, time=str(self.end_s))
        else:
            times = {"start": str(self.start_s), "end": str(self.end_s), "step": str(self.step_s)}
            answer = self.get("query_range", query=expr, **times)
        result: list[Json] = answer["result"]
        if answer["resultType"] == "scalar":
            return [{"metric": {}, "values": [answer["result"]]}]
        return [{"metric": found["metric"], "values": found.get("values") or [found["value"]]} for found in result]

    def label_values(self, query: str) -> list[str]:
        """Return the values of ``label_values(selector, label)``."""
        found = re.fullmatch(r"label_values\((.+), *(\w+)\)", query)
        assert found, query
        answer = self.get(
            f"label/{found[2]}/values", **{"match[]": found[1], "start": str(self.start_s), "end": str(self.end_s)}
        )
        return [str(value) for value in answer]


def _interpolated(choice: str | Sequence[str], variable: Mapping[str, Any]) -> str:
    if not variable.get("multi"):
        assert isinstance(choice, str), variable["name"]
        return choice.replace("\\", "\\\\")
    chosen = [choice] if isinstance(choice, str) else list(choice)
    if chosen == [ALL]:
        return str(variable["allValue"])
    escaped = [re.sub(r"[\\$^*{}\[\]'+?.()|]", lambda found: "\\\\" + found[0], value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def asked(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Each query of panels and annotations: its place, the expression, and whether it is asked for once."""
    for panel, target in targets_of(dashboard):
        yield f"{panel['title']}: {target['refId']}", target["expr"], target["instant"]
    for annotation in annotations_of(dashboard):
        yield f"annotation {annotation['name']}", annotation["expr"], False


def label_queries(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each variable that asks Prometheus: its name and query."""
    for variable in variables_of(dashboard, "query"):
        yield variable["name"], variable["query"]["query"]
