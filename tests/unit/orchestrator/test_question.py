"""The question of a run and of a comparison, from nothing but what a run directory holds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.comparison import compare
from orchestrator.report.page import render_page
from orchestrator.report.question import comparison_question, run_question
from orchestrator.results.reader import Run, load_run
from tests.unit.orchestrator.synthetic_runs import SCHEDULE, write_run


def experiment(
    algorithm: str = "divshare", *, links: str = "emulated", topology: str = "small_world"
) -> dict[str, Any]:
    return {
        "algorithm": {"kind": algorithm},
        "learning": {"dataset": {"kind": "digits"}, "model": {"kind": "cnn"}},
        "topology": {"kind": topology},
        "network": {"links": links, "preset": {"kind": "stragglers"}},
    }


def run_of(root: Path, asked: Mapping[str, Any], *, uplinks: str = "1 to 5 Mbit/s", **more: Any) -> Run:
    run = load_run(write_run(root, experiment=asked, samples=3, **more), messages=False)
    return replace(run, facts=replace(run.facts, details={"uplinks": uplinks}))


WHERE = "6 nodes, 2 of them slow, train cnn on digits"
OVER = "over links of 1 to 5 Mbit/s up (stragglers), small world topology"


def test_a_run_asks_how_well_it_trains(tmp_path: Path) -> None:
    run = run_of(tmp_path, experiment())
    asked = f"How well do {WHERE} with divshare, {OVER}, in 100 s of virtual time?"
    assert run_question(run) == asked
    assert f'<p class="question">{asked}</p>' in render_page(run, [], [])
    untimed = replace(run, facts=replace(run.facts, end_s=None, stragglers=frozenset(), nodes=1200))
    assert run_question(untimed) == f"How well do 1,200 nodes train cnn on digits with divshare, {OVER}?"


@pytest.mark.parametrize(
    ("links", "uplinks", "over"),
    [
        ("direct", "5 Mbit/s", "links that nothing shapes"),
        ("emulated", "unlimited", "unlimited links (stragglers)"),
        ("emulated", "5 Mbit/s", "links of 5 Mbit/s up (stragglers)"),
    ],
)
def test_it_names_the_network_and_the_schedule(links: str, uplinks: str, over: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, experiment(links=links), uplinks=uplinks, schedule=SCHEDULE)
    assert f"with divshare, over {over}, small world topology, with 1 crash, 1 partition, 1 degrade, 1 restart" in (
        run_question(run)
    )


def test_a_run_of_which_little_was_kept_asks_what_is_known(tmp_path: Path) -> None:
    run = run_of(tmp_path, experiment())
    assert run_question(replace(run, experiment=None)) == (
        "How well do 6 nodes, 2 of them slow, train a model with divshare, in 100 s of virtual time?"
    )
    assert run_question(replace(run, facts=replace(run.facts, nodes=0))) == ""
    assert 'class="question"' not in render_page(replace(run, facts=replace(run.facts, nodes=0)), [], [])


def test_a_comparison_asks_how_much_sooner_than_the_baseline(tmp_path: Path) -> None:
    kinds = {"base": "adpsgd", "divshare-J6": "divshare", "alone": "local"}
    runs = [run_of(tmp_path, experiment(kind), name=name, seed=seed) for seed in (1, 2) for name, kind in kinds.items()]
    how = "How much sooner than base (adpsgd) do divshare-J6 and alone (floor) hold 30.0 % accuracy where"
    assert comparison_question(runs, compare(runs, 0.3)) == f"{how} {WHERE}, {OVER}, 2 seeds each?"
    assert comparison_question(runs[:5], compare(runs[:5], 0.3)) == f"{how} {WHERE}, {OVER}, 1 to 2 seeds each?"
    two = [runs[0], runs[2]]
    assert comparison_question(two, compare(two, 0.3)) == (
        f"How much sooner than base (adpsgd) does alone (floor) hold 30.0 % accuracy where {WHERE}, {OVER}?"
    )


def test_a_comparison_tells_where_its_runs_differ(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, experiment(topology=topology), name=topology, uplinks=f"{number + 1} Mbit/s")
        for number, topology in enumerate(("ring", "star", "full", "torus", "random_graph"))
    ]
    runs[0] = replace(runs[0], facts=replace(runs[0].facts, stragglers=frozenset()))
    assert comparison_question(runs, compare(runs, 0.3)) == (
        "How much sooner than ring (divshare) do star (divshare), full (divshare), torus (divshare) and random_graph"
        " (divshare) hold 30.0 % accuracy where 6 nodes, 0 or 2 of them slow, train cnn on digits, over links of"
        " 1 Mbit/s up (stragglers), links of 2 Mbit/s up (stragglers), links of 3 Mbit/s up (stragglers) or 2 others,"
        " ring, star, full or 2 others topology?"
    )


def test_one_group_and_runs_without_a_target_ask_other_things(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, experiment(), name="base", seed=seed, metric="rmse") for seed in (1, 2)]
    alone = comparison_question(runs, compare(runs, 1.5))
    assert alone == f"When does base (divshare) hold 1.5000 RMSE where {WHERE}, {OVER}, 2 seeds?"
    bad = [replace(run, status="diverged", facts=replace(run.facts, nodes=0)) for run in runs]
    assert comparison_question(bad, compare(bad)) == "How does base (divshare) fare, 2 seeds?"
    other = replace(bad[1], experiment=experiment("local"))
    assert comparison_question([bad[0], other], compare([bad[0], other])).startswith("Beside base (")
