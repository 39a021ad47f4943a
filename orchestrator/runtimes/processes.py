"""The ``processes`` runtime: a plan in, one process a node, a run directory out.

The course of a run: load the data, choose the time dilation, fork the link emulator and the nodes, wait for all of
them at a barrier, let them measure their links under load, tell them the common start, watch them until the end, stop
them, collect what they recorded, test the models that they handed over, write the results and how far they can be
trusted.

Every wait has a bound that follows from sizes and rates. A node that dies ends the run where the algorithm waits for
every message, and is told and left behind elsewhere.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from node.config import Beginning, NodeConfig
from node.core.counters import add_up
from node.core.errors import ConfigError, ProtocolError, RunnerError, TransportError
from node.core.types import NodeId, Vector
from node.core.units import NS_PER_S, mbps_to_bytes_per_ns, ns_to_s, s_to_ns
from node.emulation.emulator import EmulatorHandle, start_emulator
from node.emulation.statistics import EmulatorStatistics
from node.host.clock import Clock
from node.runtime.message_records import Column, join
from node.transport.control_values import (
    MeasureCommand,
    NodeStatus,
    Phase,
    SnapshotInfo,
    StartCommand,
    StopCommand,
)
from orchestrator.experiment.node_configs import RunPart, node_configs
from orchestrator.experiment.plan import Plan, naming
from orchestrator.fidelity import Measured, cpu_pressure, judge
from orchestrator.host.dilation import measure_step_seconds, recommend
from orchestrator.host.doctor import Host
from orchestrator.host.environment import usable_cores
from orchestrator.host.signals import on_signals, signals_held
from orchestrator.progress import NodeRow, Progress, Snapshot
from orchestrator.results.reader import Run as Results
from orchestrator.results.schema import RunTotals, Sample
from orchestrator.results.writer import RunWriter
from orchestrator.runs.collection import known, measured_links, node_figures, one_table, summed
from orchestrator.runs.control_server import ControlServer
from orchestrator.runs.evaluation import count_replaced, utilization, with_results
from orchestrator.runs.options import RunOptions, RunOutcome, Status, report
from orchestrator.runs.prepare import Prepared, environment_of, interrupted_run, prepare, recorded_plan
from orchestrator.runs.snapshots import Earlier, Part, Snapshots
from orchestrator.runtimes.forking import NodeHandle, ending, fork_nodes

HOST = "127.0.0.1"

SNAPSHOTS = "snapshots"
"""Folder in the run directory; gone when the run is complete."""

TICK_S = 0.1
"""How often the runner looks at its nodes, real time."""

STATUS_PERIOD_S = 1.0
"""How often nodes say how they are, real time."""

START_A_NODE_S = 1.0
"""What one node more may add to the time until all are ready, real time: they load nothing, but share the cores."""

MEASURE_REAL_S = 8.0
"""How long the measurement of the links may take, real time, where that is enough for :data:`MEASURE_TESTBED_S`."""

MEASURE_TESTBED_S = (0.4, 2.0)
"""The least and the most testbed time of the measurement."""

HAND_OVER_S = 20.0
"""Real time that nodes have for their last snapshot and records, beyond what the bytes take."""

HAND_OVER_BYTES_PER_S = 20e6
RECORD_BYTES = 250
"""What the record of one message takes, at most."""

LEAVE_S = 5.0
"""What a node may take from the end of its session to the end of its process."""

ONE_SIGNAL_S = 0.5
"""Signals that come closer together are one: some senders reach a process twice."""

STALL_S = 60.0
"""Real time without any progress after which a run has come to rest, beyond what its slowest step takes."""


def run_processes(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment with a process a node.

    Raises:
        ConfigError, DataError: The experiment cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(plan, options, None)


def resume_processes(path: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory, from the last models that all nodes handed over.

    Unlike a simulation it does not become what it would have been: messages that were under way are lost, momentum
    begins anew, and algorithms count their rounds from there.

    Args:
        path: The run directory.
        options: ``data_root`` None takes the run's own; ``out`` is not used.

    Raises:
        ConfigError, DataError: The run cannot go on.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    found, options = interrupted_run(path, options)
    if not (path / SNAPSHOTS).is_dir():
        raise ConfigError(f"{path / SNAPSHOTS}: nothing to resume from: the run ended before it began")
    return _run(recorded_plan(found), options, found)


def _run(plan: Plan, options: RunOptions, found: Results | None) -> RunOutcome:
    progress = Progress(options.progress)
    with naming(plan.place):
        _check(plan)
    prepared = prepare(
        plan,
        data_root=options.data_root,
        workers=options.workers,
        background=True,  # models are tested with what is left of the host
        command=options.command,
        report=progress.preparing,
    )
    writer: RunWriter | None = None
    try:
        with signals_held():
            dilation = _dilation(plan, prepared, progress)
            about = {**environment_of(plan, prepared, options.data_root), "time_dilation": dilation}
        run = _Run(plan, prepared, progress, dilation)
        with on_signals(run.request_stop):
            if found is None:
                writer = RunWriter.create(options.out, prepared.facts, plan.config.model_dump(mode="json"), about)
                run.begin(writer)
            else:
                writer = RunWriter.reopen(found.path, found.facts, None, about)
                run.go_on(writer)
            with progress:
                return run.execute()
    finally:
        if writer is not None:
            writer.close()
        prepared.trainer.close()


def _check(plan: Plan) -> None:
    config = plan.config
    base = config.processes.base_port
    if base is not None and base + config.nodes - 1 > 65_535:
        raise ConfigError(
            f"processes.base_port={base}: must be at most {65_536 - config.nodes} for {config.nodes} nodes"
        )


def _dilation(plan: Plan, prepared: Prepared, progress: Progress) -> float:
    """The file's, or what this host needs."""
    if plan.config.time_dilation is not None:
        return plan.config.time_dilation
    progress.preparing("measuring a local step")
    cores = usable_cores()
    step_s = measure_step_seconds(prepared.trainer, workers=prepared.workers)
    advice = recommend(plan, prepared.trainer.tensor_sizes, step_seconds=step_s, cores=cores)
    progress.note(f"time dilation {advice.dilation:g}: {advice.reasons[-1]}")
    return advice.dilation


