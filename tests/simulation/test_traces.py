"""Small runs as text, read and approved by a person once; a change of behaviour shows as a change of the text.

After an intended change: ``FRAGMESH_WRITE_TRACES=1 pytest tests/simulation/test_traces.py``, then read the diff.
"""

import os
from pathlib import Path

import pytest

from node.core.messages import MessageState, tag_name
from node.core.schedule import NodeSpan, Schedule
from node.sim.world import World
from tests.simulation.build import network, world

TESTDATA = Path(__file__).parent / "testdata"


def story(w: World) -> str:
    """What happened to every message, in order of time."""
    assert w.trace is not None
    table = w.trace.columns(w.now_ns)
    names = {tag.value: tag_name(tag) for tag in w.nodes[0].algorithm.carries}
    lines = []
    for row in range(len(w.trace)):
        values = {name: int(column[row]) for name, column in table.items()}
        what = f"{names[values['kind']]} r{values['round']}"
        if values["fragment"] >= 0:
            what += f" f{values['fragment']}"
        name = f"#{row} {values['sender']}->{values['receiver']} {what}"
        for event in ("queued", "started", "sent", "delivered", "aggregated", "cancelled"):
            time_ns = values[f"{event}_ns"]
            if time_ns < 0:
                continue
            extra = f" staleness {values['staleness']}" if event == "aggregated" else ""
            order = ("sent", "delivered", "aggregated", "cancelled", "queued", "started").index(event)
            lines.append((time_ns, order, row, f"{time_ns / 1e6:9.3f} ms  {event:10} {name}{extra}"))
    fates = ", ".join(f"{MessageState(s).name.lower()} {int((table['state'] == s).sum())}" for s in MessageState)
    rounds = ", ".join(f"node {node.index}: {node.counters.rounds}" for node in w.nodes)
    return "\n".join([line for *_, line in sorted(lines)] + [f"rounds: {rounds}", f"fates: {fates}", ""])


@pytest.mark.parametrize("kind", ["divshare", "adpsgd_pingpong", "adpsgd", "dpsgd"])
def test_the_story_of_a_small_run_is_as_approved(kind: str) -> None:
    # Node 2 has a tenth of the others' bandwidth: its queue is flushed under divshare and grows otherwise.
    plan = network(3, [1.0, 1.0, 0.1], latency_ns=250_000)
    options = {"omega": 0.5, "recipients": 1} if kind == "divshare" else {}
    w = world(kind, nodes=3, network_plan=plan, step_ms=[1.0, 1.2, 1.5], **options)
    w.advance(12_000_000)
    check(w, kind)


def test_the_story_of_a_node_that_is_missing_for_a_while_is_as_approved() -> None:
    # Of four nodes in a ring one is down from 4 to 10 ms. It is told round 6, and leaves out those before.
    schedule = Schedule(nodes=(NodeSpan(4_000_000, 10_000_000, 1, "down", model="common"),))
    plan = network(4, 10.0, latency_ns=250_000)
    w = world("dpsgd", nodes=4, network_plan=plan, local_steps=1, schedule=schedule, on_missing_peer="skip")
    w.advance(14_000_000)
    check(w, "dpsgd_missing")


def check(w: World, name: str) -> None:
    path = TESTDATA / f"{name}.txt"
    if os.environ.get("FRAGMESH_WRITE_TRACES"):
        path.write_text(story(w))
    assert story(w) == path.read_text()
