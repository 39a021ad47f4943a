"""The ``docker`` runtime: a container a node, links shaped by the kernel.

The course of such a run is :class:`~orchestrator.runs.real_run.RealRun`. What it needs of the host is found in
:mod:`~orchestrator.runtimes.docker_backend` before anything is made; its fleet is in
:mod:`~orchestrator.runtimes.docker_fleet`, and what shapes the links in
:mod:`~orchestrator.runtimes.docker_shaping`.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from orchestrator.containers.engine import connect
from orchestrator.experiment.plan import Plan, errors_naming
from orchestrator.host.lines import lines_of
from orchestrator.progress.progress import Progress
from orchestrator.results.reader import Run
from orchestrator.runs.options import RunOptions, RunOutcome
from orchestrator.runs.prepare import Prepared
from orchestrator.runs.real_run import RealRun, choose_dilation, conduct_nodes, part_to_resume
from orchestrator.runtimes.docker_backend import check_model, find_backend
from orchestrator.runtimes.docker_containers import check_folders
from orchestrator.runtimes.docker_fleet import DockerFleet


def run_docker(plan: Plan, options: RunOptions) -> RunOutcome:
    """Run one experiment with a container a node.

    Raises:
        ConfigError, DataError: The experiment cannot start; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(plan, options, None)


def resume_docker(path: Path, options: RunOptions) -> RunOutcome:
    """Go on with an interrupted run, in its directory, as ``processes`` does.

    Args:
        path: The run directory.
        options: ``data_root`` None takes the run's own; ``out`` is not used.

    Raises:
        ConfigError, DataError: The run cannot go on.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    return _run(*part_to_resume(path, options))


def _run(plan: Plan, options: RunOptions, found: Run | None) -> RunOutcome:
    with closing(connect()) as engine:
        with errors_naming(plan.place):
            backend = find_backend(plan, engine, Progress(options.progress))

        def make_run(prepared: Prepared, progress: Progress) -> RealRun:
            num_params = prepared.facts.num_params
            dilation, costs = choose_dilation(plan, prepared, progress)
            lines = lines_of(plan, prepared.trainer.tensor_sizes)
            # The kernel is asked for lines; everybody else knows the network that the experiment describes.
            on_lines = replace(plan, network=lines.network)
            check_folders(prepared.data_root)
            with errors_naming(plan.place):
                segments = check_model(plan, lines.network, backend, num_params, dilation)

            def make_fleet(prepared: Prepared, folder: Path) -> DockerFleet:
                return DockerFleet(on_lines, backend, folder, num_params, progress, lambda: run.stop_requested)

            is_shaped = backend.abilities is not None
            docker = {**backend.to_json(), "gso_segments": segments}
            facts = {"docker": docker, "lines": lines.to_json() if is_shaped else None}
            run = RealRun(plan, prepared, progress, make_fleet, dilation, costs, facts, lines if is_shaped else None)
            return run

        return conduct_nodes(plan, options, make_run, found)
