"""Training speed: a bare torch loop against this testbed, same model, data, steps and processes.

Usage: ``python -m tests.benchmarks.bench_training [--rounds N]``. CIFAR-10 is looked for under
``$FRAGMESH_DATA``. Three arms: the bare loop, the trainer driven directly, and a whole simulation of DivShare on
16 nodes.

Besides steps a second it prints processor time per step, which other load on the machine disturbs less.
"""

import argparse
import os
import resource
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from node.core.types import NodeId, Vector
from node.core.units import ms_to_ns
from node.learning.build import build_trainer, partition_dataset
from node.learning.config import Cifar10Config, GNLeNetConfig, KShardsConfig, LearningConfig
from node.learning.samples import Dataset
from tests.benchmarks.worlds import divshare_world
from tests.realdata import cifar10

NUM_MODELS = 16
LOCAL_STEPS = 16
BATCH_SIZE = 8
LEARNING_RATE = 0.05
PROCESSES = 2
LEARNING = LearningConfig(
    dataset=Cifar10Config(), model=GNLeNetConfig(), partition=KShardsConfig(), batch_size=BATCH_SIZE
)


@dataclass(frozen=True, slots=True)
class Speed:
    """What one arm of the benchmark measured."""

    steps_per_s: float
    """All processes together, wall clock."""
    cpu_ms_per_step: float
    """Processor time of the worker processes, with their start and end."""


class _Stopwatch:
    """Wall clock from now on, and processor time of the children that ended since."""

    def __init__(self) -> None:
        self._children_s = self._children()
        self._start_s = time.perf_counter()

    @staticmethod
    def _children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def restart_wall(self) -> None:
        """Leave what came before out of the wall clock."""
        self._start_s = time.perf_counter()

    def wall_s(self) -> float:
        """Seconds since the (re)start."""
        return time.perf_counter() - self._start_s

    def speed(self, wall_s: float, steps: int, warm_up_steps: int) -> Speed:
        """Call after the children have ended."""
        cpu_ms = 1000 * (self._children() - self._children_s)
        return Speed(steps / wall_s, cpu_ms / (steps + warm_up_steps))


