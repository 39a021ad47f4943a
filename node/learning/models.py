"""The models. None has buffers, so a model is its parameters, in the order of its state dict."""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from node.core.errors import ConfigError
from node.learning.config import (
    CNNConfig,
    GNLeNetConfig,
    LogisticRegressionConfig,
    MatrixFactorizationConfig,
    ModelConfig,
)
from node.learning.samples import Dataset


class GNLeNet(nn.Module):
    """LeNet with group normalisation, 89,834 parameters with 10 classes.

    Source: class ``LeNet`` of sacs-epfl/divshare and decentralizepy. There ReLU comes before the
    pooling; both only pass on order, so swapping them gives the same outputs and gradients, bit for
    bit, on a quarter of the numbers.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding="same")
        self.norm1 = nn.GroupNorm(2, 32)
        self.conv2 = nn.Conv2d(32, 32, 5, padding="same")
        self.norm2 = nn.GroupNorm(2, 32)
        self.conv3 = nn.Conv2d(32, 64, 5, padding="same")
        self.norm3 = nn.GroupNorm(2, 64)
        self.linear = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, num_classes)."""
        hidden = F.relu(F.max_pool2d(self.norm1(self.conv1(images)), 2))
        hidden = F.relu(F.max_pool2d(self.norm2(self.conv2(hidden)), 2))
        hidden = F.relu(F.max_pool2d(self.norm3(self.conv3(hidden)), 2))
        logits: Tensor = self.linear(hidden.flatten(1))
        return logits


class CNN(nn.Module):
    """Two 3x3 convolutions, each with pooling, and a linear layer."""

    def __init__(self, shape: tuple[int, ...], channels: int, num_classes: int) -> None:
        super().__init__()
        depth, height, width = shape
        self.conv1 = nn.Conv2d(depth, channels, 3, padding="same")
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding="same")
        self.linear = nn.Linear(2 * channels * (height // 4) * (width // 4), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2))
        hidden = F.relu(F.max_pool2d(self.conv2(hidden), 2))
        logits: Tensor = self.linear(hidden.flatten(1))
        return logits


class LogisticRegression(nn.Module):
    """One linear layer on the flattened input."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(int(torch.Size(shape).numel()), num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to logits (N, num_classes)."""
        logits: Tensor = self.linear(inputs.flatten(1))
        return logits


class MatrixFactorization(nn.Module):
    """Two embedding tables without biases, initial values uniform in (-0.05, 0.05).

    Source: class ``MatrixFactorization`` of sacs-epfl/decentralizepy.
    """

    def __init__(self, num_users: int, num_items: int, factors: int) -> None:
        super().__init__()
        self.users = nn.Embedding(num_users, factors)
        self.items = nn.Embedding(num_items, factors)
        nn.init.uniform_(self.users.weight, -0.05, 0.05)
        nn.init.uniform_(self.items.weight, -0.05, 0.05)

    def forward(self, pairs: Tensor) -> Tensor:
        """(user, item) rows, shape (N, 2) int64, to ratings (N,)."""
        users: Tensor = self.users(pairs[:, 0])
        items: Tensor = self.items(pairs[:, 1])
        return (users * items).sum(1)


def build_model(config: ModelConfig, dataset: Dataset, seed: int) -> nn.Module:
    """A model that fits the data set, with torch's own initial values drawn from the seed.

    Raises:
        ConfigError: The model cannot take this data set's inputs.
    """
    shape, classes = dataset.train.shape, dataset.num_classes
    ratings = dataset.kind == "ratings"
    if ratings != isinstance(config, MatrixFactorizationConfig):
        raise ConfigError(f"learning.model.kind={config.kind}: cannot learn {dataset.kind} ({dataset.source})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config:
            case GNLeNetConfig():
                if shape != (3, 32, 32):
                    raise ConfigError(f"learning.model.kind=gn_lenet: needs images of 3x32x32, got {_text(shape)}")
                return GNLeNet(classes)
            case CNNConfig(channels=channels):
                if len(shape) != 3 or min(shape[1:]) < 4:
                    raise ConfigError(f"learning.model.kind=cnn: needs images of at least 4x4, got {_text(shape)}")
                return CNN(shape, channels, classes)
            case LogisticRegressionConfig():
                return LogisticRegression(shape, classes)
            case MatrixFactorizationConfig(factors=factors):
                return MatrixFactorization(dataset.num_users, dataset.num_items, factors)
            case _:
                assert_never(config)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
