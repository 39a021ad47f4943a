"""Runs in which every node is a new interpreter, started from its file by ``python -m node``: nothing is inherited."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from node.config_file import read_node_config
from orchestrator.results.reader import Run
from tests.integration.started import SMALL, Start, Started, start
from tests.integration.test_process_faults import failure
from tests.integration.test_processes import check_table, done, table_of

__all__ = ["start"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.slow,  # each node loads torch again
]

QUICKSTART: dict[str, Any] = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "deploy" / "experiments" / "quickstart.yaml").read_text()
)
FRESH = "processes={start: fresh, start_timeout_s: 300}"


def until_started(started: Started, count: int) -> dict[int, psutil.Process]:
    """The nodes' processes, once all are interpreters of their own."""

    def all_are() -> bool:
        return len(started.nodes()) == count and all("-P" in one.cmdline() for one in started.nodes().values())

    started.until(all_are)
    return started.nodes()


def check_inherits_nothing(started: Started, count: int) -> None:
    """Every node was told a file and a run, and says in its log what it says of itself."""
    nodes = until_started(started, count)
    run = started.path
    for index, process in nodes.items():
        file = run / "nodes" / f"node-{index:04d}.json"
        assert process.cmdline()[1:] == ["-P", "-m", "node", "--config", str(file), "--run", run.name]
        config = read_node_config(file, run.name)
        assert (config.node, config.network.num_nodes) == (index, count)
        assert config.emulator is not None


DETERMINED = ("sender", "receiver", "kind", "round", "fragment", "payload_bytes")
"""Columns of the message table that time does not decide, of an algorithm whose rounds wait for nobody."""


def queued(run: Run) -> list[tuple[int, ...]]:
    """All messages that were queued, in no order of time."""
    table = table_of(run)
    return sorted(zip(*(table[name].tolist() for name in DETERMINED), strict=True))


def test_the_quickstart_with_nodes_from_their_files(start: Start) -> None:
    """The experiment of the first minutes, five rounds of it: every node queues what it does in the simulator.

    Who gets which fragment of which round is drawn from the seed. What becomes of a message is for time to decide. What
    is sent is encrypted, as it is between containers.
    """
    settings = ("stop={rounds: 5}", "fidelity={allow_unfaithful: true}")
    encrypted = (FRESH, "network.tls=true", *settings)
    started = start(*encrypted, "time_dilation=1", faults="patient_end", experiment=QUICKSTART)
    check_inherits_nothing(started, 8)
    code, _, err = started.end()
    assert code == 0, err
    run = started.run()
    assert run.status == "done"
    assert run.curve["rounds_min"][-1] == run.curve["rounds_max"][-1] == 5
    simulated = done(start(*settings, "runtime=simulation", "time_dilation=null", experiment=QUICKSTART))
    assert queued(run) == queued(simulated)
    table = table_of(run)
    assert set(table["sender"].tolist()) == set(table["receiver"].tolist()) == set(range(8))
    assert np.count_nonzero(table["delivered_ns"] >= 0) > 20
    assert not (run.path / "nodes").exists()
    assert not (run.path / "logs").exists()


def test_they_compute_what_the_simulator_computes(start: Start) -> None:
    """Models after so many rounds, to the bit: data, split, batches and first model come from the file alone."""
    settings = ("algorithm.kind=dpsgd", "topology={kind: ring}", "stop={rounds: 5}", "learning.optimizer.momentum=0.9")
    started = start(FRESH, *settings, "learning.partition={kind: dirichlet, alpha: 0.5}")
    assert started.end()[0] == 0
    real = started.run()
    simulated = done(
        start(*settings, "learning.partition={kind: dirichlet, alpha: 0.5}", "runtime=simulation", "time_dilation=null")
    )
    check_table(table_of(real))
    for name in ("accuracy_mean", "loss_mean", "consensus_distance", "rounds_min", "rounds_max", "train_loss_mean"):
        assert real.curve[name][-1] == simulated.curve[name][-1], name
    assert real.summary is not None
    assert simulated.summary is not None
    assert real.summary["messages"] == simulated.summary["messages"]


def test_a_run_that_was_ended_goes_on_until_a_node_is_killed(start: Start) -> None:
    """With new files, which hold the models that the nodes had. A fresh node's death is noticed as any other."""
    started = start(FRESH, "algorithm.kind=dpsgd", "topology={kind: ring}", "stop={time_s: 100000}")
    check_inherits_nothing(started, 3)
    started.until_it_runs()
    before = json.loads((started.path / "nodes" / "node-0000.json").read_text())
    started.process.send_signal(signal.SIGINT)
    assert started.end()[0] == 130
    path = started.path
    assert json.loads((path / "nodes" / "node-0000.json").read_text()) == before
    stored = np.load(max(path.glob("snapshots/*-n00000.npy")))
    found = len(list(path.glob("snapshots/*-n00000.npy")))
    again = start(resume=path)
    again.until(lambda: json.loads((path / "nodes" / "node-0000.json").read_text()) != before)
    config = read_node_config(path / "nodes" / "node-0000.json", path.name)
    assert config.begin_ns > 0
    assert config.beginning.local_steps > 0
    np.testing.assert_array_equal(config.beginning.params, stored)
    nodes = until_started(again, 3)
    again.until(lambda: len(list(path.glob("snapshots/*-n00000.npy"))) > found)
    nodes[1].kill()
    code, _, err = again.end()
    assert code == 3
    assert failure(err).startswith("failed: node 1 was killed by SIGKILL; dpsgd waits for every message")


def test_a_file_that_is_damaged(start: Start) -> None:
    """The node says so in one line, and so does the run."""
    code, _, err = start(FRESH, faults="damaged_file", experiment=SMALL).end()
    assert code == 3
    line = failure(err)
    assert line.startswith("failed: node 1 ended with code 2 before the start; it said last: error: ")
    assert line.endswith(
        "node-0001.json: digest='0000000000000000'...: must be that of the content: the file is damaged or was changed"
    )
