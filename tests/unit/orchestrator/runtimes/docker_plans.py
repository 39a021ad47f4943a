"""Experiments for the tests of the ``docker`` runtime, and an engine that has its images."""

from pathlib import Path
from typing import Any

from orchestrator.containers.image_recipes import node_recipe, shaper_recipe
from orchestrator.containers.interface import ImageFacts
from orchestrator.experiment.config import ExperimentConfig
from orchestrator.experiment.plan import Plan, make_plan
from tests.unit.orchestrator.containers.fake_engine import FakeEngine


def plan(
    folder: Path,
    *,
    docker: dict[str, Any] | None = None,
    schedule: list[dict[str, Any]] | None = None,
    nodes: int = 3,
    **network: Any,
) -> Plan:
    preset = {"kind": "uniform", "bandwidth_mbps": 1, "latency_ms": 2}
    experiment = {
        "name": "small",
        "nodes": nodes,
        "runtime": "docker",
        "algorithm": {"kind": "local"},
        "topology": {"kind": "full"},
        "learning": {"dataset": {"kind": "synthetic"}, "model": {"kind": "logistic_regression"}},
        "network": {"preset": preset, **network},
        "docker": docker or {},
        "schedule": schedule or [],
        "stop": {"time_s": 7},
    }
    return make_plan(ExperimentConfig.model_validate(experiment), folder)


def engine_with_images() -> FakeEngine:
    """An engine that has both images of this release."""
    engine = FakeEngine()
    for recipe in (node_recipe(), shaper_recipe()):
        engine.images[recipe.tag] = ImageFacts("sha256:there", (recipe.tag,), recipe.labels("base"), 10**9)
    return engine
