"""The experiment file: what a researcher writes, declared once.

YAML is its text form. Every key has a type, its unit in its name, a bound and a sentence. Reading a file ends
either in an :class:`ExperimentConfig` or in a :class:`ConfigError` of one line that names the file, the key, the
value and the bound.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from node.algorithms.config import AlgorithmConfig
from node.algorithms.registry import ALGORITHMS
from node.config_base import ConfigModel
from node.core.bounds import COUNT_MAX, ENTRIES_MAX, FACTOR_MAX, NODES_MAX, TIME_S_MAX, YAML_BYTES_MAX, YAML_DEPTH_MAX
from node.core.errors import ConfigError
from node.core.wire_values import WireDtype
from node.host.text_files import UnreadableText, read_text, shorten
from node.learning.config import LearningConfig
from orchestrator.experiment.fedscale_files import CLIENT_ORDER_TEXT, ClientOrder
from orchestrator.experiment.networks.config import NetworkConfig
from orchestrator.experiment.runtimes import PLANNED, RUNTIMES, RuntimeName
from orchestrator.experiment.schedule.config import SELECTOR_TAGS, FractionSelector, ScheduleEntry
from orchestrator.experiment.topologies import FullTopology, TopologyConfig
from orchestrator.yaml_text import parse_yaml, plain_value

_PLAIN_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,399}", re.ASCII)


def _plain_number(key: object) -> object:
    """Read a key that is a number: ``1`` and ``01`` would be two keys of the file and one of the experiment."""
    if not isinstance(key, str):
        return key
    if not _PLAIN_NUMBER.fullmatch(key):
        raise PydanticCustomError(
            "plain_number", "must be a whole number in plain digits: in two spellings it is a key given twice"
        )
    return int(key)


PEER_LABELS_NODES_MAX: Final = 32
"""Nodes of a run that has metrics of single peers by default, at most: a thousand series for each such family."""


class AlgorithmSectionBase(ConfigModel):
    """Choice of the algorithm, and the parameters of each.

    Every algorithm has a section of its own name, so that changing ``kind`` turns an experiment into its
    baseline. Sections of algorithms that are not chosen are checked all the same.
    """

    kind: str = Field("divshare", description="which algorithm runs")
    local_steps: int = Field(16, ge=1, le=1_000_000, description="H: local steps in a round")

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


class ComputeStragglers(ConfigModel):
    """Nodes that compute slowly."""

    count: int = Field(0, ge=0, le=NODES_MAX, description="how many nodes are slow")
    factor: float = Field(1.0, ge=1, le=FACTOR_MAX, description="how many times longer their steps take")
    placement: Literal["random", "lowest_ids", "same_as_network"] = Field(
        "random", description="which nodes are slow; same_as_network takes the network's stragglers"
    )

    @model_validator(mode="after")
    def _count_fits(self) -> "ComputeStragglers":
        if self.placement == "same_as_network" and self.count:
            raise ValueError(f"count={self.count}: must be 0 with placement=same_as_network, which sets it")
        if self.factor == 1 and (self.count or self.placement == "same_as_network"):
            raise ValueError(f"factor={self.factor}: must be above 1 where nodes are to be slow")
        return self


class ComputeCapacities(ConfigModel):
    """Durations of local steps from a file of FedScale's device capacities, as JSON.

    A local step takes factor x learning.batch_size x `computation`, the milliseconds of a sample's inference.
    """

    file: str = Field(min_length=1, description="path, relative to the experiment file")
    clients: ClientOrder = Field("in_order", description=CLIENT_ORDER_TEXT)
    factor: float = Field(
        3.0, gt=0, le=FACTOR_MAX, description="training of a sample over its inference; FedScale's simulation takes 3"
    )


class ComputeConfig(ConfigModel):
    """Durations of local steps, in testbed time."""

    step_time_ms: float = Field(
        20.0, ge=1e-6, le=1e3 * TIME_S_MAX, description="one local step on a nominal node; at least 1 ns"
    )
    jitter_percent: float = Field(0.0, ge=0, le=100, description="standard deviation of a round's duration")
    stragglers: ComputeStragglers = ComputeStragglers()
    slowdown: dict[Annotated[int, BeforeValidator(_plain_number)], Annotated[float, Field(le=FACTOR_MAX)]] = Field(
        default_factory=dict, description="factor >= 1 of single nodes, by id"
    )
    capacities: ComputeCapacities | None = Field(
        None, description="durations of local steps of each node, from a file, in place of step_time_ms"
    )

    @model_validator(mode="after")
    def _step_time_has_one_source(self) -> "ComputeConfig":
        if self.capacities is not None and self.step_time_ms != type(self).model_fields["step_time_ms"].default:
            raise ValueError(f"step_time_ms={self.step_time_ms:g}: must be left out with capacities, which set it")
        return self


class EvaluationConfig(ConfigModel):
    """Tests of the nodes' models: when, and on what. Evaluation takes no testbed time."""

    interval_s: float = Field(2.0, ge=1e-3, le=TIME_S_MAX, description="testbed time between evaluations")
    max_samples: int | None = Field(None, ge=1, le=COUNT_MAX, description="test samples used; all when absent")
    model: Literal["after_aggregation", "after_training"] = Field(
        "after_aggregation", description="which of a node's models is tested"
    )
    live: bool = Field(
        False,
        description="real runtimes: test at low priority during the run, not only after it; simulation always does",
    )


