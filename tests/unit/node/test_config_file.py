"""A node's files: what is written is read, and what is damaged, foreign or impossible is one clear line."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.algorithms.divshare import DivShareConfig
from node.config import Beginning, NodeAlgorithm, NodeConfig
from node.config_file import read_node_config, remove_keys, write_comeback_files, write_node_files
from node.core.compute import ComputePlan
from node.core.errors import ConfigError, RunnerError
from node.core.framing import Framing
from node.core.link_bounds import rate_bounds
from node.core.links import NetworkPlan
from node.core.schedule import LinkSpan, Overlay, Place, Schedule
from node.core.scheduled_network import scheduled
from node.core.sender_policy import parallel
from node.core.steps import Steps
from node.core.topology import full
from node.core.types import NodeId, Vector
from node.core.wire_values import WireDtype
from node.host.clock import Clock
from node.learning.config import LearningConfig
from orchestrator.runs.certificates import RunCredentials, issue_credentials
from tests.node_files import check_same, edit_archive, edit_json, sign_archive

NODES, PARAMS = 3, 7


def matrix(first: float, dtype: str) -> "np.ndarray[Any, Any]":
    return (np.arange(NODES * NODES) + first).reshape(NODES, NODES).astype(dtype)


NETWORK = NetworkPlan(
    "pairwise",
    np.array([1.0, np.inf, 0.5]),
    np.array([2.0, 3.0, np.inf]),
    pair_mbps=matrix(1, "float64"),
    latency_ns=matrix(5, "int64"),
    jitter_ns=matrix(0, "int64"),
    loss=matrix(0, "float64") / 10,
    sender=parallel(2),
    transport="datagram",
    header_bytes=40,
    framing=Framing(tls=False, mtu=9_000, segments=3),
    wire_dtype=WireDtype.BFLOAT16,
)


def configs(
    network: NetworkPlan = NETWORK,
    params: Callable[[int], Vector] | None = None,
    credentials: RunCredentials | None = None,
    speeds: Mapping[int, Steps[float]] | None = None,
    **other: Any,
) -> list[NodeConfig]:
    shared = np.arange(PARAMS, dtype=np.float32) / 3
    topology, compute = full(NODES), ComputePlan((1, 20, 300), jitter=0.25, speeds=speeds or {})
    values: dict[str, Any] = {
        "run_id": "run-1",
        "seed": 2**62 + 1,
        "algorithm": NodeAlgorithm(kind="divshare", local_steps=4, parameters=DivShareConfig(recipients=2, omega=0.3)),
        "tensor_sizes": (4, 3),
        "learning": LearningConfig(),
        "emulator_clock": Clock(123_456_789_012_345_678, 1.7),
        "orchestrator": "127.0.0.1:4711",
        "emulator": "@links",
        "data_root": "/data",
        "host": "127.0.0.1",
        "port": 0,
        "advertised": "node-1.data",
        "delays_arrivals": True,
        "evaluation_interval_ns": 10**9,
        "evaluate_after_training": True,
        "end_ns": 2 * 10**9,
        "max_rounds": None,
        "keep_messages": False,
        "start_timeout_s": 61.5,
        "metrics_host": "10.9.0.2",
        "peer_labels": True,
        "begin_ns": 10**9,
        "down_ns": 2 * 10**9 - 1,
        "pauses": np.array([[0, 10**9, 11 * 10**8], [2, 0, 2**62]]),
        "rates": rate_bounds(network, 0),
        **other,
    }
    return [
        NodeConfig(
            **values,
            node=NodeId(node),
            topology=topology,
            network=network,
            compute=compute,
            train_indices=np.array([node, node + 3]),
            beginning=Beginning(shared if params is None else params(node), 5, 20, 2),
            credentials=None if credentials is None else credentials.nodes[node],
        )
        for node in range(NODES)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The JSON file of node 1."""
    return write_node_files(tmp_path / "nodes", configs())[1]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = configs()
    for path, config in zip(write_node_files(tmp_path, written), written, strict=True):
        check_same(read_node_config(path, "run-1"), config)


def test_numbers_in_place_of_matrices(tmp_path: Path) -> None:
    plain = replace(NETWORK, pair_mbps=None, latency_ns=3, jitter_ns=0, loss=0.25)
    written = configs(plain)
    check_same(read_node_config(write_node_files(tmp_path, written)[2]), written[2])


