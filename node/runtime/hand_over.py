"""Models and records of a node on their way to the orchestrator.

A snapshot is taken at its exact instant and uploaded when there is time: the queue between both never holds the node
up. Everything is uploaded in the order in which it was taken, the final model after all others.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from node.config import NodeConfig
from node.core.counters import NodeCounters
from node.core.types import Vector
from node.runtime.driver import Driver
from node.transport.control_client import ControlClient
from node.transport.control_values import ModelSnapshot, SnapshotPurpose


class HandOver:
    """One node's uploads.

    Args:
        config: The node.
        driver: Whose models and records are handed over.
        control: The way to the orchestrator; its session must be open when :meth:`upload_snapshots` runs.
        counters: Gives the node's figures as of an instant that has just come.
    """

    def __init__(
        self, config: NodeConfig, driver: Driver, control: ControlClient, counters: Callable[[int], NodeCounters]
    ) -> None:
        self._config = config
        self._driver = driver
        self._control = control
        self._counters = counters
        self._snapshots: asyncio.Queue[tuple[ModelSnapshot, Vector]] = asyncio.Queue()

    def first_instant_ns(self, begin_ns: int) -> int:
        """The first instant at which a snapshot is wanted of a node that begins then.

        A later part of a run has that of its beginning already, and a node that comes back none then.
        """
        interval_ns = self._config.evaluation_interval_ns
        return self._within((begin_ns // interval_ns + 1) * interval_ns if begin_ns else 0)

    def next_instant_ns(self, time_ns: int) -> int:
        """The instant after one at which a snapshot was taken; never beyond the end."""
        return self._within(time_ns + self._config.evaluation_interval_ns)

    def take_snapshot(self, time_ns: int) -> None:
        """Take the node's model as of an instant that has just come."""
        self._snapshots.put_nowait(self._take(time_ns, SnapshotPurpose.EVALUATION))

    async def upload_snapshots(self) -> None:
        """Upload snapshots as they are taken; never returns."""
        while True:
            await self._control.upload_snapshot(*await self._snapshots.get())
            self._snapshots.task_done()

    async def finish(self, now_ns: int, figures: Callable[[], dict[str, Any]], *, final: bool) -> None:
        """Hand over the last things: snapshots that wait, the final one, the records, the figures.

        Args:
            now_ns: Testbed time.
            figures: Gives what is sent as JSON, when all else has left.
            final: Whether the model of now is wanted.
        """
        await self._snapshots.join()
        now_ns = self._within(max(0, now_ns))
        if final:
            await self._control.upload_snapshot(*self._take(now_ns, SnapshotPurpose.FINAL))
        if self._driver.books.records is not None:
            await self._control.upload_records("messages", self._driver.books.records.to_bytes(now_ns))
        # Last: an orchestrator that has a node's figures has everything of it.
        await self._control.upload_records("figures", json.dumps(figures()).encode())

    def _within(self, time_ns: int) -> int:
        end_ns = self._config.end_ns
        return time_ns if end_ns is None else min(time_ns, end_ns)

    def _take(self, time_ns: int, purpose: SnapshotPurpose) -> tuple[ModelSnapshot, Vector]:
        """Take the node's model and figures as they are now, as of ``time_ns``."""
        snapshot = ModelSnapshot(self._config.node, purpose, time_ns, self._counters(time_ns))
        return snapshot, self._driver.model(after_training=self._config.evaluate_after_training)
