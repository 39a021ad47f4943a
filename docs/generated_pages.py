"""The pages that follow from the code: algorithms, experiment file, command line, results, fidelity, exit codes.

They are written when the documentation is built, so that no declaration is told twice.
``python docs/generated_pages.py`` writes them without building, and the README's tables of algorithms and of runtimes.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from inspect import getdoc
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "docs"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from declarations import (  # noqa: E402
    Key,
    attributes,
    choice_lists,
    code,
    command_page,
    first_paragraph,
    key_table,
    keys_of,
    labelled_sections,
    markdown,
    sentence,
    table,
    tag_of,
)
from pydantic import BaseModel  # noqa: E402
from typer.main import get_command  # noqa: E402

from node.algorithms.registry import ALGORITHMS, Entry  # noqa: E402
from node.core.counters import FIGURES  # noqa: E402
from node.metrics import (  # noqa: E402
    ACTIVITIES,
    BYTE_CLASSES,
    NODE_METRICS,
    PREFIX,
    ROUNDS,
    RUN_METRICS,
    SECONDS,
    Metric,
)
from node.transport.control_values import Phase  # noqa: E402
from node.transport.frames import RejectReason  # noqa: E402
from orchestrator.checks import TOLERANCES  # noqa: E402
from orchestrator.cli.commands import app  # noqa: E402
from orchestrator.cli.exit_codes import EXIT_CODES  # noqa: E402
from orchestrator.experiment.config import ExperimentConfig  # noqa: E402
from orchestrator.experiment.runtimes import PLANNED, RUNTIMES  # noqa: E402
from orchestrator.observe.recorded_run import NOT_RECORDED  # noqa: E402
from orchestrator.results import schema  # noqa: E402
from orchestrator.runs.run_readings import RunPhase  # noqa: E402

FOLDERS = ("algorithms", "reference")
"""The folders of ``docs/`` that hold generated pages and nothing else."""

BENCHMARKS = ROOT / "docs" / "explanation" / "benchmarks.md"
"""The page whose tables give each algorithm its results."""


def generated_pages() -> dict[str, str]:
    """Every generated page: path inside ``docs/`` -> Markdown."""
    pages = {f"algorithms/{kind}.md": _algorithm(kind, entry) for kind, entry in ALGORITHMS.items()}
    pages["algorithms/index.md"] = _algorithms()
    pages["reference/experiment-file.md"] = _experiment_file()
    pages["reference/command-line.md"] = _command_line()
    pages["reference/results.md"] = _results()
    pages["reference/fidelity-checks.md"] = _fidelity_checks()
    pages["reference/exit-codes.md"] = _exit_codes()
    pages["reference/figures.md"] = _figures()
    pages["reference/metrics.md"] = _metrics()
    pages["reference/modules.md"] = _modules()
    pages["reference/runtimes.md"] = f"# Runtimes\n\n{_runtimes()}"
    pages["reference/index.md"] = _reference(sorted(path for path in pages if path.startswith("reference/")))
    return {path: text.rstrip() + "\n" for path, text in pages.items()}


def readme(text: str) -> str:
    """The README with the tables of algorithms and of runtimes that the declarations give now."""
    for name, content in (("runtimes", _runtimes()), ("algorithms", _algorithms_with_links())):
        begin, end = f"<!-- {name}: written by docs/generated_pages.py -->\n", "<!-- end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end, 1)
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    return text


def _algorithms_with_links() -> str:
    rows = []
    for kind, entry in ALGORITHMS.items():
        _, sections = labelled_sections(_docstring(entry))
        file = entry.config.__module__.replace(".", "/") + ".py"
        rows.append([code(kind), _idea(entry), _citation(sections["Paper"]), f"[{Path(file).name}]({file})"])
    header = ["`algorithm.kind`", "what it does", "paper", "details, departures, parameters"]
    return table(header, rows)


def _runtimes() -> str:
    rows = [[code(name), described.real, described.purpose] for name, described in RUNTIMES.items()]
    planned = " and ".join(map(code, PLANNED))
    return f"""{table(["`runtime`", "what is real", "what it is for"], rows)}

