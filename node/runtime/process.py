"""One node as an operating-system process, from its parts to its end.

In order: serve the peers, register with the orchestrator, wait for all others, measure the links when told to, begin
at the common instant, hand over a snapshot at every evaluation instant, end at the planned time or when told to, hand
over the last snapshot and the records, leave. When the orchestrator is gone, so is the node.

The training worker is forked before gRPC begins: a fork afterwards would copy gRPC's threads in the middle of whatever
they do.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import selectors
import time
from array import array
from collections.abc import Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np

from node.config import NodeConfig
from node.core.algorithm import Algorithm
from node.core.compute import StepTimer
from node.core.counters import NodeCounters, counter_values
from node.core.errors import RunnerError, TestbedError, TransportError
from node.core.lateness import LatenessHistogram
from node.core.rng import stream
from node.core.training import RealTimeTrainer
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_S
from node.emulation.uplink import EmulatedUplink
from node.host.clock import Clock
from node.runtime.accounting import Accounting
from node.runtime.calibration import Measurement
from node.runtime.driver import Driver, Rounds
from node.runtime.emulated_path import EmulatedPath
from node.runtime.outgoing import UNLIMITED_MBPS, OutgoingFrames
from node.transport.control_client import ControlClient
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    ModelSnapshot,
    NodeStatus,
    Phase,
    SnapshotPurpose,
    StartCommand,
    StopCommand,
    some_nodes,
)
from node.transport.frames import HEADER_BYTES, RejectReason, WireContext, plan_id
from node.transport.peer_client import EchoInfo, PeerClient
from node.transport.peer_server import Arrival, PeerServer, ProbeInfo

QUEUE_FRAMES_MIN = 64
"""Frames of one peer that may wait for their due instant, at least; more where the links hold more."""

OPENING = (1 << 64) - 1
"""Number of the probe that opens a stream; it is answered at once."""

OPEN_AGAIN_S = 5.0
"""After so long without an answer an opening probe is sent again, real time."""

STREAMS_OPENED_MAX = 128
"""Streams that are opened before the start, at most; others when they are needed first."""

LOOP_CHECK_S = 0.2
"""How often the loop's lateness is measured, real time."""

EXIT_FAILED = 1
EXIT_ORPHANED = 3

log = logging.getLogger(__name__)


def run_node(
    config: NodeConfig,
    algorithm: Algorithm,
    trainer: RealTimeTrainer,
    training_pids: list[int],
    emulator: socket,
) -> int:
    """Run one node to its end, in this process.

    Args:
        config: What it is.
        algorithm: Its algorithm, not begun.
        trainer: Does its local steps. It has been started: no process may be forked from here on.
        training_pids: The trainer's processes, for their memory.
        emulator: The node's end of the socket to the link emulator.

    Returns:
        The exit code: 0, :data:`EXIT_FAILED` or :data:`EXIT_ORPHANED`.
    """
    # select() takes microseconds; epoll, asyncio's choice, whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_Node(config, algorithm, trainer, training_pids).run(emulator))


