"""Wrong input from the command line: exit code 2 and one line, before anything is trained or written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli.commands import run_command_line

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy" / "experiments" / "quickstart.yaml"

TINY = """
name: tiny
nodes: 6
algorithm: {kind: local, local_steps: 1}
learning:
  dataset: {kind: synthetic, samples: 60, test_samples: 20, features: 4, classes: 3}
  model: {kind: logistic_regression}
network: {preset: {kind: uniform}}
stop: {rounds: 1}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRAGMESH_DATA", raising=False)
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error of a command that must end with exit code 2."""
    code = run_command_line([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    being_prepared = ("decoding ", "reading ", "downloading ")
    lines = [line for line in captured.err.splitlines() if not line.startswith(being_prepared)]
    assert (code, captured.out) == (2, ""), captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def refuse(capsys: pytest.CaptureFixture[str], file: Path, *overrides: str) -> str:
    """What run says; validate says the same, and nothing is left behind."""
    settings = [part for override in overrides for part in ("--set", override)]
    out = file.parent / "runs"
    message = complaint(capsys, "run", file, *settings, "--out", out, "--workers", 0)
    assert complaint(capsys, "validate", file, *settings) == message
    assert not out.exists() or not list(out.iterdir())
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


# --- the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8: "),
        ("name: a\nname: b", "line 2, column 1: key given twice: name"),
        ("- 1", "must hold keys and values, holds list"),
        (TINY.replace("nodes", "node"), "nodes: missing (and 1 more)"),
        (TINY + "topologie: {kind: ring}", "topologie: unknown key; did you mean topology?"),
        (TINY + "topology: {kind: torus, colums: 3}", "topology.colums: unknown key; did you mean columns?"),
        (TINY + "compute: {step_time_ms: .nan}", "compute.step_time_ms=nan: must be a finite number"),
        (TINY + "compute: {step_time_ms: 5 s}", "compute.step_time_ms='5 s': must be a number, without its unit"),
    ],
)
def test_wrong_files(text: str, message: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(text)
    assert refuse(capsys, tiny).startswith(message)


def test_files_that_cannot_be_read(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, reason in ((tiny.parent / "none.yaml", "No such file or directory"), (tiny.parent, "Is a directory")):
        assert refuse(capsys, path) == f"cannot be read: {reason}"
    tiny.write_bytes(b"name: \xe9")
    assert refuse(capsys, tiny) == "cannot be read: is not UTF-8 text"


def within(network: str = "", more: str = "") -> str:
    """The tiny experiment with more in its network section, and more sections."""
    return TINY.replace("{kind: uniform}}", f"{{kind: uniform}}, {network}}}") + more


TRACED = within("traces: [{node: 0, file: input}]")
LISTED = within(more="topology: {kind: edge_list, file: input}")
REGIONS = TINY.replace("{kind: uniform}", "{kind: regions, file: input}, model: pairwise")
RTT = TINY.replace("{kind: uniform}", "{kind: regions, file: input, latency: rtt}, model: pairwise")
TWO = '{"regions": ["a", "b"], "bandwidth_mbps": [[null, %s], [1, null]], "rtt_ms": [[null, %s], [1, null]]}'
HEAD = "time_s,bandwidth_mbps\n"


@pytest.mark.parametrize(
    ("experiment", "content", "message"),
    [
        (TRACED, f"{HEAD}0,1\n1e300,2\n", "input:3: time_s=1e+300: must be a number >= 0, at most 1e+09"),
        (TRACED, f"{HEAD}0,1e300\n", "input:2: bandwidth_mbps=1e+300: must be a number >= 0: 0, or 1e-06"),
        (TRACED, f"{HEAD}0,1e-300\n", "input:2: bandwidth_mbps=1e-300: must be a number >= 0: 0, or"),
        (TRACED, f"{HEAD}0,{'9' * 5000}\n", "input:2: bandwidth_mbps=inf: must be a number >= 0"),
        (TRACED, f"{HEAD}0,1_0\n", "input:2: row=0,1_0: must be two numbers"),
        (TRACED, f"{HEAD}0{',1' * 300_000}\n", "input:2: row=0,1,1,1,"),
        (TRACED, f"{HEAD}0,{'1' * 200_000}\n", "input:2: bandwidth_mbps=inf"),
        (TRACED, HEAD + "0,1\n" * 300_000, "input: must have at most 200,000 rows"),
        (TRACED, f"{HEAD}0,1\0\n", "input: must be a readable text file (line 2 holds a zero byte)"),
        (LISTED, f"0 {'9' * 5000}\n", "input:1: edge=0 9999"),
        (LISTED, "0 1\n" * 200_000, "input:1001: edges=1,001: must be at most 1,000"),
        (LISTED, "0 1\x0b1 2\n", "input:1: edge=0 1 1 2: must be two node numbers"),
        (REGIONS, TWO % ("1e300", "1"), "input: bandwidth_mbps[0][1]=1e+300: must be a number above 0, from 1e-06 to"),
        (REGIONS, TWO % ("1e-300", "1"), "input: bandwidth_mbps[0][1]=1e-300: must be a number above 0"),
        (REGIONS, TWO % ("9" * 400, "1"), "input: bandwidth_mbps[0][1]=9999"),
        (REGIONS, TWO % ("9" * 5000, "1"), "input: must be JSON (a number of 5,000 digits: must have at most 400)"),
        (REGIONS, TWO % ("NaN", "1"), "input: must be JSON (NaN is not a number in JSON)"),
        (REGIONS, TWO % ("[" * 5000, "1"), "input: must be JSON (is nested too deeply)"),
        (REGIONS, TWO % ("[" * 90 + "]" * 90, "1"), "input: bandwidth_mbps[0][1]=[[["),
        (REGIONS, '{"regions": [], "regions": []}', "input: must be JSON (key given twice: regions)"),
        (REGIONS, f'{{"regions": [{",".join(["0"] * 1001)}]}}', "input: regions: must be at most 1000, are 1001"),
        (RTT, TWO % ("1", "1e300"), "input: rtt_ms[0][1]=1e+300: must be a number above 0, to 2e+09"),
    ],
    ids=lambda part: part[:40] if "input" in part else "",
)
def test_wrong_values_in_files(
    experiment: str, content: str, message: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(experiment)
    (tiny.parent / "input").write_text(content)
    said = refuse(capsys, tiny)
    assert f"file={message}" in said
    assert len(said) < 300


@pytest.mark.parametrize("experiment", [TRACED, LISTED, REGIONS], ids=["trace", "edges", "regions"])
def test_files_that_would_never_end(experiment: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny.parent / "input"
    tiny.write_text(experiment)
    os.mkfifo(file)  # nobody writes to it
    refuse(capsys, tiny)
    file.unlink()
    file.symlink_to("/dev/zero")
    assert refuse(capsys, tiny).endswith("must be a readable text file (is neither a file nor a pipe)")
    file.unlink()
    with file.open("wb") as large:
        large.truncate(2**30)
    assert refuse(capsys, tiny).endswith("(holds 1,073,741,824 bytes, must be at most 16,777,216)")


def test_a_byte_order_mark_is_left_out(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {TRACED: f"{HEAD}0,1\n", LISTED: "0 1\n1 2\n2 3\n3 4\n4 5\n", REGIONS: TWO % ("1", "1")}
    for experiment, content in inputs.items():
        tiny.write_text(experiment, encoding="utf-8-sig")
        (tiny.parent / "input").write_text(content, encoding="utf-8-sig")
        assert run_command_line(["validate", str(tiny)]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("compute: {step_time_ms: 1.0e+12, slowdown: {1: 1000}}", "compute.step_time_ms=1e+12: must be less: a round"),
        ("compute: {step_time_ms: 1.0e+12, stragglers: {count: 1, factor: 2}}", "compute.step_time_ms=1e+12: must"),
        ("compute: {slowdown: {1: 1e300}}", "compute.slowdown.1=1e+300: must be at most 1e+06"),
        ("topology: &t {kind: ring, x: *t}", "line 10, column 30: found undefined alias: *t"),
        ("compute: {step_time_ms: 1:30}", "line 10, column 25: 1:30: must be a decimal number"),
        ("output: {messages: yes}", "line 10, column 20: yes: must be true or false"),
        (f"output: {{targets: [{'0.5, ' * 1001}]}}", "output.targets=[0.5, 0.5, "),
    ],
    ids=lambda part: str(part)[:50],
)
def test_numbers_that_do_not_go_together(
    more: str, message: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.replace("stop: {rounds: 1}", "stop: {rounds: 1, time_s: 1e7}") + more)
    assert refuse(capsys, tiny).startswith(message)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("sender: {kind: parallel, transfers: 10000000000}", "sender.transfers=10000000000: must be at most"),
        ("traces: [{node: 0, file: a}, {node: 0, file: b}]", "traces[1].node=0: must be another one: its uplink"),
        (
            "traces: [{node: 0, file: a, direction: down}, {node: 0, file: b}]",
            "traces[1].node=0: must be another one: its downlink follows traces[0]",
        ),
        ("traces: [{pair: [0, 1], file: a}, {pair: [0, 1], file: b}]", "traces[1].pair=[0, 1]: must be another one"),
    ],
)
def test_traces_that_do_not_go_together(
    network: str, message: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(within(network))
    assert refuse(capsys, tiny).startswith(f"network.{message}")


# --- what shows only with the data --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nodes=61"], "nodes=61: must be at most the number of training samples, 60"),
        (["learning.partition={kind: k_shards, shards: 50}"], "learning.partition.shards=50: 6 nodes x 50 shards need"),
        (
            ["learning.partition={kind: dirichlet, alpha: 1}", "nodes=61"],
            "nodes=61: must be at most the number of train",
        ),
        (
            [
                "learning.dataset={kind: synthetic_ratings, users: 5}",
                "learning.model={kind: matrix_factorization}",
                "learning.partition={kind: by_user}",
            ],
            "nodes=6: must be at most the number of users, 5",
        ),
        (
            ["learning.dataset={kind: synthetic_ratings, items: 5}", "learning.model={kind: matrix_factorization}"],
            "learning.dataset.ratings_per_user=20: must be at most learning.dataset.items=5",
        ),
        (
            ["algorithm={kind: divshare, divshare: {omega: 0.001, recipients: 2}}"],
            "algorithm.divshare.omega=0.001: gives 1000 fragments, must be at most 12",
        ),
        (["learning.model={kind: cnn}"], "learning.model.kind=cnn: needs images, but"),
        (["learning.dataset={kind: image_folder, path: none}"], "none: no such image folder"),
        (["learning.dataset={kind: image_folder, path: tiny.yaml}"], "tiny.yaml"),
        (["learning.dataset={kind: image_folder, path: /dev/zero}"], "/dev/zero: is a device, a pipe or a socket"),
        (
            [f"learning.dataset={{kind: image_folder, path: {'x' * 300}}}"],
            "learning.dataset.kind=image_folder: cannot be",
        ),
        (["algorithm={kind: adpsgd}"], "algorithm.adpsgd.roles=bipartite: the topology must be bipartite"),
        (
            ["algorithm={kind: epidemic, epidemic: {recipients: 6}}"],
            "algorithm.epidemic.recipients=6: must be at most 5",
        ),
    ],
    ids=lambda part: str(part)[:60],
)
def test_what_does_not_fit(
    overrides: list[str],
    message: str,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert refuse(capsys, tiny, *overrides).startswith(message)


def test_pictures_of_the_wrong_size(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        (tiny.parent / "grey" / part / "a").mkdir(parents=True)
        for number in range(6):
            Image.fromarray(np.zeros((2, 3), np.uint8)).save(tiny.parent / "grey" / part / "a" / f"{number}.png")
    monkeypatch.setenv("FRAGMESH_DATA", str(tiny.parent))
    folder = "learning.dataset={kind: image_folder, path: grey}"
    assert refuse(capsys, tiny, folder, "learning.model={kind: cnn}").endswith(
        "needs images of at least 4x4, got 1x2x3"
    )
    assert "needs images of 3x32x32, got 1x2x3" in refuse(capsys, tiny, folder, "learning.model={kind: gn_lenet}")


@pytest.mark.parametrize(("kind", "model"), [("cifar10", "cnn"), ("movielens", "matrix_factorization")])
def test_data_that_cannot_be_had(
    kind: str, model: str, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without files and without a network the answer says where files would be found, after one attempt at the door."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    arguments = ("--set", f"learning.dataset={{kind: {kind}}}", "--set", f"learning.model={{kind: {model}}}")
    message = complaint(capsys, "run", tiny, *arguments, "--out", tiny.parent / "runs", "--workers", 0)
    assert message.startswith(f"{tiny}: learning.dataset.kind={kind}: found n")
    assert str(tiny.parent / "cache" / "data") in message
    assert "FRAGMESH_DATA" in message
    assert not (tiny.parent / "runs").exists()


# --- folders and options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/fragmesh"])
def test_an_output_folder_that_cannot_be_made(out: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny.parent / "file").write_text("in the way")
    path = tiny.parent / out
    message = complaint(capsys, "run", tiny, "--out", path, "--workers", 0)
    assert message.startswith(f"out={path}: cannot be written: ")
    assert (tiny.parent / "file").read_text() == "in the way"


def test_a_data_root_that_is_none(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tiny, tiny.parent / "none"):
        for command in (["run", tiny], ["validate", tiny], ["doctor"]):
            assert complaint(capsys, *command, "--data-root", path) == f"--data-root={path}: is not a directory"
    monkeypatch.setenv("FRAGMESH_DATA", str(tiny))
    assert complaint(capsys, "run", tiny) == f"FRAGMESH_DATA={tiny}: is not a directory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'FILE'"),
        (["run", "FILE", "--workers", "-1"], "Invalid value for '--workers'"),
        (["run", "FILE", "--seed", "x"], "Invalid value for '--seed'"),
        (["run", "FILE", "--seed", "-1"], "FILE: seed=-1: must be at least 0"),
        (["run", "FILE", "--runtime", "cloud"], "FILE: runtime=cloud: must be one of simulation"),
        (["run", "FILE", "--sett", "a=b"], "No such option: --sett"),
        (["run", "FILE", "--set", "nodes"], "--set nodes: must look like key.key=value"),
        (["run", "FILE", "--set", "nodes.x=1"], "--set nodes.x=1: nodes is 6 and has no keys"),
        (["run", "FILE", "--set", "a\nb=1"], "FILE: 'a\\nb': unknown key"),
        (["run", "FILE", "EXTRA"], "Got unexpected extra argument"),
        (["compare"], "Missing argument 'RUN...'"),
        (["compare", "none"], "none: no such run directory"),
        (["compare", "."], ".: not a run directory: curve.csv is missing"),
        (["compare", "none", "--target", "nan"], "--target=nan: must be a finite number"),
        (["report", "none"], "none: no such run directory"),
        (["report", "FILE"], "FILE: an experiment file, must be a run directory: fragmesh run makes one of it and"),
        (["compare", "FILE"], "FILE: an experiment file, must be a run directory"),
        (["run", "--resume", "FILE"], "FILE: an experiment file, must be a run directory"),
        (
            ["run", "FILE", "--set", "network.preset={kind: stragglers, count: 9}"],
            "FILE: nodes=6: must be at least 9, as",
        ),
        (["list", "--jsn"], "No such option: --jsn"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_wrong_arguments(
    arguments: list[str],
    message: str,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny.parent)
    given = [str(tiny) if argument == "FILE" else argument for argument in arguments]
    assert complaint(capsys, *given).startswith(message.replace("FILE:", f"{tiny}:"))


def test_brackets_and_colons_are_printed_as_they_are(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither styles nor an emoji come out of a file's name and a line's number."""
    (tiny.parent / "e[red].txt").write_text("0 1\n" * 99 + "0 99\n")
    message = refuse(capsys, tiny, "topology={kind: edge_list, file: 'e[red].txt'}")
    assert message.startswith("topology.file=e[red].txt:100: edge=0 99: ")


def test_a_bug_is_one_line_too(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("orchestrator.experiment.plan.build_network", broken)
    arguments = ["validate", str(tiny)]
    assert run_command_line(arguments) == 3
    captured = capsys.readouterr()
    assert captured.err == ("failed: ZeroDivisionError: oh no; a bug: FRAGMESH_TRACEBACK=1 shows where it happened\n")
    monkeypatch.setenv("FRAGMESH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run_command_line(arguments)


def test_the_program_itself(tiny: Path) -> None:
    """Once as a process: the exit code, one plain line, nothing on standard output."""
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(tiny), "--set", "nodes=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TERM": "dumb"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tiny}: nodes=0: must be at least 1\n"
