"""Tables of a dashboard, one row for each set of labels and one column for each query. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.checks import JsonObject
from orchestrator.observe.dashboards.panels import Override, Panel, Unit


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        source: A label; ``Value`` where the table has one query, else ``Value #A`` of its first and so on.
        title: Its title.
        unit: Its unit. Labels are text, even where they look like numbers.
        link: Address that a cell leads to; empty: none.
        hidden: Whether only links use it.
    """

    source: str
    title: str
    unit: Unit = "string"
    link: str = ""
    hidden: bool = False

    def override(self) -> Override:
        """Properties of the column."""
        properties: JsonObject = {"unit": self.unit}
        if self.link:
            properties["links"] = [{"title": f"Open this {self.title.lower()}", "url": self.link}]
        if self.hidden:
            properties["custom.hidden"] = True
        return Override(self.title, properties)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Panel):
    """Rows of values, from queries at the end of the time range.

    Attributes:
        columns: What is shown, from left to right.
        sort_by: Title of the column that rows are sorted by.
        descending: Whether the largest comes first.
    """

    kind: ClassVar[str] = "table"

    columns: Sequence[Column]
    sort_by: str
    descending: bool = False

    def options(self) -> JsonObject:
        """Options of a table."""
        return {
            "cellHeight": "sm",
            "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False},
            "showHeader": True,
            "sortBy": [{"desc": self.descending, "displayName": self.sort_by}],
        }

    def custom(self) -> JsonObject:
        """Properties of a column."""
        return {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False}

    def color_mode(self) -> str:
        """Colors come from ``steps``."""
        return "thresholds"

    def all_overrides(self) -> Sequence[Override]:
        """Overrides of the columns, then those of the table."""
        return [*(column.override() for column in self.columns), *self.overrides]

    def transformations(self) -> list[JsonObject]:
        """Steps from one result for each query to one table with the columns in order."""
        names = [column.source for column in self.columns]
        merged: list[JsonObject] = [{"id": "merge", "options": {}}] if len(self.queries) > 1 else []
        return [
            *merged,
            {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": {column.source: column.title for column in self.columns},
                },
            },
        ]
