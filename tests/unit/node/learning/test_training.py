"""The trainers: the right steps, the same everywhere, and nothing left behind."""

import os
import select
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F

from node.core.errors import ConfigError, RunnerError
from node.core.training import NullTrainer, QuadraticTrainer, TrainerAndEvaluator
from node.core.types import NodeId
from node.learning.build import build_learner, build_trainer, partition_dataset
from node.learning.config import (
    ByUserConfig,
    Cifar10Config,
    GNLeNetConfig,
    KShardsConfig,
    LearningConfig,
    MatrixFactorizationConfig,
    OptimizerConfig,
    SyntheticRatingsConfig,
)
from node.learning.datasets import load_dataset
from node.learning.evaluate import Score
from node.learning.models import build_model
from node.learning.pool import PoolTrainer
from node.learning.trainer import Batches

NODES = [NodeId(node) for node in range(4)]


def make(
    config: LearningConfig, workers: int, max_test_samples: int | None = None, root: Path | None = None
) -> TrainerAndEvaluator:
    dataset = load_dataset(config.dataset, root, 1)
    split = partition_dataset(config, dataset, len(NODES), 1)
    return build_trainer(config, dataset, split, 1, len(NODES), workers, max_test_samples)


@pytest.fixture
def pool(synthetic: LearningConfig) -> Iterator[PoolTrainer]:
    trainer = make(synthetic, workers=2)
    assert isinstance(trainer, PoolTrainer)
    with trainer:
        yield trainer


def run_rounds(trainer: TrainerAndEvaluator) -> list[object]:
    """Three rounds on all nodes, with tests in between; everything that came out."""
    seen: list[object] = []
    models = {node: trainer.initial_params() for node in NODES}
    try:
        for done in range(3):
            for node in NODES:
                trainer.begin(node, models[node], done * 9, 9)
            trainer.submit(done, models)
            for node in reversed(NODES):
                result = trainer.finish(node)
                models[node] = result.params
                seen.append((node, result.loss, result.params.tobytes()))
        seen.extend(trainer.collect(wait=True))
    finally:
        trainer.close()
    return seen


def finish_all(trainer: TrainerAndEvaluator) -> None:
    for node in NODES:
        trainer.finish(node)


def ratings() -> LearningConfig:
    return LearningConfig(
        dataset=SyntheticRatingsConfig(),
        model=MatrixFactorizationConfig(factors=4),
        partition=ByUserConfig(),
        optimizer=OptimizerConfig(learning_rate=0.1),
    )


@pytest.mark.parametrize("name", ["synthetic", "digits", "ratings"])
def test_pool_and_process_agree_bit_for_bit(name: str, request: pytest.FixtureRequest) -> None:
    config = ratings() if name == "ratings" else request.getfixturevalue(name)
    alone = run_rounds(make(config, 0, 50))
    assert run_rounds(make(config, 2, 50)) == alone
    assert run_rounds(make(config, 1, 50)) == alone


@pytest.mark.data
@pytest.mark.slow
def test_pool_and_process_agree_on_gn_lenet(data_root: Path) -> None:
    config = LearningConfig(dataset=Cifar10Config(), model=GNLeNetConfig(), partition=KShardsConfig())
    assert run_rounds(make(config, 2, 60, data_root)) == run_rounds(make(config, 0, 60, data_root))


