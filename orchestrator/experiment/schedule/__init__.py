"""The schedule of the experiment file: entries, the nodes and links that they mean, and the values they become."""

from orchestrator.experiment.schedule.config import ScheduleEntry
from orchestrator.experiment.schedule.planned import PlannedEntry
from orchestrator.experiment.schedule.resolve import ResolvedSchedule, Surroundings, resolve_schedule

__all__ = ["PlannedEntry", "ResolvedSchedule", "ScheduleEntry", "Surroundings", "resolve_schedule"]
