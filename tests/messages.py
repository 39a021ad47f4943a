"""Messages for tests of what is below the algorithms: one tag for each use of a body, and short ways to make them."""

from enum import IntEnum

from node.core.bodies import EMPTY, WHOLE_MODEL, Body, Empty, FragmentOf, Whole
from node.core.messages import Message
from node.core.types import Vector


class Kind(IntEnum):
    """Tags of an algorithm that sends everything."""

    FRAGMENT = 1
    MODEL = 2
    PING = 3
    PONG = 4
    AVERAGE_REQUEST = 5
    AVERAGE_REPLY = 6
    NOTICE = 7


CARRIES: dict[IntEnum, type[Body]] = {
    kind: {Kind.FRAGMENT: FragmentOf, Kind.NOTICE: Empty}.get(kind, Whole) for kind in Kind
}


def make_message(tag: IntEnum, round_: int, values: Vector, fragment: int = WHOLE_MODEL, exchange: int = 0) -> Message:
    """A message with the body that its tag and its fragment ask for."""
    body: Body = Whole(values) if fragment == WHOLE_MODEL else FragmentOf(fragment, values)
    return Message(tag, round_, EMPTY if tag == Kind.NOTICE and tag.name == "NOTICE" else body, exchange)
