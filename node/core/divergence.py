"""The rule of divergence: a run ends where a node's model is not finite any more. The same in all runtimes.

A model with an infinity or NaN in it never becomes finite again, and averaging hands it on to every node. So both
drivers ask here, at the two places through which such values could go on:

- when a node's local steps are over, of the model that they led to;
- when a node queues messages, of their values: an average of large models may overflow between two trainings.

The first time that the answer is :class:`DivergedError` the run is over. Its status is ``diverged``, and the error
names the node and its round. Nothing of such a model is sent, so that no receiver has to refuse it. Algorithms need not
look, and drivers call them without numpy's warnings (:data:`IN_SILENCE`).

What is finite and large goes on. The wire's narrower types hold less than float32: there a value saturates
(:class:`~node.core.wire_values.WireDtype`), and is counted here, once for all recipients of a message. A loss that is
not a number, of a model that is finite, ends nothing: it is shown as it is.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

import numpy as np

from node.core.counters import NodeCounters
from node.core.errors import DivergedError
from node.core.messages import Message
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype, count_saturated

IN_SILENCE: Final[Mapping[str, Any]] = {"over": "ignore", "invalid": "ignore"}
"""Arguments of ``np.errstate`` under which a driver runs an algorithm: an average that overflows is found here."""

_FEW = 8192
"""Values of which numpy's linear algebra takes the product in the calling thread; from 10,000 on it may use others."""


def is_finite(values: Vector) -> bool:
    """Return whether no value is infinite or NaN. To be called under :data:`IN_SILENCE`.

    Few values are multiplied with themselves first: a fragment takes a fifth of the time so, and a simulation looks at
    every one. The product is not finite if a value is not; the other way round it may only have overflowed.
    """
    if len(values) <= _FEW and isfinite(values.dot(values)):
        return True
    return bool(np.isfinite(values).all())


def check_trained(params: Vector, node: NodeId, counters: NodeCounters, now_ns: int) -> None:
    """Look at the model that a node's local steps led to.

    Args:
        params: The model, shape (num_params,), float32.
        node: The node.
        counters: Its figures, the round that has just ended among them.
        now_ns: Testbed time.

    Raises:
        DivergedError: It is not finite.
    """
    with np.errstate(**IN_SILENCE):
        finite = is_finite(params)
    if not finite:
        raise DivergedError(node, counters.rounds - 1, now_ns)


def check_outgoing(
    messages: Iterable[Message], dtype: WireDtype, node: NodeId, counters: NodeCounters, now_ns: int
) -> None:
    """Look at messages that a node is about to queue, and count the values that will saturate.

    Args:
        messages: The different ones.
        dtype: How their values will travel.
        node: The node.
        counters: Its figures; ``values_saturated`` grows.
        now_ns: Testbed time.

    Raises:
        DivergedError: Some values are not finite.
    """
    narrow = dtype is not WireDtype.FLOAT32
    with np.errstate(**IN_SILENCE):
        for message in messages:
            values = message.body.values
            if not is_finite(values):
                raise DivergedError(node, counters.rounds - 1, now_ns)
            if narrow:
                counters.values_saturated += count_saturated(values, dtype)
