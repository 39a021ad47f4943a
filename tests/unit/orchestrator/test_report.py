"""The report: complete, self-contained, the same each time, for runs of every kind and state."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from node.core.counters import NodeCounters
from node.core.errors import ConfigError
from node.core.times import Times
from orchestrator.comparison import compare, without_repeats
from orchestrator.fidelity import Measured, MeasuredLink, NodeFigures, judge
from orchestrator.intervals import t_quantile
from orchestrator.report.comparison_figures import overlay_figure
from orchestrator.report.comparison_text import (
    check_comparable,
    comparison_table,
    group_labels,
    notes,
    ratios_table,
    run_labels,
    target_text,
)
from orchestrator.report.dashboard import recorded_link
from orchestrator.report.drawing import Plot, own_settings
from orchestrator.report.figures import LEARNING_FIGURES
from orchestrator.report.overlay import render_comparison, write_comparison
from orchestrator.report.page import CHECKS_SHOWN, render_page, render_report, write_report
from orchestrator.report.text import budget_text, format_bytes, format_duration
from orchestrator.report.time_figures import time_budget
from orchestrator.results.reader import Run, load_run
from orchestrator.results.recorded_schedule import RecordedEntry
from orchestrator.results.writer import RunWriter
from tests.unit.orchestrator.synthetic_runs import (
    ENVIRONMENT,
    EXPERIMENT,
    SCHEDULE,
    S,
    facts,
    messages,
    sample,
    totals,
    write_run,
)

TITLES = (
    "Accuracy over time",
    "Accuracy over bytes",
    "Loss over time",
    "Training loss",
    "Consensus distance",
    "Accuracy of fast nodes and stragglers",
    "Where the time goes",
    "Rounds per node",
    "Queue length over time",
    "What became of the messages",
    "Bytes by class",
    "Staleness when averaged in",
    "Age when averaged in",
    "Uplink utilisation per node",
    "Downlink utilisation per node",
    "Who holds what",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of an ordinary run."""
    return write_report(load_run(write_run(tmp_path_factory.mktemp("report")))).read_text()


def test_a_report_has_every_figure_and_needs_no_network(page: str) -> None:
    for title in TITLES:
        assert f"<h3>{title}</h3>" in page
    assert "fragmesh run experiment.yaml --seed 1" in page
    assert "virtual time: exact by construction" in page
    # Names of XML vocabularies are no addresses that a browser opens.
    links = set(re.findall(r"""(?:href|src)=["']([^"']+)""", page)) | set(re.findall(r"url\(([^)]+)\)", page))
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page


def test_the_same_directory_gives_the_same_report(tmp_path: Path, page: str) -> None:
    again = write_run(tmp_path)
    run = load_run(again)
    # The directory's name holds the time; everything else must agree.
    pages = [re.sub(r"synthetic-\d{8}-\d{6}-[0-9a-f]{6}", "", text) for text in (page, render_report(run))]
    assert pages[0] == pages[1]


def test_an_identifier_that_repeats_means_the_same_everywhere(page: str) -> None:
    meanings: dict[str, str] = {}
    for element in re.findall(r'<(?:path|clipPath|g|use|image|pattern)\b[^>]*? id="[^"]+"[^>]*>', page):
        name = re.search(r' id="([^"]+)"', element)
        assert name is not None
        assert meanings.setdefault(name[1], element) == element


def test_ratings_are_told_as_rmse(tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, metric="rmse")))
    assert "RMSE over time" in page
    assert "Accuracy over time" not in page
    assert "Who holds what" not in page


def test_many_nodes_become_histograms(tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, nodes=200, slow=20, samples=3)))
    assert "share of the nodes" in page


def test_a_partial_run_has_a_report(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, facts(), EXPERIMENT, ENVIRONMENT)
    writer.add(sample(0))
    page = render_report(load_run(writer.path))
    assert "was killed before it could end" in page
    assert "Queue length over time" in page


def test_a_run_without_a_table_of_messages_shows_its_totals(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, facts(), EXPERIMENT, ENVIRONMENT)
    writer.add(sample(0))
    writer.finish(totals())
    page = render_report(load_run(writer.path))
    assert "500 messages were queued." in page
    assert "125  (25.0 %)" in page
    assert "Staleness when averaged in" not in page


