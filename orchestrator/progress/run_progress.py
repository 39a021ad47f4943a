"""The state of a run in progress, and its pace. Values only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.results.schema import Sample


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The figures of one evaluation, over the nodes that have test samples.

    Attributes:
        time_ns: Testbed time of it.
        figures: ``accuracy`` and ``loss``, each with its ``mean``, ``min`` and ``max``; not numbers where a model has
            diverged. Empty where there were no nodes.
    """

    time_ns: int
    figures: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, sample: Sample) -> "CurvePoint":
        """Sum up a complete sample."""
        tested = [node for node in sample.nodes if node.is_tested]
        columns = {"accuracy": [node.accuracy for node in tested], "loss": [node.loss for node in tested]}
        spreads = {name: _spread(values) for name, values in columns.items()} if sample.nodes else {}
        return cls(sample.time_ns, spreads)


def _spread(values: list[float]) -> dict[str, float]:
    if not values or not all(map(math.isfinite, values)):
        return dict.fromkeys(("mean", "min", "max"), math.nan)
    return {"mean": math.fsum(values) / len(values), "min": min(values), "max": max(values)}


@dataclass(frozen=True, slots=True)
class NodeRow:
    """State of one node.

    Attributes:
        node: The node.
        state: What it does, in a word or two: ``training``, ``waiting``, ``died``, ...
        rounds: Rounds completed.
        loss: Training loss of its last round; None before the first.
        up_mbps: What it sends now, 10^6 bits a testbed second; None if unknown.
        down_mbps: What it receives now.
        queued_messages: Messages in its outbox.
        straggler: Whether it is slowed on purpose.
        failed: Whether it has ended and should not have.
        waits_for: The peers without whom it cannot go on; empty where it waits for nobody.
    """

    node: int
    state: str
    rounds: int
    loss: float | None
    up_mbps: float | None
    down_mbps: float | None
    queued_messages: int
    straggler: bool = False
    failed: bool = False
    waits_for: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunProgress:
    """State of a run.

    Attributes:
        time_ns: Testbed time reached.
        end_ns: When it ends; None if it ends by another rule, so that no ETA can be told.
        wall_s: Wall-clock time since the run began.
        rounds_min: Rounds of the slowest node.
        rounds_max: Rounds of the fastest node.
        messages_delivered: Messages delivered so far.
        bytes_sent: Bytes sent so far, all nodes.
        sample: The last evaluation; None before the first. Of a run of another process only its figures are known.
        nodes: How each node is doing, in node order; empty where that is not looked at.
        dilation: Real seconds a testbed second; None of a run whose time is virtual.
        warnings: Signs that the run may be judged unfaithful, in words.
    """

    time_ns: int
    end_ns: int | None
    wall_s: float
    rounds_min: int
    rounds_max: int
    messages_delivered: int
    bytes_sent: int
    sample: Sample | CurvePoint | None
    nodes: tuple[NodeRow, ...] = ()
    dilation: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def point(self) -> CurvePoint | None:
        """The figures of the last evaluation; None before the first."""
        return CurvePoint.of(self.sample) if isinstance(self.sample, Sample) else self.sample

    @property
    def share(self) -> float | None:
        """Share of the run that is done, in [0, 1]; None if the end is not known."""
        if self.end_ns is None:
            return None
        return min(1.0, self.time_ns / self.end_ns) if self.end_ns > 0 else 1.0


@dataclass(slots=True)
class Pace:
    """Recent speed, from snapshots a few seconds apart, so that the ETA follows a run that slows down.

    Attributes:
        deliveries_per_s: Messages delivered a second of wall-clock time.
        share_per_s: Share of the run done a second of wall-clock time.
    """

    deliveries_per_s: float = 0.0
    share_per_s: float = 0.0
    _last: RunProgress | None = None

    def follow(self, progress: RunProgress) -> None:
        """Take in a progress."""
        last = self._last
        if last is None:
            self._last = progress
            last_wall, last_delivered, last_share = 0.0, 0, 0.0
        else:
            last_wall, last_delivered, last_share = last.wall_s, last.messages_delivered, last.share or 0.0
        elapsed = progress.wall_s - last_wall
        if elapsed <= 0 or (last is not None and elapsed < 1.0):
            return
        # Half old, half new: steady to look at, and wrong for only a few seconds after a change.
        weight = 1.0 if last is None else 0.5
        deliveries = (progress.messages_delivered - last_delivered) / elapsed
        share = ((progress.share or 0.0) - last_share) / elapsed
        self.deliveries_per_s += weight * (deliveries - self.deliveries_per_s)
        self.share_per_s += weight * (share - self.share_per_s)
        self._last = progress

    def eta_s(self, progress: RunProgress) -> float | None:
        """Wall-clock seconds to the end; None if not known."""
        if progress.share is None or self.share_per_s <= 0:
            return None
        return (1.0 - progress.share) / self.share_per_s
