"""A comparison of runs as text: tables and notes. Draws nothing, so that a terminal needs no matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from node.core.errors import ConfigError
from orchestrator.comparison import AUTOMATIC_SHARE, CUT_SHORT, ComparedGroup, Comparison
from orchestrator.fidelity import is_unfaithful, unfaithful_reasons
from orchestrator.intervals import MeanInterval
from orchestrator.report.schedule_text import different_schedules
from orchestrator.report.table_files import TextTable
from orchestrator.report.text import format_bytes, headline_text, metric_name
from orchestrator.results.reader import Run

UNFAITHFUL_MARK: Final = "UNFAITHFUL "
"""Before the name of a run that its host could not keep up with, wherever it is compared."""

FLOOR_MARK: Final = " (floor)"
"""After the name of training without communication."""

NONE: Final = "–"
"""Stands for a figure that does not exist."""

FEW_EVALUATIONS: Final = 10
"""With fewer a curve is hardly smoothed, and times are coarse."""

DIFFERENCES_SHOWN: Final = 4
"""Keys of experiments that a note names; the rest is counted."""


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that have nothing to say about each other.

    Raises:
        ConfigError: They train on different data sets, or are no runs of an experiment.
    """
    kinds = [(run, run.stated("learning", "dataset", "kind")) for run in runs]
    known = [(run, kind) for run, kind in kinds if kind is not None]
    for run, kind in known[1:]:
        if kind != known[0][1]:
            raise ConfigError(
                f"compare: {run.label} trains on {kind}, but {known[0][0].label} on {known[0][1]}:"
                " runs must share a data set"
            )


def group_names(runs: Sequence[Run], comparison: Comparison) -> list[str]:
    """A name a group, with what its directory adds to it where two share one."""
    names = [group.label for group in comparison.groups]
    told_apart = []
    for number, (name, group) in enumerate(zip(names, comparison.groups, strict=True), start=1):
        detail = runs[group.members[0]].path.name.removeprefix(name).strip("-") or number
        told_apart.append(name if names.count(name) == 1 else f"{name} ({detail})")
    return told_apart


def group_labels(runs: Sequence[Run], comparison: Comparison) -> list[str]:
    """A label a group: its name, and marks of the floor, the unfaithful, and what did not come to its end."""
    labels = []
    for name, group in zip(group_names(runs, comparison), comparison.groups, strict=True):
        mark = UNFAITHFUL_MARK if any(is_unfaithful(runs[index].fidelity) for index in group.members) else ""
        floor = FLOOR_MARK if group.algorithm == "local" else ""
        labels.append(mark + name + floor + _ending_mark(group.statuses))
    return labels


def _ending_mark(statuses: Sequence[str]) -> str:
    """Tell in brackets how runs ended that are not done: `` (diverged)``, `` (1 of 3 interrupted)``; else nothing."""
    words = []
    for status in dict.fromkeys(statuses):
        if status != "done":
            count, word = statuses.count(status), "not ended" if status == "partial" else status
            words.append(word if count == len(statuses) else f"{count} of {len(statuses)} {word}")
    return f" ({', '.join(words)})" if words else ""


def run_labels(runs: Sequence[Run], comparison: Comparison) -> list[str]:
    """A label a run: its group's, with the seed where the group has several."""
    labels = [""] * len(runs)
    for label, group in zip(group_labels(runs, comparison), comparison.groups, strict=True):
        name = label.removesuffix(_ending_mark(group.statuses))
        for index, seed, status in zip(group.members, group.seeds, group.statuses, strict=True):
            seed_text = f", seed {seed}" if len(group.members) > 1 else ""
            labels[index] = name + seed_text + _ending_mark([status])
    return labels


# --- tables ---------------------------------------------------------------------------------------------------


