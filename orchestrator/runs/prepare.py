"""Preparation of a plan: its data, their partition and a trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.core.algorithm import Algorithm
from node.core.errors import DataError
from node.core.messages import tag_name
from node.core.training import TrainerAndEvaluator
from node.learning.build import build_learner, partition_dataset, start_trainer
from node.learning.config import ImageFolderConfig
from node.learning.data_files import resolve_data_root
from node.learning.datasets import load_dataset
from node.learning.partition import Partition, class_counts
from node.learning.samples import Dataset
from node.learning.trainer import Learner
from orchestrator.experiment.plan import Plan, errors_naming
from orchestrator.host.environment import environment
from orchestrator.host.signals import signals_held
from orchestrator.results.schema import RunFacts

ACCURACY_TARGETS = tuple(round(0.05 * step, 2) for step in range(2, 20))
RMSE_TARGETS = tuple(round(2.0 - 0.05 * step, 2) for step in range(24))

NOTES_ROW = "about the data"
"""Name of the row of facts with :attr:`Prepared.notes`."""

Report = Callable[[str, int, int], None]
"""Told of slow work: what, how much is done, how much there is."""


@dataclass(frozen=True)
class Prepared:
    """A plan with its data and its trainer. Whoever prepared it closes the trainer.

    ``data_root`` is the folder in which the data were looked for, absolute; None where there is none. ``notes`` are
    what a user should know of the data, one line each.
    """

    dataset: Dataset
    split: Partition
    learner: Learner
    trainer: TrainerAndEvaluator
    facts: RunFacts
    data_root: str | None
    notes: tuple[str, ...] = ()


def prepare(
    plan: Plan,
    *,
    data_root: Path | None,
    workers: int,
    background: bool = False,
    command: str = "",
    report: Report | None = None,
) -> Prepared:
    """Load the data, split it, make the trainer, and check that the algorithm fits the model.

    Args:
        plan: The experiment.
        data_root: Folder with data sets; None for ``$FRAGMESH_DATA`` or none.
        workers: Training processes; 0 trains in this process. No more than there are nodes.
        background: These compute only while no other process wants the core.
        command: What to type to run the experiment again.
        report: Told of slow work.

    Raises:
        ConfigError: Parts of the experiment do not fit together.
        DataError: The data set cannot be had.
    """
    root = resolve_data_root(data_root)
    with errors_naming(plan.place):
        return _prepare(plan, root, min(workers, plan.config.nodes), background, command, report)


def _prepare(
    plan: Plan, root: Path | None, workers: int, background: bool, command: str, report: Report | None
) -> Prepared:
    config, learning = plan.config, plan.config.learning
    try:
        dataset = load_dataset(learning.dataset, root, config.seed, report)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise DataError(f"learning.dataset.kind={learning.dataset.kind}: cannot be read ({error})") from error
    split = partition_dataset(learning, dataset, config.nodes, config.seed)
    trainer: TrainerAndEvaluator | None = None
    try:
        learner = build_learner(
            learning, dataset, split, config.seed, config.nodes, max_test_samples=config.evaluation.max_samples
        )
        with signals_held():  # workers are forked
            trainer = start_trainer(learner, config.nodes, workers, background=background)
            notes = (*dataset.notes, *_untested(split))
            facts = _facts(plan, dataset, split, plan.first_algorithm(trainer.tensor_sizes), command, notes)
    except BaseException:
        if trainer is not None:
            trainer.close()
        raise
    data_root = None if root is None else str(root.resolve())
    return Prepared(dataset, split, learner, trainer, facts, data_root, notes)


def _facts(
    plan: Plan, dataset: Dataset, split: Partition, algorithm: Algorithm, command: str, notes: tuple[str, ...]
) -> RunFacts:
    config = plan.config
    is_ratings = dataset.kind == "ratings"
    targets = config.output.targets or (RMSE_TARGETS if is_ratings else ACCURACY_TARGETS)
    class_names, labels = _classes(dataset)
    return RunFacts(
        name=config.name,
        algorithm=config.algorithm.kind,
        runtime=config.runtime,
        nodes=config.nodes,
        seed=config.seed,
        metric="rmse" if is_ratings else "accuracy",
        stragglers=plan.stragglers,
        targets=targets,
        message_tags={tag.value: tag_name(tag) for tag in algorithm.carries},
        class_names=class_names,
        partition_counts=class_counts(split, labels, len(class_names)),
        num_params=algorithm.context.num_params,
        end_s=config.stop.time_s,
        details=plan.describe()
        | plan.sizes(algorithm.context.num_params)
        | ({NOTES_ROW: "; ".join(notes)} if notes else {}),
        command=command,
    )


def _untested(split: Partition) -> list[str]:
    """Say which nodes have nothing to be tested on: their models count in no figure of a test."""
    if split.test_indices is None:
        return []
    nodes = [str(node) for node, own in enumerate(split.test_indices) if len(own) == 0]
    if not nodes:
        return []
    shown = ", ".join(nodes[:10]) + (", ..." if len(nodes) > 10 else "")
    counted = f"{len(nodes)} of {len(split.test_indices)} nodes have no test samples ({shown})"
    return [f"{counted}: figures are means over the others"]


def _classes(dataset: Dataset) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the column labels and per-sample labels of partition.csv: class names, or the ten half-star values."""
    if dataset.kind == "classification":
        return dataset.class_names, np.asarray(dataset.train.targets, dtype=np.int64)
    values = tuple(f"{half / 2:.1f}" for half in range(1, 11))
    return values, np.rint(2 * dataset.train.targets).astype(np.int64) - 1


def environment_of(plan: Plan, prepared: Prepared, data_root: Path | None) -> dict[str, Any]:
    """Record everything that the run depends on, and where a continuation finds the files that the experiment names."""
    root = resolve_data_root(data_root)
    if root is None and isinstance(plan.config.learning.dataset, ImageFolderConfig):
        root = Path()  # where such a folder is then looked for
    return {
        **environment(seed=plan.config.seed, data_source=prepared.dataset.source),
        "base_dir": str(Path(plan.place).absolute().parent) if plan.place else None,
        "data_root": None if root is None else str(root.resolve()),
        "inputs": {file.name: {"path": file.path, "sha256": file.sha256, "copy": file.copy} for file in plan.inputs},
    }