class StopConfig(ConfigModel):
    """End of the run: whichever comes first."""

    time_s: float | None = Field(None, ge=1e-9, le=TIME_S_MAX, description="testbed time")
    rounds: int | None = Field(None, ge=1, le=COUNT_MAX, description="rounds of each node")

    @model_validator(mode="after")
    def _something(self) -> "StopConfig":
        if self.time_s is None and self.rounds is None:
            raise ValueError("must give time_s, rounds or both")
        return self


class WireConfig(ConfigModel):
    """Type of values between nodes."""

    dtype: WireDtype = Field(
        WireDtype.FLOAT32,
        description="float32 is exact; float16 and bfloat16 halve the bytes and round, in every runtime alike",
    )


class RealNodesConfig(ConfigModel):
    """Keys that all runtimes with real nodes have."""

    start_timeout_s: float = Field(
        60.0, gt=0, le=86_400, description="real time that nodes may take to get ready, beyond what their number costs"
    )
    on_node_death: Literal["auto", "continue", "fail"] = Field(
        "auto", description="auto: go on without it, unless the algorithm waits for every message"
    )

    @property
    def start_fresh(self) -> bool:
        """Tell whether each node loads its libraries itself."""
        return True

    @property
    def keeps_logs(self) -> bool:
        """Tell whether what nodes have said stays in the run directory of a run that is complete."""
        return True


class ProcessesConfig(RealNodesConfig):
    """Keys of the runtime with real processes on one machine."""

    base_port: int | None = Field(
        None, ge=1024, le=65_535, description="node i listens on base_port + i of 127.0.0.1; free ports when absent"
    )
    start: Literal["forked", "fresh"] = Field(
        "forked",
        description="forked: nodes share libraries and data with their parent; fresh: each is a new interpreter that"
        " loads both again, from its own file, which takes seconds and memory",
    )

    @property
    def start_fresh(self) -> bool:
        """See :class:`RealNodesConfig`."""
        return self.start == "fresh"

    @property
    def keeps_logs(self) -> bool:
        """Return False: they are kept where a node failed."""
        return False


