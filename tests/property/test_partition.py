"""Whatever the labels and the number of nodes: nothing is dealt twice and nobody goes empty."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from node.learning.config import DirichletConfig, IIDConfig, KShardsConfig, PartitionConfig
from node.learning.partition import class_counts, partition

configs = st.one_of(
    st.just(IIDConfig()),
    st.builds(KShardsConfig, shards=st.integers(1, 4)),
    st.builds(DirichletConfig, alpha=st.floats(1e-4, 1e3)),
    st.builds(DirichletConfig, alpha=st.floats(1.0, 1e3), law=st.just("balanced")),
)


@settings(max_examples=80, deadline=None)
@given(configs, st.integers(1, 12), st.integers(0, 150), st.integers(1, 6), st.integers(0, 2**32))
def test_every_split_is_sound(config: PartitionConfig, num_nodes: int, extra: int, classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=num_nodes * 4 + extra)
    if isinstance(config, DirichletConfig) and config.law == "balanced" and len(labels) < num_nodes * classes * 4:
        classes = min(classes, 2)  # more would leave too few draws in which every node has a sample for each class
        labels %= classes
    split = partition(config, labels, num_nodes, seed)
    used = np.concatenate(split.train_indices)
    assert len(split.train_indices) == num_nodes
    assert all(len(own) > 0 for own in split.train_indices)
    assert len(np.unique(used)) == len(used)
    assert used.min() >= 0
    assert used.max() < len(labels)
    if not isinstance(config, KShardsConfig):
        assert len(used) == len(labels)
    counts = class_counts(split, labels, classes)
    assert counts.shape == (num_nodes, classes)
    assert counts.sum(axis=1).tolist() == [len(own) for own in split.train_indices]
    again = partition(config, labels, num_nodes, seed)
    assert all(np.array_equal(a, b) for a, b in zip(split.train_indices, again.train_indices, strict=True))
