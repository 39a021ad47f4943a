"""``python -m node``: what is wrong with a file is one line and exit code 2, before any socket is opened."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import node.__main__ as main_module
from node import build
from node.__main__ import main
from node.config import Beginning, NodeAlgorithm, NodeConfig
from node.config_file import write_node_files
from node.core.compute import ComputePlan
from node.core.errors import RunnerError
from node.core.link_bounds import rate_bounds
from node.core.links import NetworkPlan
from node.core.topology import ring
from node.core.types import NodeId
from node.host.clock import Clock
from node.learning.config import ImageFolderConfig, LearningConfig, LogisticRegressionConfig, SyntheticConfig
from orchestrator.runs.certificates import issue_credentials
from tests.node_files import edit_archive, edit_json

ROOT = Path(__file__).resolve().parents[3]
LEARNING = LearningConfig(
    dataset=SyntheticConfig(samples=30, test_samples=5, features=3, classes=2), model=LogisticRegressionConfig()
)
SIZES = (6, 2)
"""Of the model's tensors on these data."""


def files(folder: Path, **changes: Any) -> list[Path]:
    network = NetworkPlan("access", np.ones(2), np.ones(2))
    topology, compute = ring(2), ComputePlan((1, 1))
    beginning = Beginning(np.zeros(sum(SIZES), dtype=np.float32))
    values: dict[str, Any] = {
        "run_id": "run-1",
        "seed": 1,
        "algorithm": NodeAlgorithm.model_validate({"kind": "dpsgd", "local_steps": 1, "parameters": {}}),
        "tensor_sizes": SIZES,
        "learning": LEARNING,
        "emulator_clock": Clock(0),
        "orchestrator": "127.0.0.1:9",
        "emulator": "@fragmesh-links-nowhere",
        "data_root": None,
        "host": "127.0.0.1",
        "port": 0,
        "advertised": None,
        "delays_arrivals": False,
        "evaluation_interval_ns": 10**9,
        "evaluate_after_training": False,
        "end_ns": 10**9,
        "max_rounds": None,
        "keep_messages": True,
        "start_timeout_s": 0.3,
        "metrics_host": None,
        "peer_labels": True,
        "begin_ns": 0,
        "down_ns": None,
        "pauses": np.zeros((0, 3), dtype=np.int64),
        "rates": rate_bounds(network, 0),
        "train_indices": np.arange(10),
        "credentials": None,
        **changes,
    }
    configs = [
        NodeConfig(
            **values, node=NodeId(index), topology=topology, network=network, compute=compute, beginning=beginning
        )
        for index in range(2)
    ]
    return write_node_files(folder, configs)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return files(tmp_path)[0]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda file: file.unlink(), "node-0000.json: cannot be read: No such file or directory"),
        (lambda file: file.write_text("{"), "node-0000.json: is not JSON: "),
        (lambda file: edit_json(file, lambda c: c.update(version=8)), "node-0000.json: version=8: must be 7"),
        (lambda file: edit_json(file, lambda c: c.update(port=-1)), "node-0000.json: port=-1: must be"),
        (lambda file: edit_json(file, lambda c: c.update(seed=2), sign=False), "node-0000.json: digest="),
        (lambda file: (file.parent / "common.npz").unlink(), "common.npz: cannot be read: "),
        (lambda file: edit_archive(file, "common", lambda a: a.pop("edges")), "common.npz: edges: missing"),
        (
            lambda file: edit_archive(file, "common", lambda a: a.update(params=np.zeros(3, "f4"))),
            "common.npz: params=float32 of shape (3,): must be float32 of shape (8)",
        ),
        (
            lambda file: edit_archive(file, "own", lambda a: a.update(train_indices=np.zeros(3))),
            "node-0000.npz: train_indices=float64 of shape (3,): must be int64 of shape (any)",
        ),
    ],
)
def test_a_file_that_cannot_be(
    file: Path, damage: Callable[[Path], object], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(file)
    assert main(["--config", str(file)]) == 2
    assert said(capsys).startswith(f"{file.parent}/{why}")


def test_a_file_of_another_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(file), "--run", "run-2"]) == 2
    assert said(capsys) == f"{file}: run_id=run-1: must be 'run-2', the run that the node is started for"


