"""The life of a run, whatever runs it: prepare, open its directory, execute, conclude.

Each runtime brings a :class:`Course`, which says what these steps mean for it. Everything that is the same for all
stands here once: in which order things are made and freed, when a signal is a request instead of an exception, which
failure decides, and what is written in any case.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from node.core.errors import DivergedError, RunnerError, StalledError, TransportError
from orchestrator.experiment.plan import Plan
from orchestrator.experiment.schedule.record import recorded
from orchestrator.host.environment import wall_clock
from orchestrator.host.signals import on_signals, signals_held
from orchestrator.progress.progress import Progress
from orchestrator.report.dashboard import ADDRESS_KEY
from orchestrator.results.reader import Run
from orchestrator.results.schema import Column, EndStatus, JsonObject, RunTotals
from orchestrator.results.writer import RunWriter
from orchestrator.runs.evaluation import count_replaced
from orchestrator.runs.options import RunOptions, RunOutcome, report
from orchestrator.runs.prepare import Prepared, environment_of, prepare
from orchestrator.runs.recording import told_to_others

ENDED: Final = ("done", "diverged")
"""Ways to end after which nothing is left to go on with."""


@dataclass(frozen=True, eq=False)
class RunResults:
    """Results of a course.

    Attributes:
        totals: Its totals; replaced messages are counted later, from the table.
        messages: The table of messages; None if none was kept.
        fidelity: The content of ``fidelity.json``; None if it could not be judged.
        zero_unix_s: The wall clock at testbed time 0; None where that is not real time, or was told earlier.
    """

    totals: RunTotals
    messages: Mapping[str, Column] | None
    fidelity: JsonObject | None
    zero_unix_s: float | None = None


class Course(Protocol):
    """One run of one runtime. The lifecycle calls ``restore`` (of a run that goes on), ``begin``, ``execute``,
    ``keep_for_resume`` (of a run that did not come to its end), ``results``, ``forget_resume`` (of one that did).
    A run that diverged has come to its end: a continuation could only diverge again.
    """

    @property
    def environment(self) -> Mapping[str, Any]:
        """Return what the results depend on besides what all runs record; for ``environment.json``."""

    @property
    def stop_requested(self) -> bool:
        """True where the user wants the run to end."""

    def request_stop(self) -> None:
        """End in good order; called by a signal's handler, at any moment from before ``begin`` on.

        Raises:
            KeyboardInterrupt: The user has asked often enough: everything is dropped.
        """

    def restore(self, found: Run) -> Mapping[str, Any] | None:
        """Go back to where an interrupted run was saved. Must not change its directory.

        Returns:
            The writer's state then, see :meth:`RunWriter.state`; None writes the curve anew.

        Raises:
            ConfigError: There is nothing to go on with.
        """

    def begin(self, writer: RunWriter, found: Run | None) -> None:
        """Take the run's directory, which is locked for this run from here on.

        Args:
            writer: Writes it.
            found: The directory as it was found, of a run that goes on; None of a new one.

        Raises:
            ConfigError: What is in it cannot be gone on with.
            RunnerError: It cannot be written.
        """

    def execute(self) -> None:
        """Run the experiment and write its curve; returns early when a stop is requested.

        Raises:
            DivergedError: A node's model is not finite any more.
            StalledError: Nothing can happen any more.
            RunnerError, TransportError: The run failed. Of all these, what the run has is still asked for.
        """

    def keep_for_resume(self) -> None:
        """Save what a continuation needs. Never raises: a failure costs no results, and is told by these."""

    def results(self, status: EndStatus, error: RunnerError | None) -> RunResults:
        """Return what there is to show, of a run that ended in any way; ``error`` is why it did not come to its end."""

    def forget_resume(self) -> None:
        """Remove what only a continuation needs: the run is complete and written."""


def conduct(
    plan: Plan,
    options: RunOptions,
    make_course: Callable[[Prepared, Progress], Course],
    *,
    found: Run | None = None,
    background: bool = False,
) -> RunOutcome:
    """Take a run through its life.

    Args:
        plan: The experiment.
        options: What the command line adds.
        make_course: Makes the runtime's course, with signals held.
        found: The interrupted run that is gone on with; None for a new one.
        background: Models are tested with what is left of the host.

    Raises:
        ConfigError, DataError: The run cannot start or go on; nothing is left behind.
        RunnerError: The results cannot be written; what was written stays valid.
    """
    progress = Progress(options.progress)
    # Step 1: the data and the trainer. Wrong input ends the run here, before it has a directory.
    prepared = prepare(
        plan,
        data_root=options.data_root,
        workers=options.workers,
        background=background,
        command=options.command,
        report=progress.preparing,
    )
    for note in prepared.notes:
        progress.note(note)
    facts = replace(prepared.facts, schedule=recorded(plan.entries))
    progress.expect(facts.schedule)
    writer: RunWriter | None = None
    try:
        # Step 2: the course. Signals are held: git is asked for the commit, and a child would be interrupted too.
        with signals_held():
            course = make_course(prepared, progress)
            environment = {**environment_of(plan, prepared, options.data_root), **course.environment}
        # From the first file to the last, a signal is a request that leaves a valid result.
        with on_signals(course.request_stop):
            # Step 3: the directory. It is locked before anything in it is changed.
            if found is None:
                resolved = plan.config.model_dump(mode="json")
                copies = {file.copy: file.content for file in plan.inputs if file.copy and file.content is not None}
                environment["out"] = os.path.abspath(options.out)
                environment |= {} if options.grafana is None else {ADDRESS_KEY: options.grafana}
                writer = RunWriter.create(options.out, facts, resolved, environment, copies)
            else:
                writer = RunWriter.reopen(found.path, facts, course.restore(found), environment)
            course.begin(writer, found)
            # Steps 4 to 6.
            with progress, told_to_others(progress, writer.path, facts):
                return _execute_and_conclude(course, writer, progress)
    finally:
        if writer is not None:
            writer.close()
        prepared.trainer.close()


def _execute_and_conclude(course: Course, writer: RunWriter, progress: Progress) -> RunOutcome:
    """Run the experiment, and write what comes of it, whatever that is.

    A request to stop that comes when everything is done leaves a complete result; the outcome is ``interrupted`` all
    the same, for whoever asked.
    """
    error: RunnerError | None = None
    # Step 4: the experiment. A failure is kept, because its results are written all the same.
    try:
        course.execute()
    except (RunnerError, TransportError) as failure:
        # Workers and nodes may have been told to stop as well: that they ended is then no failure.
        if not course.stop_requested:
            error = failure if isinstance(failure, RunnerError) else RunnerError(str(failure))
    status = _status(error, course.stop_requested)
    progress.concluding("writing the results")
    # Step 5: what a continuation needs. Before the results, which tell whether it could be saved.
    if status not in ENDED:
        course.keep_for_resume()
    results = course.results(status, error)
    totals = results.totals
    if results.messages is not None:
        totals = count_replaced(totals, results.messages)
    # Step 6: the results, and the report of them once they are safe. A report that fails is told, and changes nothing.
    try:
        zero = {} if results.zero_unix_s is None else {"time_zero_at": wall_clock(results.zero_unix_s)}
        writer.add_to_environment({**zero, "ended_at": wall_clock()})
        summary = writer.finish(totals, results.messages, fidelity=results.fidelity)
        if status in ENDED:
            course.forget_resume()
    except RunnerError as failure:
        raise error or failure from failure
    report_problem = report(writer.path)
    if status == "done" and course.stop_requested:
        status = "interrupted"
    return RunOutcome(writer.path, status, summary, totals.error, results.fidelity, report_problem)


def _status(error: RunnerError | None, stop_requested: bool) -> EndStatus:
    match error:
        case DivergedError():
            return "diverged"
        case StalledError():
            return "stalled"
        case RunnerError():
            return "failed"
        case None:
            return "interrupted" if stop_requested else "done"
