"""The table of metrics follows the conventions of Prometheus, so that tools and people find what they expect."""

import re

import pytest

from node.core.time_budget import TIME_FIGURES
from node.metrics import ACTIVITIES, NODE_METRICS, PREFIX, RUN_METRICS, Metric

ALL = [*NODE_METRICS.values(), *RUN_METRICS.values()]
UNITS = ("seconds", "bytes", "bytes_per_second", "ratio", "rounds")
"""Base units; what has none of them is a count of what its name says."""

TARGET_LABELS = ("run", "instance", "job", "le", "quantile")
"""Labels that a target or Prometheus itself gives."""


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_family_is_named_and_described_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(rf"{PREFIX}[a-z0-9]+(_[a-z0-9]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not metric.name.endswith(("_bucket", "_sum", "_count", "_created"))
    assert not re.search(r"_(ms|ns|us|milliseconds|mbps|kb|mb|minutes|hours|percent)(_|$)", metric.name), "base units"
    assert re.fullmatch(r"[A-Z0-9].*[.]", metric.help), "one sentence"
    assert "\n" not in metric.help


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_labels_are_few_and_are_not_those_of_a_target(metric: Metric) -> None:
    assert len(metric.labels) == len(set(metric.labels)) <= 4
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label)
        assert label not in TARGET_LABELS


@pytest.mark.parametrize("metric", NODE_METRICS.values(), ids=lambda metric: metric.name)
def test_a_node_leaves_its_own_name_to_the_target(metric: Metric) -> None:
    assert not {"node", "group"} & set(metric.labels)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_buckets_belong_to_histograms_and_increase(metric: Metric) -> None:
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert [*metric.buckets] == sorted(set(metric.buckets))
    assert metric.kind != "histogram" or metric.name.endswith(UNITS)


def test_no_family_is_of_nodes_and_of_runs_but_the_release() -> None:
    assert NODE_METRICS.keys() & RUN_METRICS.keys() == {"fragmesh_build_info"}


def test_the_activities_are_those_that_a_node_counts() -> None:
    assert tuple(TIME_FIGURES) == ACTIVITIES
