"""The one vocabulary of figures: what a node counts, and the sums over all nodes.

:class:`NodeCounters` names every figure of a node once. The simulator's nodes and the real driver count in it, the
status and the models of a real node carry it by name, and the summary, the tables and the verdict on fidelity read it.
So adding a figure touches two places: a line here, and the place that counts it. Unit, help and the place where users
see it are the line's metadata; ``tests/unit/test_figures.py`` holds each line against them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

Shown = Literal["summary", "nodes", "fidelity"]
"""Place where users see a figure: ``summary.json``, ``nodes.parquet`` or ``fidelity.json``."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The description of one field of :class:`NodeCounters`.

    Attributes:
        name: The field.
        unit: Unit of its values.
        help: One sentence for people.
        shown: Where users see it.
        is_gauge: Whether it tells a state that goes up and down; else it only grows, from 0 at the node's start.
        is_whole: Whether its values are whole numbers >= 0; else they are real, and NaN means that there is none yet.
    """

    name: str
    unit: str
    help: str
    shown: Shown
    is_gauge: bool
    is_whole: bool


def _counter(unit: str, shown: Shown, help: str) -> Any:
    return field(default=0, metadata={"unit": unit, "shown": shown, "help": help, "is_gauge": False, "is_whole": True})


def _gauge(unit: str, shown: Shown, help: str, default: float = 0) -> Any:
    whole = isinstance(default, int)
    return field(
        default=default, metadata={"unit": unit, "shown": shown, "help": help, "is_gauge": True, "is_whole": whole}
    )


@dataclass(slots=True)
class NodeCounters:
    """Figures of one node so far; see :data:`FIGURES` for the table.

    ``bytes_*`` are bytes on the wire, headers included, unless the help says otherwise. All times are testbed time but
    for ``cpu_ns``. A real node that goes on where an earlier part of its run ended counts on its ``rounds`` and
    ``local_steps``, and all else from 0.
    """

    train_loss: float = _gauge("", "nodes", "Mean training loss of the last round.", float("nan"))
    rounds: int = _counter("rounds", "nodes", "Rounds completed.")
    local_steps: int = _counter("steps", "nodes", "Local steps completed or under way.")
    messages_queued: int = _counter("messages", "summary", "Messages that were put into the outbox.")
    messages_sent: int = _counter("messages", "summary", "Messages whose last byte has left the node.")
    messages_control: int = _counter("messages", "summary", "Messages sent that hold no values.")
    messages_delivered: int = _counter("messages", "summary", "Messages that arrived and passed all checks.")
    messages_rejected: int = _counter("messages", "summary", "Messages that arrived and were refused, for any reason.")
    messages_aggregated: int = _counter("messages", "summary", "Messages received that were averaged in.")
    messages_cancelled: int = _counter("messages", "summary", "Messages taken out of the outbox before they were sent.")
    messages_aborted: int = _counter("messages", "summary", "Messages given up while they were transmitted.")
    messages_lost: int = _counter("messages", "summary", "Messages sent that never reached their receiver.")
    bytes_sent: int = _counter("bytes", "nodes", "Bytes that have left the node, wasted ones included.")
    bytes_payload: int = _counter("bytes", "summary", "Values of the messages sent, without indices and headers.")
    bytes_index: int = _counter("bytes", "summary", "Indices and headers of the bodies of the messages sent.")
    bytes_wasted: int = _counter("bytes", "summary", "Bytes sent of messages that were aborted.")
    bytes_lost: int = _counter("bytes", "summary", "Bytes of the messages that were lost.")
    bytes_received: int = _counter("bytes", "summary", "Bytes of the messages that arrived.")
    values_saturated: int = _counter(
        "values", "summary", "Values of messages queued that travel as the largest of the wire's type; once a message."
    )
    queued_messages: int = _gauge("messages", "nodes", "Messages in the outbox now.")
    computing_ns: int = _counter("ns", "nodes", "Time in which local steps were under way.")
    waiting_ns: int = _counter(
        "ns", "nodes", "Time without local steps in which the node could not go on without a peer."
    )
    sending_ns: int = _counter("ns", "nodes", "Time with neither of both in which a message was queued or under way.")
    idle_ns: int = _counter("ns", "nodes", "Time in which the node had nothing to do.")
    paused_ns: int = _counter("ns", "nodes", "Time in which the schedule let the node stand still.")
    down_ns: int = _counter("ns", "nodes", "Time in which the schedule had ended the node.")
    in_flight_bytes_max: int = _gauge("bytes", "fidelity", "The most bytes that were ever in flight.")
    in_flight_bytes_bound: int = _gauge("bytes", "fidelity", "Bytes that may be in flight.")
    overruns: int = _counter("blocks", "fidelity", "Blocks of local steps that took longer than declared.")
    overrun_ns: int = _counter("ns", "fidelity", "Time by which blocks of local steps took longer than declared.")
    declared_ns: int = _counter("ns", "fidelity", "Declared time of all blocks of local steps.")
    cpu_ns: int = _counter("ns", "fidelity", "Processor time of the node's process, real time, without training.")


FIGURES: Final[Mapping[str, Figure]] = {
    item.name: Figure(name=item.name, **item.metadata) for item in fields(NodeCounters)
}
"""The figures of a node, by name, in order."""

_FATES: Final = tuple(name for name in FIGURES if name.startswith("messages_") and name != "messages_control")


def counter_values(counters: NodeCounters) -> dict[str, float]:
    """Return a node's counters by name, but for those that are as at the start."""
    values = {name: getattr(counters, name) for name in FIGURES}
    start = NodeCounters()
    return {name: value for name, value in values.items() if value == value and value != getattr(start, name)}


