"""Runs with real processes: they do what the simulator does, and every choice of the file has its effect."""

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.messages import MessageState
from orchestrator.results.reader import Run
from tests.integration.started import ENDLESS, SMALL, Room, Start, done, free_ports, room, start

__all__ = ["room", "start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MS = 1_000_000
BYTES_PER_NS = SMALL["network"]["preset"]["bandwidth_mbps"] / 8_000
LATENCY_NS = SMALL["network"]["preset"]["latency_ms"] * MS

Table = dict[str, npt.NDArray[Any]]


def table_of(run: Run) -> Table:
    assert run.messages is not None
    return dict(run.messages)


def check_table(table: Table) -> None:
    """What must hold for every message of a serial sender, on whatever host."""
    sent, delivered, aggregated = (table[f"{name}_ns"] >= 0 for name in ("sent", "delivered", "aggregated"))
    assert np.all(table["started_ns"][sent] >= table["queued_ns"][sent])
    least_ns = np.floor(table["wire_bytes"] / BYTES_PER_NS)
    assert np.all((table["sent_ns"] - table["started_ns"])[sent] >= least_ns[sent] - 1)
    assert np.all(sent[delivered])
    assert np.all((table["delivered_ns"] - table["sent_ns"])[delivered] >= LATENCY_NS)
    assert np.all(delivered[aggregated])
    assert np.all((table["aggregated_ns"] - table["delivered_ns"])[aggregated] >= 0)
    for node in np.unique(table["sender"]):
        own = sent & (table["sender"] == node)
        order = np.argsort(table["started_ns"][own])
        begin, end = table["started_ns"][own][order], table["sent_ns"][own][order]
        assert np.all(begin[1:] >= end[:-1]), "a serial sender sends one message after the other"


# --- the same as in the simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dpsgd", "local"])
def test_what_does_not_depend_on_time_is_what_the_simulator_computes(kind: str, start: Start) -> None:
    """Models after so many rounds, to the bit: one loss, one accuracy and one consensus distance for all of them."""
    settings = (
        f"algorithm.kind={kind}",
        "topology={kind: ring}",
        "stop={rounds: 7}",
        "learning.optimizer.momentum=0.9",
    )
    real = done(start(*settings))
    simulated = done(start(*settings, "runtime=simulation", "time_dilation=null"))
    for name in ("accuracy_mean", "loss_mean", "consensus_distance", "rounds_min", "rounds_max", "train_loss_mean"):
        assert real.curve[name][-1] == simulated.curve[name][-1], name
    assert real.curve["rounds_min"][-1] == 7
    assert real.summary is not None
    assert simulated.summary is not None
    assert real.summary["bytes_sent"] == simulated.summary["bytes_sent"]
    assert real.summary["messages"] == simulated.summary["messages"]
    assert real.summary["train_steps"] == simulated.summary["train_steps"] == 3 * 7 * 2


SLOW_SWEEP = [pytest.param(kind, marks=() if kind == "divshare" else pytest.mark.slow) for kind in ALGORITHMS]


@pytest.mark.parametrize("kind", SLOW_SWEEP)
def test_every_algorithm(kind: str, room: Room) -> None:
    topology = "topology={kind: ring}" if kind in ("dpsgd", "swift", "adpsgd") else "seed=1"
    run = room.done(f"algorithm.kind={kind}", topology, "nodes=4")
    assert run.times_s[-1] == 1.0
    assert len(run.times_s) == 5  # 0, 0.25, ...
    assert run.curve["rounds_min"][-1] >= 1
    assert run.curve["loss_mean"][-1] < run.curve["loss_mean"][0]
    table = table_of(run)
    check_table(table)
    assert (len(table["id"]) > 10) == (kind != "local")
    assert ((table["state"] == MessageState.AGGREGATED).sum() > 5) == (kind != "local")


def test_a_single_node(room: Room) -> None:
    run = room.done("nodes=1", "algorithm.kind=local")
    assert len(table_of(run)["id"]) == 0
    assert run.curve["rounds_min"][-1] > 5


# --- every choice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_values_of_half_the_size(dtype: str, start: Start) -> None:
    run = done(start(f"wire.dtype={dtype}", "algorithm.kind=swift_divshare"))
    table = table_of(run)
    assert set(table["payload_bytes"].tolist()) == {2 * (8 * 3 + 3)}  # weights and biases
    check_table(table)
    assert run.curve["loss_mean"][-1] < run.curve["loss_mean"][0]


def test_peers_are_reached_where_they_say(start: Start) -> None:
    """As in containers, whose address is not the one that they listen on."""
    started = start(ENDLESS, faults="advertised")
    started.until_it_runs()
    for node, process in started.nodes().items():
        connections = [peer for peer in process.net_connections("tcp") if peer.status == psutil.CONN_ESTABLISHED]
        reached = {peer.raddr.ip.removeprefix("::ffff:") for peer in connections}
        assert {f"127.0.0.{2 + other}" for other in range(3) if other != node} <= reached
    started.process.send_signal(signal.SIGINT)
    assert started.end()[0] == 130


def test_testing_during_the_run(start: Start) -> None:
    started = start(ENDLESS, "evaluation.live=true", workers=1)
    started.until_lines(5)
    assert not list(started.out.glob("*/summary.json"))  # it still runs
    started.process.send_signal(signal.SIGINT)
    code, _, err = started.end()
    assert code == 130, err
    run = started.run()
    assert run.times_s[:-1].tolist() == [0.25 * step for step in range(len(run.times_s) - 1)]
    assert len(run.times_s) >= 4


def test_live_and_after_training_without_messages(room: Room) -> None:
    settings = ("evaluation={live: true, model: after_training, interval_s: 0.125}", "output.messages=false")
    run = room.done(*settings, "stop={time_s: 2}", workers=1)
    assert len(run.times_s) == 17
    assert run.messages is None
    assert run.summary is not None
    assert run.summary["messages"]["delivered"] > 20


def test_rounds_and_time_whichever_comes_first(start: Start) -> None:
    run = done(start("stop={time_s: 50, rounds: 4}"))
    assert run.times_s[-1] < 50
    assert run.curve["rounds_min"][-1] == run.curve["rounds_max"][-1] == 4


def test_parallel_senders_jitter_and_messages_that_are_lost(room: Room) -> None:
    network = (
        "network={preset: {kind: uniform, bandwidth_mbps: 1, latency_ms: 5, jitter_ms: 3, loss_percent: 20},"
        " sender: {kind: parallel, transfers: 2}, transport: datagram}"
    )
    run = room.done(network, "stop={time_s: 2}", "nodes=4", "algorithm.divshare.recipients=2")
    table = table_of(run)
    sent, lost = table["sent_ns"] >= 0, table["state"] == MessageState.LOST
    assert 0.05 < lost.sum() / sent.sum() < 0.4
    assert np.all(table["delivered_ns"][lost] == -1)
    arrived = table["delivered_ns"] >= 0
    assert np.std((table["delivered_ns"] - table["sent_ns"])[arrived]) > 1 * MS
    overlaps = 0
    for node in range(4):
        own = sent & (table["sender"] == node)
        order = np.argsort(table["started_ns"][own])
        begin, end = table["started_ns"][own][order], table["sent_ns"][own][order]
        overlaps += int((begin[1:] < end[:-1]).sum())
        assert np.all(begin[2:] >= np.minimum(end[:-2], end[1:-1])), "at most two at a time"
    assert overlaps > 10


def test_packets_that_are_sent_again(room: Room) -> None:
    run = room.done("network.preset.loss_percent=30", "stop={time_s: 2}")
    table = table_of(run)
    extra = table["wire_bytes"] - table["payload_bytes"] - 64
    assert (extra[table["sent_ns"] >= 0] > 0).mean() > 0.1
    assert not np.any(table["state"] == MessageState.LOST)
    check_table(table)
    assert run.summary is not None
    assert run.summary["bytes"]["retransmitted"] > 0


def test_links_that_change(room: Room, tmp_path: Path) -> None:
    """Node 0's uplink is shut from 0.5 s to 1.5 s of testbed time."""
    (tmp_path / "trace.csv").write_text("time_s,bandwidth_mbps\n0,1\n0.5,0\n1.5,1\n")
    run = room.done("network.traces=[{node: 0, file: trace.csv, direction: up}]", "stop={time_s: 2}")
    table = table_of(run)
    sent_ns = table["sent_ns"][(table["sender"] == 0) & (table["sent_ns"] >= 0)]
    assert not np.any((sent_ns > 505 * MS) & (sent_ns < 1500 * MS))
    assert np.any(sent_ns < 500 * MS)
    assert np.any(sent_ns > 1500 * MS)
    others = table["sent_ns"][table["sender"] == 1]
    assert np.any((others > 505 * MS) & (others < 1500 * MS))


def test_ports_that_were_chosen(start: Start) -> None:
    run = done(start(f"processes.base_port={free_ports(3)}", "stop={rounds: 3}"))
    assert run.curve["rounds_min"][-1] == 3


# --- going on -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, "divshare"), (signal.SIGKILL, "dpsgd")])
def test_a_run_that_was_ended_goes_on(number: int, kind: str, start: Start) -> None:
    settings = ("stop={time_s: 4}", f"algorithm.kind={kind}", "topology={kind: ring}", "evaluation.interval_s=0.5")
    # At the first model of 1 s of testbed time: those of 0.5 s are there.
    started = start(*settings, faults=f"{'interrupt' if number == signal.SIGINT else 'kill'}:kept:7")
    code, _, err = started.end()
    assert code == (130 if number == signal.SIGINT else -number), err
    path = started.path
    before = started.run()
    assert before.status == ("interrupted" if number == signal.SIGINT else "partial")
    run = done(start(resume=path))
    assert run.path == path
    assert run.times_s.tolist() == [0.5 * step for step in range(9)]
    for name in ("rounds_min", "rounds_max", "bytes_sent"):
        assert np.all(np.diff(run.curve[name]) >= 0), name
    known = len(before.times_s)
    np.testing.assert_array_equal(run.curve["loss_mean"][:known], before.curve["loss_mean"])
    assert run.curve["rounds_min"][-1] > run.curve["rounds_max"][known]
    assert run.curve["loss_mean"][-1] < run.curve["loss_mean"][0]
    table = table_of(run)
    # A round's number is given once, also where its work was lost: four fragments, or a model to two neighbors.
    _, of_a_round = np.unique(np.stack([table["sender"], table["round"]]), axis=1, return_counts=True)
    assert of_a_round.max() == (4 if kind == "divshare" else 2)
    assert np.all(np.diff(table["id"]) == 1)
    assert table["queued_ns"].max() > 3.5e9
    code, _, err = start(resume=path).end()
    assert code == 2
    assert err.splitlines()[-1].endswith("the run is complete")
