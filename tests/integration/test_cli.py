"""The command line from outside: what it prints and returns, that every choice runs, that a seed decides all."""

import csv
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from node.algorithms.registry import ALGORITHMS
from orchestrator.cli import guard
from orchestrator.cli.commands import run_command_line
from orchestrator.experiment.catalog import catalog
from orchestrator.experiment.config import ExperimentConfig, read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.host.costs import HostCosts, keep_costs
from orchestrator.results.reader import load_run
from orchestrator.results.schema import CURVE_COLUMNS
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runtimes.simulation import run_simulation
from tests.integration.warm import MARK, warm_parent

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy" / "experiments" / "quickstart.yaml"

TINY = """
name: tiny
nodes: 6
algorithm:
  local_steps: 1
  divshare: {recipients: 2}
  swift_divshare: {recipients: 2}
  adpsgd_pingpong: {recipients: 2}
  adpsgd: {roles: parity}
  epidemic: {recipients: 2}
learning:
  dataset: {kind: synthetic, samples: 60, test_samples: 20, features: 4, classes: 3}
  model: {kind: logistic_regression}
compute: {step_time_ms: 5}
network:
  preset: {kind: uniform, bandwidth_mbps: 1, latency_ms: 1}
evaluation: {interval_s: 0.01}
stop: {rounds: 3}
"""


