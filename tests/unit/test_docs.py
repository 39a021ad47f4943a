"""The documentation says nothing that is not so: commands parse, YAML validates, links resolve, examples run.

Hand-written and generated pages are checked alike. Sphinx itself runs in ``make docs``, with warnings as errors.
"""

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from declarations import LABELS, Key, keys_of, labelled_sections
from generated_pages import FOLDERS, generated_pages, write_pages
from typer.main import get_command

from node.algorithms import registry
from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS, Entry
from node.core.algorithm import Algorithm, NodeContext
from node.core.compute import ComputePlan
from node.core.links import NetworkPlan
from node.core.topology import ring
from node.core.training import QuadraticTrainer
from node.core.types import NodeId
from node.sim.saved_world import restore_world, save_world
from node.sim.world import World
from orchestrator.cli.commands import app
from orchestrator.experiment.config import ExperimentConfig, parse_experiment, read_experiment
from orchestrator.experiment.plan import make_plan
from orchestrator.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
WRITTEN += [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("[no]*/**/README.md"))]
WRITTEN += [
    str(path.relative_to(ROOT)) for path in sorted(DOCS.rglob("*.md")) if path.relative_to(DOCS).parts[0] not in FOLDERS
]
GENERATED = {f"docs/{path}": text for path, text in generated_pages().items()}
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in WRITTEN} | GENERATED
ADD_AN_ALGORITHM = TEXTS["docs/how-to/add-an-algorithm.md"]
EXAMPLE = "random_push"
"""The algorithm that the how-to guide adds; its files are the reader's to make."""


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of one language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) + "\n" for indent, body in found]