def overlay(number: int) -> Overlay:
    return Overlay(latency_factor=1.5 * number, latency_ns=number, jitter_ns=0.5 * number, loss=number / 20)


SCHEDULED = scheduled(
    replace(NETWORK, partitions=((0, 0, 1), (-1, 1, 0))),
    Schedule(
        links=(
            LinkSpan(5, 9, Place("pair", 1, 0), overlay(1)),
            LinkSpan(0, None, Place("pair", 0, 2), overlay(2)),
            LinkSpan(4, 8, Place("down", -1, 2), replace(overlay(3), bandwidth_factor=0.5)),
            LinkSpan(1, 2, Place("up", 1, -1), overlay(4)),
            LinkSpan(2, 7, Place("up", 1, -1), overlay(5)),
            LinkSpan(2, 7, Place("up", 0, -1), Overlay(base_mbps=3.0)),
        )
    ),
)
SPEEDS = {0: Steps(1.0, (3, 4), (0.0, 0.25)), 1: Steps(1.0, (7,), (0.5,)), 2: Steps(0.125)}


def test_what_is_laid_over_links_and_speeds_are_written_and_read(tmp_path: Path) -> None:
    """Each node has all access links, its own pairs and its own speed; and partitions as they are at first."""
    written = configs(SCHEDULED, speeds=SPEEDS)
    found = [read_node_config(path) for path in write_node_files(tmp_path, written)]
    for read, config in zip(found, written, strict=True):
        check_same(read, config)
    access = {Place("down", -1, 2), Place("up", 1, -1)}
    pairs = [{Place("pair", 1, 0), Place("pair", 0, 2)}, {Place("pair", 1, 0)}, {Place("pair", 0, 2)}]
    assert [set(config.network.overlays) for config in found] == [access | own for own in pairs]
    assert [config.compute.speeds for config in found] == [{node: SPEEDS[node]} for node in range(NODES)]
    assert found[0].network.partitions == SCHEDULED.partitions
    for time_ns in range(10):
        for peer in (1, 2):
            assert found[0].network.path(0, peer, time_ns) == SCHEDULED.path(0, peer, time_ns)
            assert found[0].network.path(peer, 0, time_ns) == SCHEDULED.path(peer, 0, time_ns)


def test_models_that_differ_are_the_nodes_own(tmp_path: Path) -> None:
    written = configs(params=lambda node: np.full(PARAMS, node, dtype=np.float32))
    written[0].beginning.params[0] = np.nan
    for path, config in zip(write_node_files(tmp_path, written), written, strict=True):
        check_same(read_node_config(path), config)


def test_credentials_are_files_that_their_owner_alone_may_read(tmp_path: Path) -> None:
    issued = issue_credentials("run-1", NODES, timedelta(hours=1))
    written = configs(credentials=issued)
    (tmp_path / "node-0001.pem.tmp").touch(mode=0o644)  # of a run that was killed
    for node, (path, config) in enumerate(zip(write_node_files(tmp_path, written), written, strict=True)):
        check_same(read_node_config(path, "run-1"), config)
        keys = path.with_suffix(".pem")
        assert keys.stat().st_mode & 0o777 == 0o600
        for file in tmp_path.iterdir():
            assert (issued.nodes[node].key in file.read_bytes()) == (file == keys)
    remove_keys(tmp_path)
    left = {path.suffix for path in tmp_path.iterdir()}
    assert left == {".json", ".npz"}
    assert refusal(tmp_path / "node-0001.json") == "node-0001.pem: cannot be read: No such file or directory"


def test_what_all_share_is_written_once(tmp_path: Path) -> None:
    write_node_files(tmp_path, configs())
    with np.load(tmp_path / "common.npz") as common, np.load(tmp_path / "node-0001.npz") as own:
        assert {"edges", "latency_ns", "loss", "params"} <= set(common.files)
        assert {name for name in own.files if not name.startswith("pair_")} == {
            "train_indices", "speeds", "speed_times_ns",
        }  # fmt: skip


