"""A node's description as files: JSON beside arrays, which a node may be given read-only.

::

    common.npz       what is the same for all nodes: topology, links, compute speeds, what is laid over access links;
                     who stands still when; the first model where all share it
    node-0003.json   what node 3 is told, and the names and digests of its two archives
    node-0003.npz    what is its own: its samples; what is laid over pairs of which it is an end; how its speed changes;
                     the model with which it goes on
    node-0003.pem    its certificate, that of the run's authority, and its private key; for encrypted traffic alone

The JSON file is written last, and each file is there whole or not at all. ``digest`` covers everything else in the JSON
file, and so the others too, whose digests stand in it: what is damaged, changed, or of another run is noticed before
the node does anything. Archives hold plain arrays; nothing is unpickled. Nobody but their owner may read the keys.

What is laid over links besides rates is four arrays, ``access_`` or ``pair_`` and then:

``places``      a row a link: 0 up, 1 down or 2 pair; source; destination; how many changes it has; in increasing order
``times_ns``    when it changes, link after link
``latency_ns``  what is added to its latency from then on
``shapes``      a factor of its latency; the standard deviation of a jitter, nanoseconds; a probability of loss

Before the first change of a link nothing is laid over it. The speed of a node is ``speeds``, which has one value more
than ``speed_times_ns`` has changes; without changes both are empty. Capacities and partitions are in ``common.npz`` as
they are when the nodes begin; how they change is for the emulator or the kernel.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, ValidationError, model_validator

from node.config import INT64_MAX, Beginning, NodeConfig, NodeScalars
from node.config_base import ConfigModel, first_problem, one_line_of
from node.core.bounds import ARCHIVE_BYTES_MAX, CHANGES_MAX
from node.core.compute import ComputePlan
from node.core.errors import ConfigError, RunnerError
from node.core.framing import MTU_BYTES_MAX, MTU_BYTES_MIN, SEGMENTS_MAX, Framing
from node.core.links import NetworkModel, NetworkPlan, Transport
from node.core.schedule import IN_NONE, NOTHING, Overlay, Place
from node.core.sender_policy import SenderKind, SenderPolicy
from node.core.steps import Steps
from node.core.topology import Topology, from_edges
from node.core.wire_values import WireDtype
from node.host.credentials import PEM_BYTES_MAX, Credentials, credentials_of, node_name
from node.host.text_files import UnreadableText, read_bytes

VERSION: Final = 7
"""Version of the files; a node refuses any other."""

COMMON: Final = "common.npz"

Array: TypeAlias = npt.NDArray[Any]

_KINDS: Final[tuple[Literal["up", "down", "pair"], ...]] = ("up", "down", "pair")
"""Kinds of links, by their number in the files."""


class _Strict(ConfigModel):
    model_config = ConfigDict(strict=True)


class _Archive(_Strict):
    """An archive beside the JSON file."""

    file: str = Field(pattern=r"^[a-z0-9-]{1,64}\.npz$", description="its name, in the same folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its bytes")


class _Keys(_Strict):
    """A file with credentials beside the JSON file."""

    file: str = Field(pattern=r"^[a-z0-9-]{1,64}\.pem$", description="its name, in the same folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its bytes")


class _LineFraming(_Strict):
    """Framing of messages on links of Ethernet."""

    tls: bool
    mtu: int = Field(ge=MTU_BYTES_MIN, le=MTU_BYTES_MAX, description="the largest IP packet, bytes")
    segments: int = Field(ge=1, le=SEGMENTS_MAX, description="segments that travel as one packet")


class _Links(_Strict):
    """The part of a network that is not arrays. A null stands for a matrix in the archive."""

    model: NetworkModel
    latency_ns: int | None = Field(ge=0, le=INT64_MAX)
    jitter_ns: int | None = Field(ge=0, le=INT64_MAX)
    loss: float | None = Field(ge=0, lt=1)
    has_pair_mbps: bool = Field(description="the archive has a limit for each pair")
    sender: SenderKind = Field(description="which messages may be under way at the same time")
    transfers: int = Field(ge=1, le=INT64_MAX, description="how many, of a parallel sender; else 1")
    transport: Transport
    header_bytes: int = Field(ge=0, le=INT64_MAX)
    framing: _LineFraming | None = Field(description="null where bandwidths are of messages")
    wire_dtype: WireDtype = Field(description="how values travel")

    @model_validator(mode="after")
    def _transfers_fit_the_sender(self) -> "_Links":
        if self.transfers != 1 and self.sender is not SenderKind.PARALLEL:
            raise ValueError(f"transfers={self.transfers}: must be 1 with sender={self.sender.value}")
        return self


_Holder: TypeAlias = Literal["common", "own", "replaced"]


class _Done(_Strict):
    """Progress of a node before it begins."""

    rounds: int = Field(ge=0, le=INT64_MAX)
    local_steps: int = Field(ge=0, le=INT64_MAX)
    life: int = Field(ge=0, le=CHANGES_MAX, description="how often it has come back")
    down_since_ns: int | None = Field(ge=0, le=INT64_MAX, description="since when it was down; null in its first life")
    params: _Holder = Field(
        description="the archive that holds its model; replaced: its own, in the place of that of all"
    )


class _Document(NodeScalars):
    """The content of the JSON file."""

    version: Literal[7]
    nodes: int = Field(ge=1, le=1_000_000, description="how many nodes there are")
    network: _Links
    compute_jitter: float = Field(ge=0, description="standard deviation of a round's duration, a fraction of it")
    beginning: _Done
    common: _Archive
    own: _Archive
    credentials: _Keys | None = Field(description="null for traffic in plain text")
    digest: str = Field(description="SHA-256 of everything else here")


@dataclass(frozen=True)
class _Expected:
    """An array that must be in an archive.

    Attributes:
        dtype: Its type.
        shape: Its shape; None is any length.
        is_valid: Whether all values are within their bound.
        bound: That bound in words.
    """

    dtype: str
    shape: tuple[int | None, ...]
    is_valid: Callable[[Array], bool] = lambda values: True
    bound: str = ""


# -- writing ---------------------------------------------------------------------------------------------------


def write_node_files(folder: Path, configs: Sequence[NodeConfig]) -> list[Path]:
    """Write the files of all nodes of a run, in place of those that are there.

    Args:
        folder: Where; made if it is missing.
        configs: The nodes. They must share their topology, network and compute plan.

    Returns:
        The JSON files, in the order of the nodes.

    Raises:
        RunnerError: They cannot be written.
    """
    first = configs[0]
    params = first.beginning.params
    share_params = len(configs) > 1 and all(config.beginning.params is params for config in configs)
    common = _common_arrays(first)
    if share_params:
        common["params"] = params
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Step 1: what all share, once: matrices grow with the square of the nodes.
        archive = _write_archive(folder / COMMON, common)
        for config in configs:
            for name in ("topology", "network", "compute"):
                assert getattr(config, name) is getattr(first, name), f"{name}: must be the same object for all"
            # Step 2: the node's own.
            paths.append(_write_node(folder, config, archive, "common" if share_params else "own"))
    except OSError as error:
        raise RunnerError(f"{folder}: the nodes' files cannot be written: {error.strerror or error}") from error
    return paths


def _write_node(folder: Path, config: NodeConfig, common: _Archive, params: _Holder) -> Path:
    """Write a node's own files. The JSON file names all others, and so comes last."""
    name = f"node-{config.node:04d}"
    own = _own_arrays(config)
    if params != "common":
        own["params"] = config.beginning.params
    keys = None
    if config.credentials is not None:
        keys = _write_keys(folder / f"{name}.pem", config.credentials)
    document = _document(config, params, common, _write_archive(folder / f"{name}.npz", own), keys)
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    _write(folder / f"{name}.json", text.encode())
    return folder / f"{name}.json"