class _BareLeNet(nn.Module):
    """GN-LeNet as one writes it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2) for a, b in ((3, 32), (32, 32), (32, 64)))
        self.norms = nn.ModuleList(nn.GroupNorm(2, channels) for channels in (32, 32, 64))
        self.linear = nn.Linear(1024, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return self.linear(x.flatten(1))


def _flat_views(model: nn.Module, flat: torch.Tensor) -> list[torch.Tensor]:
    """Views of a flat tensor in the shapes of the parameters, convolutions channels-last."""
    views, start = [], 0
    for parameter in model.parameters():
        part = flat[start : start + parameter.numel()]
        if parameter.dim() == 4:
            o, i, h, w = parameter.shape
            views.append(part.view(o, h, w, i).permute(0, 3, 1, 2))
        else:
            views.append(part.view_as(parameter))
        start += parameter.numel()
    return views


def _bare_process(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    models: int,
    rounds: int,
    ready: int,
    go: int,
) -> None:
    """Train ``models`` models one after the other, ``LOCAL_STEPS`` steps each, for ``rounds`` rounds."""
    torch.set_num_threads(1)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = torch.from_numpy(labels)
    trained = []
    for _ in range(models):
        model = _BareLeNet()
        flat, gradient = torch.empty(89834), torch.zeros(89834)
        for parameter, view, grad in zip(
            model.parameters(), _flat_views(model, flat), _flat_views(model, gradient), strict=True
        ):
            view.copy_(parameter.detach())
            parameter.data, parameter.grad = view, grad
        trained.append((model, flat, gradient))

    def steps(count: int) -> None:
        for model, flat, gradient in trained:
            order = torch.randperm(len(inputs))
            for step in range(count):
                chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
                batch = inputs[chosen].float().div_(127.5).sub_(1)
                gradient.zero_()
                F.cross_entropy(model(batch), targets[chosen]).backward()
                with torch.no_grad():
                    flat.add_(gradient, alpha=-LEARNING_RATE)

    steps(2)
    os.write(ready, b"r")
    os.read(go, 1)
    for _ in range(rounds):
        steps(LOCAL_STEPS)


def bare_loop(dataset: Dataset, rounds: int, *, models: int = NUM_MODELS, processes: int = PROCESSES) -> Speed:
    """A hand-written loop: channels-last, one thread a process, flat gradients, nothing exchanged.

    Args:
        dataset: CIFAR-10.
        rounds: Rounds of ``LOCAL_STEPS`` steps per model.
        models: Number of models, shared out evenly.
        processes: Number of processes.
    """
    images = np.array(dataset.train.inputs[:8000].transpose(0, 2, 3, 1), order="C")
    labels = np.array(dataset.train.targets[:8000], dtype=np.int64)
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    stopwatch = _Stopwatch()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _bare_process(images, labels, models // processes, rounds, ready_write, go_read)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for _ in children:
        os.read(ready_read, 1)
    stopwatch.restart_wall()
    os.write(go_write, b"g" * processes)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    wall_s = stopwatch.wall_s()
    for descriptor in (ready_read, ready_write, go_read, go_write):
        os.close(descriptor)
    if any(codes):
        raise RuntimeError("a process of the bare loop failed")
    trained = models // processes * processes
    return stopwatch.speed(wall_s, trained * LOCAL_STEPS * rounds, trained * 2)


def pool_loop(dataset: Dataset, rounds: int, *, models: int = NUM_MODELS, processes: int = PROCESSES) -> Speed:
    """The testbed's trainer, driven directly: a node's next steps begin when its last are done."""
    split = partition_dataset(LEARNING, dataset, models, seed=1)
    stopwatch = _Stopwatch()
    trainer = build_trainer(LEARNING, dataset, split, 1, models, processes)
    try:
        nodes = [NodeId(node) for node in range(models)]
        initial = trainer.initial_params()
        for node in nodes:
            trainer.begin(node, initial, 0, 2)
        current: dict[NodeId, Vector] = {node: trainer.finish(node).params for node in nodes}
        stopwatch.restart_wall()
        for node in nodes:
            trainer.begin(node, current[node], 0, LOCAL_STEPS)
        for done in range(1, rounds + 1):
            for node in nodes:
                current[node] = trainer.finish(node).params
                if done < rounds:
                    trainer.begin(node, current[node], done * LOCAL_STEPS, LOCAL_STEPS)
        wall_s = stopwatch.wall_s()
    finally:
        trainer.close()
    return stopwatch.speed(wall_s, models * LOCAL_STEPS * rounds, models * 2)


def simulator_loop(dataset: Dataset, rounds: int, *, models: int = NUM_MODELS, processes: int = PROCESSES) -> Speed:
    """A simulated run of DivShare with the trainer's worker processes; no evaluation."""
    split = partition_dataset(LEARNING, dataset, models, seed=1)
    stopwatch = _Stopwatch()
    trainer = build_trainer(LEARNING, dataset, split, 1, models, processes)
    try:
        initial = trainer.initial_params()
        for node in range(models):
            trainer.begin(NodeId(node), initial, 0, 2)
        for node in range(models):
            trainer.finish(NodeId(node))
        step_ns = (ms_to_ns(20.0),) * models
        world = divshare_world(trainer, step_ns, recipients=4, local_steps=LOCAL_STEPS, mbps=60.0, rounds=rounds)
        stopwatch.restart_wall()
        world.advance(10**18)
        wall_s = stopwatch.wall_s()
    finally:
        trainer.close()
    return stopwatch.speed(wall_s, models * LOCAL_STEPS * rounds, models * 2)


def main() -> None:
    """Print the speeds and their ratio; the arms alternate so that a busy machine slows both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    dataset = cifar10()
    if dataset is None:
        print("training: skipped, no CIFAR-10 under $FRAGMESH_DATA")
        return
    arms = {"bare loop": bare_loop, "trainer": pool_loop, "simulation": simulator_loop}
    speeds: dict[str, list[Speed]] = {name: [] for name in arms}
    for _ in range(arguments.repeats):
        for name, arm in arms.items():
            speeds[name].append(arm(dataset, arguments.rounds))
        print("training:", ", ".join(f"{name} {_text(runs[-1])}" for name, runs in speeds.items()), flush=True)
    for name in ("trainer", "simulation"):
        pairs = zip(speeds["bare loop"], speeds[name], strict=True)
        ratios = sorted(bare.steps_per_s / own.steps_per_s for bare, own in pairs)
        print(
            f"training: {name} takes {ratios[len(ratios) // 2]:.3f}x the wall time of the bare loop"
            f" (median of {len(ratios)} pairs, {ratios[0]:.3f} to {ratios[-1]:.3f}; asked: at most 1.10)"
        )


def _text(speed: Speed) -> str:
    return f"{speed.steps_per_s:6.1f} steps/s, {speed.cpu_ms_per_step:5.2f} ms of CPU a step"


if __name__ == "__main__":
    main()