def counters_from(values: Mapping[str, Any]) -> NodeCounters:
    """Make a node's counters of :func:`counter_values`. Unknown names are left out; None stands for NaN."""
    found: dict[str, Any] = {name: values[name] for name in FIGURES if name in values}
    for name, value in found.items():
        if value is None:
            found[name] = float("nan")
    return NodeCounters(**found)


def add_counters(earlier: NodeCounters, later: NodeCounters) -> NodeCounters:
    """Add up what a node counted in two parts of a run; of a state, the later one counts."""
    return _combined(earlier, later, 1)


def counters_with_past(before: NodeCounters | None, own: NodeCounters) -> NodeCounters:
    """Add what a node counted before; its rounds and local steps are in its own already, as it counts those on."""
    if before is None:
        return own
    return replace(add_counters(before, own), rounds=own.rounds, local_steps=own.local_steps)


def subtract_counters(earlier: NodeCounters, later: NodeCounters) -> NodeCounters:
    """Return what a node counted between two instants; of a state, the later one counts."""
    return _combined(earlier, later, -1)


def _combined(earlier: NodeCounters, later: NodeCounters, sign: int) -> NodeCounters:
    counted = [name for name, figure in FIGURES.items() if not figure.is_gauge]
    return replace(later, **{name: getattr(later, name) + sign * getattr(earlier, name) for name in counted})


@dataclass(frozen=True, slots=True)
class NetworkTotals:
    """Sums over all nodes, as the summary tells them.

    Attributes:
        messages: Messages by fate, by the names of :class:`NodeCounters` without ``messages_``.
        bytes: Bytes sent, by class. ``payload``, ``metadata`` (headers, indices) and ``control`` (headers of messages
            without values) count when a message's last byte has left its sender; ``retransmitted`` is what loss added
            on the wire; ``wasted`` is the transmitted part of aborted messages. Their sum is all that was sent.
        bytes_lost: The part of it that no receiver saw because the message was lost.
        values_saturated: Values that travelled, or were to travel, as the largest of the wire's type.
    """

    messages: dict[str, int]
    bytes: dict[str, int]
    bytes_lost: int
    values_saturated: int


def sum_counters(nodes: Sequence[NodeCounters], header_bytes: int) -> NetworkTotals:
    """Add up what nodes counted; ``header_bytes`` is on the wire of every message besides its body."""

    def total(name: str) -> int:
        return sum(getattr(node, name) for node in nodes)

    payload, wasted, control = total("bytes_payload"), total("bytes_wasted"), total("messages_control")
    headers, index = total("messages_sent") * header_bytes, total("bytes_index")
    return NetworkTotals(
        messages={name.removeprefix("messages_"): total(name) for name in _FATES},
        bytes={
            "payload": payload,
            "metadata": headers - control * header_bytes + index,
            "control": control * header_bytes,
            "retransmitted": total("bytes_sent") - wasted - payload - headers - index,
            "wasted": wasted,
        },
        bytes_lost=total("bytes_lost"),
        values_saturated=total("values_saturated"),
    )