def write_comeback_files(folder: Path, config: NodeConfig) -> Path:
    """Write the files of a node that is to come back, in place of its own; what all share is there already.

    Args:
        folder: Where the files of all nodes were written.
        config: What the node is told now.

    Returns:
        The JSON file.

    Raises:
        RunnerError: They cannot be written, or what all share cannot be read.
    """
    try:
        data = (folder / COMMON).read_bytes()
        with np.load(BytesIO(data), allow_pickle=False) as archive:
            params: _Holder = "replaced" if "params" in archive.files else "own"
        common = _Archive(file=COMMON, sha256=hashlib.sha256(data).hexdigest())
        return _write_node(folder, config, common, params)
    except OSError as error:
        raise RunnerError(f"{folder}: the files of node {config.node} cannot be written: {error.strerror}") from error


def remove_keys(folder: Path) -> None:
    """Remove the private keys from nodes' files, because nobody needs them any more.

    Raises:
        OSError: One cannot be removed.
    """
    for path in folder.glob("*.pem*"):  # those half written too
        path.unlink()


def _document(
    config: NodeConfig, params: _Holder, common: _Archive, own: _Archive, keys: _Keys | None
) -> dict[str, Any]:
    network = config.network
    document = _Document(
        **{name: getattr(config, name) for name in NodeScalars.model_fields},
        version=VERSION,
        nodes=network.num_nodes,
        network=_Links(
            model=network.model,
            latency_ns=_scalar(network.latency_ns),
            jitter_ns=_scalar(network.jitter_ns),
            loss=_scalar(network.loss),
            has_pair_mbps=network.pair_mbps is not None,
            sender=network.sender.kind,
            transfers=network.sender.transfers,
            transport=network.transport,
            header_bytes=network.header_bytes,
            framing=None if network.framing is None else _LineFraming(**asdict(network.framing)),
            wire_dtype=network.wire_dtype,
        ),
        compute_jitter=config.compute.jitter,
        beginning=_Done(
            rounds=config.beginning.rounds,
            local_steps=config.beginning.local_steps,
            life=config.beginning.life,
            down_since_ns=config.beginning.down_since_ns,
            params=params,
        ),
        common=common,
        own=own,
        credentials=keys,
        digest="",
    )
    content = document.model_dump(mode="json")
    return {"version": VERSION, **content, "digest": digest_of(content)}  # the version on top, for readers


