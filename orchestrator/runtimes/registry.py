"""The table of runtimes: how each is run, gone on with, and examined.

What people are told of a runtime stands beside the experiment file, in ``orchestrator.experiment.runtimes``: the
reference, the reports and the command line derive from there. A runtime is imported when it is needed, because some
bring torch or gRPC.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.core.errors import ConfigError
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.runtimes import PLANNED, RuntimeName
from orchestrator.host.doctor import NODE_MEMORY_BYTES, SHARED_MEMORY_BYTES, Finding, Host
from orchestrator.results.reader import load_run
from orchestrator.runs.options import RunOptions, RunOutcome


@dataclass(frozen=True, slots=True)
class Runtime:
    """Abilities of a runtime.

    Attributes:
        run: Runs an experiment; raises as :func:`start_run` does.
        resume: Goes on with an interrupted run, in its directory; raises as :func:`resume_run` does.
        examine: Says whether a host can run it: what was found, whether that is enough, and a note. Looks only.
    """

    run: Callable[[Plan, RunOptions], RunOutcome]
    resume: Callable[[Path, RunOptions], RunOutcome]
    examine: Callable[[str, Host], Finding]


def _run_simulation(plan: Plan, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.simulation import run_simulation

    return run_simulation(plan, options)


def _resume_simulation(run: Path, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.simulation import resume_simulation

    return resume_simulation(run, options)


def _examine_simulation(name: str, host: Host) -> Finding:
    return Finding(name, "usable", "ok", "virtual time; links are exact by construction")


def _run_processes(plan: Plan, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.processes import run_processes

    return run_processes(plan, options)


def _resume_processes(run: Path, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.processes import resume_processes

    return resume_processes(run, options)


def _examine_processes(name: str, host: Host) -> Finding:
    if not host.can_fork():
        return Finding(name, "not usable", "missing", "this system has no fork, or no sockets between processes")
    memory = host.memory_bytes()
    note = "real time, slowed where cores are short: doctor FILE tells how much"
    if memory is None:
        return Finding(name, "usable", "ok", note)
    room = max(0, memory - SHARED_MEMORY_BYTES) // NODE_MEMORY_BYTES
    text = f"usable, memory for about {room:,} small nodes"
    return Finding(name, text, "ok" if room >= 2 else "warn", note)


def _run_docker(plan: Plan, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.docker import run_docker

    return run_docker(plan, options)


def _resume_docker(run: Path, options: RunOptions) -> RunOutcome:
    from orchestrator.runtimes.docker import resume_docker

    return resume_docker(run, options)


def _examine_docker(name: str, host: Host) -> Finding:
    try:
        facts = host.engine()
    except ConfigError as error:
        return Finding(name, "not usable", "missing", str(error))
    from orchestrator.runtimes.docker_backend import CONTAINER_MEMORY_BYTES

    text = f"usable, memory for about {facts.memory_bytes // CONTAINER_MEMORY_BYTES:,} small nodes"
    abilities = host.shaping()
    if abilities.has_netem:
        return Finding(name, text, "ok", "real time; the kernel shapes rates, latency, jitter and loss")
    part, reason = next(iter(abilities.problems.items()))
    if abilities.shapes_rates:
        note = f"the kernel shapes rates, receiving nodes add latency and jitter, and loss is refused: {part}: {reason}"
        return Finding(name, text, "warn", note)
    if not abilities.tc_version:  # of this host; the helper brings its own
        return Finding(name, text, "ok", f"a run tries what the kernel can shape; it could not be tried here: {reason}")
    return Finding(name, text, "warn", f"with network.links: direct only: the kernel cannot shape: {part}: {reason}")


REGISTRY: Final[Mapping[RuntimeName, Runtime]] = {
    "simulation": Runtime(_run_simulation, _resume_simulation, _examine_simulation),
    "processes": Runtime(_run_processes, _resume_processes, _examine_processes),
    "docker": Runtime(_run_docker, _resume_docker, _examine_docker),
}


def start_run(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run an experiment in the runtime that it names.

    Raises:
        ConfigError, DataError: It cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return REGISTRY[plan.config.runtime].run(plan, options)


def resume_run(run: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory.

    Raises:
        ConfigError, DataError: There is nothing to go on with.
        RunnerError: As for :func:`start_run`.
    """
    name = load_run(run, messages=False).facts.runtime
    for known, runtime in REGISTRY.items():
        if known == name:
            return runtime.resume(run, options)
    raise ConfigError(f"--resume={run}: is of the runtime {name}, which cannot be resumed")


def examine_runtimes(host: Host | None = None) -> Iterator[Finding]:
    """Say of every runtime whether a host can run it; None is this host."""
    machine = Host() if host is None else host
    for name, runtime in REGISTRY.items():
        yield runtime.examine(f"runtime {name}", machine)
    for planned in PLANNED:
        yield Finding(f"runtime {planned}", "not built yet", "missing", "not part of this version")
