"""What all runners share: the options of a run, and how it ended."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

ProgressStyle = Literal["auto", "json", "quiet"]
Status = Literal["done", "interrupted", "failed"]


@dataclass(frozen=True)
class RunOptions:
    """What the command line adds to an experiment.

    Attributes:
        out: Folder in which the run's folder is made.
        data_root: Where data sets lie; None for the environment's or the default.
        workers: Training processes; 0 trains in the main process.
        progress: How progress is shown.
        command: What to type to run it again.
    """

    out: Path
    data_root: Path | None
    workers: int
    progress: ProgressStyle
    command: str


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        path: The run directory.
        status: How.
        summary: The content of summary.json.
        error: Why it failed; None if it did not.
        fidelity: The content of fidelity.json; None if there is none.
    """

    path: Path
    status: Status
    summary: dict[str, Any]
    error: str | None
    fidelity: dict[str, Any] | None = None


@contextmanager
def signals_held() -> Iterator[None]:
    """Put off SIGINT and SIGTERM to the end of the block, where they become a :class:`KeyboardInterrupt`.

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
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request; a second one interrupts at once."""
    asked = False

    def handle() -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        request_stop()

    with on_signals(handle):
        yield


@contextmanager
def on_signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call ``handle`` for every SIGINT and SIGTERM in the block. Outside the main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        handle()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, previous in zip(signals, before, strict=True):
            signal.signal(number, previous)


def report(path: Path) -> None:
    """Write a run's report, once its results are safe on the disk.

    Raises:
        RunnerError: It could not be written.
    """
    # Imported here: matplotlib takes half a second, by which the first line of progress would be late.
    from orchestrator.report.page import write_report
    from orchestrator.results.reader import load_run

    write_report(load_run(path))
