"""The README says nothing that is not so: commands parse, paths exist, tables are complete, its example runs."""

import itertools
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from typer.main import get_command

from node.algorithms import registry
from node.algorithms.registry import ALGORITHMS, Entry
from node.core.algorithm import NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.topology import ring
from node.core.training import QuadraticTrainer
from node.core.types import NodeId
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from orchestrator import cli, results
from orchestrator.experiment.config import ExperimentConfig, parse_experiment, read_experiment
from orchestrator.experiment.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "node/algorithms/README.md"]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
EXAMPLE = "random_push"
"""The algorithm that the README adds; its files are the reader's to make."""


def section(title: str) -> str:
    """The text below a heading of the README, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, without its header."""
    rows = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def shown_commands() -> list[list[str]]:
    """Every ``fragmesh ...`` of the README, as the shell would split it."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fragmesh ")]
    lines += re.findall(r"`(fragmesh [^`\n]+)`", README)
    return [shlex.split(line, comments=True)[1:] for line in lines]


COMMANDS = shown_commands()
EXPERIMENTS = [arguments for arguments in COMMANDS if arguments[1:] and arguments[1].startswith("deploy/")]


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_line_parses(arguments: list[str]) -> None:
    group: Any = get_command(cli.app)
    name, *rest = arguments
    group.commands[name].make_context(name, rest)


def test_every_command_is_shown() -> None:
    group: Any = get_command(cli.app)
    assert {name for name, *_ in COMMANDS} == set(group.commands)


@pytest.mark.parametrize("arguments", EXPERIMENTS, ids=" ".join)
def test_every_experiment_shown_makes_a_plan(arguments: list[str]) -> None:
    overrides = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
    file = ROOT / arguments[1]
    if f"algorithm.kind={EXAMPLE}" in overrides:
        overrides.remove(f"algorithm.kind={EXAMPLE}")  # known only to a program that starts with it
    make_plan(read_experiment(file, overrides), file.parent)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    quoted = re.findall(r"`make ([^`]+)`", TEXTS[page])
    in_blocks = re.findall(r"^make (.+)$", "\n".join(blocks("sh", TEXTS[page])), re.MULTILINE)
    for words in [*quoted, *in_blocks]:
        for word in shlex.split(words, comments=True):
            name = word.split("=")[0]
            assert re.search(rf"^{name}( \?=|:)", makefile, re.MULTILINE), word


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    text, here = TEXTS[page], (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert links
    missing = [link for link in links if not link.startswith("https://") and not (here / link).exists()]
    named = re.findall(r"(?<![\w/.])(?:node|orchestrator|deploy|tests|protos)/[\w./-]*\w", text)
    missing += [name for name in named if not (ROOT / name).exists() and EXAMPLE not in name]
    assert not missing


def test_every_module_named_exists() -> None:
    for name in re.findall(r"\bnode\.(\w+)", section("Modules")):
        assert (ROOT / "node" / name).is_dir() or (ROOT / "node" / f"{name}.py").is_file()


# --- tables -------------------------------------------------------------------------------------------------


def test_the_table_of_algorithms_is_the_registry() -> None:
    rows = table("Algorithms")
    assert [row[0] for row in rows] == list(ALGORITHMS)
    for kind, _, paper, link in rows:
        assert link == f"[{kind}.py](node/algorithms/{kind}.py)"
        assert ALGORITHMS[kind].config.__module__ == f"node.algorithms.{kind}"
        page = " ".join((ROOT / "node" / "algorithms" / f"{kind}.py").read_text(encoding="utf-8").split())
        cited = paper.rsplit(", ", 1)
        assert paper == "none" or (cited[0].split(" et al.")[0] in page and cited[1] in page), kind


def test_the_table_of_a_run_s_files_is_complete() -> None:
    declared = set(re.findall(r"\b\w+\.(?:json|yaml|csv|parquet|html)\b", results.__doc__ or ""))
    assert {row[0] for row in table("What a run leaves")} == declared


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    shown = {row[0] for row in table("Exit codes")}
    assert shown >= set(re.findall(r"\b(\d+) (?:done|the|interrupted)", " ".join((cli.__doc__ or "").split())))


def test_the_runtimes_are_those_of_the_experiment_file() -> None:
    """Whoever adds one rewrites what the README says of them."""
    assert [row[0] for row in table("Runtimes")] == list(get_args(ExperimentConfig.model_fields["runtime"].annotation))


# --- examples -----------------------------------------------------------------------------------------------


def test_the_example_experiment_has_every_section_and_makes_a_plan() -> None:
    (text,) = blocks("yaml", section("The experiment file"))
    content = yaml.safe_load(text)
    assert list(content) == list(ExperimentConfig.model_fields)
    plan = make_plan(parse_experiment(content, place="README.md"), ROOT)
    assert len(plan.stragglers) >= 4


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The README's algorithm, registered by the README's line."""
    algorithm, line, _ = blocks("python", section("Adding an algorithm"))
    module = ModuleType(f"node.algorithms.{EXAMPLE}")
    exec(compile(algorithm, f"{EXAMPLE}.py of README.md", "exec"), module.__dict__)
    assert f"algorithm.kind={EXAMPLE}" in (module.__doc__ or "")
    entries: dict[str, Entry] = eval("{" + line + "}", vars(registry) | vars(module))
    monkeypatch.setitem(ALGORITHMS, EXAMPLE, entries[EXAMPLE])
    return entries[EXAMPLE]


