"""The written-out table of algorithms. Nothing is imported by a name taken from a file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from node.algorithms.adpsgd import AdPsgd, AdPsgdConfig
from node.algorithms.adpsgd_pingpong import AdPsgdPingPong, AdPsgdPingPongConfig
from node.algorithms.config import AlgorithmConfig
from node.algorithms.divshare import DivShare, DivShareConfig
from node.algorithms.dpsgd import DPsgd, DPsgdConfig
from node.algorithms.epidemic import Epidemic, EpidemicConfig
from node.algorithms.local import Local, LocalConfig
from node.algorithms.swift import Swift, SwiftConfig
from node.algorithms.swift_divshare import SwiftDivShare, SwiftDivShareConfig
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
    "adpsgd": _entry(AdPsgdConfig, AdPsgd, "asynchronous pairwise averages (arXiv:1710.06952)"),
    "adpsgd_pingpong": _entry(
        AdPsgdPingPongConfig, AdPsgdPingPong, "AD-PSGD as DivShare's evaluation has it: pings and pongs"
    ),
    "divshare": _entry(DivShareConfig, DivShare, "asynchronous gossip of model fragments (arXiv:2410.12918)"),
    "dpsgd": _entry(DPsgdConfig, DPsgd, "synchronous averages with all neighbors (arXiv:1705.09056)"),
    "epidemic": _entry(EpidemicConfig, Epidemic, "synchronous averages with random peers (arXiv:2310.01972)"),
    "local": _entry(LocalConfig, Local, "no communication"),
    "swift": _entry(SwiftConfig, Swift, "wait-free averages with stored models (arXiv:2210.14026)"),
    "swift_divshare": _entry(
        SwiftDivShareConfig, SwiftDivShare, "SWIFT as DivShare's evaluation has it: gossip of whole models"
    ),
}
