"""The signals that ask a run to end, as requests instead of exceptions in the middle of anything."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from node.host.forked import ending_signals


@contextmanager
def signals_held() -> Iterator[None]:
    """Put off the signals that end a run to the end of the block, where they become a :class:`KeyboardInterrupt`.

    For imports and forks: Python drops an exception that comes up in a hook of either, and in a forked child it
    would surface in the parent's code.
    """
    held = False

    def hold() -> None:
        nonlocal held
        held = True

    with on_signals(hold):
        yield
    if held:
        raise KeyboardInterrupt


@contextmanager
def on_signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call ``handle`` for every signal in the block that ends a run (:func:`~node.host.forked.ending_signals`).

    Outside the main thread signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        handle()

    signals = ending_signals()
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, previous in zip(signals, before, strict=True):
            signal.signal(number, previous)
