"""Small data sets and configurations; torch on one thread so that the suite shares the machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from node.learning.config import (
    CNNConfig,
    DigitsConfig,
    KShardsConfig,
    LearningConfig,
    LogisticRegressionConfig,
    OptimizerConfig,
    SyntheticConfig,
)
from tests.realdata import DATA_ROOT


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests with real data use the developer's cache, others an empty one."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data_root() -> Path:
    """Real data sets, where there are any."""
    if DATA_ROOT is not None and DATA_ROOT.is_dir():
        return DATA_ROOT
    pytest.skip("no real data: set FRAGMESH_DATA")


@pytest.fixture
def synthetic() -> LearningConfig:
    return LearningConfig(
        dataset=SyntheticConfig(samples=400, test_samples=100, features=12, classes=4),
        model=LogisticRegressionConfig(),
    )


@pytest.fixture
def digits() -> LearningConfig:
    return LearningConfig(
        dataset=DigitsConfig(max_train_samples=400),
        model=CNNConfig(channels=4),
        partition=KShardsConfig(shards=2),
        optimizer=OptimizerConfig(learning_rate=0.05, momentum=0.9, weight_decay=0.001),
    )
