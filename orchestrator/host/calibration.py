"""Measure what a message and a round's end cost this host: a short run of real processes, watched from outside.

The run is an ordinary one, started from the command line in a process of its own, so that this process stays free of
gRPC and can still fork nodes. Eight nodes end their rounds together. In the first half their links carry all that
they send, in the second half next to nothing:

- the second half's processor time is that of the rounds' ends, and of what the nodes do anyway;
- the first half's is more by that of its messages;
- the links have no latency, so that the round trips which every run measures before it starts are the host's own.

What a byte or a parameter more costs is measured in this process. The whole takes about ten seconds. Processor time,
not elapsed time, is taken wherever possible: it hardly depends on what else the host does meanwhile.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from select import select
from statistics import median
from typing import IO, Any, Final

import numpy as np

from node.core.bodies import FragmentOf
from node.core.errors import ConfigError, DataError, RunnerError
from node.core.fragments import FragmentLayout, fragment_plan
from node.core.inbox import average_fragments
from node.core.messages import Message, frozen
from node.core.types import NodeId
from node.core.units import NS_PER_S
from node.transport.frames import WireContext, decode, encode
from orchestrator.host.costs import HostCosts, keep_costs, load_costs
from orchestrator.results.reader import Run, load_run

NODES: Final = 8
ROUND_S: Final = 0.1
SLOW_FROM_S: Final = 2.0
END_S: Final = 4.0
SETTLE_S: Final = 0.3
"""Left out at the begin of each half."""
WITHIN_S: Final = 90.0
"""A run that has not ended by then has failed; a busy host takes a few times the ten seconds."""
SAMPLE_S: Final = 0.05
FEATURES, CLASSES = 780, 10
"""Size of the model, a logistic regression: its steps take next to nothing."""
FRAGMENTS: Final = 10

EXPERIMENT: Final[dict[str, Any]] = {
    "name": "calibration",
    "runtime": "processes",
    "nodes": NODES,
    "time_dilation": 1,
    "algorithm": {"kind": "divshare", "local_steps": 1, "divshare": {"omega": 1 / FRAGMENTS, "recipients": 1}},
    "learning": {
        "dataset": {
            "kind": "synthetic", "samples": 40 * NODES, "test_samples": 10, "features": FEATURES, "classes": CLASSES,
        },
        "model": {"kind": "logistic_regression"},
    },
    "compute": {"step_time_ms": 1e3 * ROUND_S},
    "network": {
        "preset": {"kind": "uniform", "bandwidth_mbps": 8, "latency_ms": 0},
        "traces": [{"node": node, "file": "slow.csv"} for node in range(NODES)],
    },
    "evaluation": {"interval_s": END_S},
    "stop": {"time_s": END_S},
    "fidelity": {"allow_unfaithful": True},
}  # fmt: skip


class CalibrationTag(IntEnum):
    """The tag of the messages that are timed in this process."""

    FRAGMENT = 1


@dataclass(frozen=True, slots=True)
class CpuSample:
    """Processor time that a run had taken.

    Attributes:
        time_s: When, testbed time.
        cpu_s: Of all its nodes, workers and the link emulator until then.
    """

    time_s: float
    cpu_s: float


def host_costs(*, renew: bool = False) -> HostCosts:
    """The costs of this host: those that are kept, or measured now, and kept.

    Raises:
        RunnerError: The host could not be measured.
    """
    kept = None if renew else load_costs()
    if kept is not None:
        return kept
    measured = calibrate()
    keep_costs(measured)
    return measured


def calibrate() -> HostCosts:
    """Measure. Takes about ten seconds.

    Raises:
        RunnerError: The run of processes failed.
    """
    with tempfile.TemporaryDirectory(prefix="fragmesh-calibration-") as folder:
        samples = _run(Path(folder))
        try:
            (path,) = (Path(folder) / "runs").iterdir()
            run = load_run(path)
        except (ConfigError, DataError, ValueError) as error:
            raise RunnerError(f"this host could not be measured: {error}") from error
        return evaluate(run, samples, byte_cpu_s=byte_seconds(), round_param_cpu_s=param_seconds())


def evaluate(run: Run, samples: Sequence[CpuSample], *, byte_cpu_s: float, round_param_cpu_s: float) -> HostCosts:
    """Draw the costs from the run.

    Args:
        run: Of :data:`EXPERIMENT`, with its messages and its fidelity.
        samples: In order of time, over the whole run.
        byte_cpu_s: See :class:`HostCosts`.
        round_param_cpu_s: Likewise.

    Raises:
        RunnerError: The run tells too little.
    """
    if run.messages is None or run.fidelity is None:
        raise RunnerError("this host could not be measured: the run recorded nothing")
    sent_s = np.asarray(run.messages["sent_ns"]) / 1e9
    fast_s, fast_cpu_s, fast_messages = _between(samples, sent_s, SETTLE_S, SLOW_FROM_S)
    slow_s, slow_cpu_s, slow_messages = _between(samples, sent_s, SLOW_FROM_S + SETTLE_S, END_S)
    if fast_messages <= slow_messages:
        raise RunnerError("this host could not be measured: no messages were sent")
    num_params = FEATURES * CLASSES + CLASSES
    wire_bytes = float(np.asarray(run.messages["wire_bytes"])[sent_s >= 0].mean())
    message_s = (fast_cpu_s - slow_cpu_s * fast_s / slow_s) / (fast_messages - slow_messages * fast_s / slow_s)
    ends = NODES * slow_s / ROUND_S
    end_s = (slow_cpu_s - slow_messages * message_s) / ends
    extra_ms = [
        check["achieved"] - check["requested"]
        for check in run.fidelity["checks"]
        if check["name"].startswith("round trip, median") and check["achieved"] is not None
    ]
    if not extra_ms:
        raise RunnerError("this host could not be measured: no round trip was")
    return HostCosts(
        message_cpu_s=max(1e-6, message_s - byte_cpu_s * wire_bytes),
        byte_cpu_s=byte_cpu_s,
        round_cpu_s=max(1e-6, end_s - round_param_cpu_s * num_params),
        round_param_cpu_s=round_param_cpu_s,
        path_s=max(1e-6, max(extra_ms) / 1e3),
        measured_unix_s=time.time_ns() / NS_PER_S,
    )


def _between(
    samples: Sequence[CpuSample], sent_s: "np.ndarray[Any, np.dtype[np.float64]]", begin_s: float, end_s: float
) -> tuple[float, float, int]:
    """Seconds, processor seconds and messages sent between the first and the last sample inside."""
    inside = [sample for sample in samples if begin_s <= sample.time_s <= end_s]
    if len(inside) < 2:
        raise RunnerError("this host could not be measured: it was too busy")
    first, last = inside[0], inside[-1]
    messages = int(np.count_nonzero((sent_s >= first.time_s) & (sent_s < last.time_s)))
    return last.time_s - first.time_s, last.cpu_s - first.cpu_s, messages


# --- the run ------------------------------------------------------------------------------------------------


def _run(folder: Path) -> list[CpuSample]:
    """Run the experiment in a process of its own and sample its processor time."""
    (folder / "slow.csv").write_text(f"time_s,bandwidth_mbps\n{SLOW_FROM_S},0.001\n", encoding="utf-8")
    (folder / "calibration.yaml").write_text(json.dumps(EXPERIMENT), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "run", "calibration.yaml", "--out", "runs", "--json"]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    with open(folder / "errors", "w+b") as errors:
        process = subprocess.Popen(
            [*command, "--workers", "0"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is this process's to judge
        )
        try:
            assert process.stdout is not None
            samples = _watch(process.pid, process.stdout)
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()  # nodes end with the process that forked them
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if code != 0:
            errors.seek(0)
            words = " ".join(errors.read().decode(errors="replace").split())[-300:]
            raise RunnerError(f"this host could not be measured: a run of {NODES} small nodes failed: {words}")
    return samples


def _watch(pid: int, output: IO[bytes]) -> list[CpuSample]:
    """Sample until the output ends; what it says of its progress gives the testbed time."""
    taken: list[tuple[float, float]] = []
    began_s: list[float] = []  # by each line: when testbed time was 0; each is late by what the line took to come
    until_s = time.monotonic() + WITHIN_S
    buffer = b""
    descriptor = output.fileno()
    while (now_s := time.monotonic()) < until_s:
        if began_s:
            taken.append((now_s, descendants_cpu_s(pid)))
        if not select([descriptor], [], [], SAMPLE_S)[0]:
            continue
        data = os.read(descriptor, 65_536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                if content["event"] == "progress" and content["time_s"] < END_S:
                    began_s.append(time.monotonic() - content["time_s"])
    zero_s = min(began_s, default=0.0)
    return [CpuSample(at_s - zero_s, cpu_s) for at_s, cpu_s in taken]


def descendants_cpu_s(pid: int) -> float:
    """Processor time of all processes below one, threads that live included; Linux only."""
    total_ns, below = 0, [pid]
    while below:
        parent = below.pop()
        children = _words_of(f"/proc/{parent}/task/{parent}/children")
        below += [int(child) for child in children]
        for child in children:
            with suppress(OSError):
                for task in os.listdir(f"/proc/{child}/task"):
                    total_ns += int((_words_of(f"/proc/{child}/task/{task}/schedstat") or ["0"])[0])
    return total_ns / 1e9


def _words_of(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split()
    except OSError:
        return []


# --- bytes and parameters -----------------------------------------------------------------------------------


def byte_seconds(values: int = 1 << 18, repeats: int = 9) -> float:
    """Return the time of one byte of a message: frame, socket, checks, averaging."""
    values_sent = frozen(np.ones(values, dtype=np.float32))
    message = Message(CalibrationTag.FRAGMENT, 0, FragmentOf(0, values_sent))
    context = WireContext(0, values, (values,), frozenset((NodeId(0),)), {CalibrationTag.FRAGMENT: FragmentOf})
    total = np.zeros(values, dtype=np.float32)
    ours, theirs = socket.socketpair()
    times = []
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        for _ in range(repeats):
            began_s = time.thread_time()
            frame = encode(message, NodeId(0), 0)
            piece = memoryview(frame)
            received = bytearray()
            for start in range(0, len(frame), 16_384):  # through the kernel in pieces, as HTTP/2 does
                sent = ours.send(piece[start : start + 16_384])
                received += theirs.recv(sent, socket.MSG_WAITALL)
            total += decode(bytes(received), expected=context)[1].body.values
            times.append(time.thread_time() - began_s)
    return max(1e-12, median(times) / (4 * values))


def param_seconds(num_params: int = 1 << 18, repeats: int = 9) -> float:
    """Return the time of one parameter at a round's end: cutting, averaging, copies to and from the training worker."""
    plan = fragment_plan((num_params,), FRAGMENTS, FragmentLayout.RANDOM, 0)
    params = frozen(np.ones(num_params, dtype=np.float32))
    times = []
    for _ in range(repeats):
        began_s = time.thread_time()
        copied = frozen(params.copy())
        ordered, pieces = plan.cut(copied)
        message = Message(CalibrationTag.FRAGMENT, 0, FragmentOf(0, pieces[0]))
        average_fragments(plan, ordered, [message]).copy()
        times.append(time.thread_time() - began_s)
    return max(1e-12, median(times) / num_params)