def digest_of(content: Mapping[str, Any]) -> str:
    """The digest of a JSON file's content, whatever its ``digest`` says. Layout and order of keys do not matter."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _common_arrays(config: NodeConfig) -> dict[str, Array]:
    network = config.network
    arrays: dict[str, Array] = {
        "edges": np.array(list(config.topology.edges()), dtype=np.int64).reshape(-1, 2),
        "up_mbps": network.up_mbps,
        "down_mbps": network.down_mbps,
        "step_ns": np.array(config.compute.step_ns, dtype=np.int64),
        "pauses": config.pauses,
        "partitions": np.array(network.partitions, dtype=np.int64).reshape(-1, network.num_nodes),
        **_overlay_arrays(
            "access", {place: steps for place, steps in network.overlays.items() if place.kind != "pair"}
        ),
    }
    if network.pair_mbps is not None:
        arrays["pair_mbps"] = network.pair_mbps
    for name in ("latency_ns", "jitter_ns", "loss"):
        if isinstance(value := getattr(network, name), np.ndarray):
            arrays[name] = value
    return arrays


def _own_arrays(config: NodeConfig) -> dict[str, Array]:
    node, speed = config.node, config.compute.speeds.get(config.node)
    pairs = {
        place: steps
        for place, steps in config.network.overlays.items()
        if place.kind == "pair" and node in (place.source, place.destination)
    }
    times_ns, speeds = ((), ()) if speed is None else (speed.times_ns, (speed.first, *speed.values))
    return {
        "train_indices": config.train_indices,
        "speed_times_ns": np.array(times_ns, dtype=np.int64),
        "speeds": np.array(speeds, dtype=np.float64),
        **_overlay_arrays("pair", pairs),
    }


def _overlay_arrays(prefix: str, overlays: Mapping[Place, Steps[Overlay]]) -> dict[str, Array]:
    """Make the arrays of what is laid over links, but for rates; see the module's text."""
    rows: list[tuple[int, Overlay]] = []
    places: list[tuple[int, int, int, int]] = []
    for (kind, source, destination), steps in overlays.items():
        assert not steps.first.shapes_path, "nothing is laid over a link before its first change"
        rows += steps
        places.append((_KINDS.index(kind), source, destination, len(steps.times_ns)))
    order = sorted(range(len(places)), key=places.__getitem__)
    begins = np.cumsum([0, *(count for *_, count in places)])
    chosen = [index for place in order for index in range(begins[place], begins[place + 1])]
    shapes = [(value.latency_factor, value.jitter_ns, value.loss) for _, value in (rows[index] for index in chosen)]
    return {
        f"{prefix}_places": np.array([places[place] for place in order], dtype=np.int64).reshape(-1, 4),
        f"{prefix}_times_ns": np.array([rows[index][0] for index in chosen], dtype=np.int64),
        f"{prefix}_latency_ns": np.array([rows[index][1].latency_ns for index in chosen], dtype=np.int64),
        f"{prefix}_shapes": np.array(shapes, dtype=np.float64).reshape(-1, 3),
    }


