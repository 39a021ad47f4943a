"""Supervision over a fake fleet, in virtual time: whatever nodes do, it ends in time and says what happened."""

import re
from dataclasses import replace

import numpy as np
import pytest

from node.core.errors import DivergedError, StalledError
from node.core.links import NetworkPlan
from node.core.units import s_to_ns
from node.transport.control_values import MeasureCommand, StartCommand, StopCommand
from orchestrator.runs import rules as bounds
from orchestrator.runs.fleet import NodeEnd
from orchestrator.runs.stopping import StopRequested
from orchestrator.runs.supervision import DIVERGED_AFTER_S, KILL_AFTER_S, LOOK_S
from orchestrator.runs.watched import LEAVE_S
from tests.unit.orchestrator.runs.fakes import CLEAN, EPOCH_S, RULES, Scenario, Script

BY_ROUNDS = replace(RULES, end_ns=None)
FAILS = replace(RULES, death_fails=True)
WAITS = replace(RULES, death_fails=True, death_reason="dpsgd waits for every message")


def with_second(script: Script) -> list[Script]:
    """Three nodes, of which node 1 is special."""
    return [Script(), script, Script()]


# --- runs in which nothing goes wrong -------------------------------------------------------------------------------


def test_the_steps_come_in_their_order() -> None:
    outcome = Scenario().run()
    assert outcome.error is None
    assert outcome.control.address.startswith("127.0.0.1:")
    assert [type(command) for _, command in outcome.control.commands] == [MeasureCommand, StartCommand, StopCommand]
    assert outcome.told_s(MeasureCommand) > 0.19  # both barriers
    assert outcome.fleet.asked > 3  # links have their rates before they are measured
    assert outcome.told_s(StartCommand) > outcome.told_s(MeasureCommand) + 0.49  # all measurements
    assert (outcome.died, outcome.notes, outcome.fleet.killed) == ({}, [], [])


def test_a_run_ends_at_its_planned_time() -> None:
    """No model is asked for: the planned end is an instant of evaluation."""
    outcome = Scenario().run()
    assert outcome.supervisor.is_over
    assert outcome.supervisor.ended_ns == s_to_ns(5.0)
    (stop,) = outcome.told(StopCommand)
    assert not stop.snapshot
    assert outcome.models == []


def test_a_run_ends_when_all_nodes_have_done_their_rounds() -> None:
    """Its end is no instant of evaluation, so that the last models are asked for."""
    outcome = Scenario([Script(done_s=2), Script(done_s=4), Script(done_s=3)], BY_ROUNDS).run()
    assert outcome.supervisor.is_over
    assert outcome.supervisor.ended_ns is not None
    assert s_to_ns(3.0) < outcome.supervisor.ended_ns < s_to_ns(6.0)
    (stop,) = outcome.told(StopCommand)
    assert stop.snapshot
    assert sorted(int(info.node) for info, _ in outcome.models) == [0, 1, 2]


def test_all_learn_the_same_start_and_the_links_too() -> None:
    """A part that goes on begins at its own testbed time, under the dilation."""
    rules = replace(RULES, begin_ns=s_to_ns(2.0), dilation=4.0)
    outcome = Scenario(rules=rules).run()
    (start,) = outcome.told(StartCommand)
    assert outcome.fleet.begun == [(start.start_monotonic_ns, s_to_ns(2.0), s_to_ns(5.0))]
    assert start.start_monotonic_ns == s_to_ns(EPOCH_S + outcome.told_s(StartCommand)) + rules.start_lead_ns
    clock = outcome.supervisor.clock
    assert clock is not None
    assert clock.at_ns(start.start_monotonic_ns) == s_to_ns(2.0)
    lasted_s = outcome.told_s(StopCommand) - outcome.told_s(StartCommand)
    assert lasted_s == pytest.approx((5.0 - 2.0) * 4.0 + rules.start_lead_ns / 1e9, abs=0.2)


def test_no_node_is_told_of_the_end_before_the_links_have_been_looked_at() -> None:
    outcome = Scenario(looks_s=10.0).run()
    assert outcome.told_s(StopCommand) == pytest.approx(10.0, abs=0.1)
    assert outcome.supervisor.ended_ns == s_to_ns(5.0)
    assert outcome.error is None