class DockerConfig(RealNodesConfig):
    """Keys of the runtime with a container a node."""

    image: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="image of the nodes; that of this version, built when it is missing",
    )
    subnet: str | None = Field(
        None,
        min_length=1,
        max_length=18,
        description="addresses of the run's two networks, such as 10.9.0.0/23; free ones when absent",
    )
    cpus: float | None = Field(
        None, ge=0.01, le=1_024, description="cores that each node may use; no limit when absent"
    )
    memory_mb: int | None = Field(
        None,
        ge=64,
        le=10**7,
        description="memory that each node may use, 10^6 bytes; several times what a node needs when absent",
    )
    latency_by: Literal["auto", "kernel", "receiver"] = Field(
        "auto",
        description="what adds latency and jitter: the kernel's netem, or the receiving node after the kernel's rates;"
        " auto: the kernel if it can",
    )


class FidelityConfig(ConfigModel):
    """Consequences for a run that its host could not keep up with. Real runtimes only."""

    allow_unfaithful: bool = Field(False, description="end with code 0 all the same; the stamp stays on the results")


class ObserveConfig(ConfigModel):
    """Metrics for Prometheus. Real runtimes only: a simulation has no nodes to ask."""

    metrics: bool = Field(True, description="nodes and orchestrator serve metrics while the run lasts")
    peer_labels: Literal["auto", "always", "never"] = Field(
        "auto", description="metrics of single peers, a series for each pair of nodes; auto: up to 32 nodes"
    )

    def labels_peers(self, nodes: int) -> bool:
        """Tell whether there are metrics of single peers in a run of so many nodes."""
        return nodes <= PEER_LABELS_NODES_MAX if self.peer_labels == "auto" else self.peer_labels == "always"


class OutputConfig(ConfigModel):
    """Choice of the files that are written beside the curve."""

    messages: bool = Field(True, description="keep the life of every message (messages.parquet)")
    targets: tuple[float, ...] | None = Field(
        None,
        max_length=1_000,
        description="accuracies (or RMSE values) to reach, for the summary and for compare; automatic when absent",
    )
    checkpoint_every_s: float | None = Field(
        300.0,
        ge=0.1,
        le=TIME_S_MAX,
        description="real time between checkpoints of a simulation; null: only when interrupted",
    )


