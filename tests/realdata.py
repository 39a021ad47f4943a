"""The real data sets, where ``$FRAGMESH_DATA`` holds them; tests and benchmarks that need them skip without."""

import os
from pathlib import Path

import pytest

from node.core.errors import DataError
from node.learning.config import Cifar10Config
from node.learning.datasets import load_dataset
from node.learning.samples import Dataset

DATA_ROOT = Path(os.environ["FRAGMESH_DATA"]) if os.environ.get("FRAGMESH_DATA") else None


def _has(pattern: str) -> bool:
    return DATA_ROOT is not None and any(DATA_ROOT.glob(pattern))


needs_cifar10 = pytest.mark.skipif(not _has("cifar*10*"), reason="no CIFAR-10 under $FRAGMESH_DATA")
needs_movielens = pytest.mark.skipif(not _has("ml-latest-small"), reason="no MovieLens under $FRAGMESH_DATA")


def cifar10() -> Dataset | None:
    """CIFAR-10 if it is there, without trying to download it."""
    if not _has("cifar*10*"):
        return None
    try:
        return load_dataset(Cifar10Config(), DATA_ROOT, seed=1)
    except DataError:
        return None
