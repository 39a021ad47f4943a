"""The doctor: finds out what this host can do and what a run would use. It changes nothing on the system.

Everything is read through a :class:`Host`, so that tests can describe any machine. :func:`estimate` is about one
experiment: how far it must be slowed down here, and how long it then takes.
"""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from node.core.errors import ConfigError
from node.core.training import TrainerAndEvaluator
from node.learning.config import DatasetConfig
from node.learning.data_files import cache_dir
from orchestrator.containers.facts import EngineFacts
from orchestrator.experiment.plan import Plan
from orchestrator.host.costs import HostCosts, load_costs
from orchestrator.host.dilation import Recommendation, real_seconds, recommend
from orchestrator.host.environment import cpu_model, memory_bytes, usable_cores, versions
from orchestrator.host.step_time import measure_evaluation_seconds, measure_step_seconds
from orchestrator.report.text import format_bytes, format_duration
from orchestrator.shaping.probe import ShapingAbilities, probe_shaping

Status = Literal["ok", "warn", "missing"]

KERNEL_PARTS: Final = {
    "netem": ("sch_netem", "netem_enqueue", "latency, jitter and loss by the kernel"),
    "htb": ("sch_htb", "htb_enqueue", "rates by the kernel"),
    "ifb": ("ifb", "ifb_xmit", "shaping of what a node receives"),
    "tbf": ("sch_tbf", "tbf_enqueue", "partitions by the kernel"),
    "ingress": ("sch_ingress", "ingress_init", "redirecting what a node receives"),
}
"""Part of the kernel: its module, a function that a kernel with it built in has, and what it is for."""

_MIN_MEMORY_BYTES: Final = 4 * 10**9
_MIN_FREE_BYTES: Final = 2 * 10**9
_MIN_SHARED_BYTES: Final = 256 * 2**20
_TIMEOUT_S: Final = 10.0

NODE_MEMORY_BYTES: Final = 40 * 10**6
"""Memory of one more node and its training worker besides models: 20 to 30 MB were measured after a fork that shares
torch and the data set, and connections to peers come on top."""
NODE_MODELS: Final = 20
"""Models' worth of memory that a node takes: in training, in its inbox and outbox, and on the way."""
SHARED_MEMORY_BYTES: Final = 400 * 10**6
"""Memory that all processes of a run share."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: What was looked at.
        value: What was found.
        status: ``ok``; ``warn``: works with a limit; ``missing``: cannot be used.
        note: What it means or what to do; may be empty.
    """

    name: str
    value: str
    status: Status
    note: str = ""


