"""The part of a real run that was killed before it could tell what it had counted."""

import numpy as np

from node.core.counters import NodeCounters
from orchestrator.runs.resume import killed_part
from orchestrator.runs.snapshots import Earlier, Part, StoredModel

PARAMS = np.zeros(1, dtype=np.float32)


def earlier(time_ns: int, counters: list[NodeCounters], *parts: Part) -> Earlier:
    models = [(StoredModel(time_ns, node, counted), PARAMS) for node, counted in enumerate(counters)]
    return Earlier(time_ns, models, [], list(parts), [])


def test_its_last_models_tell_what_it_had_counted() -> None:
    counted = [NodeCounters(rounds=3, bytes_sent=10, queued_messages=2), NodeCounters(rounds=4, bytes_sent=20)]
    assert killed_part(earlier(50, counted)) == Part(0, 50, 0.0, counted)


def test_what_the_parts_before_it_counted_is_not_its_own() -> None:
    counted = [NodeCounters(rounds=9, bytes_sent=100, queued_messages=2), NodeCounters(rounds=9, bytes_sent=200)]
    first = Part(0, 20, 1.0, [NodeCounters(rounds=2, bytes_sent=30, queued_messages=7), NodeCounters(rounds=3)])
    second = Part(20, 40, 1.0, [NodeCounters(rounds=1, bytes_sent=5), NodeCounters(rounds=1, bytes_sent=50)])
    found = killed_part(earlier(50, counted, first, second))
    assert found is not None
    assert (found.begin_ns, found.end_ns) == (40, 50)
    assert [(one.rounds, one.bytes_sent, one.queued_messages) for one in found.counters] == [(6, 65, 2), (5, 150, 0)]


def test_a_part_that_told_its_counts_was_not_killed() -> None:
    counted = [NodeCounters(), NodeCounters()]
    assert killed_part(earlier(40, counted, Part(0, 40, 1.0, counted))) is None
