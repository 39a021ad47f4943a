"""The containers of the ``docker`` runtime as values: what each may do, see and use."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import NodeConfig
from node.config_file import COMMON
from node.core.errors import ConfigError
from node.learning.data_files import cache_dir
from orchestrator.containers.image_recipes import NODE_COMMAND
from orchestrator.containers.interface import Bind, ContainerSpec
from orchestrator.containers.networks import RunNetwork
from orchestrator.containers.ownership import RunScope
from orchestrator.experiment.config import DockerConfig
from orchestrator.runtimes.docker_backend import Backend, memory_limit, sysctls

GATE: Final = "/run/gate/open"
"""The file that lets a node begin, in its container. It is in memory and ends with the container's processes."""

FILES: Final = "/run/node"
"""Folder of a node's files in its container."""

_NOBODY: Final = 65_532
"""User and group of nodes where the orchestrator is root, so that no node is."""

_LOOKED_INTO: Final = stat.S_IROTH | stat.S_IXOTH

_TMP_BYTES: Final = 64 * 2**20
_GATE_BYTES: Final = 2**16
_SHARED_BYTES: Final = 64 * 2**20
_SHARED_MODELS: Final = 8
"""Size of /dev/shm, by which a node and its training worker share models: so much, and so many models."""

SHAPER_CAPABILITIES: Final = ("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE")
"""Capabilities of the helper: to shape, to enter a namespace, and to find that of another user's process."""


LEAVE_EVERY_S: Final = 0.25
LEAVE_WITHIN_S: Final = 10.0
"""Nodes leave one after the other at the end: so far apart, but all of them within so long."""


@dataclass(frozen=True)
class NodeContainers:
    """The containers of a run's nodes.

    Attributes:
        backend: The engine and the kernel.
        settings: What the experiment says.
        networks: The run's, by role.
        num_params: Scalars of a model.
        user: ``uid:gid`` of the nodes.
    """

    backend: Backend
    settings: DockerConfig
    networks: Mapping[str, RunNetwork]
    num_params: int
    user: str

    def spec(self, scope: RunScope, config: NodeConfig, file: Path) -> ContainerSpec:
        """Describe the container of one node.

        Args:
            scope: Names and labels of the run.
            config: The node.
            file: Its JSON file on this machine; the others lie beside it.
        """
        # Nodes that leave at once may cost the run a network, see StuckNetwork.
        linger_s = config.node * min(LEAVE_EVERY_S, LEAVE_WITHIN_S / config.network.num_nodes)
        command = [*NODE_COMMAND, "--linger", f"{linger_s:.2f}"]
        command += ["--config", f"{FILES}/{file.name}", "--run", config.run_id]
        if self.backend.abilities is not None:
            command += ["--gate", GATE]
        own = [file.with_name(COMMON), *sorted(file.parent.glob(f"{file.stem}.*"))]
        return ContainerSpec(
            scope.name_of("node", config.node),
            self.backend.node_image.name,
            command,
            labels=scope.labels("node", config.node),
            environment={"FRAGMESH_CACHE": str(cache_dir().absolute())},
            user=self.user,
            binds=[
                *(Bind(path.absolute(), f"{FILES}/{path.name}") for path in own),
                # At the same places as here: what is decoded is found by the paths of its sources.
                *(Bind(place, str(place)) for place in _places_with_data(config.data_root)),
            ],
            tmpfs={"/tmp": _TMP_BYTES, os.path.dirname(GATE): _GATE_BYTES},
            networks={network.name: network.address_of(config.node) for network in self.networks.values()},
            cpus=self.settings.cpus,
            memory_bytes=memory_limit(self.settings.memory_mb, self.num_params),
            shm_bytes=_SHARED_BYTES + _SHARED_MODELS * 4 * self.num_params,
            sysctls=sysctls(self.backend.congestion_control),
        )


def helper_spec(scope: RunScope, image: str) -> ContainerSpec:
    """Describe the container of the helper that shapes the links of all nodes: the only one with capabilities."""
    return ContainerSpec(
        scope.name_of("shaper"),
        image,
        labels=scope.labels("shaper"),
        user="0:0",
        capabilities=SHAPER_CAPABILITIES,
        host_pids=True,
    )


def check_folders(data_root: str | None) -> None:
    """Check that the nodes' user may look into the folders with data, before anything is made.

    Raises:
        ConfigError: It may not.
    """
    if os.getuid() != 0:  # nodes are the same user
        return
    for place in _places_with_data(data_root):
        if place.stat().st_mode & _LOOKED_INTO != _LOOKED_INTO:
            raise ConfigError(
                f"{place}: must be readable by others, for nodes are not root in their containers:"
                f" chmod -R o+rX {place}"
            )


def hand_over(folder: Path) -> str:
    """Let the nodes' user read their files, and return that user as ``uid:gid``.

    Raises:
        OSError: It cannot be done.
    """
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    for path in folder.iterdir():
        os.chown(path, _NOBODY, _NOBODY)
    return f"{_NOBODY}:{_NOBODY}"


def _places_with_data(data_root: str | None) -> list[Path]:
    """Return the folders with data that there are, each once."""
    named = [] if data_root is None else [Path(data_root)]
    return [place for place in dict.fromkeys([*named, cache_dir().absolute()]) if place.is_dir()]