def _scalar(value: Any) -> Any:
    """The number that all pairs share; None for a matrix."""
    return None if isinstance(value, np.ndarray) else value


def _write_archive(path: Path, arrays: Mapping[str, Array]) -> _Archive:
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()
    _write(path, data)
    return _Archive(file=path.name, sha256=hashlib.sha256(data).hexdigest())


def _write_keys(path: Path, credentials: Credentials) -> _Keys:
    data = credentials.to_pem()
    _write(path, data, mode=0o600)
    return _Keys(file=path.name, sha256=hashlib.sha256(data).hexdigest())


def _write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file under another name and rename it, so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # whose mode may be another
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


# -- reading ---------------------------------------------------------------------------------------------------


def read_node_config(path: Path, run_id: str | None = None) -> NodeConfig:
    """Read a node's description. Nothing but these files is opened.

    Args:
        path: The JSON file; its archives lie beside it.
        run_id: The run for which the node is started; None takes any.

    Raises:
        ConfigError: A file cannot be read, is damaged, of another version or of another run, or says what cannot be.
            One line: file, key, value and bound.
    """
    document = _read_document(path)
    if run_id is not None and document.run_id != run_id:
        shown = one_line_of(run_id)
        raise ConfigError(f"{path}: run_id={document.run_id}: must be {shown}, the run that the node is started for")
    arrays = {
        **_read_archive(path.parent / document.common.file, document.common.sha256, _expected_in_common(document)),
        **_read_archive(path.parent / document.own.file, document.own.sha256, _expected_in_own(document)),
    }
    credentials = _read_keys(path.parent, document)
    try:
        return _config(document, arrays, credentials)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_keys(folder: Path, document: _Document) -> Credentials | None:
    """Read a node's credentials, and refuse what its peers would refuse."""
    if document.credentials is None:
        return None
    path, sha256 = folder / document.credentials.file, document.credentials.sha256
    data = _read(path, PEM_BYTES_MAX)
    _check_digest(path, data, sha256)
    return credentials_of(path, data, node_name(document.run_id, document.node))


def _read_document(path: Path) -> _Document:
    text = _read(path)
    # Step 1: is it JSON at all?
    try:
        content = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of 5,000 digits
        raise ConfigError(f"{path}: is not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, holds {type(content).__name__}")
    # Step 2: the version, because what else another one says cannot be judged.
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ConfigError(f"{path}: version={one_line_of(version)}: must be {VERSION}, which this release reads")
    # Step 3: every key. Step 4: the digest, which says less about what is wrong.
    try:
        document = _Document.model_validate_json(text, strict=True)  # its parts included
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None
    if document.digest != digest_of(content):
        shown = one_line_of(document.digest[:16])
        raise ConfigError(f"{path}: digest={shown}...: must be that of the content: the file is damaged or was changed")
    return document


def _expected_in_common(document: _Document) -> dict[str, _Expected]:
    nodes, links = document.nodes, document.network
    rate = (lambda values: bool(np.all(values >= 0)), "at least 0")  # infinite is unlimited, no number is refused
    time = (lambda values: bool(np.all(values >= 0)), "at least 0")
    loss = (lambda values: bool(np.all((values >= 0) & (values < 1))), "at least 0 and below 1")
    step = (lambda values: bool(np.all(values >= 1)), "at least 1")
    expected = {
        "edges": _Expected("int64", (None, 2)),
        "up_mbps": _Expected("float64", (nodes,), *rate),
        "down_mbps": _Expected("float64", (nodes,), *rate),
        "step_ns": _Expected("int64", (nodes,), *step),
        "partitions": _Expected("int64", (None, nodes), lambda values: bool(np.all(values >= IN_NONE)), "at least -1"),
        "pauses": _Expected("int64", (None, 3), *time),
        **_expected_overlays("access"),
    }
    if links.has_pair_mbps:
        expected["pair_mbps"] = _Expected("float64", (nodes, nodes), *rate)
    if links.latency_ns is None:
        expected["latency_ns"] = _Expected("int64", (nodes, nodes), *time)
    if links.jitter_ns is None:
        expected["jitter_ns"] = _Expected("int64", (nodes, nodes), *time)
    if links.loss is None:
        expected["loss"] = _Expected("float64", (nodes, nodes), *loss)
    if document.beginning.params != "own":
        expected["params"] = _Expected("float32", (document.num_params,))
    return expected