def shown_commands(text: str) -> Iterator[list[str]]:
    """Every ``fragmesh ...`` of a page, as the shell would split it."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines() if line.startswith("fragmesh ")]
    lines += re.findall(r"(?<!`)`(fragmesh [a-z][^`\n]*)`(?!`)", text)
    for line in lines:
        yield shlex.split(line, comments=True)[1:]


COMMANDS = [(page, arguments) for page, text in TEXTS.items() for arguments in shown_commands(text)]
EXPERIMENTS = sorted(
    {tuple(arguments) for _, arguments in COMMANDS if arguments[1:] and "/experiments/" in arguments[1]}
)


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_line_parses(page: str) -> None:
    group: Any = get_command(app)
    for name, *rest in shown_commands(TEXTS[page]):
        command = group.commands[name]  # a name alone is a mention
        if rest:
            command.make_context(name, rest)


def test_every_command_is_shown_by_hand() -> None:
    group: Any = get_command(app)
    assert {arguments[0] for page, arguments in COMMANDS if page not in GENERATED} == set(group.commands)


@pytest.mark.parametrize("arguments", EXPERIMENTS, ids=" ".join)
def test_every_experiment_shown_makes_a_plan(arguments: tuple[str, ...]) -> None:
    overrides = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
    file = ROOT / arguments[1]
    if f"algorithm.kind={EXAMPLE}" in overrides:
        overrides.remove(f"algorithm.kind={EXAMPLE}")  # known only to a program that starts with it
    make_plan(read_experiment(file, overrides), file.parent)


@pytest.mark.parametrize("page", TEXTS)
def test_every_make_target_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    quoted = re.findall(r"`make ([^`]+)`", TEXTS[page])
    in_blocks = re.findall(r"^make (.+)$", "\n".join(blocks("sh", TEXTS[page])), re.MULTILINE)
    for words in [*quoted, *in_blocks]:
        for word in shlex.split(words, comments=True):
            name = word.split("=")[0]
            assert re.search(rf"^{name}( \?=|:)", makefile, re.MULTILINE), word


@pytest.mark.parametrize("page", TEXTS)
def test_every_module_that_is_run_exists(page: str) -> None:
    for name in re.findall(r"python -m ([a-z][.\w]*)", TEXTS[page]):
        file = ROOT / name.replace(".", "/")
        assert (file / "__main__.py").is_file() or file.with_suffix(".py").is_file(), name


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_exists(page: str) -> None:
    text, here = TEXTS[page], (ROOT / page).parent
    links = re.findall(r"(?<!!)\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [
        link
        for link in links
        if not link.startswith("https://")
        and not (here / link).resolve().exists()  # a generated page may not be there
        and str((here / link).resolve().relative_to(ROOT)) not in GENERATED
    ]
    named = re.findall(r"(?<![\w/.<])(?:node|orchestrator|deploy|tests|protos)/[\w./-]*\w", text)
    missing += [name for name in named if not (ROOT / name).exists() and EXAMPLE not in name]
    assert not missing


def test_every_class_named_by_hand_stands_in_the_code() -> None:
    sources = [path.read_text() for room in ("node", "orchestrator", "tests") for path in (ROOT / room).rglob("*.py")]
    known = set(re.findall(r"\b[A-Z]\w+", "\n".join(sources)))
    named = {(page, name) for page in WRITTEN for name in re.findall(r"`(?:\w+\.)*([A-Z]\w*[a-z]\w*)`", TEXTS[page])}
    assert len(named) > 30
    assert not {(page, name) for page, name in named if name not in known}


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith("docs/")])
def test_every_page_is_in_a_table_of_contents(page: str) -> None:
    if page == "docs/index.md":
        return
    listed = {
        str(Path(index).parent / f"{entry}.md")
        for index, text in TEXTS.items()
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
        for entry in tree.splitlines()
        if entry and not entry.startswith(":")
    }
    assert page in listed


def test_the_readme_links_no_page_that_has_to_be_built() -> None:
    """Whoever reads it on a host of repositories has only what is in the repository."""
    links = re.findall(r"\]\((docs/[^)#]+)", TEXTS["README.md"])
    assert links
    assert not [link for link in links if link.split("/")[1] in FOLDERS]


# --- experiment files ---------------------------------------------------------------------------------------


YAML_BLOCKS = [(page, block) for page, text in TEXTS.items() for block in blocks("yaml", text)]


@pytest.mark.parametrize(("page", "block"), YAML_BLOCKS, ids=[page for page, _ in YAML_BLOCKS])
def test_every_yaml_block_validates(page: str, block: str) -> None:
    """A block that begins with a name is a whole file; another one is a part of the quickstart."""
    content = parse_yaml(block, page)
    if "name" not in content:
        quickstart = parse_yaml((ROOT / "deploy/experiments/quickstart.yaml").read_text(encoding="utf-8"), page)
        content = quickstart | content
    make_plan(parse_experiment(content, place=page), ROOT)


def test_the_example_experiment_has_every_section_and_makes_a_plan() -> None:
    page = "docs/how-to/write-an-experiment.md"
    (text,) = blocks("yaml", TEXTS[page])
    content = parse_yaml(text, page)
    assert list(content) == list(ExperimentConfig.model_fields)
    plan = make_plan(parse_experiment(content, place=page), ROOT)
    assert len(plan.stragglers) >= 4


def all_keys(model: Any, prefix: str = "") -> Iterator[Key]:
    for key in keys_of(model, prefix):
        yield key
        for inner in key.inner:
            yield from all_keys(inner, f"{key.path}.")


def reference_rows() -> Iterator[tuple[str, list[str]]]:
    """Every key of the reference as (path, other cells); the path is the heading's and the first cell's."""
    section = ""
    for line in GENERATED["docs/reference/experiment-file.md"].splitlines():
        if line.startswith("#"):
            found = re.search(r"`([\w.\[\]]+?)(?:\.(?:kind|action): \w+)?`", line)
            section = f"{found[1]}." if found else ""
        elif line.startswith("| `"):
            name, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            yield section.replace("[]", "") + name.strip("`"), cells


def test_the_reference_has_every_key_of_the_experiment_file_with_a_sentence() -> None:
    shown = {path for path, _ in reference_rows()}
    keys = list(all_keys(ExperimentConfig))
    assert len(keys) > 100
    assert [key.path for key in keys if key.path not in shown] == []
    assert [key.path for key in keys if not key.text] == []


def test_a_key_shows_its_bounds_and_default() -> None:
    reference = GENERATED["docs/reference/experiment-file.md"]
    rows = dict(reference_rows())
    assert rows["learning.optimizer.momentum"][:3] == ["number", "`0`", "≥ 0, < 1"]
    assert rows["network.preset.count"][:3] == ["whole number", "required", "≥ 0, ≤ 10,000"]
    assert rows["algorithm.divshare.flush"][:3] == ["`queued_only`, `all`, `none`", "`queued_only`", ""]
    assert rows["output.targets"][:2] == ["list of numbers or `null`", "`null`"]
    assert "- `queued_only`: Drop what is queued; the message being transmitted completes." in reference


# --- generated pages ----------------------------------------------------------------------------------------


def test_old_generated_pages_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / "algorithms" / "gone.md"
    stale.parent.mkdir()
    stale.write_text("# gone\n")
    write_pages(tmp_path)
    assert not stale.exists()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")} == set(generated_pages())


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_an_algorithm_s_docstring_has_the_form_of_its_page(kind: str) -> None:
    module = ALGORITHMS[kind].config.__module__
    title, sections = labelled_sections((ROOT / f"{module.replace('.', '/')}.py").read_text().split('"""')[1])
    assert title.endswith(".")
    assert list(sections) == list(LABELS)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_an_algorithm_s_page_shows_its_results(kind: str) -> None:
    assert "../explanation/benchmarks.md" in GENERATED[f"docs/algorithms/{kind}.md"]


