"""The figures of a run: what ``summary.json`` says."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from node.core.time_budget import TIME_FIGURES
from node.core.types import Float64Vector
from node.core.units import ns_to_s
from orchestrator.analysis import best_index, bytes_to_accuracy, quantiles, time_to_accuracy
from orchestrator.results.fault_table import fault_figures
from orchestrator.results.files import to_json_values
from orchestrator.results.schema import Column, JsonObject, RunFacts, RunTotals


def target_key(target: float) -> str:
    """Spell a target as a key: two decimals, or as many as it needs."""
    short = f"{target:.2f}"
    return short if float(short) == target else repr(target)


def summarize(
    facts: RunFacts,
    totals: RunTotals,
    curve: Mapping[str, Float64Vector],
    messages: Mapping[str, Column] | None,
    rounds: int,
) -> JsonObject:
    """The figures of a run, as in ``summary.json``; ``rounds`` are those of all nodes at their last evaluation.

    Staleness is in rounds of the receiver; age is from a message's queueing to its aggregation, in seconds.
    """
    # Step 1: what every run has, in the order in which people look for it.
    values = curve[facts.headline_column]
    better = facts.higher_is_better
    best = best_index(values, higher_is_better=better)
    suffix = facts.metric
    queued, cancelled = totals.messages.get("queued", 0), totals.messages.get("cancelled", 0)
    summary: JsonObject = {
        "name": facts.name,
        "algorithm": facts.algorithm,
        "runtime": facts.runtime,
        "nodes": facts.nodes,
        "seed": facts.seed,
        "metric": facts.metric,
        "status": totals.status,
        "error": totals.error,
        "checkpoint_error": totals.checkpoint_error,
        "time_s": ns_to_s(totals.time_ns),
        "evaluations": int(values.size),
        "final": _at(facts, curve, values.size - 1 if values.size else None, time=False),
        "best": _at(facts, curve, best, time=True),
        f"time_to_{suffix}_s": {
            target_key(target): time_to_accuracy(curve["time_s"], values, target, higher_is_better=better)
            for target in facts.targets
        },
        f"bytes_to_{suffix}": {
            target_key(target): bytes_to_accuracy(curve["bytes_sent"], values, target, higher_is_better=better)
            for target in facts.targets
        },
        "bytes_sent": int(sum(totals.bytes.values())),
        "bytes_lost": totals.bytes_lost,
        "bytes": dict(totals.bytes),
        "messages": dict(totals.messages),
        "values_saturated": totals.values_saturated,
        "cancelled_share": cancelled / queued if queued else None,
        "train_steps": totals.train_steps,
        "wall_s": totals.wall_s,
    }
    # Step 2: what only some runs have. A figure that does not apply is left out, and is not null.
    if (diverged := totals.divergence) is not None:
        summary["diverged"] = {"node": diverged.node, "round": diverged.round, "time_s": ns_to_s(diverged.time_ns)}
    if totals.uplink_utilization is not None and totals.downlink_utilization is not None:
        summary["uplink_utilization_mean"] = _mean_or_none(totals.uplink_utilization)
        summary["downlink_utilization_mean"] = _mean_or_none(totals.downlink_utilization)
    if totals.spent_ns is not None and totals.spent_ns.any():
        summary["time_budget"] = _time_budget(facts, totals.spent_ns)
    if facts.schedule:
        summary["faults"] = fault_figures(facts.schedule, totals.fault_instants, totals.time_ns)
    if messages is not None:
        aggregated = np.asarray(messages["aggregated_ns"]) >= 0
        summary["aggregated_per_round"] = int(aggregated.sum()) / rounds if rounds else None
        summary["staleness"] = _by_sender(facts, messages, staleness(messages), aggregated)
        summary["age_s"] = _by_sender(facts, messages, age_s(messages), aggregated)
    return cast(JsonObject, to_json_values(summary))


def _time_budget(facts: RunFacts, spent_ns: npt.NDArray[np.int64]) -> JsonObject:
    """Shares of the activities in the time of all nodes of a group, together 1."""
    slow = np.isin(np.arange(len(spent_ns)), sorted(facts.stragglers))
    groups = {"overall": np.ones_like(slow)}
    if facts.stragglers:
        groups |= {"fast": ~slow, "stragglers": slow}
    amounts = {name: spent_ns[members].sum(axis=0) for name, members in groups.items()}
    return {
        name: dict(zip(TIME_FIGURES, (amount / amount.sum()).tolist(), strict=True))
        for name, amount in amounts.items()
        if amount.any()
    }


def staleness(messages: Mapping[str, Column]) -> npt.NDArray[np.int64]:
    """Receiver's round minus the stamped round of each message; meaningless where it was never aggregated."""
    return np.asarray(messages["staleness"], dtype=np.int64)


def age_s(messages: Mapping[str, Column]) -> Float64Vector:
    """Seconds from queueing to aggregation of each message; meaningless where it was never aggregated."""
    age_ns = np.asarray(messages["aggregated_ns"], np.int64) - np.asarray(messages["queued_ns"], np.int64)
    return age_ns / 1e9


def _by_sender(
    facts: RunFacts,
    messages: Mapping[str, Column],
    values: npt.NDArray[np.int64] | Float64Vector,
    aggregated: npt.NDArray[np.bool_],
) -> JsonObject:
    slow = np.isin(messages["sender"], sorted(facts.stragglers))
    result: JsonObject = {"overall": quantiles(values[aggregated])}
    if facts.stragglers:
        result["fast_senders"] = quantiles(values[aggregated & ~slow])
        result["straggler_senders"] = quantiles(values[aggregated & slow])
    return result


def _at(facts: RunFacts, curve: Mapping[str, Float64Vector], index: int | None, *, time: bool) -> JsonObject:
    names = {"accuracy": "accuracy_mean", "loss": "loss_mean"}
    names |= {"loss_seen": "loss_seen_mean"} if facts.metric == "rmse" else {}
    names |= {"time_s": "time_s"} if time else {}
    return {key: None if index is None else float(curve[column][index]) for key, column in names.items()}


def _mean_or_none(values: Float64Vector) -> float | None:
    return float(values.mean()) if values.size else None
