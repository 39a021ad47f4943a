"""Figures as words: amounts, durations and headline figures as people write them. Strings only."""

from collections.abc import Mapping
from typing import Any

from orchestrator.experiment.runtimes import clock_name


def metric_name(metric: str) -> str:
    """The headline figure as people write it."""
    return "RMSE" if metric == "rmse" else metric


def headline_text(metric: str, value: float) -> str:
    """A headline figure: accuracy in percent, RMSE as it is."""
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4f}"


def byte_unit(largest: float) -> tuple[float, str]:
    """The decimal unit in which an amount of bytes reads best: (bytes in it, its name)."""
    for divisor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= divisor:
            return divisor, unit
    return 1.0, "B"


def format_bytes(amount: float) -> str:
    """Bytes in decimal units, three significant digits: ``1.23 GB``."""
    divisor, unit = byte_unit(amount)
    value = amount / divisor
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def time_label(runtime: str) -> str:
    """Label of an axis of time."""
    return f"{clock_name(runtime)} (s)"


def bytes_label(unit: str) -> str:
    """Label of an axis of bytes."""
    return f"bytes sent by all nodes ({unit})"


def sentence(text: str) -> str:
    """With a capital letter, as a title begins."""
    return text[:1].upper() + text[1:]


def share(part: float, total: float) -> str:
    """A share in percent."""
    percent = 100 * part / total
    return f"{percent:.1f} %" if percent >= 0.05 or percent == 0 else "< 0.1 %"


def budget_groups(budget: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The shares of ``time_budget`` by the name of a group: fast nodes and stragglers, or all nodes."""
    if "stragglers" not in budget:
        return {"all nodes": budget["overall"]} if "overall" in budget else {}
    return {name: budget[key] for name, key in (("fast nodes", "fast"), ("stragglers", "stragglers")) if key in budget}


def budget_text(budget: Mapping[str, Mapping[str, float]]) -> str:
    """The activities of nodes and their shares, in words; what took no time is left out."""
    groups = {
        name: ", ".join(f"{activity} {share(part, 1.0)}" for activity, part in shares.items() if part)
        for name, shares in budget_groups(budget).items()
    }
    return "; ".join(text if name == "all nodes" else f"{name}: {text}" for name, text in groups.items())


def format_duration(seconds: float) -> str:
    """Seconds as people say them: ``41.2 s``, ``12 min 5 s``, ``3 h 12 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def human(value: Any) -> str:
    """A value of a JSON file as a table cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return str(value)


def printable(text: str, letters_max: int = 200) -> str:
    """Text of any origin on one line: what cannot be printed becomes U+FFFD, and what is too long is cut."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return shown if len(shown) <= letters_max else f"{shown[: letters_max - 1]}…"
