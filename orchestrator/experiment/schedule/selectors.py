"""From a selector of the experiment file to node numbers; pure."""

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from node.core.errors import ConfigError
from node.host.text_files import shorten
from orchestrator.experiment.schedule.config import RANGE, FractionSelector, OneSelector, Selector


@dataclass(frozen=True, slots=True)
class NodeGroups:
    """The nodes that a selector can name.

    Attributes:
        num_nodes: How many there are.
        stragglers: Those slowed on purpose, in the network or in compute.
    """

    num_nodes: int
    stragglers: frozenset[int]

    def of_word(self, word: str, place: str) -> list[int]:
        """Return the nodes of a group or a range, in order.

        Raises:
            ConfigError: There are none, or the range has nodes that do not exist.
        """
        if (found := RANGE.fullmatch(word)) is not None:
            first, last = int(found[1]), int(found[2])
            if last >= self.num_nodes:
                raise ConfigError(f"{place}={word}: must be between 0 and {self.num_nodes - 1}")
            return list(range(first, last + 1))
        if word == "all":
            return list(range(self.num_nodes))
        if word == "stragglers":
            if not self.stragglers:
                raise ConfigError(
                    f"{place}=stragglers: must be nodes that are there: neither network nor compute has stragglers"
                )
            return sorted(self.stragglers)
        assert word == "fast", "the file's declaration knows no other word"
        fast = [node for node in range(self.num_nodes) if node not in self.stragglers]
        if not fast:
            raise ConfigError(f"{place}=fast: must be nodes that are there: all are stragglers")
        return fast


def select(
    selector: Selector, groups: NodeGroups, rng: np.random.Generator, place: str, *, is_apart: bool = False
) -> tuple[int, ...]:
    """Return the nodes that a selector names, in order, each once.

    Args:
        selector: As the file has it.
        groups: The nodes that there are.
        rng: Draws fractions.
        place: Key of the selector, for messages.
        is_apart: Refuse a list that names a node twice.

    Raises:
        ConfigError: A node or a group does not exist, none is left, or one is named twice.
    """
    if not isinstance(selector, tuple):
        return tuple(_one(selector, groups, rng, place))
    found: set[int] = set()
    for index, one in enumerate(selector):
        nodes = _one(one, groups, rng, f"{place}[{index}]")
        if is_apart and (again := found.intersection(nodes)):
            raise ConfigError(f"{place}[{index}]: must be without node {min(again)}, which the list has already")
        found.update(nodes)
    return tuple(sorted(found))


def _one(selector: OneSelector, groups: NodeGroups, rng: np.random.Generator, place: str) -> list[int]:
    match selector:
        case int():
            if selector >= groups.num_nodes:
                raise ConfigError(f"{place}={selector}: must be between 0 and {groups.num_nodes - 1}")
            return [selector]
        case str():
            return groups.of_word(selector, place)
        case FractionSelector(fraction=fraction, of=of):
            nodes = groups.of_word(of, f"{place}.of")
            count = int(fraction * len(nodes) + 0.5)
            if not count:
                raise ConfigError(f"{place}.fraction={fraction:g}: must be larger: it gives none of {len(nodes)} nodes")
            return sorted(rng.permutation(nodes)[:count].tolist())
        case _:
            assert_never(selector)


def in_short(nodes: tuple[int, ...], letters_max: int = 60) -> str:
    """Write nodes as numbers and ranges, cut where they are many."""
    parts: list[str] = []
    begin = before = -2
    for node in (*nodes, -2):
        if node != before + 1 or before == -2:
            if before != -2:
                parts.append(f"{begin}" if begin == before else f"{begin}-{before}")
            begin = node
        before = node
    return shorten(",".join(parts), letters_max)
