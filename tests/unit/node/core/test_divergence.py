"""What counts as finite, for models of any size: large numbers do, and nothing is said about them."""

import warnings

import numpy as np
import pytest

from node.core.bodies import Whole
from node.core.counters import NodeCounters
from node.core.divergence import check_outgoing, check_trained
from node.core.errors import DivergedError
from node.core.messages import Message
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype
from tests.messages import Kind

SIZES = (1, 100, 8192, 8193, 30_000)


def look(values: Vector, dtype: WireDtype = WireDtype.FLOAT32) -> NodeCounters:
    counters = NodeCounters(rounds=3)
    check_trained(values, NodeId(1), counters, 5)
    check_outgoing([Message(Kind.MODEL, 2, Whole(values))], dtype, NodeId(1), counters, 5)
    return counters


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0.0, 1e-40, 1.0, 1e20, 3.4e38, -3.4e38])
def test_numbers_of_any_size_are_finite(size: int, value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(np.full(size, value, dtype=np.float32)).values_saturated == 0
        saturated = look(np.full(size, value, dtype=np.float32), WireDtype.FLOAT16).values_saturated
    assert saturated == (size if abs(value) > 65504 else 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("others", [1.0, 3.4e38])
def test_one_value_that_is_not_finite_is_found(size: int, value: float, others: float) -> None:
    for at in {0, size // 2, size - 1}:
        values = np.full(size, others, dtype=np.float32)
        values[at] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DivergedError):
                check_trained(values, NodeId(1), NodeCounters(), 5)
            message = Message(Kind.MODEL, 2, Whole(values))
            with pytest.raises(DivergedError):
                check_outgoing([message], WireDtype.FLOAT32, NodeId(1), NodeCounters(), 5)
