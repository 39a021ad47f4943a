import numpy as np
import pytest

from node.core.errors import ConfigError
from node.core.rng import stream
from node.learning.config import ByUserConfig, DirichletConfig, IIDConfig, KShardsConfig
from node.learning.partition import _cut, class_counts, partition

CIFAR_LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))


def test_k_shards_gives_every_one_of_60_nodes_830_samples() -> None:
    split = partition(KShardsConfig(shards=5), CIFAR_LABELS, 60, seed=1)
    assert [len(own) for own in split.train_indices] == [830] * 60
    used = np.concatenate(split.train_indices)
    assert len(np.unique(used)) == len(used) == 49800
    assert class_counts(split, CIFAR_LABELS, 10).sum() == 49800


def test_k_shards_follows_the_published_steps_one_by_one() -> None:
    """A slow, literal version: lists, and samples removed one at a time."""
    labels = np.random.default_rng(1).integers(4, size=203)
    remaining = [i for label in range(4) for i in range(203) if labels[i] == label]
    rng = stream(7, "partition")
    expected = []
    for _ in range(9):
        own: list[int] = []
        for _ in range(3):
            start = int(rng.integers(len(remaining)))
            taken = [remaining[(start + k) % len(remaining)] for k in range(203 // 9 // 3)]
            own += taken
            gone = set(taken)
            remaining = [i for i in remaining if i not in gone]
        expected.append(own)
    split = partition(KShardsConfig(shards=3), labels, 9, seed=7)
    assert [own.tolist() for own in split.train_indices] == expected


def test_a_segment_wraps_at_the_end_and_is_removed() -> None:
    taken, left = _cut(np.arange(10), 8, 4)
    assert taken.tolist() == [8, 9, 0, 1]
    assert left.tolist() == [2, 3, 4, 5, 6, 7]


def test_small_alpha_is_more_skewed_and_every_sample_is_dealt_once() -> None:
    counts = {}
    for alpha in (0.1, 100.0):
        split = partition(DirichletConfig(alpha=alpha), CIFAR_LABELS, 20, seed=3)
        assert np.array_equal(np.sort(np.concatenate(split.train_indices)), np.arange(50000))
        counts[alpha] = class_counts(split, CIFAR_LABELS, 10)
    assert counts[0.1].std() > 5 * counts[100.0].std()


def sizes(config: DirichletConfig, labels: np.ndarray, nodes: int, seed: int) -> list[int]:
    return [len(own) for own in partition(config, labels, nodes, seed).train_indices]


def test_equal_shares_do_not_give_the_same_nodes_all_samples_that_are_left_over() -> None:
    """1005 samples of each of 50 classes on 16 nodes: 62.8 of a class for each node, 3140.6 in all."""
    labels = np.repeat(np.arange(50), 1005)
    for seed in range(3):
        counted = sizes(DirichletConfig(alpha=1e6), labels, 16, seed)
        assert max(counted) - min(counted) < 30  # rounded alike in each class they would differ by 50


def test_shares_are_rounded_to_a_neighboring_number() -> None:
    config = DirichletConfig(alpha=1.0)
    counts = class_counts(partition(config, CIFAR_LABELS, 16, seed=2), CIFAR_LABELS, 10)
    rng = stream(2, "partition")
    for label in range(10):
        rng.permutation(5000)
        exact = 5000 * rng.dirichlet(np.full(16, 1.0))
        assert np.all(np.abs(counts[:, label] - exact) < 1)


def test_the_balanced_law_follows_the_published_steps_one_by_one() -> None:
    """A slow, literal version: a node with an equal share of all samples gets nothing more; redrawn if one has few."""
    labels = np.random.default_rng(1).integers(4, size=203)
    nodes, alpha, seed = 5, 0.2, 7
    rng, rounding = stream(seed, "partition"), stream(seed, "partition-rounding")
    while True:
        dealt: list[list[int]] = [[] for _ in range(nodes)]
        for label in range(4):
            members = rng.permutation([i for i in range(203) if labels[i] == label]).tolist()
            shares = [
                share if len(own) < 203 / nodes else 0
                for share, own in zip(rng.dirichlet([alpha] * nodes), dealt, strict=True)
            ]
            offset, cumulated, begin = rounding.random(), 0.0, 0
            for node in range(nodes):
                cumulated += shares[node] / sum(shares)
                end = len(members) if node == nodes - 1 else int(np.floor(cumulated * len(members) + offset))
                dealt[node] += members[begin:end]
                begin = end
        if min(map(len, dealt)) >= 4:
            break
    split = partition(DirichletConfig(alpha=alpha, law="balanced"), labels, nodes, seed)
    assert [own.tolist() for own in split.train_indices] == [sorted(own) for own in dealt]


def test_the_balanced_law_is_more_even_and_leaves_nobody_almost_empty() -> None:
    """16 nodes, alpha 0.1: published sizes are about 340 to 6,200 with it, 210 to 7,900 without."""
    largest = {}
    for law in ("plain", "balanced"):
        drawn = [sizes(DirichletConfig(alpha=0.1, law=law), CIFAR_LABELS, 16, seed) for seed in range(10)]
        assert all(sum(counted) == 50000 for counted in drawn)
        largest[law] = np.mean([max(counted) for counted in drawn])
        if law == "balanced":
            assert min(map(min, drawn)) >= 10
    assert largest["balanced"] < 0.85 * largest["plain"]


def test_a_balanced_split_that_cannot_be_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"law=balanced: 10 nodes .* need at least 100 training samples, got 90"):
        partition(DirichletConfig(alpha=1, law="balanced"), np.arange(90) % 10, 10, 1)
    with pytest.raises(ConfigError, match=r"alpha=0\.001: .* must be larger, or nodes=20 smaller"):
        partition(DirichletConfig(alpha=0.001, law="balanced"), np.arange(300) % 10, 20, 1)


def test_610_users_on_60_nodes_are_11_for_the_first_ten_and_10_for_the_others() -> None:
    users = np.repeat(np.arange(610), 3)
    test_users = np.arange(610)
    split = partition(ByUserConfig(), users, 60, 1, test_users)
    assert split.test_indices is not None
    owned = [np.unique(users[own]) for own in split.train_indices]
    assert [len(own) for own in owned] == [11] * 10 + [10] * 50
    assert np.array_equal(np.concatenate(owned), np.arange(610))
    for own, tested in zip(owned, split.test_indices, strict=True):
        assert np.array_equal(test_users[tested], own)


@pytest.mark.parametrize("config", [IIDConfig(), KShardsConfig(), DirichletConfig(alpha=1), ByUserConfig()])
def test_more_nodes_than_can_be_dealt_to_is_one_clear_line(config: IIDConfig) -> None:
    with pytest.raises(ConfigError, match=r"samples|users") as caught:
        partition(config, np.arange(10), 11, 1, np.arange(10))
    assert "\n" not in str(caught.value)
