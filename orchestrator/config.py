"""The experiment file: what a researcher writes, declared once.

YAML is its text form. Every key has a type, its unit in its name, a bound and a sentence. Reading a file ends
either in an :class:`ExperimentConfig` or in a :class:`ConfigError` of one line that names the file, the key, the
value and the bound.
"""

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.core.errors import ConfigError
from node.learning.config import LearningConfig
from orchestrator.networks.config import NetworkConfig
from orchestrator.topologies import FullTopology, TopologyConfig


class Section(BaseModel):
    """A part of the experiment file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AlgorithmSectionBase(Section):
    """Which algorithm runs, and the parameters of each.

    Every algorithm has a section of its own name, so that changing ``kind`` turns an experiment into its
    baseline. Sections of algorithms that are not chosen are checked all the same.
    """

    kind: str = Field("divshare", description="which algorithm runs")
    local_steps: int = Field(16, ge=1, description="H: local steps in a round")

    @model_validator(mode="after")
    def _known(self) -> "AlgorithmSectionBase":
        if self.kind not in ALGORITHMS:
            raise ValueError(f"kind={self.kind}: must be one of {', '.join(ALGORITHMS)}")
        return self

    @property
    def selected(self) -> AlgorithmConfig:
        """The parameters of the algorithm that runs."""
        chosen = getattr(self, self.kind)
        assert isinstance(chosen, AlgorithmConfig)
        return chosen


if TYPE_CHECKING:
    AlgorithmSection = AlgorithmSectionBase
else:
    AlgorithmSection = create_model(
        "AlgorithmSection",
        __base__=AlgorithmSectionBase,
        **{kind: (e.config, Field(default_factory=e.config)) for kind, e in ALGORITHMS.items()},
    )


class ComputeStragglers(Section):
    """Nodes that compute slowly."""

    count: int = Field(0, ge=0, description="how many nodes are slow")
    factor: float = Field(1.0, ge=1, description="how many times longer their steps take")
    placement: Literal["random", "lowest_ids", "same_as_network"] = Field(
        "random", description="which nodes are slow; same_as_network takes the network's stragglers"
    )

    @model_validator(mode="after")
    def _count_fits(self) -> "ComputeStragglers":
        if self.placement == "same_as_network" and self.count:
            raise ValueError(f"count={self.count}: must be 0 with placement=same_as_network, which sets it")
        return self


class ComputeConfig(Section):
    """How long local steps take, in testbed time."""

    step_time_ms: float = Field(20.0, gt=0, description="one local step on a nominal node")
    jitter_percent: float = Field(0.0, ge=0, le=100, description="standard deviation of a round's duration")
    stragglers: ComputeStragglers = Field(default_factory=ComputeStragglers)
    slowdown: dict[int, float] = Field(default_factory=dict, description="factor >= 1 of single nodes, by id")


class EvaluationConfig(Section):
    """When and on what the nodes' models are tested. Evaluation takes no testbed time."""

    interval_s: float = Field(2.0, gt=0, description="testbed time between evaluations")
    max_samples: int | None = Field(None, ge=1, description="test samples used; all when absent")
    model: Literal["after_aggregation", "after_training"] = Field(
        "after_aggregation", description="which of a node's models is tested"
    )


class StopConfig(Section):
    """When the run ends: whichever comes first."""

    time_s: float | None = Field(None, gt=0, description="testbed time")
    rounds: int | None = Field(None, ge=1, description="rounds of each node")

    @model_validator(mode="after")
    def _something(self) -> "StopConfig":
        if self.time_s is None and self.rounds is None:
            raise ValueError("must give time_s, rounds or both")
        return self


class OutputConfig(Section):
    """What is written beside the curve."""

    messages: bool = Field(True, description="keep the life of every message (messages.parquet)")
    targets: tuple[float, ...] | None = Field(
        None, description="targets for time-to-accuracy (or RMSE); automatic when absent"
    )


