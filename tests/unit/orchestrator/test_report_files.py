"""Figures and tables as files: readable by others, named the same each time, and the same bytes."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from node.core.errors import ConfigError, RunnerError
from orchestrator.comparison import compare
from orchestrator.report.comparison_figures import comparison_plots
from orchestrator.report.comparison_text import comparison_table, comparison_tables, group_labels, ratios_table
from orchestrator.report.drawing import Plot, new_figure, own_settings, to_svg
from orchestrator.report.figure_files import svg_file, write_figures
from orchestrator.report.page import write_report
from orchestrator.report.run_text import run_table
from orchestrator.report.table_files import (
    TextTable,
    check_table_path,
    csv_text,
    latex_escaped,
    latex_text,
    write_tables,
)
from orchestrator.results.reader import load_run
from tests.unit.orchestrator.synthetic_runs import EXPERIMENT, SCHEDULE, write_run

SVG = "{http://www.w3.org/2000/svg}"


def a_plot(title: str = "A <title> & 3 more", note: str = "How to read it: a < b.") -> Plot:
    with own_settings():
        figure, axes = new_figure()
        axes.plot([0, 1], [1, 3], label="a <name> & more")
        axes.set_xlabel("seconds")
        return Plot(title, to_svg(figure), note)


def test_a_figure_is_a_whole_svg_file_with_a_size_and_text_that_is_text() -> None:
    root = ElementTree.fromstring(svg_file(a_plot()).encode())
    assert root.tag == f"{SVG}svg"
    assert (root.get("width"), root.get("height")) == ("446.4pt", "237.6pt")
    assert root.get("viewBox") == "0 0 446.4 237.6"
    assert [child.text for child in root[:2]] == ["A <title> & 3 more", "How to read it: a < b."]
    assert "seconds" in [text.text for text in root.iter(f"{SVG}text")]
    assert not list(root.iter(f"{SVG}script"))


def test_a_figure_as_a_file_has_no_date_and_is_the_same_each_time() -> None:
    texts = {svg_file(a_plot()) for _ in range(2)}
    assert len(texts) == 1
    assert not re.search(r"\b20\d\d-\d\d-\d\d", texts.pop())


def test_all_figures_of_a_run_are_written_under_their_titles(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, samples=3, num_messages=50, schedule=SCHEDULE))
    folder = tmp_path / "a" / "b"
    page = write_report(run, figures=folder).read_text()
    titles = re.findall(r"<h3>([^<]*)</h3>\s*<svg", page)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == len(titles) > 10
    assert {"accuracy-over-time.svg", "who-holds-what.svg"} <= set(names)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for content in before.values():
        ElementTree.fromstring(content)
    write_report(run, figures=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_figures_of_a_comparison_keep_their_names_whatever_the_target(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, name=name, samples=5), messages=False) for name in ("a", "b")]
    names = [
        [path.name for path in write_figures(comparison_plots(runs, compare(runs, target)), tmp_path / "figures")]
        for target in (0.2, 0.3)
    ]
    assert names[0] == names[1]
    assert "time-to-hold-the-target.svg" in names[0]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunnerError, match=r"file/figures: cannot be written: Not a directory"):
        write_figures([a_plot()], tmp_path / "file" / "figures")


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("74.4 ± 6.2 %", r"74.4 $\pm$ 6.2 \%"),
        ("3.33× (0.12 to 94.36), n = 2", r"3.33$\times$ (0.12 to 94.36), n = 2"),
        ("–", "--"),
        ("a_b & c#d $x$ {y}", r"a\_b \& c\#d \$x\$ \{y\}"),
        (r"\input{x}~^", r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}"),
        ("a<b>|c…", r"a\textless{}b\textgreater{}\textbar{}c\ldots{}"),
        ("two\nlines\x00", "two?lines?"),
        ("猫", "猫"),
    ],
)
def test_what_latex_would_take_for_a_command_is_text(text: str, escaped: str) -> None:
    assert latex_escaped(text) == escaped


TABLE = TextTable("of\ntwo & more", ("run", "end", "note"), [("a_1", "3 ± 1 %", "x & y"), ("b", "–", "")], remarks=1)


def test_a_table_of_latex_has_the_rules_of_booktabs_and_a_cell_a_column() -> None:
    lines = latex_text(TABLE).splitlines()
    assert lines[0] == "% of\ufffdtwo & more"
    assert lines[2] == r"\begin{tabular}{@{}lrl@{}}"
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [line for line in lines if line.endswith(r" \\")]
    assert rows == [r"run & end & note \\", r"a\_1 & 3 $\pm$ 1 \% & x \& y \\", r"b & -- &  \\"]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}


def test_a_table_of_csv_is_read_as_it_was() -> None:
    assert [tuple(row) for row in csv.reader(io.StringIO(csv_text(TABLE)))] == [TABLE.header, *TABLE.rows]


def test_a_comparison_has_in_its_files_what_is_printed(tmp_path: Path) -> None:
    other = {**EXPERIMENT, "algorithm": {"kind": "local"}}
    runs = [
        load_run(write_run(tmp_path, name=name, seed=seed, speed=speed, experiment=experiment), messages=False)
        for seed in (1, 2)
        for name, speed, experiment in (("slow_1", 0.02, EXPERIMENT), ("fast", 0.08, other))
    ]
    comparison = compare(runs, 0.4)
    labels = group_labels(runs, comparison)
    for ending in ("tex", "csv"):
        write_tables(tmp_path / f"t.{ending}", comparison_tables(runs, comparison))
    header, rows = comparison_table(comparison, labels)
    with (tmp_path / "t.csv").open() as file:
        assert list(csv.reader(file)) == [header, *rows]
    text = (tmp_path / "t.tex").read_text()
    for row in (*rows, *ratios_table(comparison, labels)[1]):
        assert " & ".join(map(latex_escaped, row)) in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert len(comparison_tables(runs[:1], compare(runs[:1]))) == 1


def test_the_figures_of_a_run_as_a_table(tmp_path: Path) -> None:
    table = run_table(load_run(write_run(tmp_path), messages=False))
    assert {len(row) for row in table.rows} == {len(table.header)}
    values = {name: value for name, value, _ in table.rows}
    assert values["cancelled"] == "25.0 %"
    assert re.fullmatch(r"[\d.]+ s", values["time to 50.0 %"])
    assert values["time to 90.0 %"] == values["bytes to 90.0 %"] == "–"


def test_a_place_for_a_table_is_checked(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path, message in (
        (tmp_path / "a.txt", "must end in .tex or .csv"),
        (tmp_path / "folder.csv", "is a directory"),
        (tmp_path / "none" / "a.csv", f"there is no folder {tmp_path / 'none'}"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_table_path("--table", path)
        assert str(caught.value) == f"--table={path}: {message}"
    check_table_path("--table", tmp_path / "a.TEX")
