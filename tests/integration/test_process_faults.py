"""Whatever goes wrong in a run of real processes, it ends in time, says so in one line, and leaves nothing behind."""

import json
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from node.core.messages import MessageState
from node.transport.control_values import CONTROL_VERSION
from node.transport.frames import WIRE_VERSION
from tests.integration.started import ENDLESS, Start, Started, free_ports, start

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

DPSGD = "algorithm.kind=dpsgd"
RING = "topology={kind: ring}"


def failure(err: str) -> str:
    """The one line that says why."""
    (line,) = [line for line in err.splitlines() if line.startswith(("failed: ", "error: "))]
    return line


def fidelity(started: Started) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((started.path / "fidelity.json").read_text())
    return content


# --- before the start -----------------------------------------------------------------------------------------


def test_a_port_that_is_taken(start: Start) -> None:
    port = free_ports(3) + 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, _, err = (started := start(f"processes.base_port={port - 1}")).end()
    assert code == 3
    assert re.fullmatch(rf"failed: node 1 .*127\.0\.0\.1:{port}: .*taken.*", failure(err)), err
    assert started.run().status == "failed"


def test_a_node_that_is_killed_before_the_start(start: Start) -> None:
    code, _, err = start(faults="killed_before_start").end()
    assert code == 3
    assert failure(err) == "failed: node 1 was killed by SIGKILL before the start"


def test_a_bug_in_a_node(start: Start) -> None:
    code, _, err = start(faults="bug_in_node").end()
    assert code == 3
    line = failure(err)
    assert line.startswith("failed: node 1 ended with code 1 before the start; it said last: ")
    assert "LookupError: something that nobody thought of" in line


def test_a_node_that_never_gets_ready(start: Start) -> None:
    code, _, err = start("processes.start_timeout_s=1", faults="stuck_before_start,patient_start").end()
    assert code == 3
    assert failure(err) == "failed: node 1 did not come to 'ready' within 4 s (1: never registered)"


def test_a_node_that_is_slow_to_start(start: Start) -> None:
    code, _, err = start(faults="late_to_start").end()
    assert code == 0, err


def test_a_node_of_another_version(start: Start) -> None:
    code, _, err = start(faults="other_version").end()
    assert code == 3
    versions = f"{CONTROL_VERSION} and {WIRE_VERSION}"
    pattern = rf"node 1 .*control version 77 and wire version {WIRE_VERSION} .*must be {versions}"
    assert re.search(pattern, failure(err))


def test_a_peer_of_another_version(start: Start) -> None:
    code, _, err = start("processes.start_timeout_s=1", faults="other_wire_version,patient_start").end()
    assert code == 3
    assert re.search(rf"node 1 .*wire_version 77: must be {WIRE_VERSION}", failure(err)), err


def test_a_peer_that_cannot_be_reached(start: Start) -> None:
    code, _, err = start("processes.start_timeout_s=1", faults="unreachable,patient_start").end()
    assert code == 3
    assert "node 1 cannot be reached" in failure(err)


# --- in the middle of a run -----------------------------------------------------------------------------------


def test_a_node_is_killed_and_divshare_goes_on(start: Start) -> None:
    started = start("stop={time_s: 3}", faults="kill:model:2")  # after 0.25 s
    code, _, err = started.end()
    assert code == 0
    assert "node 1 was killed by SIGKILL; going on without it" in err
    run = started.run()
    assert run.status == "done"
    assert fidelity(started)["died"] == {"1": "was killed by SIGKILL"}
    assert "node 1" in fidelity(started)["statement"]
    assert run.times_s[-1] == 3.0
    assert run.nodes is not None
    last = run.nodes["node"][run.nodes["time_ns"] == 3_000_000_000]
    assert sorted(last.tolist()) == [0, 2]
    assert run.messages is not None
    assert set(run.messages["sender"].tolist()) == {0, 2}
    to_the_dead = run.messages["receiver"] == 1
    assert set(run.messages["state"][to_the_dead].tolist()) & {MessageState.LOST, MessageState.IN_FLIGHT}
    others = run.messages["queued_ns"][run.messages["sender"] == 0]
    assert others.max() > 2.5e9  # they went on
    assert (started.path / "logs" / "node-0001.log").is_file()


def test_a_node_is_killed_and_dpsgd_cannot_go_on(start: Start) -> None:
    started = start(ENDLESS, DPSGD, RING)
    started.until_it_runs()
    started.nodes()[1].kill()
    code, _, err = started.end()
    assert code == 3
    assert failure(err) == "failed: node 1 was killed by SIGKILL; dpsgd waits for every message"
    run = started.run()
    assert run.status == "failed"
    assert len(run.times_s) >= 2
    assert run.messages is not None