def test_a_second_part_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    write_node_files(tmp_path, configs())
    before = sorted(path.name for path in tmp_path.iterdir())
    path = write_node_files(tmp_path, configs(begin_ns=3 * 10**9))[0]
    assert read_node_config(path).begin_ns == 3 * 10**9
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_same_nodes_have_the_same_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_node_files(tmp_path / folder, configs())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_arrays_are_not_to_be_changed(file: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_node_config(file).beginning.params[0] = 1


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a file")
    with pytest.raises(RunnerError, match=r"nodes: the nodes' files cannot be written: "):
        write_node_files(tmp_path / "nodes", configs())


# --- what is refused ---------------------------------------------------------------------------------------


def refusal(path: Path, run_id: str | None = None) -> str:
    """The one line, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read_node_config(path, run_id)
    line = str(caught.value)
    assert line.startswith(str(path.parent))
    assert "\n" not in line
    return line.removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "node-0001.json: is not JSON: Expecting value: line 1 column 1"),
        (b'{"version": 1', "node-0001.json: is not JSON: Expecting ',' delimiter: line 1 column 14"),
        (b"\xff\xfe{}", "node-0001.json: is not JSON: "),
        (b'{"version": ' + b"9" * 5000 + b"}", "node-0001.json: is not JSON: Exceeds the limit"),
        (b"[" * 100_000, "node-0001.json: is nested too deeply"),
        (b"[]", "node-0001.json: must hold keys and values, holds list"),
        (b"{}", "node-0001.json: version=None: must be 7, which this release reads"),
        (b'{"version": 1}', "node-0001.json: version=1: must be 7, which this release reads"),
        (b'{"version": true}', "node-0001.json: version=True: must be 7"),
        (b'{"version": 7}', "node-0001.json: run_id: missing (and "),
    ],
)
def test_files_that_are_no_description(file: Path, text: bytes, why: str) -> None:
    file.write_bytes(text)
    assert refusal(file).startswith(why)


def at(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a key."""

    def edit(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (at("node", value=-1), "node=-1: must be greater than or equal to 0"),
        (at("node", value=3), "node=3: must be below 3, the number of nodes"),
        (at("node", value="1"), "node='1': must be a valid integer"),
        (at("node", value=True), "node=True: must be a valid integer"),
        (at("orchestrator", value="somewhere"), "orchestrator='somewhere': must match pattern"),
        (at("emulator", value=""), "emulator='': must have at least 1 character"),
        (at("advertised", value="two words"), "advertised='two words': must match pattern"),
        (at("port", value=65_536), "port=65536: must be less than or equal to 65535"),
        (at("seed", value=2**63), f"seed={2**63}: must be less than or equal to {2**63 - 1}"),
        (at("start_timeout_s", value=float("nan")), "start_timeout_s=nan: must be"),
        (at("emulator_clock", "dilation", value=0), "emulator_clock.dilation=0: must be above 0"),
        (at("emulator_clock", "dilation", value=float("inf")), "emulator_clock.dilation=inf: must be a finite number"),
        (at("tensor_sizes", value=[]), "tensor_sizes=[]: must have at least 1 item"),
        (at("tensor_sizes", value=[7, 0]), "tensor_sizes=[7, 0]: must all be at least 1"),
        (at("algorithm", "kind", value="gossip"), "algorithm.kind='gossip': must be one of adpsgd, "),
        (
            at("algorithm", "parameters", "omega", value=2),
            "algorithm.parameters.omega=2: must be less than or equal to 1",
        ),
        (at("algorithm", "parameters", "recipients", value=3), "algorithm.parameters.recipients=3: must be at most 2"),
        (
            at("algorithm", "parameters", "recipients", value="2"),
            "algorithm.parameters.recipients='2': must be a valid",
        ),
        (at("learning", "batch_size", value="8"), "learning.batch_size='8': must be a valid integer"),
        (
            at("learning", "optimizer", "momentum", value=True),
            "learning.optimizer.momentum=True: must be a valid number",
        ),
        (at("learning", "model", "kind", value="gpt"), "learning.model="),
        (
            at("network", "wire_dtype", value="float8"),
            "network.wire_dtype='float8': must be 'float32', 'float16' or 'bfloat16'",
        ),
        (at("network", "loss", value=1.0), "network.loss=1.0: must be less than 1"),
        (at("compute_jitter", value=-0.5), "compute_jitter=-0.5: must be greater than or equal to 0"),
        (at("rates", "slowest_mbps", value=0), "rates.slowest_mbps=0: must be above 0, or null"),
        (at("rates", "standstill_ns", value=-1), "rates.standstill_ns=-1: must be at least 0, or null"),
        (at("rates", "pairs_change", value=1), "rates.pairs_change=1: must be a valid boolean"),
        (at("surprise", value=1), "surprise: unknown key"),
        (at("common", "file", value="../common.npz"), "common.file='../common.npz': must match pattern"),
        (at("common", "sha256", value="00"), "common.sha256='00': must match pattern"),
        (lambda content: content.pop("end_ns"), "end_ns: missing"),
        (lambda content: content.pop("digest"), "digest: missing"),
    ],
)
def test_values_that_cannot_be(file: Path, edit: Callable[[dict[str, Any]], None], why: str) -> None:
    edit_json(file, edit)
    assert refusal(file).startswith(f"node-0001.json: {why}")


