import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from node.core.errors import ConfigError
from node.learning.config import LearningConfig, check_compatible


def test_the_defaults_fit_each_other() -> None:
    check_compatible(LearningConfig())


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"model": {"kind": "gn_lenet"}}, "gn_lenet: needs images of 3x32x32, but .*digits has 1x8x8"),
        ({"dataset": {"kind": "movielens"}, "model": {"kind": "gn_lenet"}}, "needs matrix_factorization"),
        ({"model": {"kind": "matrix_factorization"}}, "model for classification"),
        ({"dataset": {"kind": "synthetic"}, "model": {"kind": "cnn"}}, "plain feature vectors"),
        ({"partition": {"kind": "by_user"}}, "by_user: needs ratings"),
        (
            {
                "dataset": {"kind": "movielens"},
                "model": {"kind": "matrix_factorization"},
                "partition": {"kind": "k_shards"},
            },
            "k_shards: needs class labels",
        ),
    ],
)
def test_what_cannot_fit_is_refused_in_one_line(declared: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        check_compatible(LearningConfig.model_validate(declared))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "declared",
    [
        {"batch_size": 0},
        {"optimizer": {"momentum": 1.0}},
        {"optimizer": {"learning_rate": float("nan")}},
        {"dataset": {"kind": "imagenet"}},
        {"model": {"kind": "cnn", "chanels": 3}},
        {"partition": {"kind": "dirichlet"}},
    ],
)
def test_bad_values_are_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LearningConfig.model_validate(declared)


def test_config_datasets_and_partition_do_not_load_torch() -> None:
    code = (
        "import sys, node.learning.config, node.learning.datasets, node.learning.partition;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
