"""What the algorithms' state consists of: the written-out table for :mod:`node.core.saved_state`.

Named are the attributes that the constructor makes and nothing changes. A new algorithm needs a line here; a new
attribute needs none, unless it is of a type that cannot be saved.
"""

from node.algorithms.adpsgd import AdPsgd, _Outstanding
from node.algorithms.adpsgd_pingpong import AdPsgdPingPong
from node.algorithms.divshare import DivShare
from node.algorithms.dpsgd import DPsgd
from node.algorithms.epidemic import Epidemic
from node.algorithms.local import Local
from node.algorithms.swift import Swift
from node.algorithms.swift_divshare import SwiftDivShare
from node.core.events import MessageReceived
from node.core.inbox import Inbox, RoundInbox
from node.core.messages import Message, MessageKind
from node.core.outbox import Outbox
from node.core.recipients import Fanout
from node.core.saved_state import LEAVE_NOTHING, Classes

_CONTEXT = frozenset({"context"})

ALGORITHM_STATE: Classes = {
    AdPsgd: _CONTEXT | {"_form", "_peers"},
    AdPsgdPingPong: _CONTEXT | {"_neighbors"},
    DivShare: _CONTEXT | {"_flush", "_neighbors", "_plan"},
    DPsgd: _CONTEXT | {"_weights"},
    Epidemic: _CONTEXT | {"_config", "_neighbors"},
    Local: _CONTEXT,
    Swift: _CONTEXT | {"_config", "_weights"},
    SwiftDivShare: _CONTEXT | {"_neighbors"},
    _Outstanding: LEAVE_NOTHING,
    Fanout: LEAVE_NOTHING,
    Inbox: LEAVE_NOTHING,
    Message: LEAVE_NOTHING,
    MessageKind: LEAVE_NOTHING,
    MessageReceived: LEAVE_NOTHING,
    Outbox: LEAVE_NOTHING,
    RoundInbox: LEAVE_NOTHING,
}
"""Algorithms, which must be anchors, and what they and the outbox hold."""