Planned: {planned}. An experiment that asks for one of these is refused today."""


def write_pages(folder: Path) -> None:
    """Write the generated pages below a folder and remove what is left of earlier ones."""
    pages = generated_pages()
    for name in FOLDERS:
        for old in (folder / name).glob("*.md"):
            if f"{name}/{old.name}" not in pages:
                old.unlink()
    for path, text in pages.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:  # Sphinx reads again what is newer
            file.write_text(text, encoding="utf-8")


def _toctree(names: list[str]) -> str:
    return "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```"


# --- algorithms ----------------------------------------------------------------------------------------------


def _algorithms() -> str:
    rows = []
    for kind, entry in ALGORITHMS.items():
        _, sections = labelled_sections(_docstring(entry))
        rows.append([f"[`{kind}`]({kind}.md)", _idea(entry), _citation(sections["Paper"])])
    return f"""# Algorithms

The key `algorithm.kind` of an experiment file selects one of these. Every page has the same form and is built from the
algorithm's own file.

{table(["`algorithm.kind`", "idea", "paper"], rows)}

[How to add an algorithm](../how-to/add-an-algorithm.md) shows how another one gets here.

{_toctree(list(ALGORITHMS))}
"""


def _idea(entry: Entry) -> str:
    """The summary of an algorithm without the number of its paper, which has a column of its own."""
    return re.sub(r" \(arXiv:[^)]*\)", "", entry.summary)


def _citation(paper: str) -> str:
    """Authors, venue and number of a paper, without its title."""
    found = re.match(r'(.+? et al\.), (?:"[^"]*", )?([^,"]+), (arXiv:\d+\.\d+)', " ".join(paper.split()))
    return ", ".join(found.groups()) if found else "none"


def _docstring(entry: Entry) -> str:
    return sys.modules[entry.config.__module__].__doc__ or ""


def _algorithm(kind: str, entry: Entry) -> str:
    title, sections = labelled_sections(_docstring(entry))
    section = f"algorithm.{kind}"
    file = entry.config.__module__.replace(".", "/") + ".py"
    parts = [f"# `{kind}`", title, f"Implementation: `{file}`."]
    parts += ["## Paper", sections["Paper"]]
    parts += ["## States and events", sections["States"]]
    parts += ["## Parameters", sections["Parameters"], *_keys(entry.config, f"{section}.")]
    parts += ["## Details matched", sections["Details matched"]]
    parts += ["## Departures", sections["Departures"]]
    parts += ["## How to run", *_try_it(sections["Try it"])]
    parts += ["## Results", *_measured(kind)]
    return "\n\n".join(parts)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    keys = keys_of(model, prefix)
    if keys:
        yield key_table(keys)
        yield from choice_lists(keys)


def _try_it(text: str) -> Iterator[str]:
    """The commands of a docstring as a block, and whatever it says besides."""
    commands = re.findall(r"`(fragmesh [^`]+)`", text)
    yield "```sh\n" + "\n".join(" ".join(command.split()) for command in commands) + "\n```"
    rest = re.sub(r"`fragmesh [^`]+`[,.]?", "", text).strip()
    if rest:
        yield rest[:1].upper() + rest[1:]


def _measured(kind: str) -> Iterator[str]:
    """The tables of measured figures that have a row for this algorithm, with the command that prints them."""
    heading = command = told = ""
    for block in re.split(r"\n{2,}", BENCHMARKS.read_text(encoding="utf-8")):
        if block.startswith("#"):
            heading = block.lstrip("# ")
        elif block.startswith("```sh"):
            command = block
        elif block.startswith("|") and f"\n| `{kind}` |" in block:
            if heading != told:
                yield f"From [{heading}](../explanation/benchmarks.md#{_anchor(heading)}):"
                yield command.replace("algorithm.kind=divshare", f"algorithm.kind={kind}")
            told = heading
            yield block.strip()
    if not told:
        yield "No figure of this algorithm has been recorded in [Benchmarks](../explanation/benchmarks.md)."


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- the experiment file -------------------------------------------------------------------------------------


def _experiment_file() -> str:
    top = keys_of(ExperimentConfig)
    parts = [
        "# Experiment file",
        "An experiment file is YAML. A key that does not exist, a value out of its bounds and parts that do not fit"
        " together are refused in one line that names the file, the key, the value and the bound. Units are part of"
        " the keys: `_ms`, `_s`, `_percent`, `_mbps` (10^6 bits a second). `--set a.b=c` changes any key; the value is"
        " YAML.",
        "This page is built from the declarations themselves. `fragmesh list` prints everything that a file can name.",
        "## Top level",
        key_table(top),
    ]
    told: set[str] = set()
    for key in top:
        if key.inner:
            parts += _section(key, 2, told)
    return "\n\n".join(parts)


def _section(key: Key, level: int, told: set[str]) -> Iterator[str]:
    """A section of the file with all that it holds, as far down as it goes.

    A section that several members of a union have is told once; ``told`` holds the paths of those.
    """
    if key.path in told:
        return
    told.add(key.path)
    yield f"{'#' * level} `{key.path}`"
    path = key.path + ("[]" if key.many else "")
    if len(key.inner) == 1:
        yield from _model(key.inner[0], path, level, told)
        return
    yield f"{key.text} It selects which further keys the section has."
    for member in key.inner:
        yield f"{'#' * (level + 1)} `{path}.{': '.join(tag_of(member))}`"
        yield from _model(member, path, level + 1, told)


def _model(model: type[BaseModel], path: str, level: int, told: set[str]) -> Iterator[str]:
    keys = keys_of(model, path + ".")
    yield markdown(getdoc(model))
    if keys:
        yield key_table(keys)
        yield from choice_lists(keys)
    for key in keys:
        if key.inner:
            yield from _section(key, level + 1, told)


# --- the rest of the reference -------------------------------------------------------------------------------


def _reference(pages: list[str]) -> str:
    names = [path.removeprefix("reference/").removesuffix(".md") for path in pages]
    return f"""# Reference

