"""Metrics of real runs: who looks sees what the results say, and nobody who looks, or does not, changes a run."""

import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from node.metrics import BYTE_CLASSES, NODE_METRICS, RUN_METRICS
from orchestrator.runs.run_readings import RunPhase
from tests.integration.scraping import Series, get, kinds_of, scraping, series_of, targets_in
from tests.integration.started import ENDLESS, Start, Started, done, start

__all__ = ["start"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")

OF_PEERS = {"fragmesh_waiting_seconds_total", "fragmesh_node_waits_for"}
STRAGGLER = "compute={step_time_ms: 20, stragglers: {count: 1, factor: 2, placement: lowest_ids}}"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def total(nodes: list[Series], name: str, *labels: str) -> float:
    """Sum over nodes and over all labels that are not given."""
    return sum(value for node in nodes for key, value in node.items() if key[0] == name and {*labels} <= {*key[1:]})


def until_targets(run: Started, state: Path, count: int) -> None:
    run.until(lambda: len(targets_in(state)) >= count, f"{count} targets")


def test_what_is_scraped_last_is_what_the_results_say(start: Start, state: Path) -> None:
    run = start(STRAGGLER, "stop={time_s: 2}", faults="patient_scrape")
    with scraping(state) as scraper:
        done(run)
    summary = run.run().summary
    assert summary is not None
    pages = {name: page for name, page in scraper.pages.items() if name != "run"}
    assert sorted(pages) == ["0", "1", "2"]
    nodes = [series_of(page) for page in pages.values()]
    # Step 1: all families of the table, and no other.
    for page in pages.values():
        assert kinds_of(page) == {name: metric.kind for name, metric in NODE_METRICS.items()}
    # Step 2: counters, to the digit.
    for fate in ("queued", "sent", "delivered", "aggregated", "cancelled", "aborted", "lost", "rejected"):
        assert total(nodes, f"fragmesh_messages_{fate}_total") == summary["messages"][fate], fate
    for name in BYTE_CLASSES:
        assert total(nodes, "fragmesh_sent_bytes_total", f"class={name}") == summary["bytes"][name], name
    assert total(nodes, "fragmesh_local_steps_total") == summary["train_steps"]
    table = run.run().messages
    assert table is not None
    assert total(nodes, "fragmesh_age_seconds_count") == int((table["aggregated_ns"] >= 0).sum()) > 0
    assert total(nodes, "fragmesh_transfer_seconds_count") == summary["messages"]["sent"] > 0
    assert total(nodes, "fragmesh_local_steps_seconds_count") == total(nodes, "fragmesh_rounds_total") > 0
    for node in nodes:
        assert node["fragmesh_node_phase", "phase=stopping"] == 1
        activities = total([node], "fragmesh_activity_seconds_total")
        assert activities == pytest.approx(node["fragmesh_node_clock_seconds",]) == pytest.approx(2)
        assert {key[1] for key in node if key[0] == "fragmesh_waiting_seconds_total"}  # of three nodes by default
    # Step 3: the orchestrator, with what it knows only when the models are tested.
    assert kinds_of(scraper.pages["run"]) == {name: metric.kind for name, metric in RUN_METRICS.items()}
    found, curve = series_of(scraper.pages["run"]), run.run().curve
    assert found["fragmesh_evaluation_clock_seconds",] == curve["time_s"][-1] == 2
    assert found["fragmesh_averaged_test_accuracy",] == curve["accuracy_averaged"][-1]
    assert found["fragmesh_consensus_distance",] == pytest.approx(curve["consensus_distance"][-1])
    accuracies = [value for key, value in found.items() if key[0] == "fragmesh_test_accuracy"]
    assert sum(accuracies) / 3 == pytest.approx(curve["accuracy_mean"][-1])
    assert found["fragmesh_run_phase", f"phase={RunPhase.OVER.value}"] == 1
    fidelity = json.loads((run.path / "fidelity.json").read_text())
    for check in fidelity["checks"]:
        assert found["fragmesh_fidelity_ok", f"check={check['name']}"] == check["ok"]
        assert found["fragmesh_fidelity_achieved", f"check={check['name']}"] == check["achieved"]
    # Step 4: labels, and nothing left.
    shared = {"run": run.path.name, "runtime": "processes", "experiment": "small", "algorithm": "divshare"}
    for name, labels in scraper.labels.items():
        own = {} if name == "run" else {"node": name, "group": "straggler" if name == "0" else "fast"}
        assert {key: value for key, value in labels.items() if not key.startswith("__")} == {**shared, **own}
    assert targets_in(state) == []


def test_while_it_runs_it_shows_where_it_stands(start: Start, state: Path) -> None:
    run = start(
        ENDLESS,
        "schedule=[{action: partition, at_s: 0.5, groups: [[0], [1, 2]]}]",
        "evaluation={interval_s: 0.25, live: true}",
        "observe.peer_labels=never",
    )
    with scraping(state) as scraper:
        run.until_it_runs()

        def of_run(name: str, *labels: str) -> float | None:
            return series_of(scraper.pages.get("run", "")).get((name, *labels))

        run.until(lambda: of_run("fragmesh_fault_active", "action=partition", "entry=0", "target=0 / 1-2"), "the fault")
        run.until(lambda: of_run("fragmesh_evaluation_clock_seconds"), "an evaluation")
        run.until(lambda: of_run("fragmesh_link_measured_rtt_seconds", "node=2"), "what was measured")
        assert of_run("fragmesh_run_phase", "phase=running") == 1
        assert of_run("fragmesh_node_up", "group=fast", "node=1") == 1
        assert of_run("fragmesh_run_end_seconds") == 1e9
        assert not {key[0] for page in scraper.pages.values() for key in series_of(page)} & OF_PEERS
        begin = of_run("fragmesh_fault_begin_timestamp_seconds", "action=partition", "entry=0", "target=0 / 1-2")
        start_s = of_run("fragmesh_run_start_timestamp_seconds")
        assert begin is not None
        assert start_s is not None
        assert begin == pytest.approx(start_s + 0.5)
    run.process.send_signal(signal.SIGINT)
    run.end()
    assert targets_in(state) == []


def test_nobody_scrapes_and_nobody_is_waited_for(start: Start, state: Path) -> None:
    done(start(faults="patient_scrape"))
    assert targets_in(state) == []


def test_without_metrics_nothing_is_served_or_listed(start: Start, state: Path) -> None:
    run = start("observe.metrics=false", faults="hold:kept:4")
    gate = run.until_held("hold:kept:4")
    told = [json.loads(path.read_text())["metrics_host"] for path in run.path.glob("nodes/*.json")]
    assert told == [None] * 3
    assert not (state / "fragmesh" / "targets").exists()
    gate.release()
    done(run)


def test_who_asks_and_hangs_holds_nobody_up(start: Start, state: Path) -> None:
    run = start("stop={time_s: 2}", faults="hold:kept:1")
    gate = run.until_held("hold:kept:1")
    until_targets(run, state, 4)
    clients: list[socket.socket] = []
    for target in targets_in(state):
        host, port = target.address.split(":")
        for request in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nX: ", b"\x16\x03\x01\x00\xff" * 100):
            clients.append(socket.create_connection((host, int(port)), timeout=60))
            clients[-1].sendall(request)
    gate.release()
    done(run)
    for client in clients:
        client.close()


def test_a_node_that_cannot_serve_its_metrics_takes_part_all_the_same(start: Start, state: Path) -> None:
    run = start(faults="unserved_metrics,hold:kept:1")
    gate = run.until_held("hold:kept:1")
    until_targets(run, state, 3)
    assert [target.labels.get("node") for target in targets_in(state)] == [None, "0", "2"]
    log = (run.path / "logs" / "node-0001.log").read_text()
    assert "metrics cannot be served on 192.0.2.1: " in log
    gate.release()
    done(run)


def test_what_a_killed_run_leaves_is_removed_by_the_next_one_and_a_living_run_s_is_not(
    start: Start, state: Path
) -> None:
    folder = state / "fragmesh" / "targets"
    living = start(ENDLESS)
    until_targets(living, state, 4)
    (lives,) = folder.glob("*.json")
    killed = start(ENDLESS)
    until_targets(killed, state, 8)
    killed.process.send_signal(signal.SIGKILL)
    killed.all_gone()
    (folder / "other.json").write_text('[{"targets": ["localhost:1"], "labels": {}}]')
    (folder / "half.json").write_text("[{")
    assert len(list(folder.glob("*.json"))) == 4
    done(start())
    assert sorted(path.name for path in folder.glob("*.json")) == sorted(["half.json", "other.json", lives.name])
    living.process.send_signal(signal.SIGINT)
    living.end()


def test_a_node_that_comes_back_is_found_where_it_listens_now(start: Start, state: Path) -> None:
    run = start(ENDLESS, "schedule=[{action: crash, at_s: 1, for_s: 2, nodes: [1]}]")

    def address() -> str | None:
        return next((target.address for target in targets_in(state) if target.labels.get("node") == "1"), None)

    found: Series = {}

    def page() -> Series:
        try:
            return series_of(get(address() or ""))
        except OSError:
            return {}

    def runs_again() -> bool:
        nonlocal found
        found = page()
        return found.get(("fragmesh_node_lives",)) == 2 and found["fragmesh_node_phase", "phase=running"] == 1

    run.until(address, "the node's first address")
    first = address()
    run.until(lambda: address() != first, "another address")
    run.until(runs_again, "its second life")
    spent_s = {name[1]: value for name, value in found.items() if name[0] == "fragmesh_activity_seconds_total"}
    assert spent_s["activity=down"] > 0
    earlier_s = found["fragmesh_node_clock_seconds",] - sum(spent_s.values())
    assert 1 - 1e-6 < earlier_s < 1 + spent_s["activity=down"], "the life before, until the crash"
    run.process.send_signal(signal.SIGINT)
    run.end()
