"""The pages in a real browser, as wide as a desk and as narrow as a phone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.comparison import compare
from orchestrator.report.overlay import render_comparison
from orchestrator.report.page import write_report
from orchestrator.results.reader import load_run
from orchestrator.results.writer import RunWriter
from tests.integration.browser import browser, lay_out
from tests.unit.orchestrator.synthetic_runs import (
    ENVIRONMENT,
    EXPERIMENT,
    FIDELITY,
    SCHEDULE,
    facts,
    instants,
    messages,
    sample,
    totals,
    write_run,
)

PAGE_BYTES_MAX = 5_000_000
LONG = "a_name_without_any_place_to_break_it_" * 3


@pytest.fixture(scope="module", autouse=True)
def _chromium() -> None:
    browser()


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run of 60 nodes for 800 seconds, tested each second, with long names wherever there is one."""
    named = replace(facts(nodes=60, slow=30, name=LONG), schedule=SCHEDULE, command=f"fragmesh run {LONG}.yaml")
    classes = tuple(f"{LONG}{index}" for index in range(10))
    named = replace(named, details={"network": LONG, **named.details}, class_names=classes)
    environment = {**ENVIRONMENT, "data_source": LONG}
    writer = RunWriter.create(tmp_path_factory.mktemp("page"), named, {**EXPERIMENT, "note": LONG}, environment)
    for index in range(801):
        writer.add(replace(sample(index, nodes=60, slow=30), time_ns=index * 10**9))
    ended = replace(totals(nodes=60, slow=30, status="stalled", error=LONG), fault_instants=instants())
    writer.finish(ended, messages(100_000, nodes=60, slow=30), FIDELITY)
    page = write_report(load_run(writer.path)).read_text()
    assert len(page.encode()) < PAGE_BYTES_MAX
    return page


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A comparison of groups of three seeds, one of which has a run that diverged."""
    root = tmp_path_factory.mktemp("pages")
    other = {**EXPERIMENT, "algorithm": {"kind": "local"}}
    runs = [
        load_run(
            write_run(root, name=name, seed=seed, experiment=experiment, status=status, schedule=SCHEDULE),
            messages=False,
        )
        for name, experiment in (("base", EXPERIMENT), (LONG, other))
        for seed, status in ((1, "done"), (2, "done"), (3, "diverged"))
    ]
    return render_comparison(runs, compare(runs, 0.4))


@pytest.fixture(params=["report", "comparison"])
def page(request: pytest.FixtureRequest) -> str:
    text: str = request.getfixturevalue(f"{request.param}_page")
    return text


@pytest.mark.parametrize("width", [390, 1440])
def test_a_page_fits_its_window_and_shows_every_figure(page: str, width: int, tmp_path: Path) -> None:
    layout = lay_out(page, width, tmp_path)
    assert layout.width == width
    assert layout.needed <= width
    assert layout.outside == []
    assert len(layout.pictures) == page.count("<figure>") >= 4
    for picture in layout.pictures:
        assert picture["drawn"] > 5, picture
        assert picture["height"] > 100, picture
        assert picture["width"] > 250, picture
        assert picture["width"] <= width or picture["scrolls"], picture


def broken_width(page: str) -> str:
    return page.replace("</h1>", '</h1><p style="width: 900px">wide</p>', 1)


def broken_picture(page: str) -> str:
    return page.replace("<svg ", '<svg style="display: none" ', 1)


@pytest.mark.parametrize("spoil", [broken_width, broken_picture])
def test_a_page_that_does_not_fit_is_found(spoil: Callable[[str], str], comparison_page: str, tmp_path: Path) -> None:
    layout = lay_out(spoil(comparison_page), 390, tmp_path)
    is_too_wide = layout.needed > 390 and any("wide" in text for text in layout.outside)
    is_hidden = any(picture["width"] == 0 for picture in layout.pictures)
    assert (is_too_wide, is_hidden) == (spoil is broken_width, spoil is broken_picture)