class _Node:
    """One node's parts, connected."""

    def __init__(
        self, config: NodeConfig, algorithm: Algorithm, trainer: RealTimeTrainer, training_pids: list[int]
    ) -> None:
        self._config = config
        self._algorithm = algorithm
        self._plan_id = plan_id(config.tensor_sizes, config.seed, algorithm.fragments)
        self._message_bytes = _largest_message_bytes(config, algorithm)
        self._trainer = trainer
        self._training_pids = training_pids
        self._phase = Phase.PREPARING
        self._failure = ""
        self._clock: Clock | None = None  # of the experiment, once its start is known
        self._offset_ns = 0  # the emulator's time minus the experiment's
        self._measurement: Measurement | None = None
        self._unopened: set[NodeId] = set()  # neighbors whose stream is not open yet
        self._snapshots: asyncio.Queue[tuple[ModelSnapshot, Vector]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_late_ns = array("q")

    async def run(self, emulator: socket) -> int:
        """See :func:`run_node`."""
        loop = self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[StopCommand | None] = loop.create_future()
        loop.set_exception_handler(self._on_loop_error)
        config = self._config
        self._uplink = EmulatedUplink(
            emulator,
            loop,
            on_finished=lambda number, finish_ns: self._path.transfer_ended(number, finish_ns),
            on_aborted=lambda number, sent_bytes: self._path.transfer_aborted(number, sent_bytes),
            on_gone=self._emulator_gone,
        )
        self._uplink.open()
        self._control = ControlClient(config.orchestrator, config.run_id, config.node)
        window_bytes = 4 * self._message_bytes
        self._server = PeerServer(
            config.node,
            config.run_id,
            self._wire_context(),
            self._queue_frames_max(),
            self._on_message,
            self._on_probe,
            window_bytes,
        )
        self._client = PeerClient(
            config.node,
            config.run_id,
            self._plan_id,
            on_acknowledged=lambda peer, number, size: self._path.acknowledged(number),
            on_lost=lambda peer, number, size, reason: self._path.delivery_failed(number, size),
            on_echo=self._on_echo,
            rng=stream(config.seed, "back-off", config.node),
            window_bytes=window_bytes,
        )
        self._path = EmulatedPath(
            node=config.node,
            network=config.network,
            seed=config.seed,
            emulator_clock=config.emulator_clock,
            uplink=self._uplink,
            streams=self._client,
            frames=OutgoingFrames(config.node, self._plan_id, config.dtype, config.num_params),
        )
        self._driver = Driver(
            algorithm=self._algorithm,
            trainer=self._trainer,
            timer=StepTimer(config.compute, config.node, config.seed),
            path=self._path,
            accounting=Accounting(config.network.header_bytes, config.dtype, config.keep_messages),
            rounds=Rounds(config.beginning.rounds, config.beginning.local_steps, config.max_rounds),
            reject=lambda sender: self._server.reject(sender, RejectReason.ALGORITHM, "of no use to the algorithm now"),
            on_done=self._on_done,
        )
        try:
            return await self._live()
        except TestbedError as error:
            await self._fail(error)
            return EXIT_FAILED
        finally:
            await self._close()

    # -- the course of a run -----------------------------------------------------------------------------------

    async def _live(self) -> int:
        config = self._config
        await self._control.connect(config.start_timeout_s)
        address = await self._server.start(config.host, config.port)
        registered = await self._control.register(address, config.num_params, self._plan_id)
        self._control.open_session(self._status, self._on_command, registered.status_period_s)
        self._spawn(self._watch_orchestrator())
        self._spawn(self._watch_loop())
        self._set_phase(Phase.WAITING)
        self._client.set_addresses(await self._control.barrier("ready", config.start_timeout_s))
        await self._open_streams()
        await self._train_once()
        # Longer than anyone tries to connect: who cannot says why, and not who waits for it.
        await self._control.barrier("connected", 2 * config.start_timeout_s)
        command = await self._ended
        if command is None:
            return EXIT_ORPHANED
        self._driver.stop()
        self._set_phase(Phase.STOPPING)
        grace_s = command.grace_ns / NS_PER_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._hand_over(final=command.snapshot)
        return 0

    async def _open_streams(self) -> None:
        """Open the streams to the neighbors, so that no message of the experiment has to wait for a connection.

        Raises:
            TransportError: A neighbor did not answer in time.
        """
        config = self._config
        neighbors = {*self._algorithm.context.neighbors[:STREAMS_OPENED_MAX]}
        if config.network.num_nodes > 1:
            # The links are measured along this ring, and answers come back.
            neighbors |= {NodeId((config.node + side) % config.network.num_nodes) for side in (1, -1)}
        self._unopened = {NodeId(peer) for peer in neighbors}
        until_s = self._loop.time() + config.start_timeout_s
        while self._unopened:
            for peer in sorted(self._unopened):  # again, where an attempt failed
                self._client.probe(peer, OPENING, 0, 0, 0)
            again_s = min(self._loop.time() + OPEN_AGAIN_S, until_s)
            while self._unopened and self._loop.time() < again_s:
                await asyncio.sleep(0.01)
            if self._unopened and self._loop.time() >= until_s:
                missing = sorted(self._unopened)
                why = self._client.troubles.get(missing[0], "no answer")
                raise TransportError(f"{some_nodes(missing)} cannot be reached ({missing[0]}: {why})")

    def _begin(self, clock: Clock) -> None:
        """The common instant has come."""
        config = self._config
        self._set_phase(Phase.RUNNING)
        self._server.lateness = LatenessHistogram()  # what came before was measurement
        self._loop_late_ns = array("q")
        self._spawn(self._upload_snapshots())
        self._driver.start(config.beginning.params, at_ns=config.begin_ns, clock=clock, loop=self._loop)
        # A part that goes on where an earlier one ended has that instant's snapshot already.
        first = config.begin_ns // config.evaluation_interval_ns + 1 if config.begin_ns else 0
        self._plan_snapshot(first * config.evaluation_interval_ns)

    def _plan_snapshot(self, time_ns: int) -> None:
        assert self._clock is not None
        end_ns = self._config.end_ns
        if end_ns is not None and time_ns > end_ns:
            time_ns = end_ns

        def take() -> None:
            if self._phase not in (Phase.RUNNING, Phase.DONE):
                return
            self._snapshots.put_nowait(self._take_snapshot(time_ns, SnapshotPurpose.EVALUATION))
            if time_ns == end_ns:
                self._driver.stop()
                self._set_phase(Phase.DONE)
            else:
                self._plan_snapshot(time_ns + self._config.evaluation_interval_ns)

        self._loop.call_at(self._clock.monotonic_ns(time_ns) / NS_PER_S, take)

    def _take_snapshot(self, time_ns: int, purpose: SnapshotPurpose) -> tuple[ModelSnapshot, Vector]:
        """Take the node's model and figures as they are now, as of ``time_ns``."""
        snapshot = ModelSnapshot(self._config.node, purpose, time_ns, self._counters())
        return snapshot, self._driver.model(after_training=self._config.evaluate_after_training)

    async def _upload_snapshots(self) -> None:
        while True:
            await self._control.upload_snapshot(*await self._snapshots.get())
            self._snapshots.task_done()

    async def _hand_over(self, *, final: bool) -> None:
        """The last things that the orchestrator gets: snapshots, records, figures."""
        await self._snapshots.join()
        if self._clock is None:  # never begun
            return
        now_ns = max(0, self._clock.now_ns())
        if self._config.end_ns is not None:
            now_ns = min(now_ns, self._config.end_ns)
        if final:
            await self._control.upload_snapshot(*self._take_snapshot(now_ns, SnapshotPurpose.FINAL))
        if self._driver.records is not None:
            await self._control.upload_records("messages", self._driver.records.to_bytes(now_ns))
        await self._control.upload_records("figures", json.dumps(self._figures()).encode())

    # -- commands ----------------------------------------------------------------------------------------------

    def _on_command(self, command: ControlCommand) -> None:
        match command:
            case MeasureCommand(duration_ns=duration_ns):
                self._spawn(self._measure(duration_ns))
            case StartCommand():
                self._start_at(command)
            case StopCommand():
                if not self._ended.done():
                    self._ended.set_result(command)

    def _start_at(self, command: StartCommand) -> None:
        config = self._config
        monotonic_ns = command.start_monotonic_ns
        if monotonic_ns is None:
            monotonic_ns = time.monotonic_ns() + command.start_unix_ns - time.time_ns()
        dilation = config.emulator_clock.dilation
        clock = Clock(monotonic_ns - int(config.begin_ns * dilation), dilation)
        self._clock = clock
        self._offset_ns = config.emulator_clock.at_ns(monotonic_ns) - config.begin_ns
        self._measurement = None
        self._trainer.reset_momentum(config.node)
        self._loop.call_at(monotonic_ns / NS_PER_S, self._begin, clock)

    # -- measurement -------------------------------------------------------------------------------------------

    async def _measure(self, duration_ns: int) -> None:
        config = self._config
        if self._measurement is None:
            self._measurement = self._make_measurement()
        training = asyncio.create_task(self._train_for_nothing())
        try:
            result = await self._measurement.run(duration_ns)
        finally:
            training.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await training
        while self._warming:
            await asyncio.sleep(0.01)
            self._finish_warm_up()
        self._trainer.reset_momentum(config.node)
        await self._control.upload_records("measurement", json.dumps(asdict(result)).encode())

    def _make_measurement(self) -> Measurement:
        config = self._config
        measurement = Measurement(
            node=config.node,
            network=config.network,
            clock=config.emulator_clock,
            path=self._path,
            message_bytes=self._message_bytes,
        )
        self._path.measure(measurement)
        return measurement

    _warming = False

    async def _train_once(self) -> None:
        """Take the first local step, which sets things up: hundreds of milliseconds that no measurement should see."""
        self._trainer.begin(self._config.node, self._config.beginning.params, 0, 1)
        self._warming = True
        while not self._finish_warm_up():
            await asyncio.sleep(0.01)
        self._trainer.reset_momentum(self._config.node)

    async def _train_for_nothing(self) -> None:
        """Keep the host as busy as the experiment will, at the experiment's pace."""
        config = self._config
        steps = self._algorithm.context.local_steps
        block_s = steps * config.compute.step_ns[config.node] * config.emulator_clock.dilation / NS_PER_S
        while True:
            self._trainer.begin(config.node, config.beginning.params, 0, steps)
            self._warming = True
            await asyncio.sleep(block_s)
            while not self._finish_warm_up():
                await asyncio.sleep(0.002)

    def _finish_warm_up(self) -> bool:
        if self._warming and self._trainer.ready(self._config.node):
            self._trainer.finish(self._config.node)
            self._warming = False
        return not self._warming

    # -- the network -------------------------------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        if self._clock is not None:
            self._driver.received(arrival.sender, arrival.message, arrival.number, arrival.due_ns)

    def _on_probe(self, sender: NodeId, probe: ProbeInfo) -> None:
        if probe.sequence == OPENING:
            self._server.echo(sender, probe.sequence, probe.sent_ns, 0)
            return
        if self._clock is not None:
            return  # too late to matter
        if self._measurement is None:
            self._measurement = self._make_measurement()
        self._measurement.probe_arrived(sender, probe.sequence, probe.padding_bytes)

    def _on_echo(self, peer: NodeId, echo: EchoInfo) -> None:
        if echo.sequence == OPENING:
            self._unopened.discard(peer)

    def _wire_context(self) -> WireContext:
        config = self._config
        plan = self._algorithm.fragments
        others = frozenset(NodeId(peer) for peer in range(config.network.num_nodes) if peer != config.node)
        return WireContext(
            plan_id=self._plan_id,
            num_params=config.num_params,
            fragment_sizes=() if plan is None else tuple(np.diff(plan.bounds).tolist()),
            senders=others,
            carries=self._algorithm.carries,
            dtype=config.dtype,
        )

    def _queue_frames_max(self) -> int:
        """Frames that one peer may rightly have on their way to here: its bound in flight, in small messages."""
        config = self._config
        latency_ms = max(
            (config.network.pair(peer, config.node).latency_ms for peer in range(config.network.num_nodes)), default=0.0
        )
        mbps = min(UNLIMITED_MBPS, float(config.network.up_mbps.max()))
        in_path = mbps * 1e3 / 8 * (2 * latency_ms) / max(1, self._message_bytes)
        return QUEUE_FRAMES_MIN + int(2 * in_path) + 2 * config.network.sender

    # -- figures -----------------------------------------------------------------------------------------------

    def _status(self) -> NodeStatus:
        return NodeStatus(
            node=self._config.node,
            phase=self._phase,
            time_ns=-1 if self._clock is None else self._clock.now_ns(),
            counters=self._counters(),
            messages_rejected={reason.value: times for reason, times in self._server.rejected.items()},
            unreachable=tuple(sorted(self._client.unreachable)),
            failure=self._failure,
            waiting_for=self._driver.waiting_for() or "",
            story=self._driver.story(),
        )

    def _counters(self) -> NodeCounters:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return replace(self._driver.current_counters(), cpu_ns=int((usage.ru_utime + usage.ru_stime) * NS_PER_S))

    def _figures(self) -> dict[str, Any]:
        """What is told once, at the end; times are testbed time."""
        dilation = self._config.emulator_clock.dilation
        late = self._server.lateness.summary()
        loop_late = np.array(self._loop_late_ns, dtype=np.int64)
        return {
            "counters": counter_values(self._counters()),
            "first_round": self._config.beginning.rounds,
            "loop_late_p99_ns": int(np.percentile(loop_late, 99) / dilation) if loop_late.size else 0,
            "arrivals": late.count,
            "late_p99_ns": int(late.p99 / dilation),
            "late_max_ns": int(late.max / dilation),
            "memory_bytes": sum(_memory_bytes(pid) for pid in (os.getpid(), *self._training_pids)),
            "rejected": {reason.value: times for reason, times in self._server.rejected.items()},
        }

    # -- watching ----------------------------------------------------------------------------------------------

    def _set_phase(self, phase: Phase) -> None:
        self._phase = phase
        self._control.report()

    def _on_done(self) -> None:
        self._set_phase(Phase.DONE)

    async def _watch_orchestrator(self) -> None:
        await self._control.lost.wait()
        log.error("the orchestrator is gone")
        if not self._ended.done():
            self._ended.set_result(None)

    async def _watch_loop(self) -> None:
        """How late the host lets the loop be."""
        while True:
            planned = self._loop.time() + LOOP_CHECK_S
            await asyncio.sleep(LOOP_CHECK_S)
            self._loop_late_ns.append(int((self._loop.time() - planned) * NS_PER_S))

    def _emulator_gone(self) -> None:
        self._raise(TransportError("the link emulator is gone"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._raise(error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            log.error("%s", context.get("message"))
            return
        self._raise(error)

    def _raise(self, error: BaseException) -> None:
        """End the node because of an error that came up outside its main task."""
        log.error("%s", error, exc_info=None if isinstance(error, TestbedError) else error)
        if not self._ended.done():
            named = error if isinstance(error, TestbedError) else RunnerError(f"{type(error).__name__}: {error}")
            self._ended.set_exception(named)

    async def _fail(self, error: TestbedError) -> None:
        log.error("%s", error)
        self._phase, self._failure = Phase.FAILED, str(error)
        with contextlib.suppress(Exception):
            self._control.report()
            await asyncio.sleep(0.2)  # a moment for the report to leave

    async def _close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self._uplink.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2.0):
                await self._client.close()
                await self._server.stop(0.2)
                await self._control.close()


def _largest_message_bytes(config: NodeConfig, algorithm: Algorithm) -> int:
    """The largest message on the wire."""
    plan = algorithm.fragments
    values = config.num_params if plan is None else max(np.diff(plan.bounds).tolist())
    return HEADER_BYTES + values * config.dtype.value_bytes


def _memory_bytes(pid: int) -> int:
    """Proportional set size: shared pages count in parts. 0 where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
