"""The written-out table of algorithms. Nothing is imported by a name taken from a file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from node.algorithms.config import AlgorithmConfig
from node.algorithms.divshare import DivShare, DivShareConfig
from node.core.algorithm import Algorithm, NodeContext

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)


@dataclass(frozen=True)
class Entry:
    """One algorithm: its parameters, how one node of it is made, and what it is in one line."""

    config: type[AlgorithmConfig]
    make: Callable[[NodeContext, AlgorithmConfig], Algorithm]
    summary: str


def _entry(config: type[ConfigT], algorithm: Callable[[NodeContext, ConfigT], Algorithm], summary: str) -> Entry:
    def make(context: NodeContext, given: AlgorithmConfig) -> Algorithm:
        assert isinstance(given, config)
        return algorithm(context, given)

    return Entry(config, make, summary)


ALGORITHMS: dict[str, Entry] = {
    "divshare": _entry(DivShareConfig, DivShare, "asynchronous gossip of model fragments (arXiv:2410.12918)"),
}
