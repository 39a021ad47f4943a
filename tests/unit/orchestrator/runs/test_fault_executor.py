"""What is planned to happen to nodes, done to nodes that exist as scripts only."""

from dataclasses import replace

import numpy as np
import pytest

from node.config import Beginning
from node.core.errors import RunnerError, StalledError
from node.core.types import NodeId
from node.core.units import s_to_ns
from orchestrator.experiment.schedule.fates import Fate, FateChange
from orchestrator.runs.watched import progress_of
from tests.unit.orchestrator.runs.fakes import KILLED, RULES, Outcome, Scenario, Script


def fate(*changes: tuple[float, str]) -> Fate:
    return [FateChange(s_to_ns(time_s), kind) for time_s, kind in changes]  # type: ignore[arg-type]


def run(*changes: tuple[float, str], script: Script | None = None, **rules: object) -> Outcome:
    """An experiment of five seconds with three nodes, of which something happens to node 1."""
    scripts = [Script(), script or Script(), Script()]
    return Scenario(scripts, replace(RULES, **rules), fates={NodeId(1): fate(*changes)}).run()  # type: ignore[arg-type]


def calls(outcome: Outcome) -> list[tuple[float, str]]:
    """What was done to node 1, testbed time."""
    start_s = outcome.fleet.begun[0][0] / 1e9 - 1000.0
    return [(round(time_s - start_s, 2), what) for time_s, what, node in outcome.fleet.calls if node == 1]


def test_a_crash_is_no_death_even_where_a_death_ends_the_run() -> None:
    outcome = run((1.0, "down"), (3.0, "runs"), death_fails=True)
    assert outcome.error is None
    assert outcome.died == {}
    assert outcome.notes == []
    ((time_s, what),) = calls(outcome)
    assert what == "start"
    assert 1.0 <= time_s < 1.2  # ahead of its return, so that it is ready
    life = outcome.fleet.lives[NodeId(1)]
    assert (life.begin_ns, life.down_ns, life.port, life.beginning.life) == (s_to_ns(3.0), None, 4001, 1)
    assert life.beginning.local_steps == 7  # it counts on
    assert life.beginning.down_since_ns == s_to_ns(1.0)
    down, back = outcome.fates.instants
    assert down.actual_ns == s_to_ns(1.0)
    assert back.actual_ns is not None
    assert 0 <= back.actual_ns - s_to_ns(3.0) < s_to_ns(0.4)  # the scripts count from the command


def test_what_it_counted_in_all_its_lives_is_added_up() -> None:
    outcome = run((1.0, "down"), (3.0, "runs"))
    counted = outcome.collection.counters(outcome.supervisor.nodes[NodeId(1)].status, 0, 0, s_to_ns(5.0))
    assert counted.messages_sent == 3  # of its first life; the last one told of its steps only
    assert counted.local_steps == 11
    assert counted.down_ns == 0  # the new life counts the time in which it was down
    assert [told["counters"]["local_steps"] for _, told in outcome.collection.ended_lives] == [7]


def test_who_does_not_come_back_is_not_waited_for() -> None:
    outcome = run((1.0, "down"))
    assert (outcome.error, outcome.died, calls(outcome)) == (None, {}, [])
    assert outcome.fleet.ended[NodeId(1)].how == "ended with code 5"
    counted = outcome.collection.counters(outcome.supervisor.nodes[NodeId(1)].status, 0, 0, s_to_ns(5.0))
    assert (counted.local_steps, counted.down_ns) == (7, s_to_ns(4.0))


def test_who_does_not_go_down_by_itself_is_killed() -> None:
    outcome = run((1.0, "down"), script=Script(goes_down=False), end_ns=s_to_ns(60.0))
    assert outcome.error is None
    assert outcome.notes == ["node 1 did not go down by itself and was killed"]
    assert outcome.fleet.killed == [1]
    assert outcome.fates.instants[0].actual_ns is None


def test_who_is_late_comes_back_late_and_its_lateness_is_told() -> None:
    outcome = run((1.0, "down"), (2.0, "runs"), script=Script(ready_again_s=2.0))
    assert outcome.error is None
    late_ns = outcome.fates.instants[1].actual_ns - s_to_ns(2.0)  # type: ignore[operator]
    assert s_to_ns(0.9) < late_ns < s_to_ns(1.5)


def test_who_never_gets_ready_has_died() -> None:
    outcome = run((1.0, "down"), (2.0, "runs"), script=Script(ready_again_s=None), end_ns=s_to_ns(30.0))
    assert outcome.died == {1: "was killed"}
    assert outcome.notes[0] == "node 1 did not come back within 10 s"
    assert outcome.fates.instants[1].actual_ns is None