def test_a_look_at_the_links_is_not_waited_for_for_ever() -> None:
    outcome = Scenario(looks_s=None).run()
    planned_s = Scenario().run().told_s(StopCommand)
    assert outcome.told_s(StopCommand) == pytest.approx(planned_s + LOOK_S, abs=0.1)
    assert outcome.error is None


def test_a_single_node_has_no_links_to_measure() -> None:
    outcome = Scenario([Script(measured_s=None)]).run()
    assert outcome.error is None
    assert outcome.told(MeasureCommand) == []


# --- before the start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_s", [0.05, 0.15, 0.5], ids=["ready", "connected", "measuring"])
def test_a_node_that_dies_before_the_start(dies_s: float) -> None:
    """The run fails at once, and nobody is given time to hand over what nobody has."""
    outcome = Scenario(with_second(Script(dies_s=dies_s, last_words="Segmentation fault"))).run()
    assert outcome.message == "node 1 was killed by SIGKILL before the start; it said last: Segmentation fault"
    assert outcome.seconds < dies_s + 0.2
    assert outcome.fleet.killed == [0, 2]
    assert outcome.supervisor.clock is None
    assert outcome.supervisor.ended_ns is None
    assert outcome.notes == []


def test_a_node_that_fails_before_the_start_says_why() -> None:
    outcome = Scenario(with_second(Script(dies_s=0.15, failure="port 4711 is taken", last_words="Traceback"))).run()
    assert outcome.message == "node 1 was killed by SIGKILL before the start: port 4711 is taken"


def test_a_node_that_never_comes() -> None:
    outcome = Scenario(with_second(Script(ready_s=None))).run()
    assert outcome.message == "nodes [1] did not come to 'ready' within 10 s"
    assert outcome.seconds == pytest.approx(10.0, abs=0.3)


def test_a_node_that_cannot_connect_is_waited_for_longer() -> None:
    """It says why when its own time is over, which began when it was ready."""
    outcome = Scenario(with_second(Script(connected_s=None))).run()
    assert outcome.message == f"nodes [1] did not come to 'connected' within {10 + LEAVE_S:g} s"


def test_a_node_that_comes_late_but_in_time() -> None:
    outcome = Scenario(with_second(Script(ready_s=9.5, connected_s=14.0))).run()
    assert outcome.error is None
    assert outcome.told_s(MeasureCommand) > 23.4


def test_links_that_are_not_measured() -> None:
    outcome = Scenario(with_second(Script(measured_s=None))).run()
    within_s = RULES.measured_within_s
    assert outcome.message == f"the links of 1 nodes (1) were not measured within {within_s:.0f} s"
    assert outcome.seconds == pytest.approx(within_s, abs=1.0)


# --- in the middle of a run -----------------------------------------------------------------------------------------


def test_a_node_that_dies_is_left_behind() -> None:
    """The run goes on to its end, and tells the node's last events."""
    story = ("1.0 s: sent message 7 to node 2", "1.2 s: began round 3")
    outcome = Scenario(with_second(Script(dies_s=3.0, story=story))).run()
    assert outcome.error is None
    assert outcome.supervisor.ended_ns == s_to_ns(5.0)
    assert outcome.died == {1: "was killed by SIGKILL"}
    assert outcome.control.forgotten == [1]
    assert outcome.notes == [
        "node 1 before its end: (last events: 1.0 s: sent message 7 to node 2 | 1.2 s: began round 3)",
        "node 1 was killed by SIGKILL; going on without it",
    ]


def test_a_node_that_ends_as_if_all_were_well_has_died_too() -> None:
    """Nothing told it to end."""
    outcome = Scenario(with_second(Script(dies_s=3.0, dies=CLEAN))).run()
    assert outcome.error is None
    assert outcome.notes == ["node 1 ended with code 0; going on without it"]
    assert outcome.died == {1: "ended with code 0"}