def test_a_value_that_was_changed_is_noticed(file: Path) -> None:
    edit_json(file, at("max_rounds", value=5), sign=False)
    assert re.fullmatch(
        r"node-0001.json: digest='\w{16}'\.\.\.: must be that of the content: the file is damaged or was changed",
        refusal(file),
    )


def test_layout_and_order_do_not_matter(file: Path) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(content.items()))))
    check_same(read_node_config(file), configs()[1])


def test_a_node_of_another_run(file: Path) -> None:
    why = "node-0001.json: run_id=run-1: must be 'run-2', the run that the node is started for"
    assert refusal(file, "run-2") == why


def test_files_that_are_not_there(file: Path) -> None:
    (file.parent / "node-0001.npz").unlink()
    assert refusal(file) == "node-0001.npz: cannot be read: No such file or directory"
    (file.parent / "common.npz").unlink()
    assert refusal(file) == "common.npz: cannot be read: No such file or directory"
    file.unlink()
    assert refusal(file) == "node-0001.json: cannot be read: No such file or directory"


@pytest.mark.parametrize("shared", [True, False])
def test_a_node_that_comes_back_has_files_of_its_own(tmp_path: Path, shared: bool) -> None:
    those = configs(params=None if shared else lambda node: np.full(PARAMS, node, dtype=np.float32))
    files = write_node_files(tmp_path, those)
    before = files[0].read_bytes()
    beginning = Beginning(np.full(PARAMS, 9, dtype=np.float32), 7, 28, 3, 11 * 10**8)
    again = those[1].model_copy(update={"beginning": beginning, "begin_ns": 15 * 10**8, "down_ns": None, "port": 4711})
    assert write_comeback_files(tmp_path, again) == files[1]
    read = read_node_config(files[1])
    assert (read.beginning.rounds, read.beginning.local_steps, read.beginning.life) == (7, 28, 3)
    assert read.beginning.down_since_ns == 11 * 10**8
    assert read.beginning.params.tolist() == [9.0] * PARAMS
    assert (read.begin_ns, read.down_ns, read.port) == (15 * 10**8, None, 4711)
    assert files[0].read_bytes() == before
    read_node_config(files[0])


@pytest.mark.parametrize("name", ["common.npz", "node-0001.npz"])
def test_an_archive_of_other_nodes(file: Path, name: str, tmp_path: Path) -> None:
    other = [
        config.model_copy(update={"train_indices": config.train_indices + 1, "beginning": Beginning(np.zeros(7, "f4"))})
        for config in configs(replace(NETWORK, latency_ns=1))
    ]
    write_node_files(tmp_path / "other", other)
    (file.parent / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert re.fullmatch(rf"{name}: sha256=\w+\.\.\.: must be \w+\.\.\.: damaged, or of other nodes", refusal(file))


def secured(folder: Path, valid: timedelta = timedelta(hours=1), run_id: str = "run-1") -> Path:
    """The JSON file of node 1, with credentials."""
    return write_node_files(folder, configs(credentials=issue_credentials(run_id, NODES, valid)))[1]


def sign_keys(path: Path) -> None:
    """Let the JSON file name the digest that the credentials have now."""
    sign_archive(path, "credentials")


def test_credentials_of_another_node(tmp_path: Path) -> None:
    path = secured(tmp_path)
    keys = path.with_suffix(".pem")
    keys.write_bytes((tmp_path / "node-0002.pem").read_bytes())
    assert re.fullmatch(
        r"node-0001.pem: sha256=\w+\.\.\.: must be \w+\.\.\.: damaged, or of other nodes", refusal(path)
    )
    sign_keys(path)
    assert refusal(path).startswith("node-0001.pem: certificate of node-1.")
    assert "is not valid: Hostname mismatch" in refusal(path)


def test_credentials_of_another_run(tmp_path: Path) -> None:
    assert "is not valid: Hostname mismatch" in refusal(secured(tmp_path, run_id="run-2"))


def test_credentials_that_have_expired(tmp_path: Path) -> None:
    line = refusal(secured(tmp_path, timedelta(seconds=-1)))
    assert line.startswith("node-0001.pem: certificate of node-1.")
    assert line.endswith("is not valid: certificate has expired")


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda content: content.pop("credentials"), "credentials: missing"),
        (
            at("credentials", "file", value="../node-0001.pem"),
            "credentials.file='../node-0001.pem': must match pattern",
        ),
        (at("credentials", "file", value="common.npz"), "credentials.file='common.npz': must match pattern"),
        (at("credentials", "sha256", value="00"), "credentials.sha256='00': must match pattern"),
    ],
)
def test_credentials_that_cannot_be(tmp_path: Path, edit: Callable[[dict[str, Any]], None], why: str) -> None:
    path = secured(tmp_path)
    edit_json(path, edit)
    assert refusal(path).startswith(f"node-0001.json: {why}")