def test_a_failed_run_says_why_and_cannot_inject_markup(tmp_path: Path) -> None:
    path = write_run(tmp_path, name="<b>x</b>", status="failed", error="<script>alert(1)</script>")
    page = render_report(load_run(path))
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>x" not in page


def test_names_of_classes_cannot_inject_markup_through_a_figure(tmp_path: Path) -> None:
    odd = replace(facts(), class_names=("<script>", *(f"$c_{index}" for index in range(9))))
    writer = RunWriter.create(tmp_path, odd, EXPERIMENT, ENVIRONMENT)
    writer.add(sample(0))
    writer.finish(totals(), messages())
    assert "<script" not in render_report(load_run(writer.path))


def test_a_report_does_nothing_in_python_for_each_message(tmp_path: Path) -> None:
    """What 200 times as many messages add to the lines that run in the orchestrator, and to the page."""
    few, many = (
        write_run(tmp_path, name=name, nodes=8, slow=4, samples=3, num_messages=count)
        for name, count in (("few", 1_000), ("many", 200_000))
    )
    lines_of_few, lines_of_many = lines_run(few), lines_run(many)
    assert lines_of_many < 1.2 * lines_of_few
    assert (many / "report.html").stat().st_size < 3_000_000


def lines_run(path: Path) -> int:
    """How many lines of the orchestrator run while a run is read and reported on."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if "/orchestrator/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        write_report(load_run(path))
    finally:
        sys.settrace(before)
    return count


def test_a_comparison_shows_every_run(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, name=name, speed=speed) for name, speed in (("slow", 0.02), ("fast", 0.08))]
    runs = [load_run(path, messages=False) for path in paths]
    comparison = compare(runs)
    page = render_comparison(runs, comparison)
    assert page == render_comparison(runs, comparison)
    faster = comparison.groups[1].times_faster
    assert faster is not None
    assert faster.mean > 1.0
    assert f"{faster.mean:.2f}×" in page
    assert "<h3>Times faster over a range of targets</h3>" in page
    assert "Baseline: slow" in page
    for name in ("out.html", "out.png", "out.svg"):
        assert write_comparison(runs, comparison, tmp_path / name).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"must end in \.html, \.png or \.svg"):
        write_comparison(runs, comparison, tmp_path / "out.txt")


def test_a_comparison_as_a_table(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, name=name, speed=speed) for name, speed in (("slow", 0.02), ("fast", 0.08))]
    runs = [load_run(path, messages=False) for path in paths]
    comparison = compare(runs, target=0.5)
    labels = group_labels(runs, comparison)
    header, rows = comparison_table(comparison, labels)
    assert [row[0] for row in rows] == ["slow", "fast"]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0][header.index("times faster")] == "1.00×"
    assert rows[1][header.index("gain")].startswith("+")
    worst, end, averaged = (rows[1][header.index(name)] for name in ("worst node", "end", "averaged model"))
    assert float(worst.split()[0]) < float(end.split()[0]) < float(averaged.split()[0])
    targets, ratios = ratios_table(comparison, labels)
    assert len(targets) == len(ratios[0]) == 8  # six along the way, and the one that was given
    assert ratios[0][1] == "1.00×"
    assert float(ratios[1][1].removesuffix("×")) > 1.0


def test_a_target_that_some_miss_is_told_as_such(tmp_path: Path) -> None:
    """Two of three seeds of the slow runs hold it; the fast ones all do, and hold more than the slow ones ever do."""
    slow = [
        write_run(tmp_path, name="slow", speed=speed, seed=seed) for seed, speed in enumerate((2e-2, 2e-2, 1e-3), 1)
    ]
    fast = [write_run(tmp_path, name="fast", speed=8e-2, seed=seed, experiment=LOCAL) for seed in (1, 2, 3)]
    runs = [load_run(path, messages=False) for path in (*slow, *fast)]
    comparison = compare(runs, target=0.4)
    labels = group_labels(runs, comparison)
    assert labels == ["slow", "fast (floor)"]
    assert run_labels(runs, comparison)[:2] == ["slow, seed 1", "slow, seed 2"]
    header, rows = comparison_table(comparison, labels)
    assert rows[0][header.index("time to target")].endswith("(2 of 3 reach it)")
    assert rows[0][header.index("seeds")] == "3"
    assert " ± " in rows[0][header.index("end")]
    assert re.fullmatch(r"\d+\.\d\d× \(\d+\.\d\d to \d+\.\d\d\), n = 2", rows[1][header.index("times faster")])
    told = notes(runs, comparison)
    assert "fast (floor): ratios are over 2 of 3 pairs, those in which both hold 40.0 %" in told
    assert "slow ends below the floor: training without communication does better" in told
    page = render_comparison(runs, comparison)
    assert "With 95 % intervals" in page
    assert "(2/3)" in page
    instants = figures_of(page)["Time to hold the target"]
    assert [text in instants for text in (">2 of 3 hold it<", ">3 of 3 hold it<")] == [True, True]
    alone = compare(runs, target=0.65)
    header, rows = comparison_table(alone, labels)
    assert rows[0][header.index("time to target")] == "never"
    assert rows[1][header.index("times faster")] == "it alone"
    assert ratios_table(alone, labels)[1][0][-1] == "never"


LOCAL = {**EXPERIMENT, "algorithm": {"kind": "local"}}


def test_seeds_are_thin_lines_in_the_band_of_their_mean(tmp_path: Path) -> None:
    """Three seeds, of which one diverged, and a run that stands alone."""
    ends = ("done", "done", "diverged", "done")
    paths = [write_run(tmp_path, name="ours", seed=seed, status=status) for seed, status in enumerate(ends, 1)]
    runs = [load_run(path, messages=False) for path in (*paths, write_run(tmp_path, name="alone", experiment=LOCAL))]
    comparison = compare(runs, target=0.4)
    with own_settings():
        axes = overlay_figure(runs, comparison).axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() == 0.7]
    assert [line.get_ydata().tolist() for line in thin] == [run.headline.tolist() for run in runs[:4]]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[100.0]]
    (mean,) = (line for line in axes.lines if line.get_label().startswith("ours"))
    done = np.array([run.headline for run, status in zip(runs, ends, strict=False) if status == "done"])
    assert mean.get_ydata() == pytest.approx(done.mean(axis=0))
    # At the third evaluation: mean +- 4.303 s / sqrt(3).
    half = t_quantile(2) * done[:, 2].std(ddof=1) / 3**0.5
    paths_drawn = [path for band in axes.collections for path in band.get_paths()]
    ends_there = [y for path in paths_drawn for x, y in path.vertices if x == 20.0]
    assert any(np.isclose(ends_there, done[:, 2].mean() - half))
    assert any(np.isclose(ends_there, done[:, 2].mean() + half))


def test_a_figure_of_ratios_says_where_not_all_pairs_hold_a_target(tmp_path: Path) -> None:
    slow = [
        write_run(tmp_path, name="slow", speed=speed, seed=seed) for seed, speed in enumerate((2e-2, 2e-2, 4e-3), 1)
    ]
    fast = [write_run(tmp_path, name="fast", speed=8e-2, seed=seed, experiment=LOCAL) for seed in (1, 2, 3)]
    runs = [load_run(path, messages=False) for path in (*slow, *fast)]
    comparison = compare(runs)
    counts = [ratio.n for row in comparison.curve if (ratio := row.times_faster[1]) is not None]
    assert sorted(set(counts)) == [2, 3]
    with own_settings():
        axes = overlay_figure(runs, comparison).axes[2]
    dotted, of_all = (np.asarray(line.get_ydata()) for line in axes.lines[:2])
    assert np.isfinite(dotted).sum() == len(counts)
    assert np.isfinite(of_all).sum() == counts.count(3)


def test_what_a_reader_must_know_is_noted(tmp_path: Path) -> None:
    other = {**LOCAL, "nodes": 8, "learning": {"dataset": {"kind": "digits", "max_train_samples": 60}}}
    first = {**EXPERIMENT, "learning": {"dataset": {"kind": "digits"}}}
    paths = [
        write_run(tmp_path, name="a", experiment=first),
        write_run(tmp_path, name="b", samples=4, seed=2, experiment=other),
        write_run(tmp_path, name="c", status="interrupted", experiment=first),
        write_run(tmp_path, name="d", status="diverged", samples=1, experiment=first),
    ]
    runs = [load_run(path, messages=False) for path in paths]
    check_comparable(runs)
    told = notes(runs, compare(runs))
    for path, follows in (
        (paths[2], "was interrupted at 100.0 s of 100.0 s: it counts only at the last instant that all runs reached"),
        (paths[3], "diverged at 100.0 s of 100.0 s: it has no end, and counts as one that never holds a target"),
    ):
        assert f"{path.name} {follows}" in told
    assert len([line for line in told if "its times are coarse" in line]) == 1
    assert f"{paths[1].name} has 4 evaluations: its times are coarse (evaluation.interval_s)" in told
    assert "b (floor) shares no seed with the baseline: its ratios are not of pairs" in told
    assert (
        "the runs differ in more than the algorithm: learning.dataset.max_train_samples (none, 60); nodes (6, 8)"
        in told
    )
    assert any(line.startswith("one seed each") for line in told)


def test_one_run_and_the_same_run_twice_are_noted(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path), messages=False)]
    told = notes(runs, compare(runs))
    assert "there is nothing to compare with: all runs given are of synthetic" in told
    assert any(line.startswith("no run of local is among them") for line in told)
    render_comparison(runs, compare(runs))
    again = load_run(write_run(tmp_path), messages=False)
    kept, repeats = without_repeats([*runs, *runs, again])
    assert kept == [again]
    told = notes(kept, compare(kept), repeats)
    left_out = f"{runs[0].path.name} is left out: the same experiment with the same seed as {again.path.name}"
    assert told.count(left_out) == 2
    kept, repeats = without_repeats(runs * 2)
    assert f"{runs[0].path.name} was given twice: it counts once" in notes(kept, compare(kept), repeats)
    assert "was given twice" in render_comparison(kept, compare(kept), repeats)


def test_how_runs_ended_is_marked(tmp_path: Path) -> None:
    ends = ("done", "diverged", "interrupted")
    paths = [write_run(tmp_path, name="ours", status=status, seed=seed) for seed, status in enumerate(ends, 1)]
    paths.append(write_run(tmp_path, name="bad", status="stalled", experiment=LOCAL))
    paths.append(write_run(tmp_path, name="killed", experiment={**EXPERIMENT, "nodes": 7}))
    (paths[-1] / "summary.json").unlink()
    runs = [load_run(path, messages=False) for path in paths]
    comparison = compare(runs, target=0.3)
    labels = group_labels(runs, comparison)
    assert labels == ["ours (1 of 3 diverged, 1 of 3 interrupted)", "bad (floor) (stalled)", "killed (not ended)"]
    assert run_labels(runs, comparison) == [
        "ours, seed 1",
        "ours, seed 2 (diverged)",
        "ours, seed 3 (interrupted)",
        "bad (floor) (stalled)",
        "killed (not ended)",
    ]
    header, rows = comparison_table(comparison, labels)
    columns = [header.index(name) for name in ("seeds", "end", "time to target", "times faster")]
    shown = [[row[column] for column in columns] for row in rows]
    assert shown[0][0] == "1 of 3"
    assert shown[0][2].endswith("(1 of 2 reach it)")
    assert shown[1:] == [["0 of 1", "–", "never", "–"], ["0 of 1", "–", "–", "–"]]
    assert [row[1] for row in ratios_table(comparison, labels)[1]][1:] == ["never", "–"]
    # The line of a group goes on where one of its runs ended early.
    page = render_comparison(runs, comparison)
    assert "ours, seed 2 (diverged)" in page
    backwards = compare(runs[::-1])
    assert target_text(backwards) == "no target: no run of the baseline came to its end"
    header, rows = comparison_table(backwards, group_labels(runs[::-1], backwards))
    assert {row[header.index("time to target")] for row in rows} == {"–"}


def test_two_seeds_say_little(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, seed=seed), messages=False) for seed in (1, 2, 3)]
    little = "an interval of two seeds says little: it reaches 12.7 standard errors to either side; of three, 4.3"
    assert little in notes(runs[:2], compare(runs[:2]))
    assert little not in notes(runs, compare(runs))
    assert (round(t_quantile(1), 1), round(t_quantile(2), 1)) == (12.7, 4.3)


@pytest.mark.parametrize(("target", "expected"), [(0.95, "no run holds 95.0 %: the best"), (0.01, "it is no target")])
def test_a_target_that_separates_nothing_is_noted(target: float, expected: str, tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, name=name), messages=False) for name in "ab"]
    comparison = compare(runs, target)
    assert any(expected in line for line in notes(runs, comparison))
    render_comparison(runs, comparison)


def test_runs_of_different_data_sets_are_refused(tmp_path: Path) -> None:
    experiments = [{**EXPERIMENT, "learning": {"dataset": {"kind": kind}}} for kind in ("digits", "cifar10")]
    paths = [write_run(tmp_path, name=f"r{i}", experiment=experiment) for i, experiment in enumerate(experiments)]
    with pytest.raises(ConfigError, match="r1 trains on cifar10, but r0 on digits: runs must share a data set"):
        check_comparable([load_run(path, messages=False) for path in paths])


def test_the_target_in_words(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, metric="rmse"), messages=False)]
    assert target_text(compare(runs, 1.5)) == "RMSE to hold: 1.5000 (as asked for)"
    assert target_text(compare(runs)).endswith("(90 % of what the baseline gains from its start to its end)")
    never = [load_run(write_run(tmp_path, samples=0), messages=False)]
    assert target_text(compare(never)) == "no target: no run of the baseline was evaluated"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path), messages=False) for _ in range(2)]
    assert len(set(group_labels(runs, compare(runs)))) == 2


def test_runs_that_were_never_evaluated_can_be_drawn(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, samples=count), messages=False) for count in (0, 3)]
    assert "–" in render_comparison(runs, compare(runs))


def test_the_time_goes_into_bars_of_fast_nodes_and_stragglers_or_of_all_nodes(tmp_path: Path) -> None:
    for slow, names, missing in ((2, ("fast nodes", "stragglers"), "all nodes"), (0, ("all nodes",), "stragglers")):
        with own_settings():
            plot = time_budget(load_run(write_run(tmp_path, slow=slow)))
        assert plot is not None
        assert all(f">{name}<" in plot.svg for name in names)
        assert f">{missing}<" not in plot.svg
        assert ">90.0 %<" in plot.svg
        assert (">waiting<" in plot.svg) == (slow > 0)  # what took no time has no place in the legend
        assert ">paused<" not in plot.svg


def test_a_run_that_did_not_count_its_times_has_no_figure_of_them(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, facts(), EXPERIMENT, ENVIRONMENT)
    writer.add(sample(0))
    for ended in (replace(totals(), spent_ns=None), replace(totals(), spent_ns=np.zeros((6, 6), dtype=np.int64))):
        assert "time_budget" not in writer.finish(ended)
        assert "Where the time goes" not in render_report(load_run(writer.path))


def test_where_the_time_went_in_words() -> None:
    fast, slow = {"computing": 0.999, "waiting": 0.001, "idle": 0.0}, {"computing": 0.25, "waiting": 0.75}
    assert budget_text({"overall": fast}) == "computing 99.9 %, waiting 0.1 %"
    both = budget_text({"overall": fast, "fast": fast, "stragglers": slow})
    assert both == "fast nodes: computing 99.9 %, waiting 0.1 %; stragglers: computing 25.0 %, waiting 75.0 %"
    assert budget_text({"overall": slow, "stragglers": slow}) == "stragglers: computing 25.0 %, waiting 75.0 %"


def test_amounts_read_well() -> None:
    assert [format_bytes(n) for n in (0, 999, 1500, 123_456_789, 2.5e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "123 MB",
        "2.5 GB",
    ]
    assert [format_duration(s) for s in (41.23, 725, 11_520)] == ["41.2 s", "12 min 5 s", "3 h 12 min"]


LINK = MeasuredLink(0, 1, 12.0, 11.9, 2.0, 2.1, 4.0, 100)
COUNTERS = NodeCounters(declared_ns=10**10, in_flight_bytes_max=72_000, in_flight_bytes_bound=108_000)
NODE = NodeFigures(0, COUNTERS, 100, 10**5, 5_000, 10**6, 10**7)


def judged(
    *, links: int = 1, slow: int = 0, died: dict[int, str] | None = None, allowed: bool = False
) -> dict[str, Any]:
    """A fidelity record of links of different rates, the first of which may be too slow."""
    rates = [(12.0 + index, (6.0 if index < slow else 11.9) + index) for index in range(links)]
    measured = tuple(replace(LINK, requested_mbps=wanted, achieved_mbps=got) for wanted, got in rates)
    return judge(Measured("processes", 2.0, measured, (NODE,), died=died or {}), allowed=allowed)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second, and has tests of its own."""
    for group in ("LEARNING", "NODES", "MESSAGES", "LINKS", "DATA"):
        monkeypatch.setattr(f"orchestrator.report.figures.{group}_FIGURES", ())