def _expected_in_own(document: _Document) -> dict[str, _Expected]:
    times = (_is_increasing, "at least 0 and increasing")
    speeds = (lambda values: bool(np.all((values >= 0) & (values < np.inf))), "finite and at least 0")
    expected = {
        "train_indices": _Expected("int64", (None,)),
        "speed_times_ns": _Expected("int64", (None,), *times),
        "speeds": _Expected("float64", (None,), *speeds),
        **_expected_overlays("pair"),
    }
    if document.beginning.params != "common":
        expected["params"] = _Expected("float32", (document.num_params,))
    return expected


def _expected_overlays(prefix: str) -> dict[str, _Expected]:
    time = (lambda values: bool(np.all(values >= 0)), "at least 0")
    shapes = (
        lambda values: bool(np.all((values >= 0) & (values < [np.inf, np.inf, 1.0]))),
        "finite and at least 0, and a loss below 1",
    )
    return {
        f"{prefix}_places": _Expected("int64", (None, 4)),
        f"{prefix}_times_ns": _Expected("int64", (None,), *time),
        f"{prefix}_latency_ns": _Expected("int64", (None,), *time),
        f"{prefix}_shapes": _Expected("float64", (None, 3), *shapes),
    }


def _is_increasing(times_ns: Array) -> bool:
    return bool(np.all(np.diff(times_ns, prepend=-1) > 0)) and bool(np.all(times_ns >= 0))


