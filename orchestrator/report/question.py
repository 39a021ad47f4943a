"""The question that a run or a comparison answers, in one sentence: with what, on which data, over which network."""

from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.comparison import ComparedGroup, Comparison
from orchestrator.experiment.runtimes import clock_name
from orchestrator.report.comparison_text import FLOOR_MARK, group_names
from orchestrator.report.schedule_text import in_counts
from orchestrator.report.text import headline_text, metric_name
from orchestrator.results.reader import Run

NAMED: Final = 4
"""Things of one kind that a sentence names; the rest is counted."""


def run_question(run: Run) -> str:
    """The question of one run; empty where nobody kept what it was asked."""
    if not run.facts.nodes:
        return ""
    clock = f", in {run.facts.end_s:,g} s of {clock_name(run.facts.runtime)}" if run.facts.end_s else ""
    return f"How well do {_training([run])} with {run.algorithm}{_surroundings([run])}{clock}?"


def comparison_question(runs: Sequence[Run], comparison: Comparison) -> str:
    """The question of a comparison: of each group its first run stands for all."""
    firsts = [runs[group.members[0]] for group in comparison.groups]
    known = [run for run in firsts if run.facts.nodes]
    names = [_named(name, group) for name, group in zip(group_names(runs, comparison), comparison.groups, strict=True)]
    baseline, *others = names
    counts = {len(group.seeds) for group in comparison.groups}
    seeds = "" if counts == {1} else f", {min(counts)} seeds{' each' if others else ''}"
    if len(counts) > 1:
        seeds = f", {min(counts)} to {max(counts)} seeds each"
    asked = others or [baseline]
    verb = "does" if len(asked) == 1 else "do"
    goal = None
    if comparison.target is not None:
        goal = f"hold {headline_text(comparison.metric, comparison.target)} {metric_name(comparison.metric)}"
    where = f" where {_training(known)}{_surroundings(known)}" if known else ""
    if others:
        start = f"How much sooner than {baseline} {verb}" if goal else f"Beside {baseline}, how {verb}"
    else:
        start = f"When {verb}" if goal else f"How {verb}"
    return f"{start} {_listed(asked)} {goal or 'fare'}{where}{seeds}?"


def _named(name: str, group: ComparedGroup) -> str:
    """A group's name, with its algorithm where the name does not tell it."""
    floor = FLOOR_MARK if group.algorithm == "local" else ""
    algorithm = "" if floor or group.algorithm in name else f" ({group.algorithm})"
    return f"{name}{algorithm}{floor}"


def _training(runs: Sequence[Run]) -> str:
    """Nodes and their task: ``8 nodes, 4 of them slow, train cnn on digits``; alternatives where runs differ."""
    nodes = _alternatives(f"{run.facts.nodes:,}" for run in runs)
    slow = _alternatives(f"{len(run.facts.stragglers):,}" for run in runs)
    some = f", {slow} of them slow," if slow != "0" else ""
    return f"{nodes} nodes{some} train {_alternatives(map(_task, runs))}"


def _task(run: Run) -> str:
    model, data = run.stated("learning", "model", "kind"), run.stated("learning", "dataset", "kind")
    return f"{model} on {data}" if model and data else "a model"


def _surroundings(runs: Sequence[Run]) -> str:
    """Links, topology and schedule."""
    links = _alternatives(_links(run) for run in runs)
    kinds = _alternatives(str(run.stated("topology", "kind") or "").replace("_", " ") for run in runs)
    schedules = _alternatives(in_counts(run.facts.schedule) if run.facts.schedule else "none" for run in runs)
    over = f", over {links}" if links else ""
    topology = f", {kinds} topology" if kinds else ""
    schedule = f", with {schedules} scheduled" if schedules != "none" else ""
    return f"{over}{topology}{schedule}"


def _links(run: Run) -> str:
    if run.stated("network", "links") == "direct":
        return "links that nothing shapes"
    kind, uplinks = run.stated("network", "preset", "kind"), run.facts.details.get("uplinks")
    if kind is None or uplinks is None:
        return ""
    return f"{uplinks} links ({kind})" if uplinks == "unlimited" else f"links of {uplinks} up ({kind})"


def _alternatives(texts: Iterable[str]) -> str:
    return _listed(list(dict.fromkeys(filter(None, texts))), last="or")


def _listed(texts: Sequence[str], last: str = "and") -> str:
    """Several things as a sentence has them: ``a``, ``a and b``, ``a, b and 3 others``."""
    shown = list(texts) if len(texts) <= NAMED else [*texts[: NAMED - 1], f"{len(texts) - NAMED + 1} others"]
    return f" {last} ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)