@pytest.mark.parametrize(
    ("rules", "reason"), [(FAILS, ""), (WAITS, "; dpsgd waits for every message")], ids=["chosen", "auto"]
)
def test_a_node_that_dies_ends_the_run(rules: bounds.Rules, reason: str) -> None:
    """The others hand over what they have."""
    outcome = Scenario(with_second(Script(dies_s=3.0)), rules).run()
    assert outcome.message == f"node 1 was killed by SIGKILL{reason}"
    assert not outcome.supervisor.is_over
    assert sorted(outcome.collection.figures) == [0, 2]
    assert sorted(int(info.node) for info, _ in outcome.models) == [0, 2]
    assert outcome.seconds < 4.0


def test_all_nodes_die() -> None:
    outcome = Scenario([Script(dies_s=2.0), Script(dies_s=2.5), Script(dies_s=3.0)]).run()
    assert outcome.message == "all nodes have ended; the last, node 2 was killed by SIGKILL"


def test_a_node_that_falls_silent_is_killed() -> None:
    """It has some seconds to end, for its session may end before its process."""
    outcome = Scenario(with_second(Script(silent_s=2.0)), replace(RULES, end_ns=s_to_ns(20.0))).run()
    assert outcome.error is None
    assert outcome.fleet.killed == [1]
    assert outcome.notes == ["node 1 did not answer any more and was killed; going on without it"]
    assert outcome.seconds >= 2.0 + LEAVE_S


@pytest.mark.parametrize("fails_s", [0.15, 3.0])
def test_the_backend_fails(fails_s: float) -> None:
    outcome = Scenario(backend_fails_s=fails_s).run()
    assert outcome.message == "the link emulator was killed by SIGKILL"
    assert outcome.seconds < fails_s + 0.5


# --- a run that stalls ----------------------------------------------------------------------------------------------


def test_a_run_in_which_nothing_moves_says_what_each_node_waited_for() -> None:
    """Every node is told with its last events."""
    stuck = [
        Script(works_s=1.0, waiting_for=f"models of round 3 from nodes {(node + 1) % 3}", story=(f"event {node}",))
        for node in range(3)
    ]
    outcome = Scenario(stuck, BY_ROUNDS).run()
    message = outcome.message
    assert message.startswith("nothing has moved for ")
    for node in range(3):
        waits = f"node {node}: running, round 5, waits for models of round 3 from nodes {(node + 1) % 3}"
        assert f"{waits} (last events: event {node})" in message
    assert outcome.seconds == pytest.approx(1.0 + BY_ROUNDS.stalled_after_s, abs=4.0)
    assert sorted(outcome.collection.figures) == [0, 1, 2]


def test_of_many_stalled_nodes_some_are_named() -> None:
    message = Scenario([Script(works_s=1.0)] * 9, BY_ROUNDS).run().message
    assert "node 4: " in message
    assert "node 5: " not in message
    assert message.endswith("; and 4 more)")


def test_one_node_that_moves_is_enough() -> None:
    """The others may wait for as long as it works."""
    scripts = [Script(works_s=1.0, done_s=300.0), Script(works_s=1.0, done_s=300.0), Script(done_s=300.0)]
    outcome = Scenario(scripts, BY_ROUNDS).run()
    assert outcome.error is None
    assert outcome.seconds > 300.0


def test_a_slow_experiment_may_rest_for_longer() -> None:
    """The bound follows from the slowest step and link, in real time."""
    slow = replace(BY_ROUNDS, dilation=10.0, block_s=20.0)
    assert slow.stalled_after_s == pytest.approx(bounds.STALL_S + 10.0 * (2 * (20.0 + 0.1) + 0.01))
    scripts = [Script(works_s=1.0, done_s=400.0)] * 3
    assert Scenario(scripts, slow).run().error is None
    assert Scenario(scripts, BY_ROUNDS).run().message.startswith("nothing has moved")


def test_what_a_planned_end_cuts_short_has_not_stalled() -> None:
    """Nodes that do not say that they rest may be in the middle of something long."""
    outcome = Scenario([Script(works_s=1.0)] * 3, replace(RULES, end_ns=s_to_ns(50.0))).run()
    assert outcome.error is None