def _read_archive(path: Path, sha256: str, expected: Mapping[str, _Expected]) -> dict[str, Array]:
    """Read an archive, and refuse it unless it holds exactly what is expected."""
    data = _read(path)
    _check_digest(path, data, sha256)
    try:
        archive = np.load(BytesIO(data), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("no archive")
        with archive:
            _check_names(path, archive.files, expected)
            arrays = {name: archive[name] for name in expected}
    except (ValueError, KeyError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}: is no archive of plain arrays: {text}") from None
    for name, array in arrays.items():
        _check_array(path, name, array, expected[name])
        array.setflags(write=False)
    return arrays


def _check_digest(path: Path, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ConfigError(f"{path}: sha256={found[:16]}...: must be {sha256[:16]}...: damaged, or of other nodes")


def _check_names(path: Path, names: Iterable[str], expected: Mapping[str, _Expected]) -> None:
    missing = [name for name in expected if name not in names]
    if missing:
        raise ConfigError(f"{path}: {missing[0]}: missing")
    unknown = [name for name in names if name not in expected]
    if unknown:
        raise ConfigError(f"{path}: {one_line_of(unknown[0])}: unknown array")


def _check_array(path: Path, name: str, array: Array, expected: _Expected) -> None:
    fits = array.ndim == len(expected.shape) and all(
        wanted is None or length == wanted for length, wanted in zip(array.shape, expected.shape, strict=True)
    )
    if array.dtype != np.dtype(expected.dtype) or not fits:
        shape = ", ".join("any" if length is None else str(length) for length in expected.shape)
        found = f"{array.dtype} of shape {array.shape}"
        raise ConfigError(f"{path}: {name}={found}: must be {expected.dtype} of shape ({shape})")
    if not expected.is_valid(array):
        raise ConfigError(f"{path}: {name}: holds values out of bounds: all must be {expected.bound}")


def _config(document: _Document, arrays: Mapping[str, Array], credentials: Credentials | None) -> NodeConfig:
    links, begun = document.network, document.beginning
    network = NetworkPlan(
        model=links.model,
        up_mbps=arrays["up_mbps"],
        down_mbps=arrays["down_mbps"],
        pair_mbps=arrays.get("pair_mbps"),
        latency_ns=arrays["latency_ns"] if links.latency_ns is None else links.latency_ns,
        jitter_ns=arrays["jitter_ns"] if links.jitter_ns is None else links.jitter_ns,
        loss=arrays["loss"] if links.loss is None else links.loss,
        sender=SenderPolicy(links.sender, links.transfers),
        transport=links.transport,
        header_bytes=links.header_bytes,
        framing=None if links.framing is None else Framing(**dict(links.framing)),
        wire_dtype=links.wire_dtype,
        overlays={**_overlays("access", arrays, document), **_overlays("pair", arrays, document)},
        partitions=tuple(tuple(groups) for groups in arrays["partitions"].tolist()),
    )
    return NodeConfig(
        **{name: getattr(document, name) for name in NodeScalars.model_fields},
        credentials=credentials,
        topology=_topology(document.nodes, arrays["edges"]),
        network=network,
        compute=ComputePlan(
            tuple(arrays["step_ns"].tolist()), document.compute_jitter, speeds=_speeds(document.node, arrays)
        ),
        pauses=arrays["pauses"],
        train_indices=arrays["train_indices"],
        beginning=Beginning(arrays["params"], begun.rounds, begun.local_steps, begun.life, begun.down_since_ns),
    )


def _speeds(node: int, arrays: Mapping[str, Array]) -> dict[int, Steps[float]]:
    times_ns, speeds = arrays["speed_times_ns"].tolist(), arrays["speeds"].tolist()
    if not times_ns and not speeds:
        return {}
    if len(speeds) != len(times_ns) + 1:
        raise ConfigError(f"speeds: holds {len(speeds)} values, must hold {len(times_ns) + 1} for its changes")
    return {node: Steps(speeds[0], tuple(times_ns), tuple(speeds[1:]))}


def _overlays(
    prefix: Literal["access", "pair"], arrays: Mapping[str, Array], document: _Document
) -> dict[Place, Steps[Overlay]]:
    """Read what is laid over links, and refuse what is none of this node's matter."""
    times_ns = arrays[f"{prefix}_times_ns"]
    latency_ns, shapes = arrays[f"{prefix}_latency_ns"].tolist(), arrays[f"{prefix}_shapes"].tolist()
    for name, values in (("latency_ns", latency_ns), ("shapes", shapes)):
        if len(values) != times_ns.size:
            raise ConfigError(f"{prefix}_{name}: holds {len(values)} changes, must hold {times_ns.size}, one a time")
    found: dict[Place, Steps[Overlay]] = {}
    begin, before = 0, (-1, -1, -1)
    for kind, source, destination, count in arrays[f"{prefix}_places"].tolist():
        row = f"{prefix}_places: {kind} {source} {destination} {count}"
        if not _is_place(prefix, kind, source, destination, document):
            raise ConfigError(
                f"{row}: must be a link of node {document.node} or an access link, of {document.nodes} nodes"
            )
        if (kind, source, destination) <= before:
            raise ConfigError(f"{row}: must come after the link before it")
        if not 1 <= count <= times_ns.size - begin:
            raise ConfigError(f"{row}: must have 1 to {times_ns.size - begin} changes, which are left")
        end = begin + count
        if not _is_increasing(times_ns[begin:end]):
            raise ConfigError(f"{row}: {prefix}_times_ns must increase")
        overlays = tuple(
            Overlay(latency_factor=factor, latency_ns=added_ns, jitter_ns=jitter_ns, loss=loss)
            for added_ns, (factor, jitter_ns, loss) in zip(latency_ns[begin:end], shapes[begin:end], strict=True)
        )
        found[Place(_KINDS[kind], source, destination)] = Steps(NOTHING, tuple(times_ns[begin:end].tolist()), overlays)
        begin, before = end, (kind, source, destination)
    if begin != times_ns.size:
        raise ConfigError(f"{prefix}_times_ns: holds {times_ns.size} times, must hold {begin} for its links")
    return found


def _is_place(prefix: str, kind: int, source: int, destination: int, document: _Document) -> bool:
    node, nodes = document.node, document.nodes
    match prefix, kind:
        case "access", 0:
            return 0 <= source < nodes and destination == -1
        case "access", 1:
            return source == -1 and 0 <= destination < nodes
        case "pair", 2:
            both = 0 <= source < nodes and 0 <= destination < nodes
            return both and source != destination and node in (source, destination)
        case _:
            return False


def _topology(nodes: int, edges: Array) -> Topology:
    pairs: list[tuple[int, int]] = edges.tolist()
    return from_edges(nodes, pairs)


def _read(path: Path, most: int = ARCHIVE_BYTES_MAX) -> bytes:
    try:
        return read_bytes(path, most)
    except UnreadableText as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