class ExperimentConfig(ConfigModel):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="part of the run's folder")
    seed: int = Field(1, ge=0, lt=2**63, description="of all randomness in the run")
    runtime: RuntimeName = Field("simulation", description="where the nodes run")
    time_dilation: float | None = Field(
        None,
        ge=1,
        le=10_000,
        description="real seconds a testbed second; chosen by measurement when absent. Real runtimes only",
    )
    nodes: int = Field(ge=1, le=NODES_MAX, description="number of nodes")
    algorithm: AlgorithmSection = AlgorithmSection()
    topology: TopologyConfig = FullTopology()
    learning: LearningConfig
    compute: ComputeConfig = ComputeConfig()
    network: NetworkConfig
    schedule: tuple[ScheduleEntry, ...] = Field(
        (),
        max_length=ENTRIES_MAX,
        description="what changes or fails on purpose; an entry's `action` says what happens",
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig
    output: OutputConfig = OutputConfig()
    wire: WireConfig = WireConfig()
    processes: ProcessesConfig = ProcessesConfig()
    docker: DockerConfig = DockerConfig()
    fidelity: FidelityConfig = FidelityConfig()
    observe: ObserveConfig = ObserveConfig()

    @model_validator(mode="after")
    def _links_exist(self) -> "ExperimentConfig":
        if self.network.links == "direct" and not RUNTIMES[self.runtime].has_real_links:
            raise ValueError(
                f"network.links=direct: must be emulated with runtime: {self.runtime}, which has no real ones"
            )
        if self.network.tls and self.network.framing == "none" and not RUNTIMES[self.runtime].has_real_links:
            raise ValueError(f"network.tls=true: must be absent with runtime: {self.runtime}, where nothing is sent")
        if (chosen := self.network.congestion_control) and not RUNTIMES[self.runtime].has_kernel_links:
            raise ValueError(
                f"network.congestion_control={chosen}: must be absent with runtime: {self.runtime}, whose nodes have no"
                " network of their own in the kernel"
            )
        return self

    @property
    def real_nodes(self) -> RealNodesConfig:
        """The keys of the runtime that is chosen, of those that all with real nodes have."""
        return self.docker if self.runtime == "docker" else self.processes

    @property
    def is_shaped_by_kernel(self) -> bool:
        """Tell whether the kernel gives links their rates."""
        return RUNTIMES[self.runtime].has_kernel_links and self.network.links != "direct"

    @property
    def tls(self) -> bool:
        """Tell whether what nodes send is encrypted."""
        runtime = RUNTIMES[self.runtime]
        return runtime.tls if self.network.tls is None else self.network.tls and runtime.has_real_links


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment file.

    Args:
        path: The YAML file.
        overrides: ``a.b=c`` items; the values are YAML.

    Raises:
        ConfigError: The file or an override is wrong.
    """
    try:
        text = read_text(path, YAML_BYTES_MAX)
    except UnreadableText as error:
        hint = f"; the experiment of this run is {path / 'experiment.yaml'}" if (path / "curve.csv").is_file() else ""
        raise ConfigError(f"{path}: cannot be read: {error}{hint}") from None
    content = parse_yaml(text, place=str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, holds {type(content).__name__}")
    for override in overrides:
        _apply_override(content, override)
    return parse_experiment(content, place=str(path))


def parse_experiment(content: Mapping[str, Any], place: str) -> ExperimentConfig:
    """Check a mapping against the declared experiment; ``place`` begins the error message.

    Nothing is taken for what it is not: no text for a number, no 1 for true. Only a whole number stands for a float.
    """
    try:
        # From JSON, because lists and texts then stand for tuples and choices. A model that looks at its input before
        # its fields do (mode="before") would end that for the lists below it.
        return ExperimentConfig.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=True)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{place}: {_describe(problems[0])}{more}") from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path) or len(path) > YAML_DEPTH_MAX:
        raise ConfigError(f"--set {shorten(override, VALUE_LETTERS_MAX)}: must look like key.key=value")
    value = parse_yaml(text, place=f"--set {shorten(override, VALUE_LETTERS_MAX)}")
    place = content
    for name in path[:-1]:
        known = _spelling(place, name)
        inner = place.get(known)
        if inner is None:
            inner = place[known] = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {shorten(override, VALUE_LETTERS_MAX)}: {shorten(name)} is {_shown(inner)} and has no keys"
            )
        place = inner
    place[_spelling(place, path[-1])] = value


def _spelling(place: Mapping[Any, Any], name: str) -> Any:
    """The key as the file has it: YAML reads the node number 3 in ``slowdown`` as a number, not as text."""
    return next((key for key in place if str(key) == name), name)


_BOUNDS: Final = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "tuple_type": "must be a list",
    "dict_type": "must hold keys and values",
    "model_type": "must hold keys and values",
    "model_attributes_type": "must hold keys and values",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
}
"""Words for pydantic's kinds of errors; they name the bound."""


def _describe(problem: ErrorDetails) -> str:
    """One pydantic error as ``key=value: bound``."""
    key = _path(_without_union_tags(problem["loc"]))
    value, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    match kind:
        case "literal_error" if key == "runtime" and value in PLANNED:
            known = ", ".join(RUNTIMES)
            return f"runtime={value}: is planned and not part of this version: must be one of {known}"
        case "json_invalid":  # of all that YAML lets through
            return "holds half of a surrogate pair, which is no text"
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest(problem['loc'])}"
        case "missing":
            return f"{key}: missing"
        case "union_tag_not_found":
            return f"{key}.{_tag_key(context)}: missing: must be one of {', '.join(_kinds(problem['loc']))}"
        case "union_tag_invalid":
            name = _tag_key(context)
            tag = value.get(name) if isinstance(value, dict) else value
            return f"{key}.{name}={_shown(tag)}: must be one of {', '.join(_kinds(problem['loc']))}"
        case "value_error":
            message = str(context.get("error", problem["msg"]))
            if not key:  # of the whole file
                return message
            return f"{key}.{message}" if "=" in message.split(":")[0] else f"{key}: {message}"
    if isinstance(value, float) and not isfinite(value):
        return f"{key}={value}: must be a finite number"
    if kind in _BOUNDS:
        bound = _BOUNDS[kind].format(**{name: _number(item) for name, item in context.items()}).replace("'", "")
    else:
        bound = problem["msg"].replace("Input should", "must").replace("String should", "must")
    return f"{key}={_shown(value)}: {bound}{_hint(value, kind)}"