def comparison_table(comparison: Comparison, labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A comparison as text: the header, and one row a group, whose first cell is its label."""
    common = comparison.common_time_s
    header = [
        "run",
        "seeds",
        "end",
        "worst node",
        "averaged model",
        "gain",
        "at the same time" if common is None else f"at {common:,.1f} s",
        "time to target",
        "times faster",
        "bytes to target",
        "times fewer bytes",
    ]
    rows = []
    for label, group in zip(labels, comparison.groups, strict=True):
        figures = (group.end, group.worst_node, group.averaged_model)
        end, worst, averaged = (_headline_cell(comparison.metric, figure) for figure in figures)
        rows.append(
            [
                label,
                str(len(group.seeds)) if group.done == len(group.seeds) else f"{group.done} of {len(group.seeds)}",
                end,
                worst,
                averaged,
                NONE if group.gain_percent is None else f"{group.gain_percent:+.1f} %",
                _headline_cell(comparison.metric, group.at_common_time),
                NONE if comparison.target is None else _time_cell(group),
                _ratio_cell(group.times_faster, group.reached, comparison.baseline, group),
                NONE if group.bytes_to_target is None else format_bytes(group.bytes_to_target.mean),
                _ratio_cell(group.times_fewer_bytes, group.reached, comparison.baseline, group),
            ]
        )
    return header, rows


def ratios_table(comparison: Comparison, labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Tabulate how many times faster each group holds each of a range of targets: a row a group, a column a target.

    Without intervals, for which a terminal has no room; the row of the baseline says how many of its runs hold it.
    """
    header = ["times faster to", *(headline_text(comparison.metric, row.target) for row in comparison.table)]
    rows = []
    for place, (label, group) in enumerate(zip(labels, comparison.groups, strict=True)):
        cells = []
        for row in comparison.table:
            ratio, reached, of = row.times_faster[place], row.reached[place], len(group.counted_seeds)
            if reached == 0:
                cells.append("never" if of else NONE)
            elif ratio is None:
                cells.append("it alone" if row.reached[0] == 0 else NONE)
            else:
                some = "" if reached == of else f" ({reached}/{of})"
                cells.append(f"{ratio.mean:.2f}×{some}")
        rows.append([label, *cells])
    return header, rows


def comparison_tables(runs: Sequence[Run], comparison: Comparison) -> list[TextTable]:
    """Both tables of a comparison, the second of which is left out where there is no ratio."""
    labels = group_labels(runs, comparison)
    tables = [TextTable(f"{target_text(comparison)}; baseline: {labels[0]}", *comparison_table(comparison, labels))]
    if len(labels) > 1 and comparison.table:
        tables.append(TextTable("times faster over a range of targets", *ratios_table(comparison, labels)))
    return tables


def _headline_cell(metric: str, figure: MeanInterval | None) -> str:
    if figure is None:
        return NONE
    half = _half(figure)
    if half is None:
        return headline_text(metric, figure.mean)
    if metric == "accuracy":
        return f"{100 * figure.mean:.1f} ± {100 * half:.1f} %"
    return f"{figure.mean:.4f} ± {half:.4f}"


def _time_cell(group: ComparedGroup) -> str:
    of = len(group.counted_seeds)
    if group.time_to_target_s is None:
        return "never" if of else NONE
    half = _half(group.time_to_target_s)
    time = f"{group.time_to_target_s.mean:,.1f}{'' if half is None else f' ± {half:,.1f}'} s"
    return time if group.reached == of else f"{time} ({group.reached} of {of} reach it)"


def _ratio_cell(ratio: MeanInterval | None, reached: int, baseline: ComparedGroup, group: ComparedGroup) -> str:
    if ratio is not None:
        return f"{ratio.mean:.2f}×" if group is baseline else ratio_text(ratio, len(group.seeds))
    return "it alone" if reached and not baseline.reached else NONE


def ratio_text(ratio: MeanInterval, seeds: int) -> str:
    """A ratio with its interval and, of several seeds, the number of ratios that it is the mean of."""
    interval = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{ratio.mean:.2f}×{interval}{f', n = {ratio.n}' if seeds > 1 else ''}"


def _half(figure: MeanInterval) -> float | None:
    return None if figure.high is None else figure.high - figure.mean


# --- words ----------------------------------------------------------------------------------------------------


def target_text(comparison: Comparison) -> str:
    """Say what the runs are asked to hold, and why that."""
    if comparison.target is None:
        ended = "was evaluated" if comparison.baseline.done else "came to its end"
        return f"no target: no run of the baseline {ended}"
    name = metric_name(comparison.metric)
    why = {
        "given": "as asked for",
        "stated": "as the experiment states",
        "automatic": f"{100 * AUTOMATIC_SHARE:.0f} % of what the baseline gains from its start to its end",
    }[comparison.target_source]
    return f"{name} to hold: {headline_text(comparison.metric, comparison.target)} ({why})"


def notes(runs: Sequence[Run], comparison: Comparison, repeats: Sequence[tuple[Run, Run]] = ()) -> list[str]:
    """Everything that whoever reads the comparison must know, a line each, the most serious first.

    Args:
        runs: The runs that were compared.
        comparison: Their figures.
        repeats: Runs that were left out, each with the one that counts in its place.
    """
    labels = group_labels(runs, comparison)
    return [
        *_unfinished(runs),
        *_unfaithful(runs),
        *_repeats(repeats),
        *_of_the_target(comparison, labels),
        *_of_the_floor(comparison, labels),
        *_of_the_groups(comparison, labels),
        *filter(None, [different_schedules(runs)]),
        *_differences(runs, comparison),
    ]


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    how = {
        "interrupted": "was interrupted",
        "failed": "failed",
        "stalled": "stalled",
        "diverged": "diverged",
        "partial": "was killed or is under way",
    }
    for run in runs:
        if run.status != "done":
            reached = (run.summary or {}).get("time_s", run.times_s[-1] if run.times_s.size else 0.0)
            of = "" if run.facts.end_s is None else f" of {run.facts.end_s:,.1f} s"
            follows = (
                "it counts only at the last instant that all runs reached"
                if run.status in CUT_SHORT
                else "it has no end, and counts as one that never holds a target"
            )
            yield f"{run.path.name} {how[run.status]} at {reached:,.1f} s{of}: {follows}"
        if run.status == "done" and run.times_s.size and len(run.times_s) < FEW_EVALUATIONS:
            yield f"{run.path.name} has {len(run.times_s)} evaluations: its times are coarse (evaluation.interval_s)"


def _unfaithful(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        if run.status == "done" and is_unfaithful(run.fidelity):
            reasons = unfaithful_reasons(run.fidelity)
            why = f" ({reasons[0]}{f'; and {len(reasons) - 1} more' if reasons[1:] else ''})" if reasons else ""
            yield f"{run.path.name} is unfaithful: it counts, and says little about its algorithm{why}"


def _repeats(repeats: Sequence[tuple[Run, Run]]) -> Iterator[str]:
    for left_out, one in repeats:
        if left_out.path.resolve() == one.path.resolve():
            yield f"{one.path.name} was given twice: it counts once"
        else:
            yield f"{left_out.path.name} is left out: the same experiment with the same seed as {one.path.name}"


def _of_the_target(comparison: Comparison, labels: Sequence[str]) -> Iterator[str]:
    if comparison.target is None:
        return
    target = headline_text(comparison.metric, comparison.target)
    reached = [group.reached for group in comparison.groups]
    ends = [(group.end.mean, label) for group, label in zip(comparison.groups, labels, strict=True) if group.end]
    if not any(reached) and ends:
        value, label = max(ends) if comparison.higher_is_better else min(ends)
        yield f"no run holds {target}: the best that one holds is {headline_text(comparison.metric, value)} ({label})"
    for group, label in zip(comparison.groups[1:], labels[1:], strict=True):
        pairs, ratio = len(set(group.counted_seeds) & set(comparison.baseline.counted_seeds)), group.times_faster
        if ratio is not None and ratio.n < pairs:
            yield f"{label}: ratios are over {ratio.n} of {pairs} pairs, those in which both hold {target}"
    held_at_once = [
        group.time_to_target_s is not None and group.time_to_target_s.mean == 0 for group in comparison.groups
    ]
    if all(held_at_once):
        yield f"all runs hold {target} from their first evaluation on: it is no target"


def _of_the_floor(comparison: Comparison, labels: Sequence[str]) -> Iterator[str]:
    floor = comparison.floor
    if floor is None:
        yield "no run of local is among them, the floor that any communication must beat: --set algorithm.kind=local"
        return
    if floor.end is None:
        return
    for group, label in zip(comparison.groups, labels, strict=True):
        if group is floor or group.end is None or group.algorithm == "local":
            continue
        if (group.end.mean < floor.end.mean) == comparison.higher_is_better and group.end.mean != floor.end.mean:
            yield f"{label} ends below the floor: training without communication does better"


def _of_the_groups(comparison: Comparison, labels: Sequence[str]) -> Iterator[str]:
    if len(comparison.groups) == 1:
        yield f"there is nothing to compare with: all runs given are of {labels[0]}"
    base = set(comparison.baseline.counted_seeds)
    for group, label in zip(comparison.groups, labels, strict=True):
        seeds = set(group.counted_seeds)
        if not base or not seeds:
            continue
        if not base & seeds:
            yield f"{label} shares no seed with the baseline: its ratios are not of pairs"
        elif base != seeds:
            common = ", ".join(str(seed) for seed in sorted(base & seeds))
            yield f"{label} has other seeds than the baseline: ratios are over seed {common}"
    intervals = [interval for group in comparison.groups for interval in (group.end, group.times_faster)]
    if any(interval is not None and interval.n == 2 for interval in intervals):
        yield "an interval of two seeds says little: it reaches 12.7 standard errors to either side; of three, 4.3"
    if all(len(group.seeds) == 1 for group in comparison.groups):
        yield "one seed each: no figure has an interval; fragmesh run FILE --seed 1 --seed 2 --seed 3 makes several"


def _differences(runs: Sequence[Run], comparison: Comparison) -> Iterator[str]:
    """Keys in which experiments differ besides the algorithm and the seed: what is compared may be something else."""
    firsts = [runs[group.members[0]] for group in comparison.groups]
    known = [dict(_flat(run.experiment)) for run in firsts if run.experiment is not None]
    keys = sorted({key for one in known for key in one})
    differing = [key for key in keys if len({_word(one.get(key)) for one in known}) > 1]
    told_apart = ("name", "seed", "algorithm", "output", "schedule")
    differing = [key for key in differing if key.split(".")[0] not in told_apart]
    if not differing:
        return
    shown = []
    for key in differing[:DIFFERENCES_SHOWN]:
        values = dict.fromkeys(_word(one.get(key)) for one in known)
        shown.append(f"{key} ({', '.join(values)})")
    more = len(differing) - len(shown)
    yield f"the runs differ in more than the algorithm: {'; '.join(shown)}{f'; and {more} more' if more else ''}"


def _flat(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, content


def _word(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
