"""What this host's costs are drawn from, and how they are kept."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.core.errors import RunnerError
from orchestrator.host import calibration, costs
from orchestrator.host.calibration import END_S, NODES, ROUND_S, SLOW_FROM_S, CpuSample, evaluate, host_costs
from orchestrator.host.costs import HostCosts, costs_path, keep_costs, load_costs

MEASURED = HostCosts(0.5e-3, 1e-9, 1e-3, 5e-9, 2e-3, measured_unix_s=1e9)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAGMESH_CACHE", str(tmp_path / "cache"))


class Recorded:
    """A run of which only messages and round trips are known."""

    def __init__(self, sent_s: "list[float]", extra_ms: float = 2.0) -> None:
        self.messages = {"sent_ns": np.array(sent_s) * 1e9, "wire_bytes": np.full(len(sent_s), 3_000)}
        self.fidelity: dict[str, Any] = {
            "checks": [
                {"name": "round trip, median, links of 8 Mbit/s", "requested": 0.5, "achieved": 0.5 + extra_ms},
                {"name": "rate, links of 8 Mbit/s", "requested": 8.0, "achieved": 1.0},
            ]
        }


def sampled(message_s: float, end_s: float, per_second: int) -> list[CpuSample]:
    """A host that takes so much, and no idle time."""
    samples, cpu_s = [], 0.0
    for tick in range(int(END_S * 100)):
        samples.append(CpuSample(tick / 100, cpu_s))
        cpu_s += NODES / ROUND_S * end_s / 100
        cpu_s += per_second * message_s / 100 if tick / 100 < SLOW_FROM_S else 0.0
    return samples


def test_costs_are_what_the_halves_of_the_run_differ_in() -> None:
    per_second = 500
    run: Any = Recorded([(number + 0.5) / per_second for number in range(int(SLOW_FROM_S * per_second))])
    found = evaluate(run, sampled(0.6e-3, 1.2e-3, per_second), byte_cpu_s=1e-9, round_param_cpu_s=1e-9)
    assert found.message_cpu_s == pytest.approx(0.6e-3 - 3e-6, rel=0.02)
    assert found.round_cpu_s == pytest.approx(1.2e-3 - 7.81e-6, rel=0.02)
    assert found.path_s == pytest.approx(2e-3)
    assert found.age_s() is not None


def test_a_run_that_tells_too_little_is_refused() -> None:
    run: Any = Recorded([0.1])
    with pytest.raises(RunnerError, match="it was too busy"):
        evaluate(run, [], byte_cpu_s=1e-9, round_param_cpu_s=1e-9)
    with pytest.raises(RunnerError, match="no messages were sent"):
        evaluate(run, sampled(1e-3, 1e-3, 1), byte_cpu_s=1e-9, round_param_cpu_s=1e-9)
    run = Recorded([0.5, 1.0, 1.5])
    run.fidelity["checks"][0]["achieved"] = None
    with pytest.raises(RunnerError, match="no round trip was"):
        evaluate(run, sampled(1e-3, 1e-3, 1), byte_cpu_s=1e-9, round_param_cpu_s=1e-9)
    run.messages = None
    with pytest.raises(RunnerError, match="the run recorded nothing"):
        evaluate(run, sampled(1e-3, 1e-3, 1), byte_cpu_s=1e-9, round_param_cpu_s=1e-9)


def test_costs_are_kept_for_this_host_and_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_costs() is None
    assert keep_costs(MEASURED)
    assert load_costs() == MEASURED
    path = costs_path()
    me = costs.identity()
    monkeypatch.setattr(costs, "identity", lambda: me | {"fragmesh": "another"})
    assert load_costs() is None
    monkeypatch.setattr(costs, "identity", lambda: me)
    content = json.loads(path.read_text())
    for damaged in ("", "{", json.dumps(content | {"costs": {}}), json.dumps(content | {"identity": {}})):
        path.write_text(damaged)
        assert load_costs() is None
    content["costs"]["path_s"] = -1
    path.write_text(json.dumps(content))
    assert load_costs() is None


def test_a_host_is_measured_once_and_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[HostCosts] = []

    def calibrate() -> HostCosts:
        measured.append(HostCosts(0.5e-3, 1e-9, 1e-3, 5e-9, 2e-3, measured_unix_s=float(1 + len(measured))))
        return measured[-1]

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    assert [host_costs(), host_costs(), host_costs(renew=True), host_costs()] == [
        measured[0], measured[0], measured[1], measured[1],
    ]  # fmt: skip
    assert len(measured) == 2


def test_bytes_and_parameters_cost_something() -> None:
    assert 0 < calibration.byte_seconds(1 << 12, 3) < 1e-6
    assert 0 < calibration.param_seconds(1 << 12, 3) < 1e-6


# --- the run, from outside ------------------------------------------------------------------------------------------

WORKS = """
assert Path("slow.csv").is_file() and sys.argv[-4:] == ["runs", "--json", "--workers", "0"]
say("no JSON at all")
say('{"event": "preparing", "what": "measuring the links"}')
say('{"event": "progress", "time_s": 0.5}')
(done, tell), (lives, life) = os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(life)
    while time.process_time() < 0.2:
        pass
    os.write(tell, b".")
    os.read(lives, 1)  # until its parent has ended
    os._exit(0)
os.read(done, 1)
while not Path("seen").exists():
    time.sleep(0.001)
say('{"event": "progress", "time_s": 1e9}')  # after the end, and so no measure of its beginning
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the interpreter that would run the experiment run something else."""

    def replace(code: str) -> None:
        begin = f"#!{sys.executable}\nimport os, sys, time\nfrom pathlib import Path\n"
        say = "def say(text):\n    os.write(1, text.encode() + b'\\n')\n"
        (tmp_path / "python").write_text(begin + say + code)
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    return replace


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_runs_processes_take_is_sampled_in_testbed_time(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(pid: int) -> float:
        found = descendants(pid)
        if found >= 0.2:
            (tmp_path / "seen").touch()
        return found

    descendants = calibration.descendants_cpu_s
    monkeypatch.setattr(calibration, "descendants_cpu_s", look)
    program(WORKS)
    samples = calibration._run(tmp_path)
    assert samples == sorted(samples, key=lambda sample: (sample.time_s, sample.cpu_s))
    assert 0.5 <= samples[0].time_s < samples[-1].time_s < 1e6
    assert max(sample.cpu_s for sample in samples) >= 0.2


def test_a_run_that_fails_is_told_in_its_own_words(program: Callable[[str], None], tmp_path: Path) -> None:
    program("sys.exit('no torch\\nhere')")
    with pytest.raises(RunnerError, match=r"could not be measured: a run of 8 small nodes failed: no torch here$"):
        calibration._run(tmp_path)


def test_a_run_that_left_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path) -> list[CpuSample]:
        (folder / "runs" / "calibration-1").mkdir(parents=True)
        return []

    monkeypatch.setattr(calibration, "_run", run)
    with pytest.raises(RunnerError, match=r"this host could not be measured: .*curve\.csv is missing"):
        calibration.calibrate()
