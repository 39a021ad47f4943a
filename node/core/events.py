"""Events: everything that an algorithm is told. Their arrays are read-only for the algorithm."""

from dataclasses import dataclass
from typing import TypeAlias

from node.core.messages import Message
from node.core.types import NodeId, Vector


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins. ``params``: the common initial model, shape (num_params,)."""

    params: Vector


@dataclass(frozen=True, slots=True)
class LocalStepsDone:
    """The local steps asked for last have ended. ``params``: the model they led to, shape (num_params,)."""

    params: Vector


@dataclass(slots=True)
class MessageReceived:
    """The last byte of a message arrived.

    Not frozen only because a frozen one costs three times as much to make, and one is made for every delivery.

    Attributes:
        sender: Who sent it.
        message: What it is.
        delivery: The driver's number for this delivery; named again in ``Aggregated``.
    """

    sender: NodeId
    message: Message
    delivery: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by :class:`node.core.effects.StartTimer` ran out."""

    timer: int


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A neighbor has ended: what is sent to it is lost, and it does not answer any more. Told some time after that."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A neighbor that had ended has begun again, and knows nothing of what was before.

    Told once for each return of a neighbor that has come back after the node itself began, and always after a
    ``PeerDown``. Messages of its new life may arrive before either, and those of its earlier life after both.
    """

    peer: NodeId


Event: TypeAlias = Started | LocalStepsDone | MessageReceived | TimerFired | PeerDown | PeerUp