def test_the_command_line_reference_has_every_option() -> None:
    page = GENERATED["docs/reference/command-line.md"]
    group: Any = get_command(app)
    for name, command in group.commands.items():
        assert f"## `fragmesh {name}`" in page
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(option in page for option in parameter.opts)


def test_the_diagrams_of_layers_are_the_contracts() -> None:
    """They may leave a layer out, and keep the order from top to bottom."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = [name for contract in contracts for name in re.findall(r"[\w.]+", " ".join(contract.get("layers", ())))]
    diagrams = re.findall(r"^```\n(\w+ .*?)^```", TEXTS["CONTRIBUTING.md"], re.MULTILINE | re.DOTALL)
    assert len(diagrams) == 2
    for diagram in diagrams:
        drawn = re.findall(r"(?:node|orchestrator)\.\w+", diagram)
        assert drawn == sorted(drawn, key=layers.index)


def test_the_modules_are_all_listed_with_a_sentence() -> None:
    page = GENERATED["docs/reference/modules.md"]
    for package in ("node", "orchestrator"):
        for file in (ROOT / package).rglob("[!_]*.py"):
            if file.parent.name != "pb":
                assert re.search(rf"^\| `{re.escape(file.name)}` \| \S", page, re.MULTILINE), file


# --- the example algorithm ----------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The guide's algorithm, registered by the guide's line."""
    algorithm, line, _ = blocks("python", ADD_AN_ALGORITHM)
    module = ModuleType(f"node.algorithms.{EXAMPLE}")
    exec(compile(algorithm, f"{EXAMPLE}.py of add-an-algorithm.md", "exec"), module.__dict__)
    assert f"algorithm.kind={EXAMPLE}" in (module.__doc__ or "")
    entries: dict[str, Entry] = eval("{" + line + "}", vars(registry) | vars(module))
    monkeypatch.setitem(ALGORITHMS, EXAMPLE, entries[EXAMPLE])
    return entries[EXAMPLE]


def test_the_example_s_docstring_has_the_form_of_a_page() -> None:
    algorithm, _, _ = blocks("python", ADD_AN_ALGORITHM)
    _, sections = labelled_sections(algorithm.split('"""')[1])
    assert list(sections) == list(LABELS)


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
        assert [node.counters.rounds for node in world.nodes] == [50] * 6
        assert (world.totals.messages["aggregated"] > 100) == (probability == 1.0)
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
    assert part.totals.messages["aggregated"] > 10
    restore_world(restored, restored.steps._trainer, save_world(part, part.steps._trainer, None, ()), ())  # type: ignore[arg-type]
    restored.advance(10**9)
    assert restored.totals == whole.totals
    assert [node.params.tobytes() for node in restored.nodes] == [node.params.tobytes() for node in whole.nodes]


@pytest.mark.usefixtures("example")
def test_the_example_s_paper_test_passes() -> None:
    _, _, test = blocks("python", ADD_AN_ALGORITHM)
    names: dict[str, Any] = {}
    exec(compile(test, f"test_{EXAMPLE}.py of add-an-algorithm.md", "exec"), names)
    (name,) = [name for name in names if name.startswith("test_")]
    names[name]()


def test_the_steps_name_what_the_algorithm_may_say_of_itself() -> None:
    text = ADD_AN_ALGORITHM
    for name in ("carries", "answers", "rebuilt_attributes", "small_run", "small_graph", "needs_every_message"):
        assert f"`{name}" in text, name
        assert hasattr(AlgorithmConfig, name) or name in Algorithm.__annotations__