def test_a_death_while_it_is_started_again_is_a_death() -> None:
    script = Script(ready_again_s=None, dies_s=3.5)
    outcome = run((1.0, "down"), (4.0, "runs"), script=script, death_fails=True)
    assert isinstance(outcome.error, RunnerError)
    assert outcome.message.startswith("node 1 was killed by SIGKILL")


def test_a_death_before_the_crash_ends_its_fate() -> None:
    outcome = run((3.0, "down"), (4.0, "runs"), script=Script(dies_s=1.5, dies=KILLED))
    assert outcome.died == {1: "was killed by SIGKILL"}
    assert calls(outcome) == []


def test_a_pause_is_done_and_undone_at_its_instants() -> None:
    outcome = run((1.0, "paused"), (2.5, "runs"))
    assert calls(outcome) == [(1.0, "pause"), (2.5, "resume")]
    assert [instant.actual_ns for instant in outcome.fates.instants] == [s_to_ns(1.0), s_to_ns(2.5)]


@pytest.mark.parametrize("end", [(4.0, "down"), None])
def test_who_stands_still_goes_on_before_it_goes_down_and_at_the_end(end: tuple[float, str] | None) -> None:
    outcome = run((1.0, "paused"), *([end] if end else []))
    assert [what for _, what in calls(outcome)] == ["pause", "resume"]
    assert outcome.error is None


def test_the_run_goes_on_while_somebody_is_to_come_back() -> None:
    """The others have done their rounds at 1.5 s."""
    scripts = [Script(done_s=1.5), Script(done_s=4.5), Script(done_s=1.5)]
    fates = {NodeId(1): fate((1.0, "down"), (4.0, "runs"))}
    outcome = Scenario(scripts, replace(RULES, end_ns=None, rounds=5), fates=fates).run()
    assert outcome.error is None
    assert [what for _, what in calls(outcome)] == ["start"]


def test_a_run_that_ends_earlier_leaves_nobody_behind() -> None:
    outcome = run((1.0, "down"), (4.9, "runs"), script=Script(ready_again_s=None), end_ns=s_to_ns(3.0))
    assert outcome.error is None
    assert outcome.fleet.killed == [1]
    assert outcome.died == {}


def test_a_return_that_the_end_of_the_run_forestalled_never_came() -> None:
    outcome = run((1.0, "down"), (4.5, "runs"), script=Script(ready_again_s=None))
    assert outcome.error is None
    assert outcome.fates.late_ns == (0, None)
    counted = outcome.collection.counters(outcome.supervisor.nodes[NodeId(1)].status, 0, 0, s_to_ns(5.0))
    assert counted.local_steps == 7  # of its only life


def test_who_was_going_down_when_the_run_ended_has_told_when_and_what_it_counted() -> None:
    script = Script(leaves_after_down_s=0.5)
    outcome = run((1.0, "down"), (3.0, "runs"), (4.9, "down"), script=script)
    assert (outcome.error, outcome.died, outcome.notes) == (None, {}, [])
    assert [one.change.kind for one in outcome.fates.instants] == ["down", "runs", "down"]
    assert outcome.fates.late_ns[2] == 0
    counted = outcome.collection.counters(outcome.supervisor.nodes[NodeId(1)].status, 0, 0, s_to_ns(5.0))
    assert counted.messages_sent == 6  # of both lives


def test_the_display_counts_on_over_all_lives() -> None:
    watched = run((1.0, "down"), (3.0, "runs"), script=Script(ready_again_s=1.0)).supervisor.nodes[NodeId(1)]
    assert watched.lived is not None
    assert watched.lived.messages_sent >= 10  # as it said when it went down
    assert watched.counters.messages_sent == watched.status.counters.messages_sent + watched.lived.messages_sent
    assert watched.counters.local_steps == watched.status.counters.local_steps
    watched.start_again(Beginning(np.zeros(1, dtype=np.float32), rounds=9))
    shown = progress_of({NodeId(1): watched}, 0, 0.0, None, RULES, frozenset(), ())
    assert (shown.rounds_min, shown.nodes[0].rounds) == (9, 9)


def test_a_run_stalls_when_all_are_down_for_good_as_in_a_simulation() -> None:
    fates = {NodeId(node): fate((1.0 + node, "down")) for node in range(3)}
    outcome = Scenario([Script()] * 3, RULES, fates=fates).run()
    assert isinstance(outcome.error, StalledError)
    assert "all nodes are down at 3." in outcome.message
    assert len(outcome.fates.instants) == 3


def test_a_model_that_cannot_be_had_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RunnerError("t0.npy: damaged")

    monkeypatch.setattr("tests.unit.orchestrator.runs.fakes._common_model", fail)
    outcome = run((1.0, "down"), (3.0, "runs"))
    assert outcome.message == "t0.npy: damaged"