AT_REST = Script(works_s=1.0, rests=True, waiting_for="models of round 6 from node 1", story=("an event",))


def test_nodes_that_say_that_they_rest_end_the_run_after_some_statuses() -> None:
    """Long before the time in which something slow might move."""
    outcome = Scenario([AT_REST] * 3, replace(BY_ROUNDS, rounds=100)).run()
    assert isinstance(outcome.error, StalledError)
    assert outcome.message.startswith("every node waits for another one (node 0: running, round 5, waits for models of")
    assert outcome.told_s(StopCommand) - outcome.told_s(StartCommand) < 4.5
    assert sorted(outcome.collection.figures) == [0, 1, 2]


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(replace(AT_REST, rests=False), id="works"),
        pytest.param(replace(AT_REST, unread=1), id="a message is on its way"),
    ],
)
def test_no_run_has_stalled_in_which_something_may_still_happen(last: Script) -> None:
    """Then only the time decides."""
    outcome = Scenario([AT_REST, AT_REST, last], BY_ROUNDS).run()
    assert isinstance(outcome.error, StalledError)
    assert outcome.message.startswith("nothing has moved for ")


@pytest.mark.parametrize("end_s", [3.5, 50.0])
def test_what_a_dead_node_sent_last_is_not_known_and_waiting_for_it_is_a_stall(end_s: float) -> None:
    """Also where the experiment says that the run goes on without it."""
    scripts = [replace(AT_REST, unread=1), Script(dies_s=2.0), AT_REST]
    outcome = Scenario(scripts, replace(RULES, end_ns=s_to_ns(end_s))).run()
    assert isinstance(outcome.error, StalledError)
    assert outcome.died == {1: "was killed by SIGKILL"}
    assert "node 2: running, round 5, waits for models of round 6 from node 1" in outcome.message or end_s < 4


@pytest.mark.parametrize("end_s", [2.5, 50.0])
def test_a_run_that_rests_when_its_time_is_over_has_stalled(end_s: float) -> None:
    """What nodes say last decides, however short the time was."""
    outcome = Scenario([AT_REST] * 3, replace(RULES, end_ns=s_to_ns(end_s))).run()
    assert isinstance(outcome.error, StalledError)
    assert outcome.told_s(StopCommand) - outcome.told_s(StartCommand) < 4.5


def test_nodes_that_have_done_their_rounds_rest_and_have_not_stalled() -> None:
    outcome = Scenario([replace(AT_REST, done_s=1.0)] * 3, replace(RULES, rounds=5)).run()
    assert outcome.error is None


def test_some_nodes_have_done_their_rounds_and_the_others_wait_for_good() -> None:
    done = replace(AT_REST, done_s=1.0, waiting_for="")
    outcome = Scenario([done, AT_REST, replace(AT_REST, works_s=0.5)], replace(RULES, rounds=5)).run()
    assert isinstance(outcome.error, StalledError)
    assert "node 2: running, round 2, waits for models of round 6 from node 1" in outcome.message


DEAD = NetworkPlan("access", np.array([1.0, 0.0, 1.0]), np.ones(3))
"""Nothing leaves node 1."""


@pytest.mark.parametrize(
    ("sender", "last_change_s", "stalled_s"),
    [(1, -1, 4.5), (1, 20.0, 26.0), (2, -1, 1e9)],
    ids=["for good", "until the last change", "another link"],
)
def test_a_transfer_on_a_link_without_bandwidth_keeps_no_run_from_stalling(
    sender: int, last_change_s: float, stalled_s: float
) -> None:
    """As in a simulation, once no change can wake it."""
    scripts = [AT_REST, AT_REST, AT_REST]
    scripts[sender] = replace(AT_REST, sending_to=(0,))
    rules = replace(RULES, end_ns=s_to_ns(40.0), links=DEAD, last_change_ns=s_to_ns(last_change_s))
    outcome = Scenario(scripts, rules).run()
    assert isinstance(outcome.error, StalledError) == (stalled_s < 40)
    assert outcome.told_s(StopCommand) - outcome.told_s(StartCommand) < stalled_s


