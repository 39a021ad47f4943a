"""``fragmesh export``: figures of a run as series agree with its summary, and what cannot be exported is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.metrics import PREFIX
from orchestrator.cli.commands import run_command_line
from orchestrator.results.reader import Run, load_run
from orchestrator.results.schema import JsonObject
from tests.integration.simulated import SETTINGS, Recordings
from tests.unit.orchestrator.observe.openmetrics_text import read, total_of

FATES = ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost")


HAPPENS: dict[str, Callable[[JsonObject], int]] = {
    "packets that are sent again": lambda summary: summary["bytes"]["retransmitted"],
    "messages that are lost": lambda summary: summary["bytes_lost"],
    "transfers that are aborted": lambda summary: summary["bytes"]["wasted"],
    "nodes that crash": lambda summary: summary["messages"]["lost"],
}


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_command_line(["export", *map(str, arguments)])
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("setting", SETTINGS)
def test_final_values_are_those_of_the_summary_to_the_digit(
    setting: str, recordings: Recordings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recordings.copy(tmp_path, setting)
    code, out, err = export(capsys, "--openmetrics", run.path, "--json")
    assert code == 0, err
    told = json.loads(out)
    families = read(Path(told["file"]).read_text())
    assert told["families"] == list(families)
    summary = run.summary
    assert summary is not None
    for fate in FATES:
        assert total_of(families[f"{PREFIX}messages_{fate}_total"]) == summary["messages"][fate], fate
    for name, size in summary["bytes"].items():
        assert total_of(families[f"{PREFIX}sent_bytes_total"], **{"class": name}) == size, name
    assert total_of(families[f"{PREFIX}lost_bytes_total"]) == summary["bytes_lost"]
    assert total_of(families[f"{PREFIX}local_steps_total"]) == summary["train_steps"]
    rates = {sample.value for sample in families[f"{PREFIX}link_configured_rate_bytes_per_second"]}
    assert max(rates) == 0.1 * 125_000, "the links of the experiment"
    assert HAPPENS[setting](summary) > 0, "the setting has what it is for"
    assert told["end_unix_s"] - told["begin_unix_s"] == pytest.approx(summary["time_s"], abs=1e-3)


# -- where it goes, and when it begins -------------------------------------------------------------------------


@pytest.fixture
def run(recordings: Recordings, tmp_path: Path) -> Run:
    return recordings.copy(tmp_path, "messages that are lost")


def test_it_is_written_into_the_run_or_where_it_is_wanted_or_printed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = export(capsys, "--openmetrics", run.path)
    assert code == 0
    assert f"promtool tsdb create-blocks-from openmetrics {run.path / 'openmetrics.txt'} DATA_FOLDER" in out
    assert "left out: fragmesh_local_steps_seconds: single blocks of local steps are not kept" in err
    text = (run.path / "openmetrics.txt").read_text()
    assert export(capsys, "--openmetrics", run.path, "--out", tmp_path / "x.txt")[0] == 0
    assert (tmp_path / "x.txt").read_text() == text
    assert export(capsys, "--openmetrics", run.path, "--out", "-") == (0, text, "")


@pytest.mark.parametrize(
    ("start", "unix_s"),
    [
        ("1700000000.5", 1700000000.5),
        ("2026-03-01T12:00:00+01:00", 1772362800.0),
        ("2026-03-01T11:00:00Z", 1772362800.0),
    ],
)
def test_it_begins_when_it_is_told_to(run: Run, start: str, unix_s: float, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = export(capsys, "--openmetrics", run.path, "--start", start, "--json")
    assert code == 0
    assert json.loads(out)["begin_unix_s"] == unix_s


def test_it_begins_with_another_run_so_that_both_lie_over_each_other(
    run: Run, recordings: Recordings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = recordings.copy(tmp_path, "nodes that crash")
    begins = [
        json.loads(export(capsys, "--openmetrics", run.path, "--json", *more)[1])["begin_unix_s"]
        for more in ((), ("--start", other.path))
    ]
    its_own = json.loads(export(capsys, "--openmetrics", other.path, "--json")[1])["begin_unix_s"]
    assert begins[0] != begins[1] == its_own


def test_an_end_in_the_future_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Prometheus scrapes nothing until then" not in export(capsys, "--openmetrics", run.path)[2]
    later = export(capsys, "--openmetrics", run.path, "--start", "2150-01-01")
    assert later[0] == 0
    assert "Prometheus scrapes nothing until then" in later[2]


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "must be given a form: --openmetrics"),
        (("--openmetrics", "--step-s", "0"), "--step-s=0.0: must be a finite number above 0"),
        (("--openmetrics", "--step-s", "nan"), "--step-s=nan: must be a finite number above 0"),
        (("--openmetrics", "--step-s", "1e-9"), "--step-s=1e-09: must be at least 0.001 for a run of"),
        (("--openmetrics", "--start", "noon"), "--start=noon: must be a time as 2026-03-01T12:00:00"),
        (("--openmetrics", "--start", "12"), "--start=12: must be between the years 1971 and 2199"),
        (("--openmetrics", "--start", "inf"), "--start=inf: must be between the years 1971 and 2199"),
        (
            ("--openmetrics", "--out", "/no/such/folder/x"),
            "--out=/no/such/folder/x: there is no directory /no/such/folder",
        ),
        (("--openmetrics", "--out", "/proc/x"), "/proc/x: cannot be written"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = export(capsys, run.path, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (run.path / "openmetrics.txt").exists()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, says in ((tmp_path / "none", "no such run directory"), (tmp_path, "not a run directory: curve.csv")):
        code, out, err = export(capsys, "--openmetrics", path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert says in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_messages_has_the_rest_and_says_so(
    recordings: Recordings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recordings.copy(tmp_path, "nodes that crash", "output.messages=false")
    code, _, err = export(capsys, "--openmetrics", run.path)
    assert code == 0
    assert "messages.parquet is missing: output.messages is false, or the run was killed" in err
    families = read((run.path / "openmetrics.txt").read_text())
    assert f"{PREFIX}test_accuracy" in families
    assert f"{PREFIX}messages_sent_total" not in families
    assert load_run(run.path).summary == run.summary