@dataclass(slots=True)
class _Watched:
    """A node as the runner knows it."""

    handle: NodeHandle
    status: NodeStatus
    before: NodeStatus
    died: str = ""
    silent_since_s: float | None = None


class _StopRequested(Exception):
    """The user wants the run to end."""


class _Run:
    """One run in progress."""

    def __init__(self, plan: Plan, prepared: Prepared, progress: Progress, dilation: float) -> None:
        self._plan = plan
        self._prepared = prepared
        self._progress = progress
        self._dilation = dilation
        self._earlier: Earlier | None = None
        self._begin_ns = 0
        self._nodes: dict[NodeId, _Watched] = {}
        self._measurements: dict[NodeId, dict[str, Any]] = {}
        self._figures: dict[NodeId, dict[str, Any]] = {}
        self._records: dict[NodeId, bytes] = {}
        self._pending: dict[int, Sample] = {}
        self._last: Sample | None = None
        self._clock: Clock | None = None
        self._ended_ns: int | None = None
        self._is_over = False  # by the experiment's own rule
        self._stop_requested = False
        self._stop_requested_s = 0.0
        self._hurry = False
        self._pressure: tuple[float | None, float | None] = (None, None)
        self._emulator_statistics: EmulatorStatistics | None = None
        self._began = time.perf_counter()

    def request_stop(self) -> None:
        """End in good order; called by a signal's handler.

        A second time, leave the models untested and the nodes' records where they are; a third time, drop everything.
        """
        now_s = time.monotonic()
        if self._hurry:
            raise KeyboardInterrupt
        if not self._stop_requested:
            self._stop_requested, self._stop_requested_s = True, now_s
        elif now_s - self._stop_requested_s > ONE_SIGNAL_S:
            self._hurry = True

    def begin(self, writer: RunWriter) -> None:
        """Take a new run directory."""
        self._writer = writer
        self._snapshots = Snapshots.create(writer.path / SNAPSHOTS)

    def go_on(self, writer: RunWriter) -> None:
        """Take the directory of an interrupted run, and go on where it ended.

        Raises:
            ConfigError: There is nothing to go on with.
        """
        self._writer = writer
        self._snapshots, self._earlier = Snapshots.reopen(writer.path / SNAPSHOTS, self._plan.config.nodes)
        self._begin_ns = self._earlier.time_ns
        self._account_for_killed_part(self._earlier)
        end_ns = self._plan.end_ns
        if end_ns is not None and self._begin_ns >= end_ns:
            self._ended_ns = end_ns  # only tests are left
        for sample in self._earlier.samples:
            writer.add(sample)

    def _account_for_killed_part(self, earlier: Earlier) -> None:
        """Of a part that was killed only what its last models tell is known: bytes and local steps, not messages."""
        known_ns = max((part.end_ns for part in earlier.parts), default=0)
        if earlier.time_ns <= known_ns:
            return
        counters = []
        for node, (stored, _) in enumerate(earlier.models):
            before = [part.counters[node] for part in earlier.parts]
            sent = stored.bytes_sent - sum(part["bytes_sent"] for part in before)
            steps = stored.local_steps - sum(part["steps_taken"] for part in before)
            counters.append(known(bytes_sent=sent, payload_sent=sent, steps_taken=steps))
        part = Part(known_ns, earlier.time_ns, 0.0, counters)
        self._snapshots.end_part(part, None)
        earlier.parts.append(part)

    def execute(self) -> RunOutcome:
        """Run, and write what comes of it."""
        error: RunnerError | None = None
        self._logs = self._writer.path / "logs"
        self._logs.mkdir(exist_ok=True)
        try:
            if self._ended_ns is None:
                self._run_nodes()
            self._test_rest()
        except _StopRequested:
            self._test_rest()
        except (RunnerError, TransportError) as failure:
            error = None if self._stop_requested else RunnerError(str(failure))
            self._test_rest()
        return self._conclude(error)

    def _run_nodes(self) -> None:
        plan, count = self._plan, self._plan.config.nodes
        clock = Clock(time.monotonic_ns(), self._dilation)
        network = plan.network.at_time(self._begin_ns)
        # A signal while this forks is a request to stop, as at any other time, and no exception.
        emulator = start_emulator(network, clock, count)
        handles: list[NodeHandle] = []
        try:
            handles = fork_nodes(
                self._configs(clock), self._prepared.learner, emulator, self._prepared.trainer, self._logs
            )
            preparing = [NodeStatus(handle.node, Phase.PREPARING) for handle in handles]
            self._nodes = {
                handle.node: _Watched(handle, status, status) for handle, status in zip(handles, preparing, strict=True)
            }
            asyncio.run(self._supervise(emulator))
        finally:
            for handle in handles:
                handle.kill()
            self._emulator_statistics = emulator.stop()

    def _configs(self, clock: Clock) -> list[NodeConfig]:
        prepared = self._prepared
        part = RunPart(
            run_id=self._writer.path.name,
            clock=clock,
            begin_ns=self._begin_ns,
            start_timeout_s=self._start_timeout_s,
            tensor_sizes=prepared.trainer.tensor_sizes,
            host=HOST,
        )
        beginnings = [self._beginning(node) for node in range(self._plan.config.nodes)]
        return node_configs(self._plan, part, prepared.split.train_indices, beginnings)

    def _beginning(self, node: int) -> Beginning:
        if self._earlier is None:
            return Beginning(self._prepared.trainer.initial_params())
        stored, params = self._earlier.models[node]
        rounds = stored.rounds
        if self._plan.algorithm.needs_every_message:
            # All do as many rounds from here on, or one would wait for a round that another one does not have.
            rounds = max(other.rounds for other, _ in self._earlier.models)
        return Beginning(params, rounds, stored.local_steps)

    @property
    def _start_timeout_s(self) -> float:
        config = self._plan.config
        return config.processes.start_timeout_s + START_A_NODE_S * config.nodes

    # -- the nodes' life -------------------------------------------------------------------------------------

    async def _supervise(self, emulator: EmulatorHandle) -> None:
        config = self._plan.config
        server = ControlServer(
            self._writer.path.name,
            config.nodes,
            status_period_s=STATUS_PERIOD_S,
            on_status=self._on_status,
            on_snapshot=self._on_snapshot,
            on_records=self._on_records,
            on_session_end=self._on_session_end,
        )
        address = await server.start(HOST, 0)
        for watched in self._nodes.values():
            watched.handle.tell_address(address)
        try:
            self._progress.preparing(f"starting {config.nodes} nodes")
            # Who cannot connect says why when its own time is over, so that the second wait is longer.
            for point, more_s in (("ready", 0.0), ("connected", LEAVE_S)):
                await self._while_watching(server.reached(point, self._start_timeout_s + more_s), emulator)
            await self._measure(server, emulator)
            self._start(server, emulator)
            await self._until_end(server, emulator)
        finally:
            await self._end(server)

    async def _while_watching(self, work: Awaitable[None], emulator: EmulatorHandle) -> None:
        """Wait for something before the start, where a node's end is a failure."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=TICK_S)
                self._look_at_processes(emulator)
                for node, watched in self._nodes.items():
                    if watched.died:
                        raise RunnerError(f"node {node} {watched.died} before the start{_words(watched)}")
                if self._stop_requested:
                    raise _StopRequested
            task.result()
        finally:
            task.cancel()

    def _look_at_processes(self, emulator: EmulatorHandle) -> list[NodeId]:
        """Find out who has ended; returns the nodes that have since the last look."""
        if (code := emulator.exit_code()) is not None:
            raise RunnerError(f"the link emulator {ending(code)}")
        died = []
        for node, watched in self._nodes.items():
            if watched.died:
                continue
            silent_s = watched.silent_since_s
            if watched.handle.poll() is not None:
                watched.died = watched.handle.how_it_ended()
            elif silent_s is not None and time.monotonic() - silent_s > LEAVE_S:
                watched.handle.kill()
                watched.died = "did not answer any more and was killed"
            if watched.died:
                died.append(node)
        return died

    async def _measure(self, server: ControlServer, emulator: EmulatorHandle) -> None:
        """Let all nodes measure their links at the same time, training meanwhile."""
        if self._plan.config.nodes == 1:
            return
        self._progress.preparing("measuring the links")
        least, most = MEASURE_TESTBED_S
        duration_s = min(most, max(least, MEASURE_REAL_S / self._dilation))
        server.command(MeasureCommand(s_to_ns(duration_s)))
        block_s = ns_to_s(max(self._plan.compute.step_ns) * self._plan.config.algorithm.local_steps)
        longest_s = self._dilation * (duration_s + 3 * self._round_trip_s + 2 * block_s) + 30.0
        await self._while_watching(self._all_measured(longest_s), emulator)

    async def _all_measured(self, within_s: float) -> None:
        until_s = time.monotonic() + within_s
        while missing := self._nodes.keys() - self._measurements.keys():
            if time.monotonic() > until_s:
                names = ", ".join(str(node) for node in sorted(missing)[:5])
                raise RunnerError(
                    f"the links of {len(missing)} nodes ({names}) were not measured within {within_s:.0f} s"
                )
            await asyncio.sleep(0.02)

    @property
    def _round_trip_s(self) -> float:
        return ns_to_s(int(np.max(self._plan.network.round_trip_ns)))

    def _start(self, server: ControlServer, emulator: EmulatorHandle) -> None:
        lead_ns = s_to_ns(0.3 + 0.01 * self._plan.config.nodes)
        monotonic_ns = time.monotonic_ns() + lead_ns
        self._clock = Clock(monotonic_ns - int(self._begin_ns * self._dilation), self._dilation)
        server.command(StartCommand(time.time_ns() + lead_ns, monotonic_ns))
        emulator.begin(monotonic_ns, begin_ns=self._begin_ns, end_ns=self._plan.end_ns)

    async def _until_end(self, server: ControlServer, emulator: EmulatorHandle) -> None:
        assert self._clock is not None
        end_ns = self._plan.end_ns
        self._moved_s, self._moved = time.monotonic(), -1
        self._pressure = (host_pressure(), None)
        while not self._stop_requested:
            await asyncio.sleep(TICK_S)
            for node in self._look_at_processes(emulator):
                self._on_death(node, server)
            self._show()
            if self._plan.config.evaluation.live:
                self._test_next()
            now_ns = self._clock.now_ns()
            alive = [watched.status for watched in self._nodes.values() if not watched.died]
            if end_ns is not None and now_ns >= end_ns:
                self._ended_ns = end_ns
                break
            if all(status.phase in (Phase.DONE, Phase.STOPPING) for status in alive):
                break
            self._check_progress(alive)
        self._is_over = not self._stop_requested
        if self._stop_requested:
            raise _StopRequested

    def _on_death(self, node: NodeId, server: ControlServer) -> None:
        watched = self._nodes[node]
        server.forget(node)
        policy = self._plan.config.processes.on_node_death
        waits = self._plan.algorithm.needs_every_message
        words = _words(watched)
        if policy == "fail" or (policy == "auto" and waits):
            why = f"; {self._plan.config.algorithm.kind} waits for every message" if waits else ""
            raise RunnerError(f"node {node} {watched.died}{why}{words}")
        if all(other.died for other in self._nodes.values()):
            raise RunnerError(f"all nodes have ended; the last, node {node}, {watched.died}{words}")
        self._progress.note(f"node {node} {watched.died}; going on without it{words}")

    def _check_progress(self, alive: list[NodeStatus]) -> None:
        """End a run in which nothing moves, for longer than its slowest step can take."""
        moved = sum(status.local_steps + status.messages_sent + status.messages_received for status in alive)
        if moved != self._moved:
            self._moved_s, self._moved = time.monotonic(), moved
            return
        resting_s = time.monotonic() - self._moved_s
        if resting_s > STALL_S + self._dilation * self._slowest_s:
            raise RunnerError(f"nothing has moved for {resting_s:.0f} s of real time: every node waits for another one")

    @property
    def _slowest_s(self) -> float:
        """The longest that one node may rightly be silent, testbed seconds."""
        plan = self._plan
        rates = np.concatenate([plan.network.up_mbps, plan.network.down_mbps])
        slowest = float(rates.min())
        model_s = 0.0
        if isfinite(slowest):
            if slowest == 0:
                return inf  # parked until a change, which may never come
            model_s = 4 * self._prepared.facts.num_params / mbps_to_bytes_per_ns(slowest) / NS_PER_S
        block_s = ns_to_s(max(plan.compute.step_ns) * plan.config.algorithm.local_steps)
        return 2 * (block_s + plan.config.nodes * model_s) + self._round_trip_s

    async def _end(self, server: ControlServer) -> None:
        """Stop the nodes, collect what they recorded, end those that do not end by themselves."""
        begun = self._clock is not None
        if self._clock is not None:
            self._pressure = (self._pressure[0], host_pressure())
            if self._ended_ns is None:
                self._ended_ns = max(self._begin_ns, self._clock.now_ns())
        messages = sum(
            watched.status.messages_sent + watched.status.messages_cancelled for watched in self._nodes.values()
        )
        models = 4 * self._prepared.facts.num_params * self._plan.config.nodes
        grace_s = HAND_OVER_S + (2 * models + RECORD_BYTES * messages) / HAND_OVER_BYTES_PER_S if begun else 0.0
        # Their models at the very end are wanted where no planned instant is the end.
        final = begun and self._ended_ns != self._plan.end_ns
        server.command(StopCommand("the run is over", s_to_ns(grace_s), final))
        handles = [watched.handle for watched in self._nodes.values()]
        # Before the start they have nothing to hand over.
        until_s = time.monotonic() + (grace_s + 3.0 if begun else 0.0)
        while any(handle.poll() is None for handle in handles) and time.monotonic() < until_s and not self._hurry:
            await asyncio.sleep(0.02)
        for watched in self._nodes.values():
            if watched.handle.poll() is None:
                if begun and not self._hurry:
                    watched.died = f"did not end within {grace_s:.0f} s and was killed"
                    self._progress.note(f"node {watched.handle.node} {watched.died}")
                watched.handle.kill()
            elif watched.handle.exit_code and not watched.died:
                watched.died = watched.handle.how_it_ended()
                self._progress.note(f"node {watched.handle.node} {watched.died}{_words(watched)}")
        await server.stop(0.5)
        self._snapshots.close_with_final(to_resume=not self._is_over)

    # -- what nodes say --------------------------------------------------------------------------------------

    def _on_status(self, status: NodeStatus) -> None:
        watched = self._nodes[status.node]
        if status.time_ns > watched.status.time_ns:
            watched.before = watched.status
        watched.status = status

    def _on_session_end(self, node: NodeId) -> None:
        """A node has left, or has not answered for longer than a session may be silent."""
        self._nodes[node].silent_since_s = time.monotonic()

    def _on_snapshot(self, info: SnapshotInfo, params: Vector) -> None:
        if self._earlier is not None:
            before = self._earlier.models[info.node][0]
            info = replace(info, sent_bytes=info.sent_bytes + before.bytes_sent)
        self._snapshots.keep(info, params)

    def _on_records(self, node: NodeId, name: str, data: bytes) -> None:
        match name:
            case "messages":
                self._records[node] = data
            case "figures":
                self._figures[node] = json.loads(data)
            case "measurement":
                self._measurements[node] = json.loads(data)

    def _show(self) -> None:
        assert self._clock is not None
        statuses = [watched.status for watched in self._nodes.values()]
        self._progress.update(
            Snapshot(
                time_ns=max(0, min(self._clock.now_ns(), self._plan.end_ns or self._clock.now_ns())),
                end_ns=self._plan.end_ns,
                wall_s=time.perf_counter() - self._began,
                rounds_min=min(status.rounds for status in statuses),
                rounds_max=max(status.rounds for status in statuses),
                delivered=sum(status.messages_received for status in statuses),
                bytes_sent=sum(status.sent_bytes for status in statuses),
                sample=self._last,
                nodes=tuple(self._row(watched) for watched in self._nodes.values()),
            )
        )

    def _row(self, watched: _Watched) -> NodeRow:
        status, before = watched.status, watched.before
        seconds = ns_to_s(status.time_ns - before.time_ns)

        def mbps(now: int, then: int) -> float | None:
            return (now - then) * 8e-6 / seconds if seconds > 0 and before.time_ns >= 0 else None

        return NodeRow(
            node=status.node,
            state=watched.died or status.phase.value,
            rounds=status.rounds,
            loss=status.training_loss,
            up_mbps=mbps(status.sent_bytes, before.sent_bytes),
            down_mbps=mbps(status.received_bytes, before.received_bytes),
            queued=status.outbox_messages,
            straggler=status.node in self._plan.stragglers,
            failed=bool(watched.died) or status.phase is Phase.FAILED,
        )

    # -- testing the models ------------------------------------------------------------------------------------

    def _test_next(self) -> None:
        """Take in results; have one more instant tested when nothing is under way."""
        self._take_results()
        if not self._pending:
            alive = frozenset(int(node) for node, watched in self._nodes.items() if not watched.died)
            time_ns = self._snapshots.next_complete(alive)
            if time_ns is not None:
                self._pending[time_ns] = self._snapshots.submit(time_ns, self._prepared.trainer)

    def _test_rest(self) -> None:
        """Test what is left; a second request to stop leaves it on the disk."""
        said = False
        while not self._hurry:
            self._take_results()
            time_ns = self._snapshots.next_any()
            if time_ns is None and not self._pending:
                return
            if time_ns is not None and not self._pending:
                if not said:
                    again = "; another interrupt leaves them to be resumed" if self._stop_requested else ""
                    self._progress.preparing(f"testing the models{again}")
                    said = True
                self._pending[time_ns] = self._snapshots.submit(time_ns, self._prepared.trainer)
            time.sleep(0.005)

    def _take_results(self) -> None:
        for time_ns, evaluations in self._prepared.trainer.collect(wait=False):
            self._last = with_results(self._pending.pop(time_ns), evaluations)
            self._snapshots.tested(self._last)
            self._writer.add(self._last)

    # -- the end -----------------------------------------------------------------------------------------------

    def _conclude(self, error: RunnerError | None) -> RunOutcome:
        status: Status = "failed" if error else "interrupted" if self._stop_requested else "done"
        own = self._joined()
        own_part = self._own_part(own is not None)
        parts = [*(self._earlier.parts if self._earlier else ()), *own_part]
        tables = [*(self._earlier.messages if self._earlier else ()), *([] if own is None else [own])]
        totals = self._totals(status, error, parts)
        messages = one_table(tables)
        if messages is not None:
            totals = count_replaced(totals, messages)
        fidelity = None
        if self._measurements or self._plan.config.nodes == 1:
            fidelity = judge(self._measured(), allowed=self._plan.config.fidelity.allow_unfaithful)
        try:
            summary = self._writer.finish(totals, messages, fidelity=fidelity)
            if status == "done":
                self._snapshots.remove()
                if not any(watched.died for watched in self._nodes.values() if watched.handle.exit_code):
                    shutil.rmtree(self._logs, ignore_errors=True)
            else:
                self._snapshots.drop_before_last(self._plan.config.nodes)
                for part in own_part:
                    self._snapshots.end_part(part, own)
            report(self._writer.path)
        except RunnerError as failure:
            raise error or failure from failure
        if status == "done" and self._stop_requested:
            status = "interrupted"  # while the results were written, which are complete
        return RunOutcome(self._writer.path, status, summary, totals.error, fidelity)

    def _joined(self) -> dict[str, Column] | None:
        """The messages of this part; None where they were not recorded."""
        if not self._plan.config.output.messages or not self._records:
            return None
        try:
            return join(self._records)
        except ProtocolError as failure:
            self._progress.note(str(failure))
            return None

    def _own_part(self, has_messages: bool) -> list[Part]:
        """This part; none if it did not begin."""
        if self._clock is None or self._ended_ns is None:
            return []
        counters = [self._counters(node) for node in sorted(self._nodes)]
        return [Part(self._begin_ns, self._ended_ns, time.perf_counter() - self._began, counters, has_messages)]

    def _totals(self, status: Status, error: RunnerError | None, parts: Sequence[Part]) -> RunTotals:
        """Over all parts. Of one that was killed nothing is known but what its last models tell."""
        network = self._plan.network
        nodes = self._plan.config.nodes
        counted = [summed([part.counters[node] for part in parts]) for node in range(nodes)] if parts else []
        counters = add_up(counted, network.header_bytes)
        end_ns = max((part.end_ns for part in parts), default=self._begin_ns)
        up = down = None
        if counted:
            sent, received = [node.bytes_sent for node in counted], [node.bytes_received for node in counted]
            up, down = utilization(network, sent, received, end_ns)
        return RunTotals(
            status=status,
            time_ns=end_ns,
            bytes=counters.bytes,
            messages=counters.messages,
            train_steps=sum(node.steps_taken for node in counted),
            wall_s=sum(part.wall_s for part in parts) if parts else time.perf_counter() - self._began,
            uplink_utilization=up,
            downlink_utilization=down,
            error=None if error is None else str(error),
        )

    def _counters(self, node: NodeId) -> dict[str, Any]:
        """What a node counted; of one that died, what it said last."""
        figures, before = self._figures.get(node), self._beginning(node)
        if figures is not None:
            return {**figures["counters"], "steps_taken": figures["counters"]["local_steps"] - before.local_steps}
        status = self._nodes[node].status
        return known(
            queued=status.messages_sent + status.messages_cancelled + status.outbox_messages,
            sent=status.messages_sent,
            delivered=status.messages_received,
            cancelled=status.messages_cancelled,
            bytes_sent=status.sent_bytes,
            payload_sent=max(0, status.sent_bytes - status.messages_sent * self._plan.network.header_bytes),
            bytes_received=status.received_bytes,
            steps_taken=max(0, status.local_steps - before.local_steps),
        )

    def _measured(self) -> Measured:
        return Measured(
            time_dilation=self._dilation,
            links=None
            if self._plan.config.nodes == 1
            else tuple(measured_links(self._plan.network, self._measurements)),
            nodes=tuple(node_figures(node, figures) for node, figures in sorted(self._figures.items())),
            emulator=self._emulator_statistics,
            links_emulated=True,
            died={
                int(node): watched.died
                for node, watched in self._nodes.items()
                if watched.died and node not in self._figures
            },
            deaths_allowed=self._plan.config.processes.on_node_death == "continue",
            cpu_pressure=self._pressure,
        )


def _words(watched: _Watched) -> str:
    """Why a node ended, as far as it said."""
    if watched.status.phase is Phase.FAILED and watched.status.failure:
        return f": {watched.status.failure}"
    words = watched.handle.last_words()
    return f"; it said last: {words}" if words else ""


def host_pressure() -> float | None:
    """How much processes wait for the host's cores now; see :func:`cpu_pressure`."""
    return cpu_pressure(Host().read("/proc/pressure/cpu"))
