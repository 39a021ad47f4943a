"""The containers of one run: made in parallel, watched, and all removed at the end.

Calls of the engine take milliseconds to hundreds of them. So a pool of threads makes them, one thread hears what
happens to containers, and one a container copies what it writes into a file. Whoever looks from a loop, looks at
queues and never waits.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from orchestrator.containers.cleanup import remove_labelled
from orchestrator.containers.interface import (
    ContainerEvent,
    ContainerSpec,
    ContainerState,
    Engine,
    EngineError,
    EventStream,
)
from orchestrator.containers.output_copy import OutputCopy
from orchestrator.containers.ownership import NODE_LABEL, RunScope

_Value = TypeVar("_Value")

_CALLS: Final = 8
"""Calls at a time. More do not help: the kernel makes network namespaces one after the other."""

FREEZES: Final = 10
"""Attempts to pause a container that the kernel does not freeze; each takes up to some tenths of a second."""


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """End of a container.

    Attributes:
        how: In words that follow its name: ``ended with code 1``.
        failed: It ended by a signal or with a code other than 0.
    """

    how: str
    failed: bool


@dataclass(slots=True)
class _Member:
    """A container of the group.

    Attributes:
        identity: The engine's name for it.
        starts: How often it has started.
        killed: Whether it was asked to end; then its end is no news.
        copy: Copies its output since its last start; None before it started.
        last: The last command to it, after which the next one comes.
    """

    identity: str
    starts: int = 0
    killed: bool = False
    copy: "OutputCopy | None" = None
    last: "Future[None] | None" = None


class ContainerGroup:
    """The containers of one run in an engine.

    One thread uses it, in this order: ``open``, ``launch`` (also more than once), then what looks and what commands in
    any order, and last ``close``, whatever happened before. What looks and what commands never waits; a command that
    fails later shows as a :meth:`failure`.

    State:
        _members: The containers by name; from their creation on. Guarded by the lock, as all below.
        _names: Their names by the engine's.
        _events: The stream of what happens to containers; None before ``open``.
        _failure: Why the group cannot be relied on any more; None if all is well.
        _closing: Whether nothing new may begin.
    """

    def __init__(self, engine: Engine, scope: RunScope, logs: Path) -> None:
        """Store what is needed.

        Args:
            engine: Where.
            scope: Names and labels of the run.
            logs: Folder for what containers write, a file each; exists when the first one is launched.
        """
        self._engine = engine
        self._scope = scope
        self._logs = logs
        self._pool = ThreadPoolExecutor(_CALLS, thread_name_prefix="engine")
        self._lock = threading.Lock()
        self._members: dict[str, _Member] = {}
        self._names: dict[str, str] = {}
        self._ended: SimpleQueue[tuple[str, ContainerEnd]] = SimpleQueue()
        self._restarted: SimpleQueue[str] = SimpleQueue()
        self._events: EventStream | None = None
        self._watcher: threading.Thread | None = None
        self._failure: str | None = None
        self._closing = False

    # -- making --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to watch, before there is anything to hear of.

        Raises:
            EngineError: The engine refuses.
        """
        # Only whole seconds can be asked for, so what happened in this one is told again.
        self._events = self._engine.events(self._scope.labels(), time.time_ns())
        self._watcher = threading.Thread(target=self._watch, args=(self._events,), name="engine events", daemon=True)
        self._watcher.start()

    def launch(self, specs: Sequence[ContainerSpec]) -> None:
        """Make and start containers, several at a time; returns when all have started.

        Raises:
            EngineError: One cannot be started. Others may have been; ``close`` removes them.
        """
        futures = [self._pool.submit(self._make_container, spec) for spec in specs]
        done, others = wait(futures, return_when=FIRST_EXCEPTION)
        for future in others:
            future.cancel()
        for future in futures:
            if future in done:
                future.result()

    def _make_container(self, spec: ContainerSpec) -> None:
        if self._closing:
            return
        try:
            identity = self._engine.create_container(spec)
            with self._lock:
                self._members[spec.name] = _Member(identity)
                self._names[identity] = spec.name
            if not self._closing:
                self._engine.start(identity)
        except EngineError as error:
            if (node := spec.labels.get(NODE_LABEL)) is None:
                raise
            raise EngineError(f"node {node}: {error}", error.status) from error

    # -- looking: never waits ------------------------------------------------------------------------------

    def newly_ended(self) -> dict[str, ContainerEnd]:
        """Return containers that have ended since the last call, by name, but for those that were killed.

        All that one wrote is in its log then, or its end says that it is not.
        """
        return dict(_drain(self._ended))

    def newly_restarted(self) -> list[str]:
        """Return containers that have started once more, by somebody's hand; each has a new network namespace."""
        return _drain(self._restarted)

    def failure(self) -> str | None:
        """Return why containers cannot be watched any more; None if all is well."""
        return self._failure

    def log_of(self, name: str) -> Path:
        """Return the file that holds what a container writes."""
        return self._logs / f"{name.removeprefix(self._scope.name_of(''))}.log"

    # -- commanding: never waits ---------------------------------------------------------------------------

    def pause(self, name: str) -> "Future[None]":
        """Stop a container in the middle of whatever it does. Does nothing if it has ended."""
        return self._command(name, partial(_freeze, self._engine))

    def resume(self, name: str) -> "Future[None]":
        """Let a paused container go on. Does nothing if it has ended or was not paused."""
        return self._command(name, self._engine.unpause)

    def start_again(self, name: str) -> None:
        """Start a container again that has ended; :meth:`newly_restarted` tells when it has started."""
        self._members[name].killed = False
        self._command(name, self._engine.start)

    def kill(self, name: str) -> None:
        """End a container by force, paused or not. Does nothing if it has ended."""
        self._members[name].killed = True
        self._command(name, self._engine.kill)

    def _command(self, name: str, call: Callable[[str], None]) -> "Future[None]":
        member = self._members[name]
        before = member.last

        def run() -> None:
            # Commands keep their order. It began earlier in the same pool, so that it is being done or is done.
            if before is not None:
                wait([before])
            try:
                call(member.identity)
            except EngineError as error:
                self._fail(str(error))

        member.last = self._pool.submit(run)
        return member.last

    # -- asking: waits -------------------------------------------------------------------------------------

    def states(self, names: Sequence[str]) -> dict[str, ContainerState]:
        """Return the states of containers, several asked at a time.

        Raises:
            EngineError: One is gone, or the engine does not answer.
        """
        found = self._pool.map(lambda name: self._engine.inspect(self._members[name].identity), names)
        states = dict(zip(names, found, strict=True))
        for name, state in states.items():
            if state is None:
                raise EngineError(f"container {name}: is gone")
        return {name: state for name, state in states.items() if state is not None}

    def execute(self, name: str, command: Sequence[str], text: str = "") -> tuple[int, str]:
        """Run a command in a container and return its exit code and output.

        Args:
            name: In which.
            command: The command and its arguments.
            text: Its standard input.

        Raises:
            EngineError: The container does not run, or the engine does not answer.
        """
        return self._engine.execute(self._members[name].identity, command, text)

    # -- the end -------------------------------------------------------------------------------------------

    def close(self) -> list[str]:
        """End and remove all that the run has in the engine, networks too; waits until it is gone.

        Returns:
            A line for everything that could not be removed.
        """
        # Step 1: let nothing new begin, and what has begun end.
        self._closing = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        # Step 2: remove by label, which finds what a call made whose answer never came.
        try:
            problems = remove_labelled(self._engine, self._scope.labels())
        except EngineError as error:
            problems = [f"{error}; fragmesh down removes what is left"]
        # Step 3: threads. Those that copy output have ended with their containers.
        if self._events is not None and self._watcher is not None:
            self._events.close()
            self._watcher.join()
        for member in self._members.values():
            if member.copy is not None:
                member.copy.finish()
        return problems

    # -- events, in a thread of their own --------------------------------------------------------------------

    def _watch(self, events: EventStream) -> None:
        try:
            for event in events:
                self._on_event(event)
        except EngineError as error:
            self._fail(str(error))
        else:
            self._fail("the Docker engine has ended")

    def _on_event(self, event: ContainerEvent) -> None:
        with self._lock:
            name = self._names.get(event.container)
        if name is None or self._closing:
            return
        member = self._members[name]
        match event.action:
            case "start":
                member.starts += 1
                member.copy = OutputCopy(self._engine, member.identity, self.log_of(name), member.copy)
                member.copy.begin()
                if member.starts > 1:
                    self._restarted.put(name)
            case "die":
                if member.copy is not None:
                    member.copy.tell_end()
                with suppress(RuntimeError):  # the pool has been shut down: nobody asks any more
                    self._pool.submit(self._conclude, name, member, member.copy, event.exit_code)

    def _conclude(self, name: str, member: _Member, copy: OutputCopy | None, exit_code: int) -> None:
        """Report the end of a container once its output is complete."""
        if member.killed:
            return
        is_complete = copy is None or copy.finish()
        out_of_memory = False
        with suppress(EngineError):
            state = self._engine.inspect(member.identity)
            out_of_memory = state is not None and state.out_of_memory
        how = ending(exit_code, out_of_memory=out_of_memory)
        if not is_complete:
            how += " (its log is not complete)"
        self._ended.put((name, ContainerEnd(how, exit_code != 0)))

    def _fail(self, reason: str) -> None:
        if not self._closing and self._failure is None:
            self._failure = reason


def ending(exit_code: int, *, out_of_memory: bool = False) -> str:
    """Say how a container ended; an exit code above 128 is a signal's, as shells tell it."""
    if out_of_memory:
        return "was killed by the kernel for want of memory"
    number = exit_code - 128
    if number in list(signal.Signals):
        return f"was killed by {signal.Signals(number).name}"
    return f"ended with code {exit_code}"


def _drain(queue: SimpleQueue[_Value]) -> list[_Value]:
    found = []
    with suppress(Empty):
        while True:
            found.append(queue.get_nowait())
    return found


def _freeze(engine: Engine, container: str) -> None:
    """Pause a container. On a busy host the kernel is at times not done in the time that the engine gives it."""
    for left in reversed(range(FREEZES)):
        try:
            engine.pause(container)
        except EngineError as error:
            if not left or "unable to freeze" not in str(error):
                raise
        else:
            return