@pytest.mark.usefixtures("no_figures")
def test_an_unfaithful_run_cannot_be_overlooked(tmp_path: Path) -> None:
    record = judged(links=3, slow=2, died={4: "killed by <signal> 9"}, allowed=True)
    page = render_report(load_run(write_run(tmp_path, runtime="processes", fidelity=record)))
    assert "<title>UNFAITHFUL: synthetic</title>" in page
    stamp, tiles = page.index("UNFAITHFUL RUN"), page.index('class="tiles"')
    assert stamp < tiles
    assert "<li>rate, links of 12 Mbit/s and 2 ms: 6 Mbit/s, requested 12 Mbit/s (tolerance: 3 %)</li>" in page[:tiles]
    assert "it was allowed to end so" in page[:tiles]
    assert "node 4 killed by &lt;signal&gt; 9" in page[:tiles]
    assert page.count("✗ FAILED") == 3
    assert "2 real seconds a testbed second" in page


@pytest.mark.usefixtures("no_figures")
def test_a_faithful_run_shows_its_checks_and_no_stamp(tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, runtime="processes", fidelity=judged(links=9))))
    assert "UNFAITHFUL" not in page
    assert "FAILED" not in page
    assert "Nodes died" not in page
    assert "<td>3 %</td><td>ok</td>" in page
    assert "11.9 Mbit/s" in page
    assert f"{3 * 9 + 4 - CHECKS_SHOWN} more checks that passed" in page


