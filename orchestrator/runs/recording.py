"""A run in progress as other processes find and see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.containers.ownership import Owner
from orchestrator.host.run_registry import registered
from orchestrator.progress.live_file import LIVE, LiveFile
from orchestrator.progress.live_record import LiveRecord
from orchestrator.progress.progress import Progress
from orchestrator.results.schema import RunFacts


@contextmanager
def told_to_others(progress: Progress, path: Path, facts: RunFacts) -> Iterator[None]:
    """List a run as in progress, and record in its directory how it stands, for as long as the block lasts."""
    owner = Owner.of_this_process()
    record = LiveRecord(owner, facts.name, facts.algorithm, facts.runtime, facts.nodes, doing="preparing")
    live = LiveFile(path / LIVE, record)
    live.preparing(record.doing)  # from here on it can be watched
    with registered(path, owner), progress.recorded_in(live):
        yield
