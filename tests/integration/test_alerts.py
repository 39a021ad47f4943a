"""The files for Prometheus, judged by promtool."""

import subprocess
from pathlib import Path

import pytest

from tests.integration.prometheus import needed_program, write_prometheus_files

TESTED = sorted((Path(__file__).parent / "alerts").iterdir())


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([needed_program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_valid(tmp_path: Path) -> None:
    config = write_prometheus_files(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "run.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {"run": "r"}}]')
    told = promtool("check", "config", "--lint-fatal", config)
    assert "WARNING" not in told
    assert "2 rule files found" in told
    promtool("check", "rules", "--lint-fatal", *(tmp_path / "rules").iterdir())


@pytest.mark.parametrize("file", TESTED, ids=lambda path: path.stem)
def test_an_alert_fires_when_it_should_and_not_else(file: Path) -> None:
    promtool("test", "rules", file)