@pytest.mark.parametrize(
    ("policy", "kind", "expected"), [("fail", "divshare", "failed"), ("continue", "dpsgd", "stalled")]
)
def test_what_a_nodes_death_means_can_be_chosen(policy: str, kind: str, expected: str, start: Start) -> None:
    """It can also be chosen for an algorithm that waits for every message; the others then wait for good."""
    settings = ("stop={time_s: 4}", f"algorithm.kind={kind}", RING, f"processes.on_node_death={policy}")
    started = start(*settings, faults="kill:model:2")
    code, _, err = started.end()
    assert (code, started.run().status) == (3, expected), err
    if expected == "failed":
        assert failure(err) == "failed: node 1 was killed by SIGKILL"
    else:
        assert re.search(
            r"stalled: every node waits for another one \(node 0.* waits for models of round \d+ from", err
        )
        assert fidelity(started)["died"] == {"1": "was killed by SIGKILL"}


def test_all_nodes_are_killed(start: Start) -> None:
    started = start(ENDLESS)
    started.until_it_runs()
    for process in started.nodes().values():
        process.kill()
    code, _, err = started.end()
    assert code == 3
    assert "all nodes have ended" in failure(err)


def test_a_training_worker_is_killed(start: Start) -> None:
    started = start("stop={time_s: 3}", faults="kill_worker:model:2")
    code, _, err = started.end()
    assert code == 0
    (note,) = [line for line in err.splitlines() if "going on without it" in line]
    assert re.search(r"training worker \d+ was killed by signal 9", note)
    assert list(fidelity(started)["died"]) == ["1"]


def test_the_link_emulator_is_killed(start: Start) -> None:
    started = start(ENDLESS)
    started.until_it_runs()
    started.emulator().kill()
    code, _, err = started.end()
    assert code == 3
    assert "link emulator" in failure(err)
    assert "SIGKILL" in failure(err)
    assert started.run().status == "failed"


def test_the_orchestrator_is_killed(start: Start) -> None:
    started = start(ENDLESS, "evaluation.live=true", workers=1)
    started.until_it_runs()
    started.until_lines(3)
    processes = started.left()
    assert len(processes) == 1 + 1 + 1 + 2 * 3  # itself, its worker, the emulator, nodes and their workers
    started.process.kill()
    code, _, _ = started.end()  # which waits until all have gone
    assert code == -signal.SIGKILL
    run = started.run()
    assert run.status == "partial"
    assert len(run.times_s) >= 2


SIGNALS = [
    pytest.param(True, signal.SIGINT, id="ctrl-c"),
    pytest.param(False, signal.SIGINT, id="kill-int", marks=pytest.mark.long),
    pytest.param(True, signal.SIGTERM, id="end-of-job"),
    pytest.param(False, signal.SIGTERM, id="kill-term", marks=pytest.mark.long),
    pytest.param(True, signal.SIGHUP, id="closed-terminal"),
]


@pytest.mark.parametrize(("to_all", "number"), SIGNALS)
def test_a_signal_ends_a_run_in_good_order(to_all: bool, number: int, start: Start) -> None:
    started = start(ENDLESS)
    started.until_it_runs()
    if to_all:
        started.send_to_all(number)
    else:
        started.process.send_signal(number)
    code, out, err = started.end()
    assert code == 130, err
    assert "interrupted" in out
    run = started.run()
    assert run.status == "interrupted"
    assert run.summary is not None
    assert run.summary["error"] is None
    assert run.summary["evaluations"] == len(run.times_s) >= 2
    assert run.messages is not None
    assert len(run.messages["id"]) > 0
    assert (run.path / "report.html").is_file()


@pytest.mark.parametrize("moment", ["held_before_start", "hold:measurement:1"])
def test_a_signal_before_the_start(moment: str, start: Start) -> None:
    """A node has not come yet, or has not measured its links."""
    started = start(ENDLESS, faults=moment)
    started.until_held(moment)
    started.send_to_all(signal.SIGINT)
    code, _, err = started.end()
    assert code == 130, err
    assert started.run().status == "interrupted"


@pytest.mark.parametrize("policy", ["auto", "continue"])
def test_a_node_that_is_stopped(policy: str, start: Start) -> None:
    """It neither dies nor answers: the run ends at its time, says who did not, and is not to be trusted."""
    setting = f"processes.on_node_death={policy}"
    started = start("stop={time_s: 1}", setting, faults="freeze:model:2,short_grace")
    code, _, err = started.end()
    assert code == 0
    assert re.search(r"node 1 did not end within \d+ s and was killed", err)
    assert list(fidelity(started)["died"]) == ["1"]
    assert fidelity(started)["verdict"] == "unfaithful"
    assert "unfaithful: nodes that did not answer at the end: 1 nodes, requested 0 nodes" in err
    assert started.run().status == "done"


