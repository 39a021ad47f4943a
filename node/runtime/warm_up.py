"""Local steps that count for nothing, before the experiment begins.

The first step of a process sets things up, hundreds of milliseconds that no measurement should see; and while links
are measured, the host is to be as busy as the experiment will make it. The model that such steps lead to is dropped,
and the momentum they leave is reset.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from node.core.training import RealTimeTrainer
from node.core.types import NodeId, Vector

FIRST_STEP_POLL_S = 0.01
PACE_POLL_S = 0.002
"""Interval at which the end of training is looked for, real time."""


class WarmUp:
    """One node's training for nothing. At most one block is under way.

    Args:
        node: Which node.
        trainer: Does the steps; nobody else may use it meanwhile.
        params: The model to start from, shape (num_params,). Not modified.
        block_steps: Local steps in a block, as in a round of the experiment.
        block_s: Declared duration of a block, real seconds.
    """

    def __init__(
        self, node: NodeId, trainer: RealTimeTrainer, params: Vector, *, block_steps: int, block_s: float
    ) -> None:
        self._node = node
        self._trainer = trainer
        self._params = params
        self._block_steps = block_steps
        self._block_s = block_s
        self._under_way = False

    async def first_step(self) -> None:
        """Take one step and wait for it."""
        self._begin(1)
        await self._until_over(FIRST_STEP_POLL_S)
        self._trainer.reset_momentum(self._node)

    @contextlib.asynccontextmanager
    async def keep_host_busy(self) -> AsyncIterator[None]:
        """Train at the experiment's pace while the body runs; returns when the last block is over."""
        training = asyncio.create_task(self._train_at_pace())
        try:
            yield
        finally:
            training.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await training
        await self._until_over(FIRST_STEP_POLL_S)
        self._trainer.reset_momentum(self._node)

    def _begin(self, steps: int) -> None:
        self._trainer.begin(self._node, self._params, 0, steps)
        self._under_way = True

    async def _train_at_pace(self) -> None:
        while True:
            self._begin(self._block_steps)
            await asyncio.sleep(self._block_s)
            await self._until_over(PACE_POLL_S)

    async def _until_over(self, poll_s: float) -> None:
        """End the block under way as soon as the trainer is ready."""
        while self._under_way:
            if self._trainer.ready(self._node):
                self._trainer.finish(self._node)
                self._under_way = False
            else:
                await asyncio.sleep(poll_s)
