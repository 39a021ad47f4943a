"""What the algorithms' parameters refuse, and with what words."""

import importlib
from typing import Any

import pytest
from pydantic import ValidationError

from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError
from node.core.topology import Topology, complete_bipartite, from_edges, full, ring, star


def check(kind: str, topology: Topology, sizes: tuple[int, ...] = (20,), **parameters: Any) -> None:
    ALGORITHMS[kind].config.model_validate(parameters).check(topology, sizes)


REFUSED: list[tuple[str, Topology, dict[str, Any], str]] = [
    ("divshare", full(6), {"recipients": 6}, r"recipients=6: must be at most 5"),
    ("divshare", full(9), {"omega": 0.01}, r"omega=0.01: gives 100 fragments, must be at most 20"),
    ("swift_divshare", full(6), {"recipients": 6}, r"recipients=6: must be at most 5"),
    ("swift_divshare", ring(6), {"recipients": 3}, r"recipients=3: must be at most 2"),
    ("adpsgd_pingpong", full(6), {"recipients": 6}, r"recipients=6: must be at most 5"),
    ("epidemic", full(6), {"recipients": 6}, r"recipients=6: must be at most 5"),
    ("epidemic", ring(6), {"recipients": 1}, r"topology: must be full"),
    ("epidemic", full(5), {"recipients": 3, "graph": "oracle"}, r"recipients=3: .*must be even.*nodes=5"),
    (
        "epidemic",
        full(5),
        {"recipients": 2, "redraw": False},
        r"redraw=false: must be true with graph: local",
    ),
    ("adpsgd", ring(5), {}, r"roles=bipartite: .*use roles: parity"),
    ("adpsgd", full(3), {"form": "blocking"}, r"roles=bipartite: "),
    ("adpsgd", star(5), {"roles": "parity"}, r"roles=parity: leaves node 2 without a peer"),
    ("adpsgd", from_edges(3, [(0, 1)]), {"roles": "everyone"}, r"roles=everyone: leaves node 2 without"),
    ("adpsgd", from_edges(3, [(0, 1)]), {}, r"roles=bipartite: leaves node 2 without"),
    (
        "adpsgd",
        ring(4),
        {"form": "blocking", "exchange": "continuous"},
        r"exchange=continuous: must be per_step",
    ),
    ("swift", full(3_500), {}, r"topology: must have at most 5,000,000 edges, .*has 6,123,250 \(nodes=3500\)"),
    ("dpsgd", full(10_000), {}, r"topology: must have at most 5,000,000 edges"),
    ("swift", ring(4), {"missing_weight": "rescale"}, r"missing_weight=rescale: must be to_self"),
]

ACCEPTED: list[tuple[str, Topology, dict[str, Any]]] = [
    ("divshare", full(7), {}),
    ("adpsgd", full(10_000), {"roles": "parity"}),
    ("divshare", ring(4), {"recipients": 2, "layout": "contiguous", "omega": 0.05}),
    ("swift_divshare", full(7), {"replacement": "last_arrival"}),
    ("adpsgd_pingpong", full(7), {"alias_bug": True}),
    ("epidemic", full(7), {}),
    ("epidemic", full(5), {"recipients": 2, "graph": "oracle", "redraw": False}),
    ("adpsgd", ring(4), {}),
    ("adpsgd", full(1), {}),
    ("adpsgd", complete_bipartite(5), {"form": "blocking"}),
    ("adpsgd", ring(5), {"roles": "parity"}),
    ("adpsgd", ring(5), {"roles": "everyone", "exchange": "continuous", "form": "naive"}),
    ("dpsgd", star(5), {"order": "combine_then_adapt"}),
    ("swift", star(5), {"sgd_steps": 2, "memory": "fresh_only", "missing_weight": "rescale"}),
    ("local", full(1), {}),
]

INVALID: list[tuple[str, dict[str, Any]]] = [
    ("divshare", {"omega": 0}),
    ("divshare", {"omega": 1.1}),
    ("divshare", {"recipients": 0}),
    ("divshare", {"flush": "some"}),
    ("swift_divshare", {"recipients": 0}),
    ("swift_divshare", {"flush": "none"}),
    ("adpsgd_pingpong", {"recipients": 1}),
    ("adpsgd", {"form": "atomic"}),
    ("adpsgd", {"roles": "random"}),
    ("swift", {"sgd_steps": 0}),
    ("swift", {"flush": "all"}),
    ("dpsgd", {"order": "combine"}),
    ("epidemic", {"graph": "ring"}),
    ("epidemic", {"recipients": 0}),
    ("local", {"recipients": 1}),
]


@pytest.mark.parametrize(("kind", "topology", "parameters", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused(kind: str, topology: Topology, parameters: dict[str, Any], message: str) -> None:
    """One line that names the key, its value and the bound."""
    with pytest.raises(ConfigError, match=message) as caught:
        check(kind, topology, **parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "topology", "parameters"), ACCEPTED, ids=lambda v: str(v)[:40])
def test_accepted(kind: str, topology: Topology, parameters: dict[str, Any]) -> None:
    check(kind, topology, **parameters)


@pytest.mark.parametrize(("kind", "parameters"), INVALID, ids=str)
def test_invalid(kind: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ALGORITHMS[kind].config.model_validate(parameters)


def test_which_algorithms_need_every_message() -> None:
    """Only these would stop for good after a loss."""
    needing = {kind for kind, entry in ALGORITHMS.items() if entry.config.needs_every_message}
    assert needing == {"adpsgd", "dpsgd", "epidemic"}


def test_which_algorithms_go_on_without_peers() -> None:
    """All that need every message do on request; the others do in any case."""
    for kind, entry in ALGORITHMS.items():
        waits = entry.config.needs_every_message
        assert entry.config().goes_on_without_peers is not waits, kind
        assert ("on_missing_peer" in entry.config.model_fields) is waits
        if waits:
            assert entry.config.model_validate({"on_missing_peer": "skip"}).goes_on_without_peers
    assert {kind for kind, entry in ALGORITHMS.items() if entry.config.is_synchronous} == {"dpsgd", "epidemic"}


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_explains_itself(kind: str) -> None:
    """The page that a user reads: paper or reason, parameters, details, departures, a command."""
    entry = ALGORITHMS[kind]
    page = importlib.import_module(entry.config.__module__).__doc__
    assert page is not None
    for word in ("Parameters", "Try it: ``fragmesh run", *entry.config.model_fields):
        assert word in page
    assert all(field.description for field in entry.config.model_fields.values())
    assert entry.summary