def test_nodes_that_wait_for_one_that_is_stopped(start: Start) -> None:
    started = start("stop={rounds: 1000000}", DPSGD, RING, faults="freeze:model:2,short_grace,short_stall")
    code, _, err = started.end()
    assert code == 3
    assert "stalled: nothing has moved" in err
    assert started.run().status == "stalled"
    assert fidelity(started)["verdict"] == "unfaithful"


def test_a_node_is_killed_while_it_hands_over(start: Start) -> None:
    started = start(faults="kill:records:1")
    code, _, _ = started.end()
    assert code == 0
    assert fidelity(started)["died"] == {"1": "was killed by SIGKILL"}
    run = started.run()
    assert run.status == "done"
    assert run.messages is not None
    assert set(run.messages["sender"].tolist()) == {0, 2}


def test_records_that_are_damaged(start: Start) -> None:
    started = start(faults="damaged_records")
    code, _, err = started.end()
    assert code == 0
    assert "records of node 1: damaged" in err
    assert started.run().status == "done"


@pytest.mark.parametrize("stop", ["time_s: 3", "rounds: 1000"])
def test_messages_that_are_refused_stall_those_that_wait_for_them(stop: str, start: Start) -> None:
    """Whatever ends the run, it is neither done nor faithful, and says which messages were refused, and why."""
    started = start(f"stop={{{stop}}}", DPSGD, RING, faults="damaged_frames")
    code, _, err = started.end()
    assert code == 3, err
    assert re.search(r"stalled: every node waits for another one \(.*refused messages \(\d+ checksum\)", err)
    assert "node 0 refused messages of its peers: " in err
    assert started.run().status == "stalled"
    assert fidelity(started)["verdict"] == "unfaithful"


def test_refused_messages_fail_a_run_that_goes_on_without_them(start: Start) -> None:
    started = start(faults="damaged_frames")
    code, _, err = started.end()
    assert code == 3, err
    refused = re.search(r"nodes refused ([\d,]+) messages of their peers \(([\d,]+) checksum\)", failure(err))
    assert refused, err
    run = started.run()
    assert (run.status, run.times_s[-1]) == ("failed", 1.0)
    assert run.summary is not None
    assert run.summary["messages"]["rejected"] == int(refused[1].replace(",", "")) > 0
    content = fidelity(started)
    assert content["verdict"] == "unfaithful"
    (check,) = [check for check in content["checks"] if check["name"] == "messages refused on arrival"]
    assert not check["ok"]


# --- what the host could not do -------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "expected"), [(False, 4), pytest.param(True, 0, marks=pytest.mark.long)])
def test_a_host_that_is_too_slow(allowed: bool, expected: int, start: Start) -> None:
    started = start("compute.step_time_ms=0.001", f"fidelity.allow_unfaithful={str(allowed).lower()}")
    code, _, err = started.end()
    assert code == expected
    content = fidelity(started)
    assert content["verdict"] == "unfaithful"
    failed = {check["name"] for check in content["checks"] if not check["ok"]}
    assert "training longer than declared" in failed
    assert ("unfaithful: training longer than declared" in err) or allowed
    assert started.run().status == "done"


def test_the_run_directory_is_complete(start: Start) -> None:
    code, out, _ = (started := start()).end()
    assert code == 0
    assert str(started.path) in out.replace("\n", "") or "report" in out
    names = {path.name for path in started.path.iterdir()}
    assert {"curve.csv", "facts.json", "fidelity.json", "messages.parquet", "summary.json"} <= names
    assert not names & {"logs", "snapshots"}
    assert not list(Path(started.path).glob("*.tmp"))


MOMENTS = [
    *("hold:data:1", "hold:create:1", "held_before_start", "hold:measurement:1", "hold:kept:1", "hold:kept:4"),
    *("hold:model:3", "hold:kept:9", "hold:records:1", "hold:evaluation:1", "hold:line:2", "hold:finish:1"),
]
"""From the first to the last."""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment(moment: str, number: int, start: Start) -> None:
    """Either there is no directory yet, or it holds a valid result."""
    started = start("stop={time_s: 1}", faults=moment)
    gate = started.until_held(moment)
    started.send_to_all(number)
    gate.release()
    code, _, err = started.end()
    assert code == 130, err
    if started.out.exists() and list(started.out.iterdir()):
        assert started.run().status in ("interrupted", "done")


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_orchestrator_is_killed_at_any_moment(moment: str, start: Start) -> None:
    started = start("stop={time_s: 1}", faults=moment, workers=1)
    started.until_held(moment)
    started.process.kill()
    started.end()
    if started.out.exists() and list(started.out.iterdir()) and (started.path / "facts.json").exists():
        assert started.run().status in ("partial", "done")
