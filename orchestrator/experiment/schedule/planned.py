"""An entry of the schedule as it is planned: when it holds, and over what."""

from dataclasses import dataclass, field

from node.core.schedule import Place
from node.core.times import Times
from node.core.units import ns_to_s
from orchestrator.experiment.schedule.config import ScheduleEntry
from orchestrator.experiment.schedule.file_spans import FileSpans


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """One entry with its times, and with the nodes and links that it names.

    Attributes:
        number: Its place in the file's list.
        entry: As the file has it.
        times: When it holds.
        places: The links that it is laid over.
        nodes: The nodes that it names, unless they are in groups.
        groups: The groups of a partition.
        told: What its file says, of an entry whose file names what happens to nodes.
    """

    number: int
    entry: ScheduleEntry
    times: Times
    places: tuple[Place, ...] = ()
    nodes: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    told: FileSpans = field(default_factory=FileSpans)

    @property
    def takes_down(self) -> bool:
        """Tell whether nodes are down by it."""
        return self.entry.action in ("crash", "restart") or bool(self.told.absences)

    @property
    def place(self) -> str:
        """Return its key in the file, for messages."""
        return f"schedule[{self.number}]"

    def to_json(self) -> dict[str, object]:
        """Return it for machines, with all its times in seconds; None where it ends with the run."""
        named: dict[str, object] = {
            "entry": self.number,
            **self.entry.model_dump(mode="json", exclude_none=True),
            "times_s": [[ns_to_s(begin), None if end is None else ns_to_s(end)] for begin, end in self.times],
        }
        if self.groups:
            named["groups"] = [list(nodes) for nodes in self.groups]
        elif self.nodes:
            named["nodes"] = list(self.nodes)
        else:
            named["pairs"] = [[place.source, place.destination] for place in self.places]
        away = [*self.told.absences, *((span.node, span.begin_ns, span.end_ns) for span in self.told.nodes)]
        if away:
            named["away_s"] = [
                [node, ns_to_s(begin), None if end is None else ns_to_s(end)] for node, begin, end in away
            ]
        return named