class ExperimentConfig(Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="part of the run's folder")
    seed: int = Field(1, ge=0, lt=2**63, description="of all randomness in the run")
    runtime: Literal["simulation"] = Field("simulation", description="where the nodes run")
    nodes: int = Field(ge=1, le=100_000, description="number of nodes")
    algorithm: AlgorithmSection = Field(default_factory=AlgorithmSection)
    topology: TopologyConfig = Field(default_factory=FullTopology)
    learning: LearningConfig
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    network: NetworkConfig
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    stop: StopConfig
    output: OutputConfig = Field(default_factory=OutputConfig)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = key_node.value
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key given twice: {key}", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment file.

    Args:
        path: The YAML file.
        overrides: ``a.b=c`` items; the values are YAML.

    Raises:
        ConfigError: The file or an override is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, holds {type(content).__name__}")
    for override in overrides:
        _apply_override(content, override)
    return parse_experiment(content, place=str(path))


def parse_experiment(content: Mapping[str, Any], place: str) -> ExperimentConfig:
    """Check a mapping against the declared experiment; ``place`` begins the error message."""
    try:
        return ExperimentConfig.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=True)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{place}: {_describe(problems[0])}{more}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return f"is not YAML: {str(error).splitlines()[0]}"


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(f"--set {override}: must look like key.key=value")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {_yaml_problem(error)}") from None
    place: Any = content
    for name in path[:-1]:
        if isinstance(place.get(name), dict):
            place = place[name]
        elif place.get(name) is None:
            place = place.setdefault(name, {}) if name not in place else _replace_none(place, name)
        else:
            raise ConfigError(f"--set {override}: {name} is {place[name]!r} and has no keys")
    place[path[-1]] = value


def _replace_none(place: dict[str, Any], name: str) -> dict[str, Any]:
    place[name] = {}
    inner = place[name]
    assert isinstance(inner, dict)
    return inner


def _describe(problem: ErrorDetails) -> str:
    """One pydantic error as ``key=value: bound``."""
    key = ".".join(str(part) for part in _without_union_tags(problem["loc"]))
    value, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest(problem['loc'])}"
        case "missing":
            return f"{key}: missing"
        case "union_tag_not_found":
            return f"{key}.kind: missing: must be one of {_tags(context)}"
        case "union_tag_invalid":
            return f"{key}.kind={context.get('tag')}: must be one of {_tags(context)}"
        case "value_error":
            message = str(context.get("error", problem["msg"]))
            return f"{key}.{message}" if "=" in message.split(":")[0] and key else f"{key}: {message}"
    shown = repr(value) if isinstance(value, str) else str(value)
    message = problem["msg"].replace("Input should be", "must be").replace("Value should", "must")
    return f"{key}={shown[:80]}: {message[0].lower()}{message[1:]}"


def _tags(context: Mapping[str, Any]) -> str:
    return str(context.get("expected_tags", "")).replace("'", "")


def _without_union_tags(location: Iterable[str | int]) -> list[str | int]:
    """pydantic puts the chosen kind of a tagged union into the path of an error; the file has no such key."""
    parts: list[str | int] = []
    model: Any = ExperimentConfig
    for part in location:
        fields = _fields(model)
        if fields is None:
            parts.append(part)
            continue
        if part in fields:
            model = fields[part]
            parts.append(part)
        elif (chosen := _union_member(model, part)) is not None:
            model = chosen
        else:
            parts.append(part)
            model = None
    return parts


def _members(annotation: Any) -> list[Any]:
    """All models inside an annotation such as ``Annotated[A | B, ...]`` or ``tuple[A, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = []
    for argument in getattr(annotation, "__args__", ()):
        found += _members(argument)
    return found


def _fields(model: Any) -> dict[str | int, Any] | None:
    members = _members(model)
    if not members:
        return None
    return {name: field.annotation for member in members for name, field in member.model_fields.items()}


def _union_member(model: Any, tag: str | int) -> Any:
    for member in _members(model):
        kind = member.model_fields.get("kind")
        if kind is not None and tag in getattr(kind.annotation, "__args__", ()):
            return member
    return None


def _nearest(location: Sequence[str | int]) -> str:
    model: Any = ExperimentConfig
    for part in location[:-1]:
        fields = _fields(model) or {}
        model = fields.get(part, _union_member(model, part) or model)
    known = [str(name) for name in (_fields(model) or {})]
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
