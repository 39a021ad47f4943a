"""Which runner runs what. A runner is imported when it is needed: some bring torch or gRPC."""

from pathlib import Path

from node.core.errors import ConfigError
from orchestrator.experiment.plan import Plan
from orchestrator.results.reader import load_run
from orchestrator.runs.options import RunOptions, RunOutcome


def start_run(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run an experiment in the runtime that it names.

    Raises:
        ConfigError, DataError: It cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    match plan.config.runtime:
        case "simulation":
            from orchestrator.runtimes.simulation import run_simulation

            return run_simulation(plan, options)
        case "processes":
            from orchestrator.runtimes.processes import run_processes

            return run_processes(plan, options)


def resume_run(run: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory.

    Raises:
        ConfigError, DataError: There is nothing to go on with.
        RunnerError: As for :func:`start_run`.
    """
    runtime = load_run(run, messages=False).facts.runtime
    match runtime:
        case "simulation":
            from orchestrator.runtimes.simulation import resume_simulation

            return resume_simulation(run, options)
        case "processes":
            from orchestrator.runtimes.processes import resume_processes

            return resume_processes(run, options)
    raise ConfigError(f"--resume={run}: is of the runtime {runtime}, which cannot be resumed")
