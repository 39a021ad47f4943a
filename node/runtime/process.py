"""The life of one node in a process of its own, from its parts to its end.

The phases of a node
====================

:data:`TRANSITIONS` holds every phase, the events that matter in it, and the phase that follows. It is the whole truth:
an event that a phase does not name is no concern of that phase and changes nothing. Only :meth:`NodeProcess._happen`
changes the phase, and each change is reported to the orchestrator at once.

::

    PREPARING --LET_IN--> WAITING --BEGUN--> RUNNING --ROUNDS_OVER or TIME_OVER--> DONE
                             |                  |                                   |
                             |                  +----- DIVERGED, also from DONE ----+--> DIVERGED
                             |                  |                                   |       |
                             +---- TOLD_TO_STOP, from any of these four ------------+-------+--> STOPPING
    RUNNING or DONE --GOES_DOWN--> DOWN
    any of them --FAULT--> FAILED

- PREPARING: the parts exist. The node reaches the orchestrator, serves its peers, and registers.
- WAITING: the session is open. The node waits for all others twice (all serve; all have opened their streams), takes
  its first local step between, measures its links when told to, and then waits for the common instant. The driver has
  not started; what arrives from a node that has begun a moment sooner is kept until it has.
- RUNNING: the driver runs. At each evaluation instant a snapshot is taken.
- DONE: the node's own rounds are over (it still answers, and snapshots are still taken), or its time is (the driver
  stands still). Which of the two it is does not matter to anybody else.
- DIVERGED: the node's model is not finite any more. The driver stands still; the status says when that was seen, and
  the orchestrator ends the run.
- DOWN: the schedule lets the node crash. It has lost what it held in memory and hung up on its peers; what it counted
  and recorded is handed over, which is no part of the experiment, and it ends. It may be started again, as another life
  of the same node: then it registers with the address that its peers know, serves nobody and reaches nobody before the
  instant at which it comes back, and goes from there as the others did from the common instant.
- STOPPING: the orchestrator has said so. The driver stands still, and what is left is handed over.
- FAILED: the node cannot go on; its last status says why, what it waited for and what happened last.

When two events come in the same turn of the loop, they are taken in the order in which they came. After TOLD_TO_STOP
an error beside the main course is only logged, as the node is ending anyway, and one in the hand-over itself is a
FAULT; TIME_OVER is not named there and changes nothing. An orchestrator that is gone is no event: there is nobody to
tell a phase, and the node ends at once, whatever its phase.

To add an event: add it to :class:`Happening`, name it in every phase in which it matters, call ``_happen`` where it
comes up, and draw it above. To add a phase: add it to :class:`node.transport.control_values.Phase` and to
control.proto, give it a row here, and say in :func:`NodeProcess._live` what the node does in it.

The training worker is forked before gRPC begins: a fork afterwards would copy gRPC's threads in the middle of whatever
they do.
"""

import asyncio
import contextlib
import json
import logging
import selectors
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum, auto
from socket import socket
from typing import Final

from node.config import NodeConfig
from node.core.algorithm import Algorithm
from node.core.compute import StepTimer
from node.core.errors import DivergedError, RunnerError, TestbedError, TransportError
from node.core.training import RealTimeTrainer
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.host.addresses import host_and_port
from node.host.clock import Clock
from node.runtime.accounting import Accounting
from node.runtime.driver import Driver, Rounds
from node.runtime.hand_over import HandOver
from node.runtime.link_measurement import Measurement
from node.runtime.metrics_endpoint import MetricsEndpoint
from node.runtime.peers import Peers
from node.runtime.readings import NodeReadings
from node.runtime.side_tasks import SideTasks
from node.runtime.standstills import either_held
from node.runtime.status import SelfReport
from node.runtime.warm_up import WarmUp
from node.transport.control_client import ControlClient
from node.transport.control_values import (
    ControlCommand,
    MeasureCommand,
    NodeStatus,
    Phase,
    StartCommand,
    StopCommand,
)
from node.transport.control_wire import KEEPALIVE_TIMEOUT_S
from node.transport.peer_server import Arrival, ProbeInfo

