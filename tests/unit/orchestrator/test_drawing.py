"""Figures whatever is set for matplotlib, and reports whatever becomes of their figures."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report import drawing, figures
from orchestrator.report.drawing import label_text, new_figure, own_settings, to_svg
from orchestrator.report.page import draw_sections, render_report, write_report
from orchestrator.report.text import printable
from orchestrator.results.reader import load_run
from orchestrator.results.writer import RunWriter
from orchestrator.runs.options import report
from tests.unit.orchestrator.synthetic_runs import ENVIRONMENT, EXPERIMENT, facts, messages, sample, totals, write_run

ROOT = Path(__file__).resolve().parents[3]


def few_figures(path: Path) -> Path:
    """A run directory whose report is quick to draw."""
    return write_run(path, samples=2, num_messages=20)


def draw_again(run: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """``fragmesh report`` in a process of its own, in whose environment matplotlib is imported."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "report", str(run)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def run_and_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A run, and its report as it is drawn where nothing is set."""
    path = few_figures(tmp_path_factory.mktemp("drawn"))
    assert draw_again(path, path).returncode == 0
    return path, (path / "report.html").read_bytes()


SETTINGS = b"""text.usetex: True
font.family: No Such Font
font.size: 30
lines.linewidth: 9
backend: TkAgg
interactive: True
axes.formatter.use_locale: True
savefig.format: nonsense
nonsense
"""


@pytest.mark.parametrize(
    ("text", "is_named", "backend"),
    [
        (SETTINGS, False, "module://matplotlib_inline.backend_inline"),
        (SETTINGS, True, "nonsense"),
        (b"# gr\xfc\xdfe\n", False, ""),
    ],
    ids=["beside", "named", "of another encoding"],
)
def test_neither_a_file_of_settings_nor_a_backend_changes_a_byte_of_a_report(
    text: bytes, is_named: bool, backend: str, run_and_page: tuple[Path, bytes], tmp_path: Path
) -> None:
    run, expected = run_and_page
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "elsewhere" if is_named else tmp_path
    (folder / "matplotlibrc").write_bytes(text)
    environment = {"MATPLOTLIBRC": str(folder)} if is_named else {}
    done = draw_again(run, tmp_path, **environment, **({"MPLBACKEND": backend} if backend else {}))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (run / "report.html").read_bytes() == expected


def test_without_matplotlib_a_report_has_its_tables_and_says_what_is_missing(tmp_path: Path) -> None:
    run = few_figures(tmp_path)
    broken = tmp_path / "broken" / "matplotlib"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libfreetype.so.6: cannot open')\n")
    done = draw_again(run, tmp_path, PYTHONPATH=f"{broken.parent}:{ROOT}")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"figures are missing: no figures: ImportError: libfreetype.so.6: cannot open" in done.stderr
    page = (run / "report.html").read_text()
    assert "<svg" not in page
    assert "Figures are missing:" in page
    assert "libfreetype" in page
    assert "How to reproduce" in page


def test_settings_of_other_code_are_neither_used_nor_lost(tmp_path: Path) -> None:
    run = load_run(few_figures(tmp_path))
    expected = render_report(run)
    with drawing.matplotlib.rc_context({"lines.linewidth": 9.0, "text.usetex": True, "font.family": "No Such Font"}):
        before = dict(drawing.matplotlib.rcParams.copy())
        assert render_report(run) == expected
        assert dict(drawing.matplotlib.rcParams.copy()) == before


def draw_names(names: tuple[str, ...]) -> str:
    """A figure with names as labels of a line and of ticks."""
    with own_settings():
        figure, axes = new_figure()
        for name in names:
            axes.plot([0, 1], label=label_text(name))
        axes.set_yticks(range(len(names)), [label_text(name) for name in names])
        drawing.add_legend(axes)
        return str(to_svg(figure))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x^2$", "$x^2$"),
        ("$", "$"),
        (r"\frac{", r"\frac{"),
        ("_hidden", "_hidden"),
        ("a_b", "a_b"),
        ("猫", "猫"),
        ("قطة", "قطة"),
        ("a<b>&c", "a&lt;b&gt;&amp;c"),
        ("two\nlines\x07", "two\ufffdlines\ufffd"),
        ("x" * 300, "x" * 39 + "…"),
        ("\udcff", "\ufffd"),
    ],
)
def test_a_name_is_text(name: str, shown: str) -> None:
    drawn = draw_names((name, "plain"))
    assert drawn.count(shown) >= 2  # once in the legend, once as a tick
    assert ">plain<" in drawn


def test_an_empty_name_can_be_drawn() -> None:
    assert ">plain<" in draw_names(("", "plain"))


def test_what_cannot_be_printed_is_marked() -> None:
    assert printable("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert printable("four", 4) == "four"
    assert printable("fives", 4) == "fiv…"


def test_a_report_shows_names_of_classes_as_they_are(tmp_path: Path) -> None:
    names = ("$\\alpha$", "_b", "猫", "a\nb", "$", *(f"${index}" for index in range(5)))
    writer = RunWriter.create(tmp_path, replace(facts(), class_names=names), EXPERIMENT, ENVIRONMENT)
    writer.add(sample(0))
    writer.finish(totals(), messages())
    told: list[str] = []
    page = write_report(load_run(writer.path), told.append).read_text()
    assert told == []
    for name in ("$\\alpha$", "_b", "猫", "a\ufffdb"):
        assert f">{name}<" in page or f"> {name}<" in page


def fails(run: Any) -> None:
    raise RuntimeError("Failed to process string with tex\nbecause latex could not be found")


def test_one_figure_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(few_figures(tmp_path))
    whole, none = draw_sections(run)
    assert none == []
    monkeypatch.setattr(figures, "LEARNING_FIGURES", (*figures.LEARNING_FIGURES[:1], fails, fails))
    sections, problems = draw_sections(run)
    assert problems == ["Learning, fails: RuntimeError: Failed to process string with tex"] * 2
    assert sections[1:] == whole[1:]
    told: list[str] = []
    page = write_report(run, told.append).read_text()
    assert told == ["Learning, fails: RuntimeError: Failed to process string with tex; and 1 more"]
    assert "Figures are missing:" in page
    assert "<h3>Accuracy over time</h3>" in page
    assert "<h3>Rounds per node</h3>" in page


def test_a_report_that_fails_is_told_and_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = few_figures(tmp_path)
    assert report(run) is None

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("orchestrator.report.page.write_report", full)
    assert report(run) == "MemoryError: MemoryError"
    (run / "curve.csv").unlink()
    told = report(run)
    assert told is not None
    assert "curve.csv is missing" in told


def environment_of_import() -> Mapping[str, str]:
    return {name: os.environ.get(name, "") for name in ("MPLBACKEND", "MATPLOTLIBRC")}


def test_the_import_leaves_the_environment_and_the_directory_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.report.matplotlib_import import import_matplotlib

    seen = {}

    def look(name: str) -> Any:
        seen.update(environment_of_import(), cwd=os.getcwd())
        raise ImportError("no such module")

    (tmp_path / "matplotlibrc").write_text("text.usetex: True")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "module://x")
    monkeypatch.delenv("MATPLOTLIBRC", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setattr("orchestrator.report.matplotlib_import.importlib.import_module", look)
    with pytest.raises(ImportError):
        import_matplotlib()
    assert seen["MPLBACKEND"] == "agg"
    assert seen["cwd"] != str(tmp_path)
    assert os.getcwd() == str(tmp_path)
    assert environment_of_import() == {"MPLBACKEND": "module://x", "MATPLOTLIBRC": ""}