def test_a_file_of_keys_that_is_too_large_or_none(tmp_path: Path) -> None:
    path = secured(tmp_path)
    keys = path.with_suffix(".pem")
    keys.write_bytes(b"-" * 70_000)
    assert refusal(path) == "node-0001.pem: cannot be read: holds 70,000 bytes, must be at most 65,536"
    keys.write_bytes(b"no keys")
    sign_keys(path)
    assert refusal(path).startswith("node-0001.pem: must hold a certificate, ")


ARRAYS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("common", lambda arrays: arrays.pop("edges"), "common.npz: edges: missing"),
    ("common", lambda arrays: arrays.pop("latency_ns"), "common.npz: latency_ns: missing"),
    ("common", lambda arrays: arrays.pop("params"), "common.npz: params: missing"),
    ("own", lambda arrays: arrays.pop("train_indices"), "node-0001.npz: train_indices: missing"),
    ("own", at("secret", value=np.zeros(1)), "node-0001.npz: 'secret': unknown array"),
    (
        "common",
        at("params", value=np.zeros(PARAMS)),
        "common.npz: params=float64 of shape (7,): must be float32 of shape (7)",
    ),
    (
        "common",
        at("params", value=np.zeros(8, "f4")),
        "common.npz: params=float32 of shape (8,): must be float32 of shape (7)",
    ),
    (
        "common",
        at("loss", value=np.zeros((3, 2))),
        "common.npz: loss=float64 of shape (3, 2): must be float64 of shape (3, 3)",
    ),
    (
        "common",
        at("edges", value=np.zeros(4, "i8")),
        "common.npz: edges=int64 of shape (4,): must be int64 of shape (any, 2)",
    ),
    ("common", at("edges", value=np.array([[0, 3]])), "node-0001.json: edge=0 3: both ends must be between 0 and 2"),
    (
        "common",
        at("up_mbps", value=np.array([1.0, -1.0, 1.0])),
        "common.npz: up_mbps: holds values out of bounds: all must be at least 0",
    ),
    (
        "common",
        at("pair_mbps", value=np.full((3, 3), np.nan)),
        "common.npz: pair_mbps: holds values out of bounds: all must be at least 0",
    ),
    (
        "common",
        at("loss", value=np.ones((3, 3))),
        "common.npz: loss: holds values out of bounds: all must be at least 0 and below 1",
    ),
    (
        "common",
        at("step_ns", value=np.zeros(3, "i8")),
        "common.npz: step_ns: holds values out of bounds: all must be at least 1",
    ),
    (
        "own",
        at("train_indices", value=np.array([0, -1])),
        "node-0001.json: train_indices: must be one or more positions, all at least 0",
    ),
    ("own", at("train_indices", value=np.array([], "i8")), "node-0001.json: train_indices: must be one or more"),
]


@pytest.mark.parametrize(("key", "edit", "why"), ARRAYS, ids=[why for _, _, why in ARRAYS])
def test_arrays_that_cannot_be(file: Path, key: str, edit: Callable[[dict[str, Any]], None], why: str) -> None:
    edit_archive(file, key, edit)
    assert refusal(file).startswith(why)