def _hint(value: object, kind: str) -> str:
    """Say more of a value of the wrong type."""
    if kind in ("int_type", "float_type"):
        if isinstance(value, bool):
            return ", not true or false"
        if isinstance(value, float) and value.is_integer():
            return ", written without a point or an exponent"
        if isinstance(value, str) and not isinstance(plain_value(value), str):
            return ", without quotes"
        if isinstance(value, str) and value[:1].isdigit():
            return ", without its unit, which is in the key"
    if kind == "bool_type" and isinstance(value, str) and isinstance(plain_value(value), bool):
        return ", without quotes"
    return ""


def _shown(value: object) -> str:
    """A value in at most one short line, however large it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    plain = isinstance(value, str) and value.isidentifier() and len(value) <= 60 and plain_value(value) == value
    text = str(value) if plain else _SHORT.repr(value)
    return text if len(text) <= VALUE_LETTERS_MAX else f"{text[: VALUE_LETTERS_MAX - 3]}..."


VALUE_LETTERS_MAX: Final = 200
"""Letters of a refused value that a message shows; lists in lists of texts would take many times as many."""
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _path(parts: Iterable[str | int]) -> str:
    """Keys joined as in ``--set``, with places in a list as [0]; line breaks inside a key are shown as such."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":  # pydantic's mark of a mapping's key that is wrong itself
            name = part if part.isprintable() else repr(part)
            text += f".{name}" if text else name
    return text


def _without_union_tags(location: Iterable[str | int]) -> list[str | int]:
    """pydantic puts the chosen kind of a tagged union into the path of an error; the file has no such key."""
    parts: list[str | int] = []
    model: Any = ExperimentConfig
    for part in location:
        if part in SELECTOR_TAGS and FractionSelector in _members(model):
            continue
        if isinstance(part, int) and getattr(model, "__origin__", None) is not dict:
            parts.append(part)  # a place in a list, whose entries are what the list is declared of
            continue
        fields = _fields(model)
        if fields is None:
            is_key = getattr(model, "__origin__", None) is dict  # of a mapping by node number, not a place in a list
            parts.append(str(part) if is_key else part)
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
        kind = _tag_field(member)
        if kind is not None and tag in getattr(kind.annotation, "__args__", ()):
            return member
    return None


def _tag_field(member: type[BaseModel]) -> Any:
    """The field that tells a member of a tagged union from the others; None where there is none."""
    return member.model_fields.get("kind") or member.model_fields.get("action")


def _tag_key(context: Mapping[str, Any]) -> str:
    """The name of that field, as pydantic quotes it."""
    return str(context["discriminator"]).strip("'")


def _annotation(location: Iterable[str | int]) -> Any:
    """Return the type that is declared at a place."""
    model: Any = ExperimentConfig
    for part in location:
        fields = _fields(model) or {}
        model = fields.get(part, _union_member(model, part) or model)
    return model


def _kinds(location: Iterable[str | int]) -> list[str]:
    return [_tag_field(member).default for member in _members(_annotation(location))]


def _nearest(location: Sequence[str | int]) -> str:
    model = _annotation(location[:-1])
    known = [str(name) for name in (_fields(model) or {})]
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
