"""Partitions: which node trains on which samples.

Numpy only; the same arguments give the same split on every machine.
"""

from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError
from node.core.rng import stream
from node.core.types import IndexVector
from node.learning.config import ByUserConfig, DirichletConfig, IIDConfig, KShardsConfig, PartitionConfig

_MOST_DRAWS: Final = 1000
"""Draws of a balanced split before the settings are taken for impossible."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The samples of every node."""

    train_indices: tuple[IndexVector, ...]
    """Per node: positions in the training samples; disjoint, never empty."""
    test_indices: tuple[IndexVector, ...] | None
    """Per node: positions in the test samples; None where all nodes are tested on all of them."""


def partition(
    config: PartitionConfig,
    groups: npt.NDArray[np.int64],
    num_nodes: int,
    seed: int,
    test_groups: npt.NDArray[np.int64] | None = None,
) -> Partition:
    """Split the training samples among the nodes.

    Args:
        config: Which split.
        groups: The label of each training sample, or its user for ``by_user``; shape (num_samples,).
        num_nodes: Number of nodes, >= 1.
        seed: Seed of the data set and its split.
        test_groups: The user of each test sample; ``by_user`` only.

    Raises:
        ConfigError: There is not enough to give every node a share.
    """
    match config:
        case IIDConfig():
            return Partition(_iid(len(groups), num_nodes, seed), None)
        case KShardsConfig(shards=shards):
            return Partition(_k_shards(groups, num_nodes, shards, seed), None)
        case DirichletConfig(alpha=alpha, law=law):
            deal = _balanced_dirichlet if law == "balanced" else _dirichlet
            return Partition(deal(groups, num_nodes, alpha, seed), None)
        case ByUserConfig():
            assert test_groups is not None, "by_user needs the users of the test samples"
            return _by_user(groups, test_groups, num_nodes)
        case _:
            assert_never(config)


