import numpy as np
import pytest
import torch

from node.core.errors import ConfigError
from node.learning.config import (
    CNNConfig,
    GNLeNetConfig,
    LogisticRegressionConfig,
    MatrixFactorizationConfig,
    ModelConfig,
)
from node.learning.flatten import FlatModel
from node.learning.models import build_model
from node.learning.samples import Dataset, Samples


def images(*shape: int) -> Dataset:
    samples = Samples(np.zeros((1, *shape), dtype=np.uint8), np.zeros(1, dtype=np.int64))
    return Dataset("classification", samples, samples, "test", class_names=tuple("0123456789"))


def movielens_sized() -> Dataset:
    samples = Samples(np.zeros((1, 2), dtype=np.int64), np.ones(1, dtype=np.float32))
    return Dataset("ratings", samples, samples, "test", num_users=610, num_items=9724)


def test_gn_lenet_has_the_published_parameters() -> None:
    model = FlatModel(build_model(GNLeNetConfig(), images(3, 32, 32), 1))
    assert model.num_params == 89834
    assert model.tensor_sizes == (
        2400, 32, 32, 32, 25600, 32, 32, 32, 51200, 64, 64, 64, 10240, 10,
    )  # fmt: skip


def test_gn_lenet_computes_what_is_published() -> None:
    """Convolution, normalisation in two groups, ReLU, pooling, in this order: the same outputs and gradients."""
    ours = build_model(GNLeNetConfig(), images(3, 32, 32), 1)
    blocks: list[torch.nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 32), (32, 64)):
        blocks += [torch.nn.Conv2d(inputs, outputs, 5, padding=2), torch.nn.GroupNorm(2, outputs)]
        blocks += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    published = torch.nn.Sequential(*blocks, torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    published.load_state_dict(dict(zip(published.state_dict(), ours.state_dict().values(), strict=True)))
    batch = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for model in (ours, published):
        outputs = model(batch)
        outputs.square().sum().backward()
        results.append([outputs.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == 15
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_matrix_factorization_has_the_published_parameters() -> None:
    model = FlatModel(build_model(MatrixFactorizationConfig(), movielens_sized(), 1))
    assert model.tensor_sizes == (12200, 194480)
    assert model.num_params == 206680
    assert 0.049 < float(model.initial().abs().max()) <= 0.05


def test_parameters_and_gradients_are_views_of_flat_buffers() -> None:
    model = FlatModel(build_model(GNLeNetConfig(), images(3, 32, 32), 1))
    row = model.initial()
    model.bind(row)
    start = 0
    for parameter in model.module.parameters():
        grad = parameter.grad
        assert grad is not None
        assert parameter.data_ptr() == row.data_ptr() + 4 * start
        assert grad.data_ptr() == model.gradient.data_ptr() + 4 * start
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)
        start += parameter.numel()
    row.zero_()
    assert all(not parameter.any() for parameter in model.module.parameters())
    loss = model.module(torch.ones(2, 3, 32, 32)).sum()
    model.backward(loss)
    assert model.gradient[-10:].tolist() == [2.0] * 10


def test_binding_keeps_the_function() -> None:
    module = build_model(GNLeNetConfig(), images(3, 32, 32), 1)
    batch = torch.randn(2, 3, 32, 32)
    expected = module(batch)
    assert torch.allclose(FlatModel(module).module(batch), expected, atol=1e-5)


def test_initial_values_follow_the_seed_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (FlatModel(build_model(CNNConfig(), images(1, 8, 8), seed)).initial() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), undisturbed)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("config", "dataset"),
    [
        (GNLeNetConfig(), images(3, 64, 64)),
        (GNLeNetConfig(), images(1, 8, 8)),
        (CNNConfig(), images(20)),
        (LogisticRegressionConfig(), movielens_sized()),
        (MatrixFactorizationConfig(), images(1, 8, 8)),
    ],
)
def test_models_that_do_not_fit_are_refused(config: ModelConfig, dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=config.kind):
        build_model(config, dataset, 1)