@pytest.mark.usefixtures("no_figures")
def test_what_failed_comes_first_however_many_checks_there_are(tmp_path: Path) -> None:
    record = judged(links=40, died={4: "ended"})
    page = render_report(load_run(write_run(tmp_path, runtime="processes", fidelity=record)))
    table = page[page.index('class="checks"') :]
    assert table.index("nodes that died") < table.index("rate, links of 12 Mbit/s")
    many = render_report(load_run(write_run(tmp_path, runtime="processes", fidelity=judged(links=40, slow=40))))
    assert f"and {40 - CHECKS_SHOWN} more: see Fidelity" in many
    assert many.count("✗ FAILED") == 40


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "record", [{}, {"verdict": "unfaithful"}, {"links": [{"a": 1}, None], "figures": {"b": [{}, 3]}}]
)
def test_a_fidelity_record_of_another_shape_is_shown_as_it_is(record: dict[str, Any], tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, samples=2, fidelity=record)))
    assert ("UNFAITHFUL RUN" in page) == ("verdict" in record)


def test_a_comparison_marks_what_is_unfaithful(tmp_path: Path) -> None:
    records = (judged(slow=1), judged())
    paths = [write_run(tmp_path, name=name, fidelity=r) for name, r in zip(("bad", "good"), records, strict=True)]
    runs = [load_run(path, messages=False) for path in paths]
    assert group_labels(runs, compare(runs)) == ["UNFAITHFUL bad", "good"]
    page = render_comparison(runs, compare(runs))
    assert page.index("UNFAITHFUL RUNS AMONG THEM") < page.index("<svg")
    assert "<li>UNFAITHFUL bad: rate, links of 12 Mbit/s" in page
    told = [line for line in notes(runs, compare(runs)) if "unfaithful" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{paths[0].name} is unfaithful: it counts, and says little about its algorithm (rate, ")
    assert "UNFAITHFUL RUNS" not in render_comparison(runs[1:], compare(runs[1:]))


def test_nodes_that_died_keep_their_last_figures(tmp_path: Path) -> None:
    dies = {0: 3, 1: 3, 5: 0}  # both stragglers, and one that was never evaluated
    run = load_run(write_run(tmp_path, dies=dies, runtime="processes"))
    page = render_report(run)
    for title in TITLES:
        assert f"<h3>{title}</h3>" in page
    assert np.isfinite(run.curve["accuracy_mean_fast"]).all()
    assert np.isfinite(run.curve["accuracy_mean_stragglers"]).tolist() == [True] * 3 + [False] * 8
    assert run.summary is not None
    assert run.messages is not None
    averaged = int((run.messages["aggregated_ns"] >= 0).sum())
    rounds = 2 * 10 + 3 * 200  # at 0.5 a second until 20 s, at 2 until 100 s
    assert run.summary["aggregated_per_round"] == pytest.approx(averaged / rounds)


def test_a_run_whose_nodes_all_died_has_a_report(tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, dies=dict.fromkeys(range(6), 4))))
    assert "<h3>Rounds per node</h3>" in page
    render_report(load_run(write_run(tmp_path, dies=dict.fromkeys(range(6), 0))))