def entry(name: str, *place: int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one entry of an array."""

    def edit(arrays: dict[str, Any]) -> None:
        arrays[name][place] = value

    return edit


def cut(name: str) -> Callable[[dict[str, Any]], None]:
    """Leave the last row of an array out."""
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


SCHEDULES: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    (
        "common",
        entry("access_places", 0, 0, value=2),
        "node-0001.json: access_places: 2 1 -1 3: must be a link of node",
    ),
    ("common", entry("access_places", 0, 0, value=-1), "node-0001.json: access_places: -1 1 -1 3: must be a link"),
    ("common", entry("access_places", 0, 1, value=3), "node-0001.json: access_places: 0 3 -1 3: must be a link"),
    (
        "common",
        entry("access_places", 0, value=[1, -1, 2, 3]),
        "node-0001.json: access_places: 1 -1 2 2: must come after",
    ),
    (
        "common",
        entry("access_places", 0, 3, value=0),
        "node-0001.json: access_places: 0 1 -1 0: must have 1 to 5 changes",
    ),
    (
        "common",
        entry("access_places", 0, 3, value=6),
        "node-0001.json: access_places: 0 1 -1 6: must have 1 to 5 changes",
    ),
    (
        "common",
        entry("access_places", 1, 3, value=1),
        "node-0001.json: access_times_ns: holds 5 times, must hold 4 for",
    ),
    (
        "common",
        entry("access_times_ns", 1, value=9),
        "node-0001.json: access_places: 0 1 -1 3: access_times_ns must incr",
    ),
    (
        "common",
        entry("access_times_ns", 0, value=-1),
        "common.npz: access_times_ns: holds values out of bounds: all must",
    ),
    ("common", entry("access_latency_ns", 0, value=-1), "common.npz: access_latency_ns: holds values out of bounds"),
    (
        "common",
        entry("access_shapes", 0, 2, value=1.0),
        "common.npz: access_shapes: holds values out of bounds: all must",
    ),
    ("common", entry("access_shapes", 0, 0, value=np.inf), "common.npz: access_shapes: holds values out of bounds"),
    ("common", entry("access_shapes", 0, 1, value=np.nan), "common.npz: access_shapes: holds values out of bounds"),
    ("common", cut("access_shapes"), "node-0001.json: access_shapes: holds 4 changes, must hold 5, one a time"),
    ("common", cut("access_latency_ns"), "node-0001.json: access_latency_ns: holds 4 changes, must hold 5, one a time"),
    (
        "common",
        entry("partitions", 0, 0, value=-2),
        "common.npz: partitions: holds values out of bounds: all must be at",
    ),
    (
        "own",
        entry("pair_places", 0, value=[2, 0, 2, 2]),
        "node-0001.json: pair_places: 2 0 2 2: must be a link of node 1",
    ),
    (
        "own",
        entry("pair_places", 0, value=[2, 1, 1, 2]),
        "node-0001.json: pair_places: 2 1 1 2: must be a link of node 1",
    ),
    ("own", cut("speeds"), "node-0001.json: speeds: holds 1 values, must hold 2 for its changes"),
    ("own", entry("speeds", 0, value=-1.0), "node-0001.npz: speeds: holds values out of bounds: all must be finite"),
    ("own", at("speed_times_ns", value=np.array([7, 7])), "node-0001.npz: speed_times_ns: holds values out of bounds"),
]


@pytest.mark.parametrize(("key", "edit", "why"), SCHEDULES, ids=[f"{key} {why}" for key, _, why in SCHEDULES])
def test_schedules_that_cannot_be(key: str, edit: Callable[[dict[str, Any]], None], why: str, tmp_path: Path) -> None:
    file = write_node_files(tmp_path, configs(SCHEDULED, speeds=SPEEDS))[1]
    edit_archive(file, key, edit)
    assert refusal(file).startswith(why)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00", b"text"])
def test_an_archive_that_is_none(file: Path, data: bytes) -> None:
    (file.parent / "common.npz").write_bytes(data)
    sign_archive(file, "common")
    assert refusal(file).startswith("common.npz: is no archive of plain arrays: ")


def test_objects_are_not_unpickled(file: Path) -> None:
    edit_archive(file, "own", at("train_indices", value=np.array([{}, []], dtype=object)))
    assert refusal(file).startswith("node-0001.npz: is no archive of plain arrays: Object arrays cannot be loaded")