EXIT_FAILED = 1
EXIT_ORPHANED = 3
EXIT_DOWN = 5

DOWN_GRACE_NS: Final = 30 * NS_PER_S
"""Longest time in which a node that goes down may hand over what it counted, real time; its orchestrator knows it."""

CLOSE_WITHIN_S = 2.0
"""Longest time that the end of all connections may take, real seconds."""

log = logging.getLogger(__name__)


class Happening(Enum):
    """Events that move a node from one phase to another."""

    LET_IN = auto()
    """The orchestrator has registered the node, and the session is open."""
    BEGUN = auto()
    """The common instant has come."""
    ROUNDS_OVER = auto()
    """The driver has done all the rounds that it may do."""
    TIME_OVER = auto()
    """The planned end has come, and the last snapshot has been taken."""
    DIVERGED = auto()
    """The driver has found the node's model to be not finite."""
    GOES_DOWN = auto()
    """The instant has come at which the schedule lets the node crash."""
    TOLD_TO_STOP = auto()
    """The orchestrator has said so."""
    FAULT = auto()
    """Something failed that the node cannot do without."""


TRANSITIONS: Final[dict[Phase, dict[Happening, Phase]]] = {
    Phase.PREPARING: {
        Happening.LET_IN: Phase.WAITING,
        Happening.FAULT: Phase.FAILED,
    },
    Phase.WAITING: {
        Happening.BEGUN: Phase.RUNNING,
        Happening.TOLD_TO_STOP: Phase.STOPPING,
        Happening.FAULT: Phase.FAILED,
    },
    Phase.RUNNING: {
        Happening.ROUNDS_OVER: Phase.DONE,
        Happening.TIME_OVER: Phase.DONE,
        Happening.DIVERGED: Phase.DIVERGED,
        Happening.GOES_DOWN: Phase.DOWN,
        Happening.TOLD_TO_STOP: Phase.STOPPING,
        Happening.FAULT: Phase.FAILED,
    },
    Phase.DONE: {
        Happening.TIME_OVER: Phase.DONE,
        Happening.DIVERGED: Phase.DIVERGED,
        Happening.GOES_DOWN: Phase.DOWN,
        Happening.TOLD_TO_STOP: Phase.STOPPING,
        Happening.FAULT: Phase.FAILED,
    },
    Phase.DIVERGED: {
        Happening.TOLD_TO_STOP: Phase.STOPPING,
        Happening.FAULT: Phase.FAILED,
    },
    Phase.STOPPING: {
        Happening.FAULT: Phase.FAILED,
    },
    Phase.DOWN: {
        Happening.FAULT: Phase.FAILED,
    },
    Phase.FAILED: {},
}


def run_node(
    config: NodeConfig,
    algorithm: Algorithm,
    trainer: RealTimeTrainer,
    training_pids: list[int],
    emulator: socket | None,
) -> int:
    """Run one node to its end, in this process.

    Args:
        config: What it is.
        algorithm: Its algorithm, not begun.
        trainer: Does its local steps. It has been started: no process may be forked from here on.
        training_pids: The trainer's processes, for their memory.
        emulator: The node's end of the socket to the link emulator; None where links are direct.

    Returns:
        The exit code: 0, :data:`EXIT_FAILED`, :data:`EXIT_ORPHANED` or :data:`EXIT_DOWN`.
    """

    async def live() -> int:
        return await NodeProcess(config, algorithm, trainer, training_pids, emulator).run()

    # select() takes microseconds; epoll, asyncio's choice, whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(live())


