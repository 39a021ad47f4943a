"""Instants at which a recorded run is sampled, and the labels of its series. Pure."""

from dataclasses import dataclass
from math import ceil, log10
from typing import Final

import numpy as np
import numpy.typing as npt

from node.core.errors import ConfigError
from node.core.links import NetworkPlan
from node.core.units import s_to_ns
from orchestrator.results.reader import Run

INSTANTS_AIM: Final = 200
"""Instants that the default step makes at most: about what a panel can show."""


INSTANTS_MAX: Final = 20_000
"""The most instants that a step may make."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """A run and how it is sampled.

    Attributes:
        run: The run.
        name: The value of the label ``run``: the directory's name.
        instants_ns: Testbed times, increasing, shape (instants,).
        start_ms: Unix time of testbed time 0, in milliseconds.
        num_nodes: Number of nodes.
        network: The links at the start; None if they are not known.
    """

    run: Run
    name: str
    instants_ns: npt.NDArray[np.int64]
    start_ms: int
    num_nodes: int
    network: NetworkPlan | None = None

    def of_run(self, **more: str) -> dict[str, str]:
        """Return the labels of a series of the whole run: those of the orchestrator's target, and more."""
        facts = self.run.facts
        labels = {"run": self.name, "runtime": facts.runtime, "experiment": facts.name, "algorithm": facts.algorithm}
        return {**labels, **more}

    def of_node(self, node: int, **more: str) -> dict[str, str]:
        """Return the labels of a series of a node: those of its target, and more."""
        group = "straggler" if node in self.run.facts.stragglers else "fast"
        return self.of_run(node=str(node), group=group, **more)


def sampled(run: Run, *, step_s: float | None, start_ms: int, network: NetworkPlan | None = None) -> Sampling:
    """Sample a run at a regular step, and once more at its very end.

    Args:
        run: The run.
        step_s: The step; None chooses :func:`default_step_s`.
        start_ms: Unix time of testbed time 0, in milliseconds.
        network: The links at the start; None if they are not known.
    """
    end_ns = run_end_ns(run)
    step_ns = s_to_ns(default_step_s(end_ns / 1e9) if step_s is None else step_s)
    instants = np.arange(0, end_ns, step_ns, dtype=np.int64)
    if instants.size == 0 or instants[-1] < end_ns:
        instants = np.append(instants, end_ns)
    return Sampling(run, run.path.resolve().name, instants, start_ms, _num_nodes(run), network)


def check_step(run: Run, step_s: float) -> None:
    """Refuse a step below what Prometheus can tell apart, or with more instants than anybody wants in memory.

    Raises:
        ConfigError: It is too small.
    """
    least = max(0.001, run_end_ns(run) / 1e9 / INSTANTS_MAX)
    if step_s < least:
        raise ConfigError(f"--step-s={step_s:g}: must be at least {least:.3g} for a run of {run_end_ns(run) / 1e9:g} s")


def run_end_ns(run: Run) -> int:
    """Testbed time that a run reached, as far as its directory tells."""
    if run.summary is not None:
        return s_to_ns(run.summary["time_s"])
    return s_to_ns(float(run.times_s[-1])) if run.times_s.size else 0


def default_step_s(time_s: float) -> float:
    """Return the step for a run's length: 1, 2 or 5 times a power of ten, so that there are few enough instants.

    It is a millisecond at least, which is as fine as Prometheus is.
    """
    least = max(0.001, time_s / INSTANTS_AIM)
    power = 10.0 ** (ceil(log10(least)) - 1)
    return float(next(round(factor * power, 9) for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9)))


def _num_nodes(run: Run) -> int:
    """The number of nodes; of a run without ``facts.json`` those that something is known of."""
    if run.facts.nodes:
        return run.facts.nodes
    columns = [] if run.nodes is None else [run.nodes["node"]]
    columns += [] if run.messages is None else [run.messages["sender"], run.messages["receiver"]]
    return max((int(column.max()) + 1 for column in columns if column.size), default=0)