These pages are built from the declarations in the code: what they say is what the code checks, prints and writes.

{_toctree(names)}
"""


def _command_line() -> str:
    group: Any = get_command(app)
    parts = [
        "# Command line",
        f"{group.help} Every command takes `--help`. The [exit codes](exit-codes.md) are the same for all commands.",
        "`fragmesh --version` prints the version. `python -m fragmesh` is the same program, where the command is not on"
        " the path. With `python -m` the working directory comes first: where a `node` or `orchestrator` in it, or in"
        " `PYTHONPATH`, stands in the place of the testbed's package, a line names it (exit code 2). `python -m"
        " orchestrator.cli` can say so of `node` alone: Python looks for `cli` in an `orchestrator` of the user's.",
    ]
    parts += [command_page("fragmesh", name, command) for name, command in group.commands.items()]
    return "\n\n".join(parts)


def _exit_codes() -> str:
    rows = [[code(number), sentence(text)] for number, text in EXIT_CODES.items()]
    return f"""# Exit codes

{table(["code", "meaning"], rows)}

An error that a user can cause is one line on standard error. `FRAGMESH_TRACEBACK=1` shows where a bug of ours happened.
"""


def _results() -> str:
    files = [[code(name), sentence(text)] for name, text in schema.RUN_FILES.items()]
    parts = [
        "# Files of a run",
        "A run leaves a folder `runs/<name>-<date>-<time>-<hash>/`; the hash is that of the experiment.",
        table(["file", "content"], files),
        "Files are written whole or not at all, but for `curve.csv`, which grows by whole lines. Whatever ends a run"
        " leaves a valid partial result.",
    ]
    types = {
        "messages.parquet": {
            name: ", ".join(map(code, kind)) if isinstance(kind, tuple) else code(kind)
            for name, kind in schema.MESSAGE_COLUMNS.items()
        },
        "nodes.parquet": {name: code(kind) for name, kind in schema.NODE_COLUMNS.items()},
        "curve.csv": dict.fromkeys(schema.CURVE_COLUMNS, "number or empty"),
        "faults.csv": dict.fromkeys(schema.FAULT_COLUMNS, "number or empty") | {"action": "text", "what": "text"},
    }
    for file, columns in types.items():
        meanings = schema.COLUMN_MEANINGS[file]
        rows = [[code(name), kind, sentence(meanings[name])] for name, kind in columns.items()]
        parts += [f"## `{file}`", table(["column", "type", "meaning"], rows)]
    return "\n\n".join(parts)


def _figures() -> str:
    where = {"summary": "`summary.json`", "nodes": "`nodes.parquet`", "fidelity": "`fidelity.json`"}
    rows = [[code(name), figure.unit, where[figure.shown], sentence(figure.help)] for name, figure in FIGURES.items()]
    return f"""# Figures of a node