class NodeProcess:
    """One node's parts, connected, and their course. Made in the running loop; see :func:`run_node` for arguments."""

    def __init__(
        self,
        config: NodeConfig,
        algorithm: Algorithm,
        trainer: RealTimeTrainer,
        training_pids: Sequence[int],
        emulator: socket | None,
    ) -> None:
        # Step 1: the course of the node's life, which all that follows may end.
        self._config = config
        self._trainer = trainer
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.PREPARING
        self._failure = ""
        self._ended: asyncio.Future[StopCommand | None] = self._loop.create_future()  # None: orphaned
        self._side = SideTasks(on_error=self._raise)
        self._clock: Clock | None = None  # of the experiment, once its start is known
        self._early: list[Arrival] = []  # what arrived before the start
        self._is_ready = asyncio.Event()  # to begin, when told to
        self._measurement: Measurement | None = None
        # Step 2: the ways to others. They come before the driver, which sends on the path to the peers.
        self._control = _control_of(config)
        self._peers = Peers(
            config,
            algorithm,
            emulator,
            self._loop,
            on_message=self._on_message,
            on_probe=self._on_probe,
            on_emulator_gone=lambda: self._raise(TransportError("the link emulator is gone")),
        )
        # Step 3: the driver. Arrivals wait at the server until it takes them.
        self._driver = Driver(
            algorithm=algorithm,
            trainer=trainer,
            timer=StepTimer(config.compute, config.node, config.seed),
            path=self._peers.path,
            accounting=Accounting(config.network.header_bytes, config.dtype, config.keep_messages),
            rounds=Rounds(config.beginning.rounds, config.beginning.local_steps, config.max_rounds),
            reject=self._peers.reject,
            on_end=self._on_end,
        )
        self._driver.take_arrivals = self._peers.server.release
        self._arrivals_may_wait = algorithm.passive
        # Step 4: what happens before the experiment, and what tells of it; both only look at the parts above.
        steps = algorithm.context.local_steps
        self._warm_up = WarmUp(
            config.node,
            trainer,
            config.beginning.params,
            block_steps=steps,
            block_s=steps * config.compute.step_ns[config.node] * config.emulator_clock.dilation / NS_PER_S,
        )
        self._report = SelfReport(config, self._driver, self._peers, training_pids)
        self._hand_over = HandOver(config, self._driver, self._control, self._report.counters)
        readings = NodeReadings(config, algorithm, self._driver, self._peers, self._report)
        self._metrics = MetricsEndpoint(
            config.metrics_host, lambda: readings.at(self._phase, _now_ns(self._clock)), self._loop
        )

    async def run(self) -> int:
        """Live, and say why if that is not possible. Returns the exit code."""
        self._side.watch(self._loop)
        try:
            return await self._live()
        except TestbedError as error:
            await self._fail(error)
            return EXIT_FAILED
        finally:
            await self._close()

    # -- the course of a life ----------------------------------------------------------------------------------

    async def _live(self) -> int:
        config = self._config
        # Step 1: reach the orchestrator before anything else: without it nobody learns of what fails below.
        await self._control.connect(config.start_timeout_s)
        # Step 2: serve before registering, as the address is what the node registers with.
        if config.beginning.life:
            address = host_and_port(config.advertised or config.host, config.port)
        else:
            address = await self._peers.listen()
        metrics = self._metrics.open()
        registered = await self._control.register(address, config.num_params, self._peers.plan_id, metrics)
        # Step 3: open the session at once: it is how the orchestrator knows that the node lives.
        self._control.open_session(self._status, self._on_command, registered.status_period_s)
        self._side.spawn(self._watch_orchestrator())
        self._side.spawn(self._report.watch_loop())
        self._happen(Happening.LET_IN)
        # Step 4: open the streams when all serve.
        self._peers.client.set_addresses(await self._control.barrier("ready", config.start_timeout_s))
        if not config.beginning.life:
            await self._peers.open_streams(config.start_timeout_s)
        # Step 5: take the first step before the second barrier, so that no other node measures while this one sets up.
        await self._warm_up.first_step()
        # Step 6: wait longer than anyone tries to connect: who cannot says why, and not who waits for it.
        await self._control.barrier("connected", 2 * config.start_timeout_s)
        self._is_ready.set()
        # Step 7: from here on commands and timers move the node: measure, start, stop.
        command = await self._ended
        if command is None:
            return EXIT_ORPHANED
        # Step 8: stand still first, so that what is handed over fits together. Who goes down hangs up before all else.
        self._driver.stop()
        if not self._happen(Happening.TOLD_TO_STOP):
            await self._peers.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(command.grace_ns / NS_PER_S):
                await self._finish(final=command.snapshot)
        if self._phase is Phase.DOWN:
            return EXIT_DOWN
        # Step 9: what the node counted is final: let whoever has followed it see that.
        await self._metrics.last_scrape()
        return 0

    async def _finish(self, *, final: bool) -> None:
        if self._clock is not None:  # else it has never begun, and has nothing
            await self._hand_over.finish(self._clock.now_ns(), self._report.figures, final=final)

    def _happen(self, event: Happening) -> bool:
        """Move to the next phase, if the event matters in this one, and report it; returns whether it does."""
        following = TRANSITIONS[self._phase].get(event)
        if following is None:
            return False
        self._phase = following
        self._control.report()
        return True

    # -- commands ----------------------------------------------------------------------------------------------

    def _on_command(self, command: ControlCommand) -> None:
        match command:
            case MeasureCommand(duration_ns=duration_ns):
                self._side.spawn(self._measure(duration_ns))
            case StartCommand():
                self._side.spawn(self._start_at(command))
            case StopCommand():
                if not self._ended.done():
                    self._ended.set_result(command)

    async def _measure(self, duration_ns: int) -> None:
        """Measure the links, while the host is as busy as it will be."""
        async with self._warm_up.keep_host_busy():
            result = await self._the_measurement().run(duration_ns)
        await self._control.upload_records("measurement", json.dumps(asdict(result)).encode())

    def _the_measurement(self) -> Measurement:
        """The measurement, made by the command or by the first probe of a peer, whichever comes first."""
        if self._measurement is None:
            self._measurement = Measurement(
                node=self._config.node,
                network=self._config.network,
                clock=self._config.emulator_clock,
                path=self._peers.path,
                message_bytes=self._peers.message_bytes,
                times_messages=self._config.emulator is None,
            )
            self._peers.path.measure(self._measurement)
        return self._measurement

    async def _start_at(self, command: StartCommand) -> None:
        """Plan the beginning at the common instant, or at that of the node's return."""
        await self._is_ready.wait()
        config = self._config
        monotonic_ns = command.start_monotonic_ns
        if monotonic_ns is None:
            monotonic_ns = time.monotonic_ns() + command.start_unix_ns - time.time_ns()
        dilation = config.emulator_clock.dilation
        self._clock = clock = Clock(monotonic_ns - int(config.begin_ns * dilation), dilation)
        self._measurement = None
        self._peers.begin(clock)
        self._trainer.reset_momentum(config.node)
        self._loop.call_at(monotonic_ns / NS_PER_S, self._begin, clock)

    def _begin(self, clock: Clock) -> None:
        """The common instant has come."""
        if not self._happen(Happening.BEGUN):
            return  # stopped or failed before
        self._report.begin(clock, self._driver.pauses)
        self._peers.server.stood_still = either_held(self._driver.pauses, self._config.pauses, clock)
        if self._config.beginning.life:
            self._side.spawn(self._peers.come_back())
        # A message wakes nobody up whose algorithm does nothing about it before its own next event.
        self._peers.server.prompt = not self._arrivals_may_wait
        self._side.spawn(self._hand_over.upload_snapshots())
        begin_ns = max(self._config.begin_ns, clock.now_ns()) if self._config.beginning.life else self._config.begin_ns
        if (down_since_ns := self._config.beginning.down_since_ns) is not None:
            self._driver.counters.down_ns = max(0, begin_ns - down_since_ns)
        self._driver.start(self._config.beginning.params, at_ns=begin_ns, clock=clock, loop=self._loop)
        self._peers.watch(self._driver.heard)
        early, self._early = self._early, []
        for arrival in early:
            self._on_message(arrival)
        self._plan_snapshot(self._hand_over.first_instant_ns(begin_ns), clock)
        if self._config.down_ns is not None:
            self._loop.call_at(clock.monotonic_ns(self._config.down_ns) / NS_PER_S, self._go_down)

    def _go_down(self) -> None:
        """Crash as planned: lose all but what was counted and recorded."""
        if self._happen(Happening.GOES_DOWN) and not self._ended.done():
            assert self._clock is not None, "it runs"
            self._report.down_ns = self._clock.now_ns()
            self._driver.stop(crashes=True, at_ns=self._config.down_ns)
            self._ended.set_result(StopCommand("it goes down as planned", DOWN_GRACE_NS, snapshot=False))

    def _plan_snapshot(self, time_ns: int, clock: Clock) -> None:
        """Take a snapshot at an instant, and plan the next; at the planned end stand still instead."""

        def take() -> None:
            if self._phase not in (Phase.RUNNING, Phase.DONE) or time_ns == self._config.down_ns:
                return
            self._hand_over.take_snapshot(time_ns)
            if time_ns == self._config.end_ns:
                self._driver.stop(at_ns=time_ns)
                self._happen(Happening.TIME_OVER)
            else:
                self._plan_snapshot(self._hand_over.next_instant_ns(time_ns), clock)

        self._loop.call_at(clock.monotonic_ns(time_ns) / NS_PER_S, take)

    # -- what arrives ------------------------------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        match self._phase:
            case Phase.WAITING:
                self._early.append(arrival)
            case Phase.RUNNING | Phase.DONE:
                seen_ns = max(arrival.due_ns, arrival.received_ns) if self._arrivals_may_wait else 0
                self._driver.received(arrival.sender, arrival.message, arrival.number, arrival.due_ns, seen_ns)

    def _on_probe(self, sender: NodeId, probe: ProbeInfo) -> None:
        if self._clock is None:  # else it is too late to matter
            self._the_measurement().probe_arrived(sender, probe.sequence, probe.padding_bytes)

    def _on_end(self, diverged: DivergedError | None) -> None:
        self._happen(Happening.ROUNDS_OVER if diverged is None else Happening.DIVERGED)

    def _status(self) -> NodeStatus:
        return self._report.status(self._phase, self._failure, _now_ns(self._clock))

    # -- faults and the end ------------------------------------------------------------------------------------

    async def _watch_orchestrator(self) -> None:
        await self._control.lost.wait()
        log.error("the orchestrator is gone")
        if not self._ended.done():
            self._ended.set_result(None)

    def _raise(self, error: BaseException) -> None:
        """End the node because of an error that came up outside its main task."""
        log.error("%s", error, exc_info=None if isinstance(error, TestbedError) else error)
        if not self._ended.done():
            named = error if isinstance(error, TestbedError) else RunnerError(f"{type(error).__name__}: {error}")
            self._ended.set_exception(named)

    async def _fail(self, error: TestbedError) -> None:
        log.error("%s", error)
        self._failure = str(error)
        with contextlib.suppress(Exception):
            self._happen(Happening.FAULT)
            await asyncio.sleep(0.2)  # a moment for the report to leave

    async def _close(self) -> None:
        self._side.cancel()
        self._metrics.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._peers.close()
                await self._control.close()


def _now_ns(clock: Clock | None) -> int:
    """Testbed time; negative before the start."""
    return -1 if clock is None else clock.now_ns()


def _control_of(config: NodeConfig) -> ControlClient:
    """Make the connection to the orchestrator. Either side may stand still on purpose, and is not gone then."""
    return ControlClient(
        config.orchestrator,
        config.run_id,
        config.node,
        credentials=config.credentials,
        keepalive_timeout_s=KEEPALIVE_TIMEOUT_S + config.pause_ns * config.emulator_clock.dilation / NS_PER_S,
    )