def class_counts(split: Partition, labels: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    """Count the training samples of each class that each node has, shape (num_nodes, num_classes)."""
    return np.stack([np.bincount(labels[own], minlength=num_classes) for own in split.train_indices])


def _iid(num_samples: int, num_nodes: int, seed: int) -> tuple[IndexVector, ...]:
    if num_nodes > num_samples:
        raise ConfigError(f"nodes={num_nodes}: must be at most the number of training samples, {num_samples}")
    order = stream(seed, "partition").permutation(num_samples)
    return tuple(np.sort(part) for part in np.array_split(order, num_nodes))


def _k_shards(labels: npt.NDArray[np.int64], num_nodes: int, shards: int, seed: int) -> tuple[IndexVector, ...]:
    """Random segments of what is left of the label-sorted list, node after node.

    Unlike "sort, cut into equal shards, deal", a segment may straddle two labels, and a few samples are never
    used: 60 nodes and 5 shards of CIFAR-10 give every node 5 * (833 // 5) = 830 samples.

    Source: sacs-epfl/decentralizepy, ``KShardDataPartitioner``. There the last node's quota also gets
    the rest of the division (20 samples in the example); here all nodes have the same quota.
    """
    length = len(labels) // num_nodes // shards
    if length == 0:
        raise ConfigError(
            f"learning.partition.shards={shards}: {num_nodes} nodes x {shards} shards need at least "
            f"{num_nodes * shards} training samples, got {len(labels)}"
        )
    rng = stream(seed, "partition")
    remaining = np.argsort(labels, kind="stable").astype(np.int64)
    nodes: list[IndexVector] = []
    for _ in range(num_nodes):
        segments: list[IndexVector] = []
        for _ in range(shards):
            start = int(rng.integers(len(remaining)))
            segment, remaining = _cut(remaining, start, length)
            segments.append(segment)
        nodes.append(np.concatenate(segments))
    return tuple(nodes)


def _cut(samples: IndexVector, start: int, length: int) -> tuple[IndexVector, IndexVector]:
    """A segment that wraps at the end of the list, and the list without it."""
    wrapped = start + length - len(samples)
    if wrapped <= 0:
        return samples[start : start + length], np.concatenate([samples[:start], samples[start + length :]])
    return np.concatenate([samples[start:], samples[:wrapped]]), samples[wrapped:start]


def _dirichlet(labels: npt.NDArray[np.int64], num_nodes: int, alpha: float, seed: int) -> tuple[IndexVector, ...]:
    """Deal each class in proportions drawn from Dirichlet(alpha, ..., alpha) over the nodes.

    Every sample is dealt once. A node that draws nothing gets one sample of the node that has most,
    because a node without samples cannot take a local step.

    Source: Hsu, Qi, Brown, arXiv:1909.06335, in the per-class form that most federated code uses.
    """
    if num_nodes > len(labels):
        raise ConfigError(f"nodes={num_nodes}: must be at most the number of training samples, {len(labels)}")
    rng, rounding = stream(seed, "partition"), stream(seed, "partition-rounding")
    parts: list[list[IndexVector]] = [[] for _ in range(num_nodes)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(num_nodes, alpha))
        # A tiny alpha can underflow to 0/0: then one node takes the class.
        if not np.isfinite(shares).all():
            shares = np.eye(num_nodes)[rng.integers(num_nodes)]
        for node, part in enumerate(_deal(members, shares, rounding)):
            parts[node].append(part)
    nodes = [np.sort(np.concatenate(own)) for own in parts]
    for node in range(num_nodes):
        if len(nodes[node]) == 0:
            richest = max(range(num_nodes), key=lambda other: (len(nodes[other]), -other))
            nodes[node], nodes[richest] = nodes[richest][-1:], nodes[richest][:-1]
    return tuple(nodes)


def _deal(members: IndexVector, shares: npt.NDArray[np.float64], rounding: np.random.Generator) -> list[IndexVector]:
    """Cut samples in proportion to shares that sum to one.

    Each node gets its exact amount rounded up or down. Which of the two is drawn for each class: rounded alike, equal
    shares would give the same nodes one more of every class.
    """
    exact = np.cumsum(shares)[:-1] * len(members)
    cuts = np.floor(exact + rounding.random()).astype(np.int64)
    return np.split(members, np.minimum(cuts, len(members)))


def _balanced_dirichlet(
    labels: npt.NDArray[np.int64], num_nodes: int, alpha: float, seed: int
) -> tuple[IndexVector, ...]:
    """Deal as :func:`_dirichlet`, but nothing more to a node that already has an equal share of all samples.

    The whole split is drawn anew until every node has at least as many samples as there are classes. So sizes are more
    even: with 16 nodes and alpha 0.1 the largest of five splits of CIFAR-10 have 5,100 to 6,800 samples instead of
    6,000 to 9,400.

    Source: sacs-epfl/decentralizepy, ``DirichletDataPartitioner``, which Epidemic Learning's tutorial uses. It cuts by
    the floor of the cumulated shares; here the rounding is drawn, see :func:`_deal`.
    """
    classes = np.unique(labels)
    if num_nodes * len(classes) > len(labels):
        raise ConfigError(
            f"learning.partition.law=balanced: {num_nodes} nodes with a sample for each of {len(classes)} classes need "
            f"at least {num_nodes * len(classes)} training samples, got {len(labels)}"
        )
    rng, rounding = stream(seed, "partition"), stream(seed, "partition-rounding")
    for _ in range(_MOST_DRAWS):
        parts: list[list[IndexVector]] = [[] for _ in range(num_nodes)]
        sizes = np.zeros(num_nodes, dtype=np.int64)
        for label in classes:
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(num_nodes, alpha))
            shares = np.where(np.isfinite(shares) & (sizes < len(labels) / num_nodes), shares, 0.0)
            if shares.sum() == 0:  # underflow: one of the nodes that may still get something takes the class
                shares[rng.choice(np.flatnonzero(sizes < len(labels) / num_nodes))] = 1.0
            for node, part in enumerate(_deal(members, shares / shares.sum(), rounding)):
                parts[node].append(part)
                sizes[node] += len(part)
        if sizes.min() >= len(classes):
            return tuple(np.sort(np.concatenate(own)) for own in parts)
    raise ConfigError(
        f"learning.partition.alpha={alpha:g}: with law: balanced, in each of {_MOST_DRAWS} draws some node had fewer "
        f"samples than there are classes; must be larger, or nodes={num_nodes} smaller"
    )


def _by_user(users: npt.NDArray[np.int64], test_users: npt.NDArray[np.int64], num_nodes: int) -> Partition:
    """Contiguous ranges of user ids; the first nodes get one user more when it does not divide.

    Source: sacs-epfl/decentralizepy, ``MovieLens.py``: 610 users on 60 nodes give 11 users to nodes
    0-9, else 10.
    """
    ids = np.unique(users)
    if num_nodes > len(ids):
        raise ConfigError(f"nodes={num_nodes}: must be at most the number of users, {len(ids)}")
    train: list[IndexVector] = []
    test: list[IndexVector] = []
    for own in np.array_split(ids, num_nodes):
        train.append(np.flatnonzero(np.isin(users, own)))
        test.append(np.flatnonzero(np.isin(test_users, own)))
    return Partition(tuple(train), tuple(test))