def figures_of(page: str) -> dict[str, str]:
    """The figures of a page by their titles, each with its note."""
    return dict(re.findall(r"<h3>([^<]*)</h3>\s*(<svg.*?)</figure>", page, flags=re.DOTALL))


def test_every_figure_over_time_shows_the_schedule_and_no_other_does(tmp_path: Path) -> None:
    page = render_report(load_run(write_run(tmp_path, schedule=SCHEDULE)))
    names = ("crash 3,5 (2 times)", "partition 0-2 / 3-5", "degrade 1 up x0.1", "restart 0")
    with_names = {title for title, figure in figures_of(page).items() if all(f">{name}<" in figure for name in names)}
    over_time = {
        "Accuracy over time",
        "Loss over time",
        "Training loss",
        "Consensus distance",
        "Queue length over time",
    }
    assert with_names == over_time | {f"{what} of fast nodes and stragglers" for what in ("Accuracy", "Loss")}
    assert len(figures_of(page)) > len(with_names)


def test_a_schedule_makes_no_figure_large(tmp_path: Path) -> None:
    """A thousand entries, and two of a hundred thousand times."""
    many = tuple(replace(SCHEDULE[i % 4], number=i, times=Times(i * S // 10, i % 3 * S, 2 * S, 9)) for i in range(1000))
    dense = (
        RecordedEntry(0, "degrade", "0", "x0.1", 1, Times(0, S // 2000, S // 1000, 100_000)),
        RecordedEntry(1, "restart", "1", "", 1, Times(0, 0, S // 1000, 100_000)),
    )
    run = load_run(write_run(tmp_path, num_messages=9))
    plain = accuracy_over_time(run)
    for schedule in (many, dense):
        plot = accuracy_over_time(replace(run, facts=replace(run.facts, schedule=schedule)))
        assert 1_000 < len(plot.svg) - len(plain.svg) < 30_000
        assert plot.note == f"{plain.note} Times of the schedule closer than 1/120 of the axis are drawn as one."
    page = render_page(replace(run, facts=replace(run.facts, schedule=many)), [], [])
    assert "188 more entries" in page
    assert "800 more entries are in facts.json" in page
    assert len(page) < 100_000


def accuracy_over_time(run: Run) -> Plot:
    with own_settings():
        plot = LEARNING_FIGURES[0](run)
    assert plot is not None
    return plot


def test_the_table_of_the_schedule_says_what_was_planned_and_what_happened(tmp_path: Path) -> None:
    page = render_page(load_run(write_run(tmp_path, schedule=SCHEDULE)), [], [])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in page[page.index("<h2>Schedule") :].split("<tr>")[2:6]]
    assert cells == [
        ["0", "crash", "3,5", "–", "2 times, 10 s long, every 40 s from 10 s to 50 s", "as planned, 8 instants"],
        ["1", "partition", "0-2 / 3-5", "–", "20 s to 50 s", "as planned, 2 instants"],
        ["2", "degrade", "1 up", "x0.1", "60 s to the end", "as planned"],
        ["3", "restart", "0", "–", "at 70 s", "as planned, 2 instants"],
    ]
    late = render_page(load_run(write_run(tmp_path, schedule=SCHEDULE, late_ms=12)), [], [])
    assert "8 instants, 12 ms late at the median, 12 ms at most" in late
    assert "<td>20.012 s, 50.012 s</td>" in late
    assert "<h2>Schedule" not in render_page(load_run(write_run(tmp_path)), [], [])


def test_a_comparison_shows_the_schedule_that_its_runs_share(tmp_path: Path) -> None:
    drawn = (*SCHEDULE[1:], replace(SCHEDULE[0], targets="1,4"))
    written = {**EXPERIMENT, "schedule": [{"action": "crash"}]}
    one, two, none = (
        load_run(write_run(tmp_path, name=name, seed=seed, schedule=schedule, experiment=experiment))
        for name, seed, schedule, experiment in (
            ("one", 1, (*SCHEDULE[1:], SCHEDULE[0]), written),
            ("two", 2, drawn, written),
            ("none", 1, (), EXPERIMENT),
        )
    )
    page = render_comparison([one, two], compare([one, two]))
    shown = figures_of(page)
    assert ">crash 2 nodes, drawn (2 times)<" in shown["Accuracy over time"]
    for title, figure in shown.items():
        is_over_time = "over time" in title or title.startswith("Time to hold")
        assert (">restart 0<" in figure) == is_over_time, title
    assert "different schedules" not in page
    picture = write_comparison([one, two], compare([one, two]), tmp_path / "out.svg").read_text()
    assert picture.count(">restart 0<") == 1
    how = "1 partition, 1 degrade, 1 restart, 1 crash; none"
    told = notes([one, none], compare([one, none]))
    assert f"the runs have different schedules ({how}): figures show none of them" in told
    assert ">restart 0<" not in render_comparison([one, none], compare([one, none]))
    longer = replace(one, experiment={**EXPERIMENT, "schedule": [{"action": "crash", "for_s": 2}]})
    assert "the runs have different schedules: figures show none of them" in notes(
        [one, longer], compare([one, longer])
    )


def test_runs_without_an_evaluation_show_no_schedule(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, samples=0, schedule=SCHEDULE))
    assert "<h2>Schedule" in render_report(run)
    render_comparison([run], compare([run]))


WATCHED = {
    "grafana": "http://127.0.0.1:3000/",
    "begun_at": "2026-11-21T12:00:00.500+00:00",
    "ended_at": "2026-11-21T13:00:10.000+01:00",
}


def test_a_run_that_was_watched_links_to_its_time_on_the_dashboard(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, samples=2))
    page = render_page(replace(run, environment=WATCHED), [], [])
    # 12:00 in UTC on that day is 1795262400 seconds after the epoch.
    query = f"var-run={run.path.name}&amp;from=1795262400500&amp;to=1795262410000"
    assert f'<a href="http://127.0.0.1:3000/d/fragmesh-run?{query}">' in page
    assert "<a href" not in render_page(run, [], [])


@pytest.mark.parametrize(
    ("key", "value"),
    [("grafana", "javascript:alert(1)"), ("grafana", 3), ("ended_at", "later"), ("begun_at", None), ("ended_at", [])],
)
def test_a_link_that_is_none_is_not_shown(key: str, value: object) -> None:
    link = recorded_link(WATCHED, "a run & more")
    assert link is not None
    assert link.endswith("?var-run=a%20run%20%26%20more&from=1795262400500&to=1795262410000")
    assert recorded_link({**WATCHED, key: value}, "a") is None
    assert recorded_link({name: WATCHED[name] for name in WATCHED if name != key}, "a") is None