def test_a_transfer_under_way_at_the_planned_end_may_still_be_woken() -> None:
    scripts = [AT_REST, replace(AT_REST, sending_to=(0,)), AT_REST]
    rules = replace(RULES, end_ns=s_to_ns(2.5), links=DEAD, last_change_ns=s_to_ns(2.6))
    assert Scenario(scripts, rules).run().error is None
    assert isinstance(Scenario(scripts, replace(rules, last_change_ns=s_to_ns(2.4))).run().error, StalledError)


def test_a_change_that_is_to_come_may_wake_a_transfer() -> None:
    """One that is parked on a link without bandwidth; after the last change nothing can."""
    stuck = [Script(works_s=1.0)] * 3
    outcome = Scenario(stuck, replace(BY_ROUNDS, last_change_ns=s_to_ns(200.0))).run()
    assert isinstance(outcome.error, StalledError)
    after_s = outcome.told_s(StopCommand) - outcome.told_s(StartCommand)
    assert after_s == pytest.approx(200.0 + BY_ROUNDS.stalled_after_s, abs=4.0)


def test_a_node_that_hangs_at_the_end_fails_an_experiment_that_waits_for_it() -> None:
    outcome = Scenario(with_second(Script(leaves_s=None)), WAITS).run()
    assert re.fullmatch(r"node 1 did not end within \d+ s and was killed; dpsgd waits .*", outcome.message)


# --- models that are not finite -------------------------------------------------------------------------------------


def test_a_node_that_diverges_ends_the_run() -> None:
    """At once, with what all nodes had, and without a last model: the curve ends before."""
    outcome = Scenario(with_second(Script(diverges_s=1.25))).run()
    assert isinstance(outcome.error, DivergedError)
    assert outcome.message == "node 1: its model is not finite after round 5 (learning rate too high?)"
    assert (outcome.error.node, outcome.error.round, outcome.error.time_ns) == (1, 5, s_to_ns(1.25))
    assert outcome.supervisor.ended_ns == s_to_ns(1.25)
    assert outcome.supervisor.is_over
    assert outcome.told_s(StopCommand) - outcome.told_s(StartCommand) == pytest.approx(1.25 + DIVERGED_AFTER_S, abs=0.3)
    assert sorted(outcome.collection.figures) == [0, 1, 2]
    assert (outcome.models, outcome.died, outcome.notes) == ([], {}, [])


def test_of_several_that_diverge_the_first_is_named_whoever_says_so_first() -> None:
    """By testbed time, then by number: as a simulation, which ends at the first."""
    late = Script(diverges_s=2.0)
    outcome = Scenario([late, Script(diverges_s=1.5), replace(late, diverges_s=1.5), late]).run()
    assert outcome.message.startswith("node 1: ")


def test_a_node_that_diverges_as_the_time_ends_is_not_missed() -> None:
    outcome = Scenario(with_second(Script(diverges_s=4.99))).run()
    assert isinstance(outcome.error, DivergedError)
    assert outcome.models == []


def test_others_that_wait_for_a_node_that_diverged_have_not_stalled() -> None:
    outcome = Scenario([AT_REST, replace(AT_REST, diverges_s=1.0), AT_REST], BY_ROUNDS).run()
    assert isinstance(outcome.error, DivergedError)


# --- messages that were refused -------------------------------------------------------------------------------------


def test_refused_messages_are_told_once_a_node() -> None:
    outcome = Scenario(with_second(Script(rejected={"flood": 1_200, "checksum": 2}))).run()
    assert outcome.notes == ["node 1 refused messages of its peers: 2 checksum, 1,200 flood"]