class Host:
    """The machine as the examination sees it."""

    def run(self, *command: str) -> tuple[int, str] | None:
        """Exit status and output (both streams) of a command; None if it is not there or hangs."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.returncode, done.stdout.strip()

    def read(self, path: str) -> str | None:
        """A text file; None if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def which(self, command: str) -> str | None:
        """Return the path of a command; administrators' folders count even where they are not on the path."""
        extended = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        return shutil.which(command, path=extended)

    def disk(self, path: str) -> tuple[int, int] | None:
        """Size and free bytes of the file system under a path; None if there is none."""
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return usage.total, usage.free

    def versions(self) -> dict[str, str | None]:
        """Versions of Python and the packages."""
        return versions()

    def cpu(self) -> tuple[str, int]:
        """The processor's name and the cores that may be used."""
        return cpu_model(), usable_cores()

    def memory_bytes(self) -> int | None:
        """Physical memory."""
        return memory_bytes()

    def kernel(self) -> str:
        """The kernel's release."""
        return platform.release()

    def engine(self) -> EngineFacts:
        """The Docker engine.

        Raises:
            ConfigError: Nodes cannot run in it, or there is none.
        """
        from orchestrator.containers.engine import connect  # brings the SDK

        with closing(connect()) as engine:
            return engine.facts

    def node_image(self) -> tuple[str, bool]:
        """Return the image that nodes of this version need, and whether the engine has it.

        Raises:
            ConfigError: The engine or a library of nodes is not there.
        """
        from orchestrator.containers.engine import connect
        from orchestrator.containers.image_recipes import node_recipe

        tag = node_recipe().tag
        with closing(connect()) as engine:
            return tag, engine.find_image(tag) is not None

    def shaping(self) -> ShapingAbilities:
        """Try what this kernel can shape, in a namespace of its own that ends with the trial."""
        return probe_shaping()

    def can_fork(self) -> bool:
        """Return whether processes can be forked and joined by sockets that keep records apart."""
        if not hasattr(os, "fork"):
            return False
        try:
            for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
                end.close()
        except (AttributeError, OSError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Estimate:
    """Demand of one experiment on this host, run as real processes.

    Attributes:
        recommendation: The least time dilation, and why.
        costs: What messages and rounds take of this host.
        dilation: The file's ``time_dilation``, or the recommended one where it has none.
        is_given: Whether the file has one.
        step_s: A local step on one core, real seconds.
        run_s: The run in real seconds.
        run_is_least: Whether ``run_s`` is only a lower bound.
        tests_s: Testing all models afterwards, real seconds.
        memory_bytes: Of all processes together, about.
        host_memory_bytes: What the host has; None if unknown.
    """

    recommendation: Recommendation
    costs: HostCosts
    dilation: float
    is_given: bool
    step_s: float
    run_s: float
    run_is_least: bool
    tests_s: float
    memory_bytes: int
    host_memory_bytes: int | None

    def rows(self, plan: Plan) -> dict[str, str]:
        """In words, for a table."""
        needed = self.recommendation
        rows = {
            "costs of this host": describe_costs(self.costs),
            "a local step": f"{1e3 * self.step_s:.3g} ms on one core while all {needed.cores} train",
            **dict(reason.split(": ", 1) for reason in needed.reasons[:-1]),
            "recommended time_dilation": f"{needed.dilation:g}: {needed.reasons[-1]}",
        }
        if self.is_given:
            low = self.dilation < needed.dilation
            verdict = "less than this host needs: the run may end as unfaithful" if low else "enough"
            rows["the file's time_dilation"] = f"{self.dilation:g}: {verdict}"
        testbed_s = format_duration(self.run_s / self.dilation)
        least = "at least " if self.run_is_least else ""
        rows["the run"] = f"{least}{format_duration(self.run_s)} of real time for {testbed_s} of testbed time"
        when = "during the run at low priority" if plan.config.evaluation.live else "after the run"
        rows["tests"] = f"{least}{format_duration(self.tests_s)} {when}"
        has = "" if self.host_memory_bytes is None else f" of {format_bytes(self.host_memory_bytes)}"
        short = self.host_memory_bytes is not None and self.memory_bytes > self.host_memory_bytes
        rows["memory"] = f"about {format_bytes(self.memory_bytes)}{has}{': too little' if short else ''}"
        return rows

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        needed = self.recommendation
        return {
            "recommended_time_dilation": needed.dilation,
            "host_costs": self.costs.to_json(),
            "time_dilation": self.dilation,
            "cores": needed.cores,
            "training_cores": needed.training_cores,
            "message_cores": needed.message_cores,
            "reasons": list(needed.reasons),
            "step_s": self.step_s,
            "run_s": self.run_s,
            "run_is_least": self.run_is_least,
            "tests_s": self.tests_s,
            "memory_bytes": self.memory_bytes,
            "host_memory_bytes": self.host_memory_bytes,
        }


def estimate(plan: Plan, trainer: TrainerAndEvaluator, *, costs: HostCosts, host: Host | None = None) -> Estimate:
    """Measure what an experiment takes of this host as real processes. Takes a second or two.

    Args:
        plan: The experiment.
        trainer: Made for it with as many workers as there are cores; not one to start a run with afterwards.
        costs: What messages and rounds take of the machine.
        host: The machine; None for this one.

    Raises:
        ConfigError: No time dilation is enough.
        RunnerError: Training failed.
    """
    machine = Host() if host is None else host
    cores = machine.cpu()[1]
    step_s = measure_step_seconds(trainer)
    needed = recommend(plan, trainer.tensor_sizes, step_seconds=step_s, cores=cores, costs=costs)
    given = plan.config.time_dilation
    dilation = needed.dilation if given is None else given
    run_s, is_least = real_seconds(plan, dilation)
    evaluations = 1 + int(run_s / dilation / plan.config.evaluation.interval_s)
    model_bytes = 4 * sum(trainer.tensor_sizes)
    return Estimate(
        recommendation=needed,
        costs=costs,
        dilation=dilation,
        is_given=given is not None,
        step_s=step_s,
        run_s=run_s,
        run_is_least=is_least,
        # The averaged model is tested as well, on each set of test samples.
        tests_s=evaluations * (plan.config.nodes + trainer.num_test_sets) * measure_evaluation_seconds(trainer) / cores,
        memory_bytes=SHARED_MEMORY_BYTES + plan.config.nodes * (NODE_MEMORY_BYTES + NODE_MODELS * model_bytes),
        host_memory_bytes=machine.memory_bytes(),
    )


def examine(data_root: Path | None = None, host: Host | None = None) -> list[Finding]:
    """Look at everything a run could need, but for the runtimes, which know themselves what they need.

    Args:
        data_root: Where data sets lie besides the cache; None for nowhere.
        host: The machine; None for this one.
    """
    machine = Host() if host is None else host
    engine = list(_engine(machine))
    shaping = list(_shaping(machine))
    return [
        *_software(machine),
        *_hardware(machine),
        *engine,
        *shaping,
        *_data(data_root),
        _cache(cache_dir()),
        _costs(load_costs()),
    ]


def _software(host: Host) -> Iterator[Finding]:
    found = host.versions()
    python = found["python"] or "unknown"
    fits = tuple(int(part) for part in python.split(".")[:2] if part.isdigit()) >= (3, 11)
    yield Finding("Python", python, "ok" if fits else "missing", "" if fits else "3.11 or newer is needed")
    for name in ("torch", "torchvision"):
        version = found.get(name)
        yield Finding(
            name,
            version or "not installed",
            "ok" if version else "missing",
            "" if version else "nothing trains",
        )


def _hardware(host: Host) -> Iterator[Finding]:
    name, cores = host.cpu()
    note = "one core: training and the simulator take turns" if cores < 2 else ""
    yield Finding("cores", f"{cores} ({name})", "warn" if note else "ok", note)
    yield _amount("memory", host.memory_bytes(), _MIN_MEMORY_BYTES, "large runs may not fit")
    shared = host.disk("/dev/shm")
    yield _amount(
        "shared memory (/dev/shm)",
        None if shared is None else shared[0],
        _MIN_SHARED_BYTES,
        "training workers share models through it; containers: --shm-size",
    )
    disk = host.disk(".")
    yield _amount("free disk here", None if disk is None else disk[1], _MIN_FREE_BYTES, "results may not fit")


def _amount(name: str, amount: int | None, least: int, note: str) -> Finding:
    if amount is None:
        return Finding(name, "unknown", "warn", "could not be read")
    enough = amount >= least
    return Finding(name, f"{amount / 1e9:.1f} GB", "ok" if enough else "warn", "" if enough else note)


def _engine(host: Host) -> Iterator[Finding]:
    name = "Docker engine"
    try:
        facts = host.engine()
    except ConfigError as error:
        yield Finding(name, "not usable", "missing", str(error))
        return
    value = f"{facts.version}, {facts.cpus} cores, {facts.memory_bytes / 1e9:.1f} GB"
    if facts.limits_memory and facts.limits_cpus:
        yield Finding(name, value, "ok", facts.url)
    else:
        yield Finding(name, value, "warn", f"{facts.url}: its kernel cannot limit memory and processor time")
    try:
        tag, is_there = host.node_image()
    except ConfigError as error:
        yield Finding("node image", "cannot be told", "warn", str(error))
    else:
        yield Finding("node image", tag if is_there else "not built", "ok", "" if is_there else "fragmesh image")


def _shaping(host: Host) -> Iterator[Finding]:
    tc = host.which("tc")
    if tc is None:
        yield Finding("tc", "not found", "missing", "install iproute2")
    else:
        answer = host.run(tc, "-V")
        yield Finding("tc", tc if answer is None else _first_line(answer[1]), "ok")
    loaded = {line.split(" ", 1)[0] for line in (host.read("/proc/modules") or "").splitlines()}
    builtin = host.read(f"/lib/modules/{host.kernel()}/modules.builtin") or ""
    symbols: str | None = None
    modprobe = host.which("modprobe")
    for name, (module, symbol, use) in KERNEL_PARTS.items():
        if module in loaded:
            yield Finding(name, "loaded", "ok", use)
            continue
        if f"/{module}.ko" in builtin:
            yield Finding(name, "built into the kernel", "ok", use)
            continue
        answer = None if modprobe is None else host.run(modprobe, "-n", module)
        if answer is not None and answer[0] == 0:
            yield Finding(name, "module can be loaded", "ok", use)
            continue
        if symbols is None:  # a large file: read once, and only where it is needed
            symbols = host.read("/proc/kallsyms") or ""
        if f" {symbol}\n" in symbols or f" {symbol}\t" in symbols:
            yield Finding(name, "in the kernel", "ok", use)
        elif symbols or modprobe is not None:
            yield Finding(name, "not found", "missing", f"would give {use}")
        else:
            yield Finding(name, "cannot be told", "warn", "neither modprobe nor kernel symbols can be read")


def _data(data_root: Path | None) -> Iterator[Finding]:
    roots = [root for root in (data_root, cache_dir() / "data") if root is not None]
    where = "not found under " + ", ".join(str(root) for root in roots)
    yield Finding("data: digits, synthetic", "built in", "ok")
    for dataset in get_args(get_args(DatasetConfig)[0]):
        if dataset.files:
            yield _found(f"data: {dataset.title}", _first_existing(roots, dataset.files), where)


def _found(name: str, path: Path | None, where: str) -> Finding:
    if path is not None:
        return Finding(name, str(path), "ok")
    return Finding(name, "not found", "warn", f"{where}; a run tries to download it. FRAGMESH_DATA names a folder")


def _first_existing(roots: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    for root in roots:
        for pattern in patterns:
            for path in sorted(root.glob(pattern)):
                return path
    return None


def _cache(path: Path) -> Finding:
    """Return whether the cache can be written, without making it: its nearest existing parent must be writable."""
    parent = path
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("cache", str(path), "ok", "" if path.exists() else "made when first needed")
    return Finding("cache", str(path), "warn", f"{parent} cannot be written: data is decoded anew in each run")


def describe_costs(costs: HostCosts) -> str:
    """Say what a message, a round's end and a round trip take, and how old these figures are."""
    age_s = costs.age_s()
    when = "assumed" if age_s is None else f"measured {format_duration(age_s)} ago"
    return (
        f"{1e3 * costs.message_cpu_s:.2g} ms of a core a message, {1e3 * costs.round_cpu_s:.2g} ms a round's end,"
        f" {1e3 * costs.path_s:.2g} ms from node to node and back; {when}"
    )


def _costs(costs: HostCosts | None) -> Finding:
    name = "costs of this host"
    if costs is None:
        note = "the first run that needs them measures them, and doctor --calibrate: some ten seconds"
        return Finding(name, "not measured yet", "ok", note)
    return Finding(name, describe_costs(costs), "ok", "doctor --calibrate measures them anew")


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
