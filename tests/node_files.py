"""Nodes' descriptions on their way through files."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from node.config import NodeConfig, NodeScalars
from node.config_file import digest_of, read_node_config, write_node_files
from node.core.schedule import Overlay
from node.core.steps import Steps


def through_files(configs: Sequence[NodeConfig]) -> list[NodeConfig]:
    """Write the descriptions, and read each from its own files."""
    with tempfile.TemporaryDirectory() as folder:
        return [read_node_config(path, configs[0].run_id) for path in write_node_files(Path(folder), configs)]


def check_same(found: NodeConfig, wanted: NodeConfig) -> None:
    """Equal in all that a node uses.

    Of the network that is not the changes and the list of stragglers; of what is laid over links, not the rates and the
    pairs of others; of speeds, its own alone.
    """
    for name in NodeScalars.model_fields:
        assert getattr(found, name) == getattr(wanted, name), name
        assert type(getattr(found, name)) is type(getattr(wanted, name)), name
    assert found.topology == wanted.topology
    for field in fields(wanted.network):
        if field.name not in ("changes", "stragglers", "overlays"):
            _check_equal(getattr(found.network, field.name), getattr(wanted.network, field.name), field.name)
    assert found.network.overlays == {
        place: Steps(steps.first, steps.times_ns, tuple(_but_rates(overlay) for overlay in steps.values))
        for place, steps in wanted.network.overlays.items()
        if place.kind != "pair" or wanted.node in (place.source, place.destination)
    }
    speeds = wanted.compute.speeds
    assert found.compute.speeds == {node: speeds[node] for node in speeds if node == wanted.node}
    _check_equal(found.compute.step_ns, wanted.compute.step_ns, "step_ns")
    assert found.compute.jitter == wanted.compute.jitter
    _check_equal(found.train_indices, wanted.train_indices, "train_indices")
    assert found.credentials == wanted.credentials
    _check_equal(found.beginning.params, wanted.beginning.params, "params")
    assert (found.beginning.rounds, found.beginning.local_steps) == (
        wanted.beginning.rounds,
        wanted.beginning.local_steps,
    )


def _but_rates(overlay: Overlay) -> Overlay:
    return replace(overlay, base_mbps=None, bandwidth_factor=1.0, bandwidth_mbps_max=inf)


def _check_equal(found: Any, wanted: Any, name: str) -> None:
    assert type(found) is type(wanted), name
    if isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype, name
    np.testing.assert_array_equal(found, wanted, err_msg=name)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Change a node's JSON file; with a digest that fits, unless it is not to be signed."""
    content = json.loads(path.read_text())
    edit(content)
    if sign and "digest" in content:
        content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))


def edit_archive(path: Path, key: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the arrays of an archive, ``common`` or ``own``, of a node; with digests that fit."""
    archive = path.parent / json.loads(path.read_text())[key]["file"]
    with np.load(archive) as found:
        arrays = dict(found)
    edit(arrays)
    np.savez(archive, **arrays)
    sign_archive(path, key)


def sign_archive(path: Path, key: str) -> None:
    """Let the JSON file name the digest that an archive has now."""
    archive = path.parent / json.loads(path.read_text())[key]["file"]
    edit_json(path, lambda content: content[key].update(sha256=sha256(archive.read_bytes()).hexdigest()))