def damaged(folder: Path) -> Path:
    path = files(folder)[0]
    (folder / "node-0000.npz").write_bytes(b"damaged")
    return path


def expired(folder: Path) -> Path:
    issued = issue_credentials("run-1", 2, timedelta(seconds=-1))
    return files(folder, credentials=issued.nodes[0])[0]


@pytest.mark.parametrize(
    ("make", "why"),
    [(damaged, "node-0000.npz: sha256="), (expired, "node-0000.pem: certificate of node-0.")],
)
def test_in_an_interpreter_of_its_own_no_socket_is_opened(
    make: Callable[[Path], Path], why: str, tmp_path: Path
) -> None:
    """And nothing large is loaded before the files are known to be sound."""
    file = make(tmp_path)
    code = (
        "import sys\n"
        "from node.__main__ import main\n"
        "def no_socket(event, arguments):\n"
        "    if event == 'socket.__new__': raise SystemExit('a socket was opened')\n"
        "sys.addaudithook(no_socket)\n"
        f"code = main(['--config', {str(file)!r}])\n"
        "assert not {'torch', 'grpc', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/{why}")
    assert done.stderr.count("\n") == 1


def test_a_node_waits_at_its_gate_and_ends_if_nobody_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[NodeConfig] = []
    monkeypatch.setattr(build, "run_built", lambda config, learner: built.append(config) or 0)
    monkeypatch.setattr(build, "log_to_stderr", lambda node: None)
    file, gate = files(tmp_path, emulator=None)[0], tmp_path / "open"
    assert main(["--config", str(file), "--gate", str(gate)]) == 1
    assert said(capsys) == f"{gate}: was not there within 0.3 s: nobody has let this node begin"
    assert built == []
    gate.touch()
    assert main(["--config", str(file), "--gate", str(gate)]) == 0
    assert [config.node for config in built] == [0]


def test_a_node_may_be_asked_to_stay_after_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(build, "run_built", lambda config, learner: done.append("ended") or 3)
    monkeypatch.setattr(build, "log_to_stderr", lambda node: None)
    monkeypatch.setattr("node.__main__.time.sleep", done.append)
    file = files(tmp_path)[0]
    assert main(["--config", str(file), "--linger", "0.75"]) == 3
    assert done == ["ended", 0.75]


def test_no_file_at_all(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "node"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.endswith("the following arguments are required: --config\n")


# --- data that are not there -------------------------------------------------------------------------------


def no_life(*arguments: object) -> int:
    raise AssertionError("the node must not be run")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"train_indices": np.arange(31)},
            "train_indices: has position 30: must be below 30, the samples that are here",
        ),
        (
            {"learning": LEARNING.model_copy(update={"dataset": SyntheticConfig(samples=30, features=4, classes=2)})},
            "tensor_sizes=[6, 2]: must be [8, 2] for the data that are here",
        ),
        ({"data_root": "/nowhere/at/all"}, "data_root=/nowhere/at/all: is not a directory"),
        (
            {"learning": LEARNING.model_copy(update={"dataset": ImageFolderConfig(path="/no/such/folder")})},
            "/no/such/folder: no such image folder",
        ),
    ],
)
def test_other_data_than_the_files(
    tmp_path: Path,
    changes: dict[str, Any],
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "run_built", no_life)
    file = files(tmp_path, **changes)[1]
    assert main(["--config", str(file)]) == 2
    assert said(capsys).startswith(f"{file}: {why}")


def test_a_node_whose_emulator_is_not_there(file: Path) -> None:
    """All is read, loaded and forked: then it says what it cannot reach, and fails."""
    done = subprocess.run(
        [sys.executable, "-m", "node", "--config", str(file), "--run", "run-1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: the link emulator at @fragmesh-links-nowhere cannot be reached: [Errno 111] Connection refused\n"
    )


def test_errors_of_the_run_and_an_interrupt_have_codes(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> int:
        raise RunnerError("broken")

    monkeypatch.setattr(build, "run_built", fail)
    assert main(["--config", str(file)]) == main_module.EXIT_FAILED
    assert said(capsys) == "broken"

    def interrupt(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "run_built", interrupt)
    assert main(["--config", str(file)]) == 130
