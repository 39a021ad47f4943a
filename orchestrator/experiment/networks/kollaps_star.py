"""The network of a Kollaps experiment in which every service has one link to one bridge; pure but for its file."""

import numpy as np

from node.core.bounds import MBPS_MIN
from node.core.errors import ConfigError
from node.host.text_files import shorten
from orchestrator.experiment.input_files import InputFiles
from orchestrator.experiment.kollaps_files import KollapsFile, LinkFigures, read_kollaps
from orchestrator.experiment.networks.config import KollapsPreset
from orchestrator.experiment.networks.draft import AccessSide, Draft, draft_of


def kollaps_star(preset: KollapsPreset, num_nodes: int, files: InputFiles) -> Draft:
    """Return the network that services and links of a file are.

    Args:
        preset: Names the file.
        num_nodes: How many replicas the services must have together.
        files: Where it is looked for.

    Raises:
        ConfigError: It is not that of a star, or has another number of nodes.
    """
    place = f"preset.file={preset.file}"
    content = read_kollaps(files.read(preset.file, "preset.file"), place=place)
    if content.num_nodes != num_nodes:
        raise ConfigError(f"{place}: services have {content.num_nodes} replicas: must be as many as nodes={num_nodes}")
    if len(content.bridges) != 1:
        raise ConfigError(f"{place}: bridges: must be one that all services share, are {len(content.bridges)}")
    (bridge,) = content.bridges
    for origin, dest in content.links:
        if bridge not in (origin, dest):
            raise ConfigError(f"{place}: link {shorten(origin)} to {shorten(dest)}: must begin or end at the bridge")
    up = [_link(content, service, bridge, place) for service, count in content.services.items() for _ in range(count)]
    down = [_link(content, bridge, service, place) for service, count in content.services.items() for _ in range(count)]
    return draft_of(_side(up), _side(down))


def _link(content: KollapsFile, origin: str, dest: str, place: str) -> LinkFigures:
    found = content.links.get((origin, dest))
    if found is None:
        raise ConfigError(
            f"{place}: link {shorten(origin)} to {shorten(dest)}: missing: each service must have both ways"
        )
    if found.mbps < MBPS_MIN:
        raise ConfigError(f"{place}: link {shorten(origin)} to {shorten(dest)}: must have a bandwidth above 0")
    return found


def _side(links: list[LinkFigures]) -> AccessSide:
    return AccessSide(*(np.array(column, dtype=np.float64) for column in zip(*links, strict=True)))