def test_the_example_algorithm_runs_in_a_world(example: Entry) -> None:
    """It talks, and talking brings the nodes together."""
    distances = []
    for probability in (1.0, 1e-12):
        config = example.config.model_validate({"probability": probability})
        targets = np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)
        trainer = QuadraticTrainer(targets, 0.1)
        contexts = [NodeContext(NodeId(i), ring(6), trainer.tensor_sizes, 2, 1) for i in range(6)]
        world = World(
            algorithms=[example.make(context, config) for context in contexts],
            trainer=trainer,
            network=NetworkPlan("access", np.full(6, 1.0), np.full(6, 1.0)),
            compute=ComputePlan((1_000_000,) * 6),
            seed=1,
            max_rounds=50,
        )
        world.advance(10**9)
        assert [node.rounds for node in world.nodes] == [50] * 6
        assert (world.counters.messages["aggregated"] > 100) == (probability == 1.0)
        models = np.array([node.params for node in world.nodes])
        distances.append(float(((models - models.mean(axis=0)) ** 2).sum()))
    assert distances[0] < 0.5 * distances[1]


def test_the_example_algorithm_can_be_saved(example: Entry) -> None:
    """It says nothing about it, and goes on as if nothing had happened."""

    def world() -> World:
        trainer = QuadraticTrainer(np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32), 0.1)
        contexts = [NodeContext(NodeId(i), ring(6), trainer.tensor_sizes, 2, 1) for i in range(6)]
        return World(
            algorithms=[example.make(context, example.config()) for context in contexts],
            trainer=trainer,
            network=NetworkPlan("access", np.full(6, 0.1), np.full(6, 0.1)),
            compute=ComputePlan((1_000_000,) * 6),
            seed=1,
        )

    whole, part, restored = world(), world(), world()
    whole.advance(10**9)
    part.advance(123_456_789)
    assert part.counters.messages["aggregated"] > 10
    restore_world(restored, restored._trainer, save_world(part, part._trainer, None, ()), ())  # type: ignore[arg-type]
    restored.advance(10**9)
    assert restored.counters == whole.counters
    assert [node.params.tobytes() for node in restored.nodes] == [node.params.tobytes() for node in whole.nodes]


@pytest.mark.usefixtures("example")
def test_the_example_s_paper_test_passes() -> None:
    _, _, test = blocks("python", section("Adding an algorithm"))
    names: dict[str, Any] = {}
    exec(compile(test, f"test_{EXAMPLE}.py of README.md", "exec"), names)
    (name,) = [name for name in names if name.startswith("test_")]
    names[name]()


def test_the_steps_name_the_lists_that_are_written_out() -> None:
    assert re.search(r"^VARIANTS\b", (ROOT / "tests/paper/test_every_algorithm.py").read_text(), re.MULTILINE)
    assert re.search(r"^EVERY_ALGORITHM\b", (ROOT / "tests/simulation/build.py").read_text(), re.MULTILINE)
    contracts = (ROOT / "pyproject.toml").read_text()
    assert all(f'"node.algorithms.{kind}"' in contracts for kind in ALGORITHMS)