A node counts these, and they keep their names from the node to the files of a run.
[Add a figure](../how-to/add-a-figure.md) tells how another one gets here.

{table(["figure", "unit", "shown in", "meaning"], rows)}
"""


def _exported(name: str) -> str:
    reason = NOT_RECORDED.get(name.removeprefix(PREFIX))
    return "yes" if reason is None else f"no: {reason}"


def _metrics() -> str:
    def rows(metrics: Mapping[str, Metric]) -> list[list[str]]:
        return [
            [
                code(metric.name),
                metric.kind,
                ", ".join(map(code, metric.labels)),
                sentence(metric.help),
                _exported(metric.name),
            ]
            for metric in metrics.values()
        ]

    header = ["family", "kind", "labels", "meaning", "exported"]
    return f"""# Metrics

Nodes and orchestrators of real runs serve these. [Metrics](../explanation/metrics.md) explains how, and what becomes
of them at the end of a run. Durations are testbed time unless the table says otherwise. Every series has the labels
`run`, `runtime`, `experiment` and `algorithm` of its target besides, those of a node also `node` and `group` (`fast` or
`straggler`). The last column is about [exported runs](../how-to/prometheus.md), which have what a run directory keeps.

## Of a node

{table(header, rows(NODE_METRICS))}

## Of a run

{table(header, rows(RUN_METRICS))}

## Values of labels

| label | values |
| --- | --- |
| `activity` | {", ".join(map(code, ACTIVITIES))} |
| `class` of bytes | {", ".join(map(code, BYTE_CLASSES))}, as in `summary.json` |
| `class` of messages | the algorithm's name for them, such as `fragment` |
| `phase` of a node | {", ".join(code(phase.value) for phase in Phase)} |
| `phase` of a run | {", ".join(code(phase.value) for phase in RunPhase)} |
| `reason` | {", ".join(code(reason.value) for reason in RejectReason)} |

## Buckets

| unit | upper bounds |
| --- | --- |
| seconds | {", ".join(f"{bound:g}" for bound in SECONDS)} |
| rounds | {", ".join(f"{bound:g}" for bound in ROUNDS)} |
"""


def _fidelity_checks() -> str:
    meanings = attributes(type(TOLERANCES))
    rows = [[code(f.name), code(f"{getattr(TOLERANCES, f.name):g}"), meanings[f.name]] for f in fields(TOLERANCES)]
    return f"""# Tolerances of fidelity

`fidelity.json` holds requested, achieved and tolerance of each check. [Fidelity](../explanation/fidelity.md)
explains what is checked and why.

{table(["tolerance", "value", "meaning"], rows)}
"""


def _modules() -> str:
    """The layers and import rules of ``pyproject.toml``, and what each module says of itself."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    parts = [
        "# Modules",
        "A layer imports only from the layers below it; those on one line do not import each other. `node` never"
        " imports `orchestrator`.",
        *("```text\n" + "\n".join(names) + "\n```" for names in reversed(layers)),
        "`make check` holds these rules:",
        "\n".join(f"- {contract['name']}." for contract in contracts),
    ]
    for package in ("node", "orchestrator"):
        for folder in sorted({file.parent for file in (ROOT / package).rglob("*.py")} - {ROOT / "node/transport/pb"}):
            name = str(folder.relative_to(ROOT)).replace("/", ".")
            rows = [[code(f"{file.stem}.py"), _first_sentence(file)] for file in sorted(folder.glob("[!_]*.py"))]
            parts += [f"## `{name}`", _first_sentence(folder / "__init__.py"), table(["module", "content"], rows)]
    return "\n\n".join(parts)


def _first_sentence(file: Path) -> str:
    return first_paragraph(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    write_pages(ROOT / "docs")
    file = ROOT / "README.md"
    file.write_text(readme(file.read_text(encoding="utf-8")), encoding="utf-8")
    print(*generated_pages(), sep="\n")
