"""Shapes of the records of a run, as far as its readers rely on them. Keys that nobody relies on may be anything."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from node.config_base import first_problem
from orchestrator.results.schema import JsonObject

_Amount: TypeAlias = Annotated[int, Field(ge=0)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0)]
_Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
_Target: TypeAlias = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$")]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Quantiles(_Record):
    p50: float | None
    p95: float | None


class _SummaryRecord(_Record):
    """``summary.json``; its status is the reader's to judge."""

    error: str | None
    time_s: _Seconds
    wall_s: _Seconds
    bytes_sent: _Amount
    bytes: dict[str, _Amount]
    messages: dict[str, _Amount]
    train_steps: _Amount
    cancelled_share: float | None = None
    aggregated_per_round: float | None = None
    staleness: dict[str, _Quantiles] = {}
    time_budget: dict[str, dict[str, _Share]] = {}
    time_to_accuracy_s: dict[_Target, float | None] = {}
    time_to_rmse_s: dict[_Target, float | None] = {}
    bytes_to_accuracy: dict[_Target, float | None] = {}
    bytes_to_rmse: dict[_Target, float | None] = {}


class _CheckRecord(_Record):
    name: str
    requested: float | None
    achieved: float | None
    unit: str
    tolerance: str
    ok: bool
    note: str = ""


class _FidelityRecord(_Record):
    """``fidelity.json``; a verdict of null is that of a run that is not judged."""

    verdict: Literal["faithful", "unfaithful", "exact"] | None = None
    allowed: bool = False
    statement: str = ""
    time_dilation: float = 1.0
    checks: list[_CheckRecord] = []
    died: dict[str, str] = {}
    figures: dict[str, Any] = {}


def problem_of_summary(summary: JsonObject) -> str | None:
    """The first thing wrong with the content of ``summary.json``, as ``key=value: bound``; None if nothing is."""
    return _problem(_SummaryRecord, summary)


def problem_of_fidelity(fidelity: JsonObject) -> str | None:
    """The first thing wrong with the content of ``fidelity.json``, as ``key=value: bound``; None if nothing is."""
    return _problem(_FidelityRecord, fidelity)


def _problem(shape: type[_Record], content: JsonObject) -> str | None:
    try:
        shape.model_validate(content)
    except ValidationError as error:
        return first_problem(error)
    return None