def test_steps_are_those_of_plain_torch(digits: LearningConfig) -> None:
    """Against torch.optim.SGD on an ordinary module, with momentum and decay."""
    trainer = make(digits, 0)
    dataset = load_dataset(digits.dataset, None, 1)
    split = partition_dataset(digits, dataset, len(NODES), 1)
    model = build_model(digits.model, dataset, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.001)
    losses = []
    for chosen in Batches(split.train_indices, digits.batch_size, 1).steps(NODES[2], 0, 10):
        inputs = torch.from_numpy(dataset.train.inputs[chosen].astype(np.float32)) / 255
        loss = F.cross_entropy(model((inputs - 0.5) / 0.5), torch.from_numpy(dataset.train.targets[chosen]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    params = trainer.initial_params()
    got = []
    for first_step in (0, 5):  # momentum lasts from one call to the next
        trainer.begin(NODES[2], params, first_step, 5)
        result = trainer.finish(NODES[2])
        params = result.params
        got.append(result.loss)
    expected = [(p.permute(0, 2, 3, 1) if p.dim() == 4 else p).detach().flatten() for p in model.parameters()]
    np.testing.assert_allclose(params, torch.cat(expected).numpy(), atol=2e-5)
    np.testing.assert_allclose(got, [np.mean(losses[:5]), np.mean(losses[5:])], rtol=1e-4)


def test_training_learns_and_evaluation_sees_it(digits: LearningConfig) -> None:
    config = digits.model_copy(update={"optimizer": OptimizerConfig(learning_rate=0.1)})
    trainer = make(config, 0)
    start = trainer.initial_params()
    trainer.begin(NODES[0], start, 0, 150)
    trained = trainer.finish(NODES[0]).params
    trainer.submit(7, {NODES[0]: start, NODES[1]: trained})
    ((ticket, results),) = trainer.collect(wait=True)
    assert ticket == 7
    assert results[NODES[0]].samples == 359
    assert results[NODES[1]].accuracy > results[NODES[0]].accuracy + 0.1


def test_ratings_are_scored_by_rmse_and_rounded_hits() -> None:
    config = ratings()
    trainer = make(config, 0)
    dataset = load_dataset(config.dataset, None, 1)
    split = partition_dataset(config, dataset, len(NODES), 1)
    params = np.full(sum(trainer.tensor_sizes), 0.9, dtype=np.float32)  # predicts 3.24 everywhere
    trainer.submit(0, {NODES[1]: params})
    ((_, results),) = trainer.collect(wait=True)
    assert split.test_indices is not None
    truth = dataset.test.targets[split.test_indices[1]]
    assert results[NODES[1]].samples == len(truth)
    assert results[NODES[1]].loss == pytest.approx(np.sqrt(np.mean((truth - 3.24) ** 2)), rel=1e-5)
    assert results[NODES[1]].accuracy == pytest.approx(np.mean(truth == 3.0))


def test_predicted_ratings_are_clipped_and_rounded_to_halves() -> None:
    score = Score(ratings=True)
    predicted = torch.tensor([-3.0, 0.4, 0.8, 3.7, 9.0, 4.7])
    score.add(predicted, torch.tensor([0.5, 0.5, 1.0, 3.5, 5.0, 5.0]))
    assert score.result().accuracy == 5 / 6  # all but the last, which rounds to 4.5


def test_the_rmse_over_seen_items_leaves_out_those_without_a_training_rating() -> None:
    score = Score(ratings=True)
    score.add(torch.tensor([3.0, 3.0]), torch.tensor([4.0, 5.0]), torch.tensor([True, False]))
    score.add(torch.tensor([3.0, 3.0]), torch.tensor([3.0, 1.0]), torch.tensor([True, True]))
    assert score.result().loss == pytest.approx(np.sqrt((1 + 4 + 0 + 4) / 4))
    assert score.result().loss_seen == pytest.approx(np.sqrt((1 + 0 + 4) / 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_tests_seen_items_of_each_node(workers: int) -> None:
    config = ratings().model_copy(update={"dataset": SyntheticRatingsConfig(users=12, items=200, ratings_per_user=10)})
    dataset = load_dataset(config.dataset, None, 1)
    split = partition_dataset(config, dataset, len(NODES), 1)
    trainer = build_trainer(config, dataset, split, 1, len(NODES), workers)
    try:
        model = np.zeros(trainer.initial_params().shape, dtype=np.float32)  # predicts 0
        trainer.submit(0, dict.fromkeys(NODES, model))
        ((_, results),) = trainer.collect(wait=True)
    finally:
        trainer.close()
    trained = set(dataset.train.inputs[:, 1].tolist())
    assert split.test_indices is not None
    for node, own in enumerate(split.test_indices):
        seen = [float(dataset.test.targets[at]) for at in own if int(dataset.test.inputs[at, 1]) in trained]
        assert 0 < len(seen) < len(own)
        assert results[NODES[node]].loss_seen == pytest.approx(np.sqrt(np.mean(np.square(seen))))
    (note,) = dataset.notes
    assert "test ratings are of items without a training rating" in note


def test_batches_restart_with_a_new_shuffle_after_a_short_last_one() -> None:
    own = np.arange(1000, 1830)
    batches = Batches((own,), 8, seed=3)
    epochs = list(batches.steps(NodeId(0), 0, 208))
    assert [len(batch) for batch in epochs[:104]] == [8] * 103 + [6]
    first, second = np.concatenate(epochs[:104]), np.concatenate(epochs[104:])
    assert np.array_equal(np.sort(first), own)
    assert np.array_equal(np.sort(second), own)
    assert not np.array_equal(first, second)
    resumed = [
        batch for cut in pairwise((0, 50, 104, 150, 208)) for batch in batches.steps(NodeId(0), cut[0], cut[1] - cut[0])
    ]
    assert all(np.array_equal(a, b) for a, b in zip(epochs, resumed, strict=True))


def test_with_reshuffle_round_each_round_begins_with_a_new_shuffle() -> None:
    """A round of 5 batches of 2 from 7 samples: all 7 in 4 batches, and one batch of another shuffle."""
    own = np.arange(100, 107)
    batches = Batches((own,), 2, seed=3, each_round=True)
    rounds = [list(batches.steps(NodeId(0), first, 5)) for first in (0, 5, 10)]
    for batch in rounds:
        assert [len(step) for step in batch] == [2, 2, 2, 1, 2]
        assert np.array_equal(np.sort(np.concatenate(batch[:4])), own)
    assert not np.array_equal(np.concatenate(rounds[0]), np.concatenate(rounds[1]))
    again = Batches((own,), 2, seed=3, each_round=True)
    assert all(np.array_equal(a, b) for a, b in zip(again.steps(NodeId(0), 5, 5), rounds[1], strict=True))
    across = list(Batches((own,), 2, seed=3).steps(NodeId(0), 5, 5))
    assert [len(step) for step in across] == [2, 2, 1, 2, 2]


def test_a_trainer_reshuffles_as_the_file_says(synthetic: LearningConfig) -> None:
    losses = {}
    for reshuffle in ("epoch", "round"):
        config = synthetic.model_copy(update={"reshuffle": reshuffle})
        trainer = make(config, 0)
        trainer.begin(NODES[0], trainer.initial_params(), 0, 3)
        losses[reshuffle] = trainer.finish(NODES[0]).loss
        trainer.close()
    assert losses["epoch"] != losses["round"]


def test_handed_over_arrays_are_not_touched(pool: PoolTrainer) -> None:
    params = pool.initial_params()
    before = params.copy()
    pool.begin(NODES[0], params, 0, 5)
    result = pool.finish(NODES[0])
    kept = result.params.copy()
    pool.begin(NODES[0], result.params, 5, 5)
    pool.finish(NODES[0])
    assert np.array_equal(params, before)
    assert np.array_equal(result.params, kept)


def test_more_evaluations_than_rows_all_come_back_in_order(pool: PoolTrainer) -> None:
    models = {node: pool.initial_params() for node in NODES}
    for ticket in range(20):
        pool.submit(ticket, models)
    collected = pool.collect(wait=False)
    collected += pool.collect(wait=True)
    assert [ticket for ticket, _ in collected] == list(range(20))
    assert all(list(results) == NODES for _, results in collected)
    assert pool.collect(wait=True) == []


ENDLESS = 1_000_000_000
"""So many local steps are never done."""


def until_busy(pool: PoolTrainer) -> None:
    """Until all workers have computed for some time."""
    workers = [psutil.Process(pid) for pid in pool.worker_pids]
    before = [worker.cpu_times().user for worker in workers]
    while not all(worker.cpu_times().user > at for worker, at in zip(workers, before, strict=True)):
        time.sleep(0.005)


@pytest.mark.parametrize("busy", [True, False])
def test_a_killed_worker_is_an_error_and_no_hang(pool: PoolTrainer, busy: bool) -> None:
    params = pool.initial_params()
    if busy:
        for node in NODES:
            pool.begin(node, params, 0, ENDLESS)
        until_busy(pool)
    for pid in pool.worker_pids:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RunnerError, match="worker"):  # noqa: PT012 - posting to a dead pool may fail as well
        if not busy:
            pool.begin(NODES[0], params, 0, 1)
        for node in NODES:
            pool.finish(node)
    with pytest.raises(RunnerError, match="worker"):
        pool.collect(wait=True)


def test_one_killed_worker_of_two_does_not_hang(pool: PoolTrainer) -> None:
    for node in NODES:
        pool.begin(node, pool.initial_params(), 0, ENDLESS)
    until_busy(pool)
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    with pytest.raises(RunnerError, match="killed by signal 9"):
        finish_all(pool)


def test_an_error_in_a_worker_reaches_the_caller_in_words(
    synthetic: LearningConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise ValueError("the batch was stolen")

    monkeypatch.setattr("node.learning.trainer.Learner.train", fail)
    trainer = make(synthetic, 1)
    trainer.begin(NODES[0], trainer.initial_params(), 0, 1)
    with pytest.raises(RunnerError, match="ValueError: the batch was stolen"):
        trainer.finish(NODES[0])
    trainer.close()


def test_close_leaves_nothing_behind(synthetic: LearningConfig) -> None:
    shared = sorted(os.listdir("/dev/shm"))
    descriptors = psutil.Process().num_fds()
    trainer = make(synthetic, 2)
    assert isinstance(trainer, PoolTrainer)
    pids = trainer.worker_pids
    for node in NODES:
        trainer.begin(node, trainer.initial_params(), 0, ENDLESS)
    trainer.close()
    trainer.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert psutil.Process().num_fds() == descriptors
    assert sorted(os.listdir("/dev/shm")) == shared


def test_workers_end_when_the_parent_is_killed(synthetic: LearningConfig) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        trainer = make(synthetic, 2)
        assert isinstance(trainer, PoolTrainer)
        os.write(write, " ".join(str(pid) for pid in trainer.worker_pids).encode())
        signal.pause()
        os._exit(0)
    pids = [int(pid) for pid in os.read(read, 100).split()]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    os.close(read)
    os.close(write)
    assert len(pids) == 2
    assert alive == []


def test_learning_rate_zero_changes_nothing_and_bfloat16_runs(synthetic: LearningConfig) -> None:
    still = synthetic.model_copy(update={"optimizer": OptimizerConfig(learning_rate=0)})
    trainer = make(still, 0)
    params = trainer.initial_params()
    trainer.begin(NODES[0], params, 0, 3)
    assert np.array_equal(trainer.finish(NODES[0]).params, params)
    half = make(synthetic.model_copy(update={"precision": "bfloat16"}), 0)
    half.begin(NODES[0], params, 0, 3)
    result = half.finish(NODES[0])
    assert result.params.dtype == np.float32
    assert np.isfinite(result.params).all()


def test_impossible_numbers_are_refused(synthetic: LearningConfig) -> None:
    with pytest.raises(ConfigError, match="workers=-1"):
        make(synthetic, -1)
    with pytest.raises(ConfigError, match="max_test_samples=0"):
        make(synthetic, 0, 0)


def test_null_and_quadratic_trainers() -> None:
    null = NullTrainer((3, 2))
    params = null.initial_params()
    null.begin(NODES[0], params, 0, 4)
    assert np.shares_memory(null.finish(NODES[0]).params, params)
    targets = np.array([[1, 2], [3, 4]], dtype=np.float32)
    quadratic = QuadraticTrainer(targets, learning_rate=0.5)
    quadratic.begin(NODES[1], quadratic.initial_params(), 0, 2)
    result = quadratic.finish(NODES[1])
    assert result.params.tolist() == [2.25, 3.0]
    assert result.loss == pytest.approx((12.5 + 3.125) / 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_under_way_can_be_repeated_elsewhere(digits: LearningConfig, workers: int) -> None:
    """What is saved while steps run, momentum and start, leads another trainer to the same models."""
    first, second = make(digits, workers), make(digits, 2 - workers)
    node = NODES[1]
    try:
        start = first.initial_params()
        first.begin(node, start, 0, 5)
        params = first.finish(node).params
        first.begin(node, params, 5, 5)
        while not first.ready(node):
            time.sleep(0.005)
        momentum = first.momentum(node)
        assert momentum is not None
        assert momentum.any()
        second.set_momentum(node, momentum)
        momentum[:] = 0  # it was copied
        second.begin(node, params, 5, 5)
        expected, got = first.finish(node), second.finish(node)
        assert got.loss == expected.loss
        np.testing.assert_array_equal(got.params, expected.params)
        np.testing.assert_array_equal(second.momentum(node), first.momentum(node))  # type: ignore[arg-type]
        second.reset_momentum(node)
        second.begin(node, start, 0, 5)
        np.testing.assert_array_equal(second.finish(node).params, params)
    finally:
        first.close()
        second.close()


def test_without_momentum_there_is_none_to_save(synthetic: LearningConfig) -> None:
    for trainer in (make(synthetic, 0), make(synthetic, 1), QuadraticTrainer(np.ones((1, 3), np.float32), 0.5)):
        assert trainer.momentum(NODES[0]) is None
        trainer.reset_momentum(NODES[0])
        trainer.close()


def test_results_can_be_waited_for_with_other_descriptors(pool: PoolTrainer) -> None:
    pool.begin(NODES[0], pool.initial_params(), 0, 3)
    readable, _, _ = select.select([pool.ready_fd], [], [], 60)
    assert readable == [pool.ready_fd]
    assert pool.ready(NODES[0])
    assert select.select([pool.ready_fd], [], [], 0)[0] == []
    pool.finish(NODES[0])


def test_the_end_of_all_workers_is_told_instead_of_waited_for(pool: PoolTrainer) -> None:
    pool.begin(NODES[0], pool.initial_params(), 0, ENDLESS)
    for pid in pool.worker_pids:
        os.kill(pid, signal.SIGKILL)
    assert select.select([pool.ready_fd], [], [], 60)[0]  # the end of the pipe
    with pytest.raises(RunnerError, match="killed by signal 9"):
        pool.ready(NODES[0])


def test_workers_stand_back_as_told(synthetic: LearningConfig) -> None:
    dataset = load_dataset(synthetic.dataset, None, 1)
    split = partition_dataset(synthetic, dataset, len(NODES), 1)
    learner = build_learner(synthetic, dataset, split, 1, len(NODES))
    with PoolTrainer(learner, len(NODES), 1, background=True).start() as pool:
        pool.begin(NODES[0], pool.initial_params(), 0, 1)
        pool.finish(NODES[0])
        lowest = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 19)
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pool.worker_pids] == [lowest]
        assert [os.sched_getscheduler(pid) for pid in pool.worker_pids] == [os.SCHED_IDLE]


def test_a_forked_child_lets_go_of_its_parents_workers(pool: PoolTrainer) -> None:
    """It does not end them, and makes workers of its own from the same learner."""
    pids = pool.worker_pids
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pool.abandon()
            pool.close()  # nothing is left to close
            own = PoolTrainer(pool._learner, len(NODES), 1).start()
            own.begin(NODES[0], own.initial_params(), 0, 3)
            own.finish(NODES[0])
            own.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(psutil.pid_exists(pid) for pid in pids)
    pool.begin(NODES[0], pool.initial_params(), 0, 3)
    pool.finish(NODES[0])
