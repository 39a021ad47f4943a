"""Rates of the lines of a run whose links the kernel shapes: from a plan and its model, by what its algorithm sends."""

from collections import Counter

from node.core.framing import MTU_BYTES
from orchestrator.experiment.plan import Plan
from orchestrator.host.dilation import observe_traffic
from orchestrator.shaping.line_rates import LineRates, line_rates


def lines_of(plan: Plan, tensor_sizes: tuple[int, ...]) -> LineRates:
    """Find the rates to ask the kernel for, so that messages get what ``network.framing`` promises them.

    Args:
        plan: The experiment.
        tensor_sizes: Of the model; see :class:`node.core.training.Trainer`.
    """
    messages: Counter[int] = Counter()
    if plan.network.framing is None:
        for algorithm in plan.algorithms(tensor_sizes):
            messages.update(observe_traffic(algorithm, sum(tensor_sizes), plan.config.wire.dtype).bodies)
    return line_rates(plan.network, messages, tls=plan.config.tls, mtu=MTU_BYTES)


def describe_lines(lines: LineRates) -> str:
    """Say what the kernel is asked for, in words."""
    if lines.factor == 1:
        return "the bandwidths of the file"
    spread = (
        f", {lines.factor_min:.4g} to {lines.factor_max:.4g} by size" if lines.factor_max > lines.factor_min else ""
    )
    return f"{lines.factor:.4g} times the bandwidths, for the framing of messages{spread}"
