"""Detection of a real run that has come to rest: nothing happens any more, though nodes have rounds left. Pure.

A simulation knows that at once, because it knows all that is to come. Of real nodes only their last statuses are
known, each of another moment, so there are two ways to tell, and the first that says so ends the run:

- By what nodes say. Each says whether anything will happen at it unless a message arrives or a transfer ends. If all
  say no, as many messages have arrived as have left, and transfers under way are on links that stay without bandwidth;
  and if all say the same once more in statuses that were made later, so that nothing was on its way between them. This
  takes some statuses' time.
- By time. Nothing has moved for longer than the slowest step can take, whatever the nodes say: one of them may hang.
"""

from collections.abc import Sequence

from node.core.errors import StalledError
from node.transport.control_values import NodeStatus
from orchestrator.runs.rules import Rules
from orchestrator.runs.watched import doing_all, progress_made


class StallWatch:
    """Looks at the statuses of the living nodes again and again.

    State:
        _moved, _moved_s: The sum of their progress, and when it grew, real time.
        _rest_ns: When all were first seen at rest, testbed time, with that sum; None while they are not.
    """

    def __init__(self, rules: Rules, now_s: float) -> None:
        """Begin at a real time ``now_s`` of any origin."""
        self._rules = rules
        self._moved = -1
        self._moved_s = now_s
        self._rest_ns: int | None = None

    def look(self, alive: Sequence[NodeStatus], now_s: float, now_ns: int) -> None:
        """Look at the statuses as they are now.

        Args:
            alive: Of the nodes that take part.
            now_s: Real time, of the same origin as at the beginning.
            now_ns: Testbed time.

        Raises:
            StalledError: The run has come to rest; what each node waited for is said.
        """
        moved = progress_made(alive)
        if moved != self._moved:
            self._moved, self._moved_s, self._rest_ns = moved, now_s, None
        if now_ns <= max(self._rules.last_change_ns, self._rules.last_pause_ns):
            self._moved_s = now_s  # a transfer may be parked, or a node stand still, until a change to come
        if now_ns <= self._rules.last_pause_ns:
            return  # others may wait for it
        if not at_rest(alive, self._rules, now_ns):
            self._rest_ns = None
        elif self._rest_ns is None:
            self._rest_ns = now_ns
        elif all(status.time_ns > self._rest_ns for status in alive):
            raise stalled(alive)
        resting_s = now_s - self._moved_s
        if resting_s > self._rules.stalled_after_s:
            raise stalled(alive, f"nothing has moved for {resting_s:.0f} s of real time: ")


def at_rest(alive: Sequence[NodeStatus], rules: Rules, now_ns: int) -> bool:
    """Return whether nodes say that nothing will happen any more, some of them with rounds left.

    Args:
        alive: Statuses of the nodes that take part. Where one of all has died, or has been down, nobody knows what it
            sent last, and what the others say decides alone.
        rules: How many rounds a node may do, and its links.
        now_ns: Testbed time.
    """
    if not all(status.at_rest for status in alive):
        return False
    if rules.rounds is not None and all(status.counters.rounds >= rules.rounds for status in alive):
        return False  # they have nothing to do, and wait for nobody
    transfers = [(status.node, peer) for status in alive for peer in status.sending_to]
    if transfers and (rules.links is None or now_ns <= rules.last_change_ns):
        return False
    if rules.links is not None and not all(rules.links.is_parked(*transfer) for transfer in transfers):
        return False
    if len(alive) < rules.num_nodes or rules.nodes_go_down:
        return bool(alive)
    sent = sum(status.counters.messages_sent for status in alive)
    counters = [status.counters for status in alive]
    arrived = sum(count.messages_delivered + count.messages_lost + count.messages_rejected for count in counters)
    # What the algorithm refused had been delivered, and is counted as both.
    return sent == arrived - sum(status.messages_rejected.get("algorithm", 0) for status in alive)


def stalled(alive: Sequence[NodeStatus], how: str = "") -> StalledError:
    """Make the error of a run that has come to rest; ``how`` says how that was seen."""
    return StalledError(f"{how}every node waits for another one ({doing_all(list(alive))})")
