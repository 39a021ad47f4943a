"""Rates of lines follow from what an algorithm sends."""

from typing import Any

import numpy as np
import pytest

from node.algorithms.registry import ALGORITHMS
from node.core.framing import Framing
from orchestrator.host.lines import describe_lines, lines_of
from tests.unit.orchestrator.host.test_dilation import SIZES, planned, with_kind

NETWORK: dict[str, Any] = {"preset": {"kind": "uniform", "bandwidth_mbps": 4}}


def test_whole_models_and_fragments_have_their_own_factor() -> None:
    whole = lines_of(planned(network=NETWORK, algorithm=with_kind("swift_divshare")), SIZES)
    body = 4 * sum(SIZES)
    assert whole.factor == pytest.approx(Framing(tls=False).link_bytes(body) / (body + 64))
    np.testing.assert_allclose(whole.network.up_mbps, 4 * whole.factor)
    cut = lines_of(planned(network=NETWORK, algorithm=with_kind("divshare", omega=0.1)), SIZES)
    assert cut.factor == pytest.approx(Framing(tls=False).link_bytes(body // 10) / (body // 10 + 64), rel=1e-3)
    assert cut.factor > whole.factor > 1.07
    assert describe_lines(whole) == f"{whole.factor:.4g} times the bandwidths, for the framing of messages"


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_has_one(kind: str) -> None:
    plan = planned(network=NETWORK, algorithm=planned().config.algorithm.model_dump(mode="json") | {"kind": kind})
    lines = lines_of(plan, SIZES)
    assert (lines.factor > 1) == (kind != "local")
    assert lines.factor_min <= lines.factor <= lines.factor_max


def test_bandwidths_of_lines_are_asked_for_as_they_are() -> None:
    lines = lines_of(planned(network={**NETWORK, "framing": "ethernet"}), SIZES)
    assert lines.network.up_mbps.tolist() == [4.0] * lines.network.num_nodes
    assert lines.to_json() == {"factor": 1.0, "factor_min": 1.0, "factor_max": 1.0}
    assert describe_lines(lines) == "the bandwidths of the file"
