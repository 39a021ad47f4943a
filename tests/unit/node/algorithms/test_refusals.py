"""Messages that an algorithm does not carry: a peer's fault, which it names, and which changes nothing."""

from enum import IntEnum

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.algorithm import NodeContext
from node.core.bodies import Whole
from node.core.errors import ProtocolError
from node.core.events import MessageReceived, Started
from node.core.messages import Message
from node.core.types import NodeId


class OtherTag(IntEnum):
    """Of no algorithm."""

    STRANGER = 200


@pytest.mark.parametrize("kind", ["local", "adpsgd", "adpsgd_pingpong", "epidemic"])
def test_a_message_of_another_algorithm_is_refused_and_its_sender_named(kind: str) -> None:
    """Of algorithms with messages of several kinds, or none; the others' have one kind, and decoding refuses others."""
    entry = ALGORITHMS[kind]
    config = entry.config.model_validate(entry.config.small_run)
    algorithm = entry.make(NodeContext(NodeId(0), config.small_graph(6), (8,), 1, 1), config)
    model = np.ones(8, dtype=np.float32)
    algorithm.handle(Started(np.zeros(8, dtype=np.float32)), 0)
    with pytest.raises(ProtocolError, match=r"from node 1: "):
        algorithm.handle(MessageReceived(NodeId(1), Message(OtherTag.STRANGER, 0, Whole(model)), delivery=0), 5)
