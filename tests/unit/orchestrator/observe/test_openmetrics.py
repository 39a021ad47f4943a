"""Families of samples as text."""

import numpy as np

from node.metrics import NODE_METRICS, RUN_METRICS
from orchestrator.observe.openmetrics import END, HistogramTrack, Track, head_text, num_series, time_texts, track_text
from tests.unit.orchestrator.observe.openmetrics_text import read

TIMES = ["1.000", "2.500"]
ROUNDS = NODE_METRICS["fragmesh_rounds_total"]
LOSS = NODE_METRICS["fragmesh_train_loss"]
STALENESS = NODE_METRICS["fragmesh_staleness_rounds"]


def test_a_counter_is_named_without_its_ending_and_its_samples_with_it() -> None:
    assert head_text(ROUNDS) == "# TYPE fragmesh_rounds counter\n# HELP fragmesh_rounds Rounds completed.\n"
    text = track_text(ROUNDS, Track({"node": "3"}, np.array([0, 12])), TIMES)
    assert text == 'fragmesh_rounds_total{node="3"} 0 1.000\nfragmesh_rounds_total{node="3"} 12 2.500\n'


def test_what_is_no_number_has_no_sample_and_what_is_infinite_has() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1e-05])
    text = track_text(LOSS, Track({}, values), ["1.000", "2.000", "3.000", "4.000"])
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == ["+Inf 2.000", "-Inf 3.000", "1e-05 4.000"]
    assert track_text(LOSS, Track({}, np.full(2, np.nan)), TIMES) == ""


def test_a_gap_begins_with_a_sample_that_is_no_number() -> None:
    values = np.array([np.nan, 1.0, np.nan, np.nan, 2.0])
    text = track_text(LOSS, Track({}, values), ["1", "2", "3", "4", "5"])
    assert [line.split()[1:] for line in text.splitlines()] == [["1.0", "2"], ["NaN", "3"], ["2.0", "5"]]


def test_a_number_reads_back_as_the_same() -> None:
    values = np.array([0.1 + 0.2, 1 / 3])
    lines = track_text(LOSS, Track({}, values), TIMES).splitlines()
    assert [float(line.split(" ")[1]) for line in lines] == values.tolist()


def test_labels_are_escaped() -> None:
    target = 'a "quoted" \\ back\nslash'
    metric = RUN_METRICS["fragmesh_fault_active"]
    text = head_text(metric) + track_text(metric, Track({"target": target}, np.array([1, 1])), TIMES) + END
    (sample, _) = read(text)[metric.name]
    assert sample.labels == (("target", target),)


def test_a_histogram_has_all_its_samples_of_an_instant_before_the_next_one() -> None:
    counts = np.zeros((len(STALENESS.buckets) + 1, 2), dtype=np.int64)
    counts[0], counts[3], counts[-1] = [1, 2], [0, 5], [0, 1]
    text = track_text(STALENESS, HistogramTrack({"node": "0"}, counts, np.array([0.0, 120.0])), TIMES)
    samples = read(head_text(STALENESS) + text + END)[STALENESS.name]
    assert len(samples) == 2 * num_series(STALENESS)
    assert [sample.value for sample in samples if sample.time_ms == 2500] == [2, 2, 2, *[7] * 8, 8, 8, 120]


def test_times_are_unix_seconds_to_the_millisecond() -> None:
    assert time_texts(np.array([0, 1_499_999, 10**9, 12_345_000_000]), 1_700_000_000_007) == [
        "1700000000.007", "1700000000.008", "1700000001.007", "1700000012.352",
    ]  # fmt: skip