def test_a_run_that_stalled_because_messages_were_refused_says_so() -> None:
    outcome = Scenario([replace(AT_REST, rejected={"not_finite": 2}), AT_REST], BY_ROUNDS).run()
    assert "node 0: running, round 5, waits for models of round 6 from node 1, refused messages (2 not_finite)" in (
        outcome.message
    )
    assert outcome.told_s(StopCommand) - outcome.told_s(StartCommand) < 4.5


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_node_that_never_hands_over_is_killed() -> None:
    """The others have left long before; nobody is waited for beyond the bound."""
    outcome = Scenario(with_second(Script(leaves_s=None))).run()
    assert outcome.error is None
    (stop,) = outcome.told(StopCommand)
    grace_s = stop.grace_ns / 1e9
    assert grace_s >= bounds.HAND_OVER_S
    assert outcome.died == {1: f"did not end within {grace_s:.0f} s and was killed"}
    assert outcome.notes == [f"node 1 did not end within {grace_s:.0f} s and was killed"]
    assert outcome.seconds == pytest.approx(outcome.told_s(StopCommand) + grace_s + KILL_AFTER_S, abs=0.1)
    assert sorted(outcome.collection.figures) == [0, 2]


def test_a_node_that_dies_while_it_hands_over() -> None:
    ends_badly = Script(end=NodeEnd("ended with code 1", failed=True), last_words="LookupError")
    outcome = Scenario(with_second(ends_badly)).run()
    assert outcome.error is None
    assert outcome.died == {1: "ended with code 1"}
    assert outcome.notes == ["node 1 ended with code 1; it said last: LookupError"]


def test_more_messages_are_given_more_time() -> None:
    few, many = RULES.hand_over_s(0), RULES.hand_over_s(4_000_000)
    assert many - few == pytest.approx(4_000_000 * bounds.RECORD_BYTES / bounds.HAND_OVER_BYTES_PER_S)


def test_what_is_handed_over_twice_counts_once() -> None:
    """A node whose receipt was lost sends the same again; the measurement too."""
    outcome = Scenario(with_second(Script(repeats=2, done_s=1.0)), BY_ROUNDS, interrupts_s=[4.0]).run()
    assert sorted(outcome.collection.measurements) == [0, 1, 2]
    assert {int(node): figures["counters"]["local_steps"] for node, figures in outcome.collection.figures.items()} == {
        0: 10,
        1: 11,
        2: 12,
    }
    assert sorted(int(info.node) for info, _ in outcome.models) == [0, 1, 1, 2]


# --- interrupts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt_s", [0.05, 0.15, 0.5])
def test_an_interrupt_before_the_start_ends_at_once(interrupt_s: float) -> None:
    outcome = Scenario(interrupts_s=[interrupt_s]).run()
    assert isinstance(outcome.error, StopRequested)
    assert outcome.seconds < interrupt_s + 0.2
    assert outcome.supervisor.ended_ns is None
    assert (outcome.died, outcome.notes) == ({}, [])


def test_an_interrupt_lets_nodes_hand_over() -> None:
    outcome = Scenario([Script(leaves_s=3.0)] * 3, BY_ROUNDS, interrupts_s=[4.0]).run()
    assert isinstance(outcome.error, StopRequested)
    assert not outcome.supervisor.is_over
    assert sorted(outcome.collection.figures) == [0, 1, 2]
    assert len(outcome.models) == 3
    assert outcome.seconds == pytest.approx(7.0, abs=0.3)
    assert outcome.died == {}


def test_a_second_interrupt_does_not_wait() -> None:
    """What has not been handed over stays behind, and that is nobody's failure."""
    outcome = Scenario(with_second(Script(leaves_s=None)), BY_ROUNDS, interrupts_s=[4.0, 6.0]).run()
    assert isinstance(outcome.error, StopRequested)
    assert outcome.seconds == pytest.approx(6.0, abs=0.1)
    assert outcome.fleet.killed == [1]
    assert (outcome.died, outcome.notes) == ({}, [])


def test_an_interrupt_that_comes_twice_at_once_is_one() -> None:
    outcome = Scenario([Script(leaves_s=3.0)] * 3, BY_ROUNDS, interrupts_s=[4.0, 4.1]).run()
    assert sorted(outcome.collection.figures) == [0, 1, 2]


def test_an_interrupt_while_nodes_hand_over_after_the_planned_end() -> None:
    """The experiment is complete; one request does not cost what nodes still hand over."""
    outcome = Scenario([Script(leaves_s=3.0)] * 3, interrupts_s=[7.5]).run()
    assert outcome.error is None
    assert outcome.supervisor.is_over
    assert sorted(outcome.collection.figures) == [0, 1, 2]
