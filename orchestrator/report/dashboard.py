"""Address of the dashboard that watched a run, over the run's own time."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

ADDRESS_KEY: Final = "grafana"
"""Key of ``environment.json`` with the address of the Grafana that showed a run, for example ``http://127.0.0.1:3000``."""

RUN_DASHBOARD: Final = "fragmesh-run"
"""Identifier of the dashboard of one run."""


def dashboard_link(base: str, run: str, begin: datetime, end: datetime) -> str:
    """The address of the dashboard of a run, from its begin to its end.

    Args:
        base: Address of Grafana.
        run: The run's name among those that are watched: that of its directory.
        begin: Wall clock, with its time zone.
        end: The same of the end.
    """
    query = {"var-run": run, "from": _milliseconds(begin), "to": _milliseconds(end)}
    return f"{base.rstrip('/')}/d/{RUN_DASHBOARD}?{urlencode(query, quote_via=quote)}"


def recorded_link(environment: Mapping[str, Any] | None, run: str) -> str | None:
    """The link that ``environment.json`` has what is needed for; None where it has not.

    A base that is no address of the web is none: a link that a page follows must not run anything.
    """
    try:
        base, begin, end = ((environment or {})[key] for key in (ADDRESS_KEY, "begun_at", "ended_at"))
        if urlsplit(base).scheme not in ("http", "https"):
            return None
        return dashboard_link(base, run, datetime.fromisoformat(begin), datetime.fromisoformat(end))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
