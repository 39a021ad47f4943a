"""A runtime that is new: its file, its entry in the registry, its description. Nothing else changes.

The three places are written in a copy of the code, where the tables of the README are made anew. The tests that derive
from the tables of runtimes, the import rules, and a run from the command line then pass there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_bad_input import TINY

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("node", "orchestrator", "deploy", "docs", "tests", "fragmesh.py", "pyproject.toml", "README.md")
DERIVED = [
    "tests/unit/test_readme.py",
    "tests/unit/orchestrator/runtimes/test_registry.py",
    "tests/unit/orchestrator/host/test_doctor.py",
    "tests/unit/orchestrator/experiment/test_config.py",
]
"""Tests of whatever is told of runtimes; they pass with any number of them."""

ITS_FILE = '''"""The runtime ``third``: its nodes are simulated, under its own name."""

from pathlib import Path

from orchestrator.experiment.plan import Plan
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runtimes.simulation import resume_simulation, run_simulation


def run_third(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment."""
    return run_simulation(plan, options)


def resume_third(path: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run."""
    return resume_simulation(path, options)
'''

REGISTRY_FUNCTIONS = """def _run_third(plan: Plan, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.third import run_third

    return run_third(plan, options)


def _resume_third(run: Path, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.third import resume_third

    return resume_third(run, options)


def _examine_third(name: str, host: Host) -> Finding:
    return Finding(name, "usable", "ok", "a third one")


"""

DESCRIPTION = """    "third": RuntimeDescription(
        "a third one",
        clock_name="third time",
        real="what a third one has",
        purpose="to show what a runtime touches",
        has_real_links=False,
        tls=False,
    ),
"""


def insert(file: Path, before: str, text: str) -> None:
    """Write a text before the one place that says ``before``."""
    content = file.read_text(encoding="utf-8")
    assert content.count(before) == 1, (file, before)
    file.write_text(content.replace(before, text + before), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with a third runtime."""
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, root)
    (root / "orchestrator/runtimes/third.py").write_text(ITS_FILE, encoding="utf-8")
    registry = root / "orchestrator/runtimes/registry.py"
    insert(registry, "REGISTRY: Final", REGISTRY_FUNCTIONS)
    insert(registry, "}\n\n\ndef start_run", '    "third": Runtime(_run_third, _resume_third, _examine_third),\n')
    descriptions = root / "orchestrator/experiment/runtimes.py"
    insert(descriptions, ']\n"""Values of', ', "third"')
    insert(descriptions, "}\n\n\ndef clock_name", DESCRIPTION)
    python(root, "docs/generated_pages.py")
    return root


def python(root: Path, *arguments: object) -> str:
    """Run Python in the copy, to success; return its output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def test_the_command_line_knows_it(copy: Path) -> None:
    assert "a third one" in python(copy, "-m", "orchestrator.cli", "list")
    found = json.loads(python(copy, "-m", "orchestrator.cli", "doctor", "--json"))
    assert [item["value"] for item in found if item["name"] == "runtime third"] == ["usable"]


def test_it_runs_and_its_report_has_its_clock(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    python(copy, "-m", "orchestrator.cli", "run", file, "--runtime", "third", "--out", tmp_path, "--workers", 0)
    (run,) = tmp_path.glob("tiny-*")
    assert json.loads((run / "summary.json").read_text())["runtime"] == "third"
    assert "third time" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tests_of_runtimes_pass_with_it(copy: Path) -> None:
    output = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *DERIVED)
    assert "test_a_run_starts_in_its_runtime[third]" in output


def test_the_import_rules_hold_with_it(copy: Path) -> None:
    python(copy, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
