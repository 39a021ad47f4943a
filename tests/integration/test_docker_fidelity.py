"""The verdict on runs with containers: what the kernel holds and drops, in a real engine."""

import json
from collections.abc import Callable
from typing import Any

from orchestrator.containers.engine import DockerEngine
from tests.integration.started import ENDLESS, WAIT_S
from tests.integration.test_docker_runs import DockerRun, start

__all__ = ["start"]  # a fixture

SLOW = {"preset": {"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 2}}
READ_BACK = "disciplines, classes and filters that are not as planned"
DROPPED = "packets that queues dropped unasked"

FLOOD = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(2_000):
    out.sendto(bytes(1_400), (sys.argv[1], 9))
"""
"""Two thousand packets at once, for a queue of a quarter of a second of its rate."""


def checks_of(run: DockerRun) -> dict[str, dict[str, Any]]:
    found = json.loads((run.path / "fidelity.json").read_text())["checks"]
    return {check["name"]: check for check in found}


def in_namespace(run: DockerRun, node: int, command: str) -> None:
    """Run a command in a node's network namespace, as somebody with all rights would."""
    state = run.engine.inspect(run.node(node).identity)
    assert state is not None
    (helper,) = run.has("shaper")
    words = ["nsenter", "-t", str(state.pid), "-n", *command.split()]
    assert run.engine.execute(helper.identity, words) == (0, "")


def device_of(run: DockerRun, engine: DockerEngine, node: int) -> str:
    """The device of a node on which its links are shaped."""
    state = engine.inspect(run.node(node).identity)
    assert state is not None
    (helper,) = run.has("shaper")
    shown = engine.execute(helper.identity, ["nsenter", "-t", str(state.pid), "-n", "tc", "qdisc", "show"])[1]
    (device,) = [
        words[4]
        for words in map(str.split, shown.splitlines())
        if words[1:3] == ["htb", "fa01:"] and not words[4].startswith("fm-")
    ]
    return device


def test_links_that_nobody_touches_are_as_planned_to_the_end(start: Callable[..., DockerRun]) -> None:
    run = start(network=SLOW)
    run.process.wait(WAIT_S)
    run.end()
    found = checks_of(run)
    assert (found[READ_BACK]["ok"], found[READ_BACK]["achieved"]) == (True, 0)
    figures = json.loads((run.path / "fidelity.json").read_text())["figures"]["kernel"]
    # Three times of 3 nodes, after they were shaped, when their links got rates, and at the end: of each 2 roots, 8
    # classes, 6 leaves, 4 filters and a redirection.
    assert figures["compared"] == 3 * 3 * 21
    assert figures["nodes_shaped"] == 3
    assert figures["packets"] > 0
    assert found[DROPPED]["ok"]


def test_what_somebody_takes_away_and_what_a_queue_loses_make_a_run_unfaithful(
    start: Callable[..., DockerRun], engine: DockerEngine
) -> None:
    run = start(ENDLESS, network=SLOW)
    run.until_it_runs()
    peer = engine.inspect(run.node(1).identity)
    assert peer is not None
    (address,) = [str(address) for name, (address, _) in peer.addresses.items() if name.endswith("-data")]
    # Step 1: a queue overflows.
    assert engine.execute(run.node(0).identity, ["python", "-c", FLOOD, address]) == (0, "")
    # Step 2: a filter is taken away, and with it the limit of what node 2 sends to node 1.
    device = device_of(run, engine, 2)
    in_namespace(run, 2, f"tc filter del dev {device} parent fa01: prio 1")
    assert run.interrupt() == 130
    found = checks_of(run)
    assert not found[READ_BACK]["ok"]
    assert "node 2, " in found[READ_BACK]["note"]
    assert not found[DROPPED]["ok"]
    assert found[DROPPED]["achieved"] > 1_000
    assert "node 0, " in found[DROPPED]["note"]
