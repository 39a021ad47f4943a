"""A schedule over real processes and containers: what the simulator does, at the instants that are planned."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.containers.engine import DockerEngine
from orchestrator.results.reader import Run, load_run
from tests.integration.scheduled_run import (
    DEGRADED,
    FACTOR,
    FAR,
    ISLANDS,
    LATENCY_MS,
    MBPS,
    MORE_MS,
    PARTED,
    SLOW,
    SLOWDOWN,
    STEP_MS,
    STEPS,
)
from tests.integration.shaping_host import ShapingHost, need_kernel_shaping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="real nodes need Linux")

LATE_MS = 50.0
"""By which an instant may be late, testbed time."""
WITHIN_S = 300


def run(folder: Path, runtime: str, *dilation: str) -> Run:
    """The run, from its beginning to its end."""
    command = [sys.executable, "-m", "tests.integration.scheduled_run", runtime, str(folder / runtime), *dilation]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    (path,) = (folder / runtime).iterdir()
    return load_run(path)


def delivered(found: Run) -> int:
    assert found.summary is not None
    return int(found.summary["messages"]["delivered"])


def times_ms(found: Run) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"]:
    """Instants of all messages that were delivered, and who they were between."""
    assert found.messages is not None
    table = dict(found.messages)
    arrived = table["delivered_ns"] >= 0
    names = ("queued", "started", "sent", "delivered")
    times = {name: table[f"{name}_ns"][arrived] / 1e6 for name in names}
    return {**times, **{name: table[name][arrived] for name in ("sender", "receiver", "wire_bytes")}}


def check_instants(found: Run, *, late_ms: float, exact: bool) -> None:
    """What is planned begins and ends when it should: so says the life of every message."""
    of = times_ms(found)
    sent, delays = of["sent"], of["delivered"] - of["sent"]
    # Latency, by the instant at which a message has left.
    far = of["receiver"] == 1
    during = (sent >= FAR[0] + late_ms) & (sent < FAR[1] - late_ms)
    apart = (sent < FAR[0] - late_ms) | (sent >= FAR[1] + late_ms)
    assert (far & during).sum() > 5
    assert (far & apart).sum() > 5
    if not exact:  # of a kernel's links a sender may know no more than the receipt: when a message has left is not seen
        during = (of["started"] >= FAR[0] + late_ms) & (of["delivered"] < FAR[1])
        delays = of["delivered"] - of["started"]
    assert (far & during).sum() > 3
    assert delays[far & during].min() >= LATENCY_MS + MORE_MS - late_ms
    if exact:
        assert delays[far & (sent >= FAR[0]) & (sent < FAR[1])].min() >= LATENCY_MS + MORE_MS - 1e-3
        assert delays[far & ((sent < FAR[0]) | (sent >= FAR[1]))].max() < LATENCY_MS + MORE_MS
        assert delays[~far].max() < LATENCY_MS + late_ms
    # Partition: nothing crosses, and what waits goes on at once when it heals.
    islands = np.array(ISLANDS)
    across = islands[of["sender"].astype(int)] != islands[of["receiver"].astype(int)]
    came = of["delivered"][across]
    assert not ((came > PARTED[0] + LATENCY_MS + MORE_MS + late_ms) & (came < PARTED[1])).any()
    transfer_ms = of["wire_bytes"].max() * 8e-3 / MBPS
    healed = came[came >= PARTED[1]].min()
    assert healed <= PARTED[1] + 2 * transfer_ms + LATENCY_MS + late_ms
    # Degraded: four times as long for whatever begins and ends meanwhile.
    took = sent - of["started"]
    slow = (of["sender"] == 0) & (of["started"] >= DEGRADED[0] + late_ms) & (sent < DEGRADED[1] - late_ms)
    assert slow.sum() > 3
    if exact:
        assert (took[slow] >= of["wire_bytes"][slow] * 8e-3 / MBPS / FACTOR - 1e-3).all()
    # A slow processor: rounds of node 2, by when their fragments are queued, also those that were dropped.
    assert found.messages is not None
    begins = np.unique(found.messages["queued_ns"][found.messages["sender"] == 2] / 1e6)
    lengths, begins = np.diff(begins), begins[:-1]
    round_ms = STEP_MS * STEPS
    slowed = (begins >= SLOW[0]) & (begins + SLOWDOWN * round_ms <= SLOW[1])
    usual = (begins + round_ms <= SLOW[0]) | (begins >= SLOW[1])
    assert slowed.sum() >= 3
    assert usual.sum() > 10
    assert np.abs(lengths[slowed] - SLOWDOWN * round_ms).max() <= late_ms
    assert np.abs(np.median(lengths[usual]) - round_ms) <= late_ms


def test_simulation_has_every_instant_to_the_nanosecond(tmp_path: Path) -> None:
    check_instants(run(tmp_path, "simulation"), late_ms=1e-3, exact=True)


@pytest.mark.slow
def test_processes_do_what_is_simulated_at_the_instants_that_are_planned(
    tmp_path: Path, shaping_host: ShapingHost
) -> None:
    folder = tmp_path / str(shaping_host.dilation)
    simulated, real = run(folder, "simulation"), run(folder, "processes", str(shaping_host.dilation))
    shaping_host.record(f"delivered: {delivered(simulated)} simulated, {delivered(real)} in processes")
    assert delivered(real) == pytest.approx(delivered(simulated), rel=0.05)
    check_instants(real, late_ms=LATE_MS, exact=True)
    assert real.fidelity is not None
    emulator = real.fidelity["figures"]["emulator"]
    shaping_host.record(f"{emulator['changes']} changes of links, {emulator['change_late_ms_max']:.2f} ms late")
    assert emulator["changes"] == 4
    assert emulator["change_late_ms_max"] <= LATE_MS
    failed = [check for check in real.fidelity["checks"] if not check["ok"]]
    shaping_host.record(f"verdict {real.fidelity['verdict']}: {failed}")
    assert not [check for check in failed if check["name"] in ("bytes in flight", "messages refused on arrival")]


@pytest.mark.slow
def test_containers_do_what_is_simulated_at_the_instants_that_are_planned(
    engine: DockerEngine, node_image: str, shaper_image: str, tmp_path: Path, shaping_host: ShapingHost
) -> None:
    need_kernel_shaping()
    folder = tmp_path / str(shaping_host.dilation)
    simulated, real = run(folder, "simulation"), run(folder, "docker", str(shaping_host.dilation))
    shaping_host.record(f"delivered: {delivered(simulated)} simulated, {delivered(real)} in containers")
    assert real.fidelity is not None
    kernel = real.fidelity["figures"]["kernel"]
    failed = [check for check in real.fidelity["checks"] if not check["ok"]]
    shaping_host.record(f"{kernel}; verdict {real.fidelity['verdict']}: {failed}")
    check_instants(real, late_ms=LATE_MS, exact=False)
    assert delivered(real) == pytest.approx(delivered(simulated), rel=0.1)
