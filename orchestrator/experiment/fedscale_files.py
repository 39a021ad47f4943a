"""Clients of federated learning as files: FedScale's availability and device capacities, as JSON; pure.

FedScale (SymbioticLab/FedScale, ``benchmark/dataset/data/device_info/README.md``) publishes both as pickles, which run
whatever they hold when they are opened. Here the same dictionaries are read as JSON: an object whose keys are clients,
and whose values have FedScale's fields. What they mean is what FedScale's own simulation makes of them
(``fedscale/cloud/internal/client_metadata.py``): a client is active from each time in ``active`` to the one in
``inactive`` at the same place, in seconds modulo ``finish_time``; ``computation`` is the inference of one sample in
milliseconds; ``communication`` is a rate in kbit/s, the same in both directions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from node.core.bounds import MBPS_MAX, MBPS_MIN, MS_MAX, TIME_S_MAX
from node.core.errors import ConfigError
from node.core.rng import stream
from node.host.text_files import shorten
from orchestrator.experiment.input_files import json_in

ClientOrder: TypeAlias = Literal["in_order", "drawn"]
"""Assignment of a file's clients to nodes."""

CLIENT_ORDER_TEXT: Final = (
    "which client a node is: in_order takes the file's order, drawn draws from the seed, each once while there are"
    " enough; with fewer clients than nodes they begin again"
)

STEP_MS_MIN: Final = 1e-6
"""The least that a sample may take: a clock of nanoseconds knows no less."""


@dataclass(frozen=True, slots=True)
class ClientAvailability:
    """Times in which a client is there.

    Attributes:
        period_s: Time after which they repeat, > 0.
        active: (from, to) in seconds, in order, within the period, none beginning before the one before it ends.
    """

    period_s: float
    active: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ClientCapacity:
    """A client's device.

    Attributes:
        sample_ms: Inference of one sample, > 0.
        mbps: Rate up and down, 10^6 bits a second.
    """

    sample_ms: float
    mbps: float


def read_availability(text: str, *, place: str) -> list[ClientAvailability]:
    """Read the clients' availability, in the file's order.

    Args:
        text: The file.
        place: Where the experiment names it.

    Raises:
        ConfigError: The message names the client and the field.
    """
    return [_availability(fields, where) for where, fields in _clients(text, place)]


def read_capacities(text: str, *, place: str) -> list[ClientCapacity]:
    """Read the clients' device capacities; see :func:`read_availability`."""
    return [_capacity(fields, where) for where, fields in _clients(text, place)]


def clients_of(num_clients: int, num_nodes: int, order: ClientOrder, rng: np.random.Generator) -> list[int]:
    """Return the client, by its place in the file, that each node is."""
    places = list(range(num_clients)) if order == "in_order" else rng.permutation(num_clients).tolist()
    return [places[node % num_clients] for node in range(num_nodes)]


def device_stream(seed: int) -> np.random.Generator:
    """Return what draws devices: one stream for compute and network, so that both mean the same clients."""
    return stream(seed, "fedscale.devices")


def _clients(text: str, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    content = json_in(text, place)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{place}: must be an object of at least one client")
    for client, fields in content.items():
        where = f"{place}: client {shorten(client)}"
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: must be an object, is {shorten(fields)}")
        yield where, fields


def _availability(fields: Mapping[str, Any], where: str) -> ClientAvailability:
    _check_fields(fields, ("active", "inactive", "finish_time"), ("duration", "model"), where)
    period_s = _number(fields["finish_time"], f"{where}: finish_time", TIME_S_MAX, above=True)
    begins, ends = (_times(fields[name], f"{where}: {name}", period_s) for name in ("active", "inactive"))
    if len(begins) != len(ends):
        raise ConfigError(f"{where}: inactive: must have as many times as active, {len(begins)}, has {len(ends)}")
    before = 0.0
    for index, (begin_s, end_s) in enumerate(zip(begins, ends, strict=True)):
        if begin_s < before:
            raise ConfigError(
                f"{where}: active[{index}]={begin_s:g}: must be at least inactive[{index - 1}]={before:g}"
            )
        if end_s < begin_s:
            raise ConfigError(f"{where}: inactive[{index}]={end_s:g}: must be at least active[{index}]={begin_s:g}")
        before = end_s
    active = tuple((begin_s, end_s) for begin_s, end_s in zip(begins, ends, strict=True) if end_s > begin_s)
    if not active:
        raise ConfigError(f"{where}: active: must have a time in which the client is active")
    return ClientAvailability(period_s, active)


def _capacity(fields: Mapping[str, Any], where: str) -> ClientCapacity:
    _check_fields(fields, ("computation", "communication"), (), where)
    sample_ms = _number(fields["computation"], f"{where}: computation", MS_MAX, least=STEP_MS_MIN)
    kbps = _number(fields["communication"], f"{where}: communication", 1e3 * MBPS_MAX, least=1e3 * MBPS_MIN)
    return ClientCapacity(sample_ms, kbps / 1e3)


def _check_fields(fields: Mapping[str, Any], needed: Sequence[str], others: Sequence[str], where: str) -> None:
    for name in needed:
        if name not in fields:
            raise ConfigError(f"{where}: {name}: missing")
    for name in fields:
        if name not in needed and name not in others:
            raise ConfigError(f"{where}: {shorten(name)}: unknown field; known are {', '.join((*needed, *others))}")


def _times(value: object, where: str, period_s: float) -> list[float]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}={shorten(value)}: must be a list of times in seconds")
    return [_number(one, f"{where}[{index}]", period_s, bound="finish_time") for index, one in enumerate(value)]


def _number(
    value: object, where: str, most: float, *, least: float = 0.0, above: bool = False, bound: str = ""
) -> float:
    """Return a number within its bounds; ``bound`` names the field that ``most`` comes from."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        named = f"{bound}={most:g}" if bound else f"{most:g}"
        low = f"above {least:g}" if above else f"at least {least:g}"
        raise ConfigError(f"{where}={shorten(value)}: must be a number, {low} and at most {named}")
    return float(value)  # type: ignore[arg-type]