STAR = """<experiment><services><service name="a" replicas="6"/></services><bridges><bridge name="s"/></bridges>
<links><link origin="a" dest="s" latency="1" upload="1Mbps" download="2Mbps"/></links></experiment>"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment of milliseconds, beside the files that some choices need."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    (tmp_path / "edges.txt").write_text("".join(f"{node} {(node + 1) % 6}\n" for node in range(6)))
    (tmp_path / "devices.json").write_text('{"a": {"computation": 0.1, "communication": 900}}')
    (tmp_path / "star.xml").write_text(STAR)
    (tmp_path / "trace.csv").write_text("time_s,bandwidth_mbps\n0,1\n0.004,0.2\n0.008,0\n0.012,2\n")
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 3x32x32 pictures in three classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for label in "abc":
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data but what the tests make, a host that has been measured, and one thread for torch."""
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))
    keep_costs(HostCosts(1e-3, 1e-9, 1e-3, 1e-9, 1e-3, measured_unix_s=1.0))
    monkeypatch.delenv("FRAGMESH_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second, and have tests of their own."""
    monkeypatch.setattr("orchestrator.report.page.write_report", lambda run, tell=None: run.path / "report.html")


def simulate(file: Path, *overrides: str, workers: int = 0) -> RunOutcome:
    plan = make_plan(read_experiment(file, overrides), file.parent)
    out = file.parent / "runs"
    return run_simulation(plan, RunOptions(out=out, data_root=None, workers=workers, progress="quiet", command=""))


# --- every choice runs --------------------------------------------------------------------------------------

NEEDS_FILES_OF_OTHERS = {("learning.dataset.kind", "cifar10"), ("learning.dataset.kind", "movielens")}
"""Choices that the tests of the learning room cover where there is real data."""

OF_REAL_RUNS = {("network.links", "direct")}
"""Choices that a simulation refuses; the tests of real processes cover them."""

RATINGS = ("learning.dataset={kind: synthetic_ratings, users: 12}", "learning.model={kind: matrix_factorization}")
DIGITS = ("learning.dataset={kind: digits, max_train_samples: 60}", "evaluation.max_samples=20", "stop.rounds=2")
IMAGES = (
    "learning.dataset={kind: image_folder, path: pictures}",
    "network.preset.bandwidth_mbps=null",
    "stop.rounds=2",
)
LOSSY = "network.preset.loss_percent=20"
SYNCHRONOUS = "algorithm.kind=dpsgd"  # any connected graph will do

COMPANIONS: dict[tuple[str, object], tuple[str, ...]] = {
    ("algorithm.epidemic.redraw", False): ("algorithm.epidemic.graph=oracle",),
    ("algorithm.swift.missing_weight", "rescale"): ("algorithm.swift.memory=fresh_only",),
    ("algorithm.adpsgd.roles", "bipartite"): ("topology={kind: complete_bipartite}",),
    ("topology.kind", "edge_list"): (SYNCHRONOUS, "topology.file=edges.txt"),
    ("topology.kind", "erdos_renyi"): (SYNCHRONOUS, "topology.edge_probability=0.7"),
    ("topology.kind", "k_regular"): (SYNCHRONOUS, "topology.degree=3"),
    ("learning.dataset.kind", "digits"): DIGITS,
    ("learning.dataset.kind", "image_folder"): IMAGES,
    ("learning.dataset.kind", "synthetic_ratings"): RATINGS,
    ("learning.model.kind", "gn_lenet"): IMAGES,
    ("learning.model.kind", "cnn"): (*DIGITS, "learning.model.channels=2"),
    ("learning.model.kind", "matrix_factorization"): RATINGS,
    ("learning.partition.kind", "by_user"): RATINGS,
    ("learning.partition.kind", "dirichlet"): ("learning.partition.alpha=0.5",),
    ("network.model", "pairwise"): ("network.sender={kind: parallel, transfers: 2}",),
    ("network.preset.kind", "regions"): ("network.model=pairwise", "network.preset={kind: regions}"),
    ("network.preset.kind", "profiles"): ("network.preset={kind: profiles, shares: {mobile_4g: 1, mobile_3g: 1}}",),
    ("network.preset.kind", "capacities"): ("network.preset={kind: capacities, file: devices.json}",),
    ("network.preset.kind", "kollaps"): ("network.preset={kind: kollaps, file: star.xml}",),
    ("network.preset.kind", "stragglers"): ("network.preset={kind: stragglers, count: 3, jitter_mbps: 0}",),
    ("network.sender.kind", "parallel"): ("network.sender.transfers=3",),
    ("network.transport", "reliable"): (LOSSY,),
    ("network.transport", "datagram"): (LOSSY,),
    ("compute.stragglers.placement", "random"): ("compute.stragglers.count=2", "compute.stragglers.factor=3"),
    ("compute.stragglers.placement", "lowest_ids"): ("compute.stragglers.count=2", "compute.stragglers.factor=3"),
    ("compute.stragglers.placement", "same_as_network"): (
        "compute.stragglers.factor=3",
        "network.preset={kind: stragglers, count: 3, jitter_mbps: 0}",
    ),
}
"""What else a choice needs to make sense in the tiny experiment."""


def choices(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, object]]:
    """Every (key, value) among which a file can choose: enumerations, literals, flags and kinds."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}".removeprefix(".")
        annotation = field.annotation
        if get_origin(annotation) is Literal and name != "kind":
            yield from ((key, value) for value in get_args(annotation))
        elif annotation is bool:
            yield from ((key, value) for value in (True, False))
        for option in (annotation, *get_args(annotation)):  # also of a choice that may be left out
            if isinstance(option, type) and issubclass(option, Enum):
                yield from ((key, member.value) for member in option)
        members = [annotation, *get_args(annotation), *(a for arg in get_args(annotation) for a in get_args(arg))]
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from choices(member, key if len(members) == 1 else f"{key}<{member.__name__}>")


def of_kinds() -> Iterator[tuple[str, object]]:
    for key, kinds in catalog().items():
        if key not in ("runtime", "schedule.action"):  # actions: test_schedules
            yield from ((key, kind) for kind in kinds)


CHOICES = sorted({*choices(ExperimentConfig), *of_kinds()} - NEEDS_FILES_OF_OTHERS - OF_REAL_RUNS, key=str)


def settings(key: str, value: object) -> list[str]:
    """A choice as --set would make it, with what it needs."""
    text = json.dumps(value)
    if key.startswith("network.traces"):
        period = {"repeat": True, "repeat_until_s": 0.1}
        fields = {"node": 0, "file": "trace.csv", **period, key.rsplit(".", 1)[1]: value}
        return [f"network.traces=[{json.dumps(fields)}]"]
    if key.startswith("compute.capacities<"):
        return [f"compute={{capacities: {{file: devices.json, {key.rpartition('.')[2]}: {value}}}}}"]
    if key.startswith("learning.partition<DirichletConfig>"):
        return [f"learning.partition={{kind: dirichlet, alpha: 1, {key.rpartition('.')[2]}: {value}}}"]
    if key.startswith("network.preset<"):
        member, name = key.removeprefix("network.preset<").split(">.")
        kind = member.removesuffix("Preset").lower()
        # Between continents a message takes longer than the tiny experiment.
        return [*COMPANIONS["network.preset.kind", kind], f"network.preset.{name}={text}", "compute.step_time_ms=200"]
    extra = COMPANIONS.get((key, value), ())
    if key.endswith(".kind") and key != "algorithm.kind":
        section = key.removesuffix(".kind")
        if any(item.startswith(f"{section}={{") for item in extra):
            return list(extra)
        default = [SYNCHRONOUS] if section == "topology" else []
        return [f"{section}={{kind: {value}}}", *default, *(i for i in extra if not i.startswith(f"{section}={{"))]
    if key.startswith("algorithm.") and key != "algorithm.kind":
        return [f"algorithm.kind={key.split('.')[1]}", *extra, f"{key}={text}"]
    return [*extra, f"{key}={text}"]


def test_the_choices_are_found() -> None:
    """The walk sees every kind of declaration; a floor below what there is today."""
    assert len(CHOICES) > 75
    keys = {key for key, _ in CHOICES}
    assert {"algorithm.divshare.flush", "evaluation.model", "network.transport", "output.messages"} <= keys
    assert {"algorithm.adpsgd_pingpong.alias_bug", "compute.stragglers.placement", "learning.precision"} <= keys
    assert {value for key, value in CHOICES if key == "algorithm.kind"} == set(ALGORITHMS)
    assert set(COMPANIONS) <= set(CHOICES)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("key", "value"), CHOICES, ids=lambda part: str(part))
def test_every_choice_runs(
    key: str, value: object, tiny: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(key, value)
    if any("pictures" in item for item in chosen):
        request.getfixturevalue("images")
        monkeypatch.setenv("FRAGMESH_DATA", str(tiny.parent))
    outcome = simulate(tiny, *chosen)
    assert outcome.status == "done"
    assert outcome.error is None
    run = load_run(outcome.path)
    rounds = read_experiment(tiny, chosen).stop.rounds
    assert run.curve["rounds_min"][-1] == run.curve["rounds_max"][-1] == rounds
    assert np.isfinite(run.curve["loss_mean"]).all()
    assert (run.messages is None) == (key == "output.messages" and value is False)
    if "local" not in chosen[0]:
        assert outcome.summary["messages"]["delivered"] > 0
        assert np.isfinite(run.curve["consensus_distance"]).all()


@pytest.mark.usefixtures("no_report")
def test_of_ratings_too_the_table_says_who_holds_what(tiny: Path) -> None:
    """Samples of each node by their rating, 0.5 to 5."""
    run = load_run(simulate(tiny, *RATINGS, "learning.partition={kind: by_user}").path)
    assert run.facts.class_names == ("0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5", "5.0")
    assert run.facts.partition_counts is not None
    assert run.facts.partition_counts.shape == (run.facts.nodes, 10)
    assert run.facts.partition_counts.sum() == 12 * 14  # 70 % of 20 ratings of each user


NUMBERS = [
    "learning.optimizer={momentum: 0.9, weight_decay: 0.01}",
    "learning.optimizer.learning_rate=0",
    "learning.batch_size=1000",
    "compute.jitter_percent=50",
    "compute.slowdown={0: 3, 5: 1.5}",
    "network.preset={kind: uniform, bandwidth_mbps: null, latency_ms: 0}",
    "network.preset={kind: uniform, up_mbps: 1, down_mbps: 0.5, jitter_ms: 3, loss_percent: 5}",
    "network.overrides=[{source: 0, destination: 1, bandwidth_mbps: 0.01, latency_ms: 9, loss_percent: 50}]",
    "network.overrides=[{source: 0, destination: 1, jitter_ms: 1}, {source: 1, destination: 0, latency_ms: 2}]",
    "network.traces=[{pair: [0, 1], file: trace.csv}, {node: 2, file: trace.csv, direction: up}]",
    "network.message_header_bytes=0",
    "evaluation={interval_s: 1000, max_samples: 5}",
    "stop={time_s: 0.0123}",
    "output.targets=[0.5, 0.25]",
    "seed=9223372036854775807",
    "algorithm.local_steps=7",
]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("override", NUMBERS)
@pytest.mark.parametrize("kind", ["divshare", "swift"])
def test_every_number_has_an_effect_or_none_but_runs(kind: str, override: str, tiny: Path) -> None:
    outcome = simulate(tiny, f"algorithm.kind={kind}", override)
    assert outcome.status == "done"
    assert outcome.summary["messages"]["delivered"] > 0


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_one_node_alone_runs_where_it_may(kind: str, tiny: Path) -> None:
    """Nobody to talk to is an input error for some algorithms, and no deadlock for the others."""
    sizes = ["nodes=1", f"algorithm.kind={kind}"]
    if ALGORITHMS[kind].config.model_fields.keys() & {"recipients"}:
        with pytest.raises(Exception, match=rf"algorithm\.{kind}\.recipients=2: must be at most 0"):
            simulate(tiny, *sizes)
    else:
        assert simulate(tiny, *sizes).status == "done"


# --- one seed, one run --------------------------------------------------------------------------------------


def contents(outcome: RunOutcome) -> dict[str, Any]:
    run = load_run(outcome.path)
    assert run.nodes is not None
    assert run.messages is not None
    return {
        "curve": (outcome.path / "curve.csv").read_bytes(),
        "nodes": {name: column.tobytes() for name, column in run.nodes.items()},
        "messages": {name: column.tobytes() for name, column in run.messages.items()},
        "links": (outcome.path / "links.csv").read_bytes(),
    }


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_seed_decides_everything_however_many_workers(kind: str, tiny: Path) -> None:
    same = [
        f"algorithm.kind={kind}",
        "learning.optimizer.momentum=0.5",
        "compute.jitter_percent=20",
        "network.preset.jitter_ms=1",
        "network.preset.loss_percent=2",
    ]
    runs = [contents(simulate(tiny, *same, workers=workers)) for workers in (0, 0, 1, 2)]
    assert runs[1:] == runs[:1] * 3
    other = contents(simulate(tiny, *same, "seed=2"))
    assert other["curve"] != runs[0]["curve"]
    if kind != "local":
        assert other["messages"] != runs[0]["messages"]


# --- the commands -------------------------------------------------------------------------------------------


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command in this process."""
    code = run_command_line([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "\x1b" not in captured.out + captured.err
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of divshare and swift with a report."""
    folder = tmp_path_factory.mktemp("two")
    file = folder / "tiny.yaml"
    file.write_text(TINY)
    return [
        simulate(file, f"algorithm.kind={kind}", f"name={kind}-on-a-slow-network").path
        for kind in ("divshare", "swift_divshare")
    ]


def test_run_prints_where_its_results_are(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "run", tiny, "--out", tiny.parent / "o", "--workers", 0, "--seed", 7)
    assert code == 0
    (path,) = (tiny.parent / "o").iterdir()
    assert path.name in out
    assert "done" in out
    assert len(err.splitlines()) >= 1
    run = load_run(path)
    assert run.summary is not None
    last, best = run.summary["final"], run.summary["best"]
    rows = [" ".join(line.strip("│ ").split()) for line in out.splitlines()]
    figures = f"{last['accuracy']:.4f} at the end, {best['accuracy']:.4f} at best; fragmesh compare smooths"
    assert f"accuracy │ {figures}" in rows
    assert f"loss │ {last['loss']:.4f} at the end, {best['loss']:.4f} when accuracy was best" in rows
    assert run.status == "done"
    assert run.facts.seed == 7
    assert {file.name for file in path.iterdir()} == {
        *("facts.json", "experiment.yaml", "environment.json", "partition.csv", "curve.csv", "nodes.parquet"),
        *("messages.parquet", "links.csv", "fidelity.json", "summary.json", "report.html"),
    }
    assert run.environment is not None
    begun, ended = (datetime.fromisoformat(run.environment[key]) for key in ("begun_at", "ended_at"))
    assert begun < ended
    with (path / "curve.csv").open() as file:
        assert tuple(next(csv.reader(file))) == CURVE_COLUMNS
    again = simulate(path / "experiment.yaml")
    assert (again.path / "curve.csv").read_bytes() == (path / "curve.csv").read_bytes()


@pytest.mark.usefixtures("no_report")
def test_a_node_without_test_samples_is_told_and_counts_in_no_figure(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.parent / "data" / "ml-latest-small"
    folder.mkdir(parents=True)
    lines = ["1,1,4.0,0", *(f"{user},{item},3.0,0" for user in range(2, 7) for item in range(1, 11))]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines, ""]))
    learning = "learning={dataset: {kind: movielens}, model: {kind: matrix_factorization}, partition: {kind: by_user}}"
    options = ("--set", learning, "--data-root", folder.parent, "--workers", 0)
    code, _, err = invoke(capsys, "run", tiny, *options, "--out", tiny.parent / "o")
    assert code == 0
    assert "1 of 6 nodes have no test samples (0): figures are means over the others" in err
    (path,) = (tiny.parent / "o").iterdir()
    run = load_run(path)
    for name in ("accuracy_mean", "loss_mean", "loss_min", "loss_max", "loss_seen_mean"):
        assert np.isfinite(run.curve[name]).all(), name
    assert run.summary is not None
    assert run.summary["final"]["loss"] == run.curve["loss_mean"][-1]
    assert "no test samples" in run.facts.details["about the data"]
    code, out, _ = invoke(capsys, "validate", tiny, *options[:4], "--json")
    assert code == 0
    assert "no test samples (0)" in json.loads(out)["plan"]["about the data"]


@pytest.mark.usefixtures("no_report")
def test_run_for_machines_prints_json_lines_only(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "run", tiny, "--out", tiny.parent / "o", "--workers", 0, "--json")
    assert (code, err) == (0, "")
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert {event["event"] for event in events} <= {"preparing", "progress", "end"}
    assert events[-1]["event"] == "end"
    assert events[-1]["summary"]["status"] == "done"
    assert Path(events[-1]["run"]).is_dir()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("local_steps", "expected"), [(12, "done"), (20, "diverged")])
def test_a_model_that_diverges_is_still_json(
    tiny: Path, capsys: pytest.CaptureFixture[str], local_steps: int, expected: str
) -> None:
    """First the loss is no number any more, then the model, which ends the run."""
    steep = "learning.optimizer={learning_rate: 1000, weight_decay: 1.45}"  # each step takes the model times -1,449
    keys = (f"algorithm.local_steps={local_steps}", "stop.rounds=1", steep)
    arguments = ("--out", tiny.parent / "o", "--workers", 0, *(item for key in keys for item in ("--set", key)))
    code, out, _ = invoke(capsys, "run", tiny, *arguments, "--json")
    assert code == (0 if expected == "done" else 5)
    end = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()][-1]
    assert end["summary"]["status"] == expected
    if expected == "done":
        assert end["summary"]["final"]["loss"] is None
    else:
        assert end["summary"]["diverged"]["round"] == 0
    code, out, _ = invoke(capsys, "compare", end["run"], end["run"], "--json")
    assert code == 0
    json.loads(out, parse_constant=pytest.fail)
    assert invoke(capsys, "compare", end["run"], end["run"])[0] == 0


def test_validate_prints_the_plan(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "validate", tiny)
    assert (code, err) == (0, "")
    assert "tiny: valid" in out
    for word in ("divshare", "logistic_regression", "parameters", "a whole model", "3 rounds"):
        assert word in out
    code, out, err = invoke(capsys, "validate", tiny, "--json", "--set", "stop.time_s=2")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["plan"]["stop"] == "2 s or 3 rounds"
    assert content["plan"]["offered load"].startswith(f"{content['load']['offered']:.2g}: ")
    assert content["load"]["models_a_round"] == 2
    assert content["load"]["uplink_demand_max"] > 0
    assert not list(tiny.parent.glob("runs*"))


def test_validate_can_do_without_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    for file in QUICKSTART.parent.glob("*.yaml"):
        code, out, _ = invoke(capsys, "validate", file, "--no-data", "--json")
        assert code == 0
        assert json.loads(out)["file"] == str(file)


def test_compare(two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "compare", *two_runs, "--out", tmp_path / "c.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert "not shown for want of room (--out FILE.html or --json has them): " in out
    page = tmp_path / "c.html"
    assert f"want of room ({page} or --json has them): " in invoke(capsys, "compare", *two_runs, "--out", page)[1]
    code, out, err = invoke(capsys, "compare", *two_runs, two_runs[0], "--json", "--target", 0.3)
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["target"] == 0.3
    assert content["left_out"] == [str(two_runs[0])]
    assert [row["statuses"] for row in content["runs"]] == [["done"], ["done"]]
    assert [row["label"] for row in content["runs"]] == [
        "divshare-on-a-slow-network",
        "swift_divshare-on-a-slow-network",
    ]


REFUSED_COMPARISONS = [
    (("--target", 80), "target=80: must be an accuracy between 0 and 1; 80 % is 0.8"),
    (("--target", -1), "target=-1: must be an accuracy between 0 and 1"),
    (("--out", "missing/c.html"), "--out=missing/c.html: there is no folder missing"),
    (("--out", "c.pdf"), "--out=c.pdf: must end in .html, .png or .svg"),
    (("--out", "c.html"), "--out=c.html: is a directory"),
    (("--figures", "file"), "--figures=file: is not a directory"),
    (("--table", "c.txt"), "--table=c.txt: must end in .tex or .csv"),
    (("--table", "missing/c.tex"), "--table=missing/c.tex: there is no folder missing"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_COMPARISONS)
def test_comparisons_that_cannot_be_are_one_clear_line(
    options: tuple[Any, ...],
    message: str,
    two_runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.html").mkdir()
    (tmp_path / "file").touch()
    if options[0] in ("--figures", "--table"):
        assert invoke(capsys, "report", two_runs[0], *options) == (2, "", f"error: {message}\n")
    assert invoke(capsys, "compare", *two_runs, *options) == (2, "", f"error: {message}\n")


def test_runs_of_different_data_sets_have_no_comparison(
    two_runs: list[Path], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = simulate(tiny, *RATINGS, "learning.partition={kind: by_user}").path
    code, out, err = invoke(capsys, "compare", *two_runs, other)
    assert (code, out) == (2, "")
    assert err == (
        "error: compare: tiny trains on synthetic_ratings, but divshare-on-a-slow-network on synthetic:"
        " runs must share a data set\n"
    )
    code, out, _ = invoke(capsys, "compare", other, "--target", 0.01)
    assert code == 0
    assert "no run holds 0.0100" in out
    assert "there is nothing to compare with" in out


def test_a_comparison_that_cannot_be_drawn_has_its_tables(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("orchestrator.report.overlay.write_comparison", fail)
    code, out, err = invoke(capsys, "compare", *two_runs, "--out", tmp_path / "c.png")
    assert (code, err) == (3, f"failed: {tmp_path / 'c.png'}: cannot be drawn: RuntimeError: no font\n")
    assert "times faster" in out


def test_the_headline_figure_of_ratings_comes_first(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [item for setting in (*RATINGS, "learning.partition={kind: by_user}") for item in ("--set", setting)]
    code, out, _ = invoke(capsys, "run", tiny, "--out", tiny.parent / "o", "--workers", 0, *settings)
    assert code == 0
    rows = [line.strip("│ ").split(" │ ") for line in out.splitlines() if " │ " in line]
    assert [row[0].strip() for row in rows[:3]] == ["status", "RMSE", "accuracy"]
    assert "at best; fragmesh compare smooths" in rows[1][1]
    assert "when RMSE was best" in rows[2][1]


def test_compare_says_that_ends_are_smoothed(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where they are: a curve of less than five evaluations stays as it is."""
    said = "end: the mean of a run's last evaluations, which it holds; fragmesh run prints the very last one"
    long, short = (simulate(tiny, "stop={time_s: 1}", f"evaluation.interval_s={step}").path for step in (0.2, 0.5))
    assert (len(load_run(long).times_s), len(load_run(short).times_s)) == (6, 3)
    assert said in invoke(capsys, "compare", long, short)[1].splitlines()
    assert said not in invoke(capsys, "compare", short)[1]


def test_seeds_of_one_command_are_one_group(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run has a process of its own, and a command that makes it alone."""
    started = warm_parent().start(
        ["no_report", "run", "tiny.yaml", "--seed", "4", "--workers", "0", "--seed=5"],
        environment={**os.environ, MARK: uuid.uuid4().hex},
        cwd=tiny.parent,
    )
    out, err = started.communicate()
    assert started.wait() == 0, err
    paths = sorted((tiny.parent / "runs").iterdir())
    runs = {load_run(path).seed: load_run(path) for path in paths}
    assert runs.keys() == {4, 5}
    assert [run.facts.command for run in runs.values()] == [
        f"fragmesh run tiny.yaml --workers 0 --seed {seed}" for seed in runs
    ]
    assert out.count("report.html") == 2
    alone = simulate(tiny, "seed=5")
    assert (alone.path / "curve.csv").read_bytes() == (runs[5].path / "curve.csv").read_bytes()
    content = json.loads(invoke(capsys, "compare", *paths, "--json")[1])
    assert [(row["seeds"], row["end"]["n"]) for row in content["runs"]] == [([4, 5], 2)]
    assert content["runs"][0]["paths"] == [str(runs[4].path), str(runs[5].path)]


def test_a_seed_is_given_once(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = invoke(capsys, "run", tiny, "--seed", 1, "--seed", 2, "--seed", 1)
    assert result == (2, "", "error: --seed=1: must be given once\n")
    code, _, err = invoke(capsys, "run", tiny, "--seed", 1, "--seed", -2)
    assert code == 2
    assert "seed=-2" in err
    assert not (tiny.parent / "runs").exists()


def test_compare_names_what_is_unfaithful(two_runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = two_runs[1] / "fidelity.json"
    before = record.read_text()
    record.write_text(json.dumps({"verdict": "unfaithful", "checks": []}))
    try:
        content = json.loads(invoke(capsys, "compare", *two_runs, "--json")[1])
        assert content["unfaithful"] == [str(two_runs[1])]
        assert "UNFAITHFUL" in invoke(capsys, "compare", *two_runs)[1]
    finally:
        record.write_text(before)
    assert json.loads(invoke(capsys, "compare", *two_runs, "--json")[1])["unfaithful"] == []


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_comparison_keeps_names_whole(
    columns: int, two_runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are folded, never cut; no line is longer than the terminal; figures are not torn apart."""
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = invoke(capsys, "compare", *two_runs)
    assert code == 0
    table = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
    assert all(len(line) <= columns for line in table)
    assert "…" not in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table if line.startswith("│")]
    names = "".join(row[0] for row in rows)
    # Both in the table of figures and in that of targets.
    assert names == 2 * "divshare-on-a-slow-networkswift_divshare-on-a-slow-network"
    assert len(rows) <= {60: 99, 80: 12, 200: 4}[columns]
    assert any("×" in cell for row in rows for cell in row)


def test_report_is_written_anew(two_runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    page = two_runs[0] / "report.html"
    before = page.read_bytes()
    page.unlink()
    code, out, err = invoke(capsys, "report", two_runs[0])
    assert (code, out, err) == (0, f"{page}\n", "")
    assert page.read_bytes() == before


def test_figures_and_tables_are_written_as_files(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, table = tmp_path / "figures", tmp_path / "t.csv"
    code, out, err = invoke(capsys, "report", two_runs[0], "--figures", figures, "--table", table)
    assert (code, out, err) == (0, f"{two_runs[0] / 'report.html'}\n{table}\n{figures}\n", "")
    assert table.read_text().startswith("figure,value,note\nfinal accuracy,")
    assert len(list(figures.glob("*.svg"))) > 5
    code, out, err = invoke(capsys, "compare", *two_runs, "--figures", figures / "both", "--table", tmp_path / "t.tex")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("How much sooner than divshare-on-a-slow-network does swift_divshare-on-a-")
    assert out.splitlines()[-2:] == [str(tmp_path / "t.tex"), str(figures / "both")]
    assert (figures / "both" / "accuracy-over-time.svg").stat().st_size > 1000
    assert r"swift\_divshare-on-a-slow-network &" in (tmp_path / "t.tex").read_text()


def test_a_run_is_described_for_others(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = simulate(tiny).path
    crate = run / "ro-crate-metadata.json"
    for options, message in (
        (["--author", "Ada"], "--author: must come with --crate"),
        (["--license", "MIT"], "--license: must come with --crate"),
        (["--crate", "--license", ""], "--license=: must be an SPDX identifier, an address or words"),
        (
            ["--crate", "--author", "<ada>"],
            "--author=<ada>: must be a name, or as in: Ada Lovelace <https://orcid.org/",
        ),
    ):
        code, out, err = invoke(capsys, "report", run, *options)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1
    assert not crate.exists()
    options = ["--crate", "--author", "Ada", "--author", "Bob", "--license", "MIT"]
    assert invoke(capsys, "report", run, *options) == (0, f"{run / 'report.html'}\n{crate}\n", "")
    graph = {entity["@id"]: entity for entity in json.loads(crate.read_text())["@graph"]}
    assert [graph[f"#author-{number}"]["name"] for number in (1, 2)] == ["Ada", "Bob"]
    written = crate.read_bytes()
    invoke(capsys, "report", run, *options)
    assert crate.read_bytes() == written
    # As it says: the experiment runs again where the directory is.
    assert "in this directory: fragmesh run experiment.yaml" in graph["./"]["description"]
    again = simulate(run / "experiment.yaml").path
    assert (again / "curve.csv").read_bytes() == (run / "curve.csv").read_bytes()


def test_a_report_that_cannot_be_drawn_costs_a_run_nothing(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr("orchestrator.report.page.write_report", fail)
    code, out, err = invoke(capsys, "run", tiny, "--out", tiny.parent / "runs", "--workers", 0, "--json")
    assert code == 0
    end = json.loads(out.splitlines()[-1])
    assert end["summary"]["status"] == "done"
    assert err == (
        "report: RuntimeError: latex could not be found; the results are complete; draw again with: fragmesh report"
        f" {end['run']}\n"
    )
    monkeypatch.undo()
    assert invoke(capsys, "report", end["run"]) == (0, f"{end['run']}/report.html\n", "")


def test_list_names_everything_that_a_file_can(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "list", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content.keys() == catalog().keys()
    code, plain, _ = invoke(capsys, "list")
    assert code == 0
    for key, kinds in content.items():
        assert key in plain
        for kind, text in kinds.items():
            assert kind in plain
            assert text.endswith((".", ")")) or " " in text


def test_doctor_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "doctor", "--json")
    assert (code, err) == (0, "")
    assert all(finding["status"] in ("ok", "warn", "missing") for finding in json.loads(out))
    assert invoke(capsys, "doctor")[0] == 0


def test_doctor_measures_an_experiment(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, "doctor", tiny, "--json", "--set", "stop={time_s: 20}")
    assert (code, err) == (0, "")
    found = json.loads(out)["experiment"]
    assert found["recommended_time_dilation"] == found["time_dilation"] >= 1
    assert found["run_s"] == pytest.approx(20 * found["time_dilation"])
    assert 0 < found["step_s"] < 1
    assert len(found["reasons"]) == 3
    code, out, err = invoke(capsys, "doctor", tiny, "--set", "time_dilation=9999")
    assert (code, err) == (0, "")
    for word in ("recommended time_dilation", "9999: enough", "at least", "memory"):
        assert word in out
    assert not list(tiny.parent.glob("runs*"))


def test_doctor_refuses_what_it_cannot_measure(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = invoke(capsys, "doctor", "--set", "nodes=3")
    assert (code, err) == (2, "error: --set nodes=3: must come with an experiment file\n")
    code, _, err = invoke(capsys, "doctor", tiny, "--set", "compute.step_time_ms=1e-6")
    assert code == 2
    assert "compute.step_time_ms=1e-06: this host takes" in err
    assert invoke(capsys, "doctor", tiny.parent / "none.yaml")[0] == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 3, "failed: not enough memory; take fewer nodes, a smaller model or less data"),
        (
            LookupError("no\nbread"),
            3,
            "failed: LookupError: no bread; a bug: FRAGMESH_TRACEBACK=1 shows where it happened",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device"), 1, "not printed: No space left on device"),
    ],
)
def test_whatever_ends_a_command_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("orchestrator.experiment.catalog.catalog", fail)
    monkeypatch.setattr(guard, "let_lead_nowhere", lambda stream: None)  # not those of the tests
    assert invoke(capsys, "list") == (code, "", f"{line}\n" if line else "")
    if isinstance(error, LookupError):
        monkeypatch.setenv("FRAGMESH_TRACEBACK", "1")
        with pytest.raises(LookupError):
            invoke(capsys, "list")


def test_a_folder_of_inputs_that_is_none(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("validate", tiny), ("run", tiny), ("run", "--resume", tiny.parent)):
        result = invoke(capsys, *command, "--input-root", tiny)
        assert result == (2, "", f"error: --input-root={tiny}: is not a directory\n")


@pytest.mark.usefixtures("no_report")
def test_values_that_saturate_are_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step takes the model times -1,449, so that it leaves the range of float16 and not that of float32."""
    keys = ("wire.dtype=float16", "learning.optimizer={learning_rate: 1000, weight_decay: 1.45}", "stop.rounds=6")
    options = [item for key in keys for item in ("--set", key)]
    code, out, err = invoke(capsys, "run", tiny, "--out", tiny.parent / "o", "--workers", 0, *options)
    assert code == 0, err
    (path,) = (tiny.parent / "o").iterdir()
    saturated = json.loads((path / "summary.json").read_text())["values_saturated"]
    assert saturated > 0
    assert f"{saturated:,} values travelled" in out


def test_help_needs_no_torch() -> None:
    """Commands that do not train start at once."""
    code = "import sys; from orchestrator.cli.commands import run_command_line; run_command_line(sys.argv[1:]);"
    code += "sys.exit('torch' in sys.modules)"
    for arguments in (["--help"], ["list", "--json"], ["validate", str(QUICKSTART), "--no-data"], ["ps", "--json"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_told_nothing(options: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "orchestrator.cli", "list", *options]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.usefixtures("no_report")
def test_quickstart_runs_with_every_algorithm(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "quickstart.yaml"
    file.write_text(QUICKSTART.read_text())
    outcome = simulate(file, "runtime=simulation", f"algorithm.kind={kind}", "stop.time_s=2")
    assert outcome.status == "done"
    assert outcome.summary["train_steps"] >= 8 * 16 * (1 if kind != "local" else 5)
