"""OpenMetrics text, version 1.0: families of samples that each have a time, a piece at a time. Pure.

All samples of a family stand together, and all of one metric, which is a family with one set of labels, in order of
time. What Prometheus reads is the same text that it scrapes, so that an imported run has the series of a live one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from node.core.types import Float64Vector
from node.metrics import Metric
from orchestrator.results.schema import Column

END: Final = "# EOF\n"
"""The last line; without it Prometheus takes a file for cut short."""

_INFINITE: Final = {"inf": "+Inf", "-inf": "-Inf"}


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """The values of one metric at all instants.

    Attributes:
        labels: Its labels.
        values: Shape (instants,); no sample is written where they are not a number, but for the first one of a gap:
            without it Prometheus would show the value before for five minutes more.
    """

    labels: Mapping[str, str]
    values: Column


@dataclass(frozen=True, eq=False, slots=True)
class HistogramTrack:
    """One histogram at all instants.

    Attributes:
        labels: Its labels, without the bucket's.
        counts: Values so far in each bucket, not cumulated over buckets, and last those beyond all bounds; shape
            (buckets + 1, instants).
        totals: Sum of the values so far, shape (instants,).
    """

    labels: Mapping[str, str]
    counts: Column
    totals: Float64Vector


AnyTrack: TypeAlias = Track | HistogramTrack
Family: TypeAlias = tuple[Metric, Iterable[AnyTrack]]


def time_texts(instants_ns: Column, start_ms: int) -> list[str]:
    """Spell instants of testbed time as Unix seconds, to the millisecond, which is as fine as Prometheus is.

    Args:
        instants_ns: The instants.
        start_ms: Testbed time 0, Unix time in milliseconds.
    """
    times_ms = start_ms + np.rint(np.asarray(instants_ns) / 1e6).astype(np.int64)
    return [f"{ms // 1000}.{ms % 1000:03d}" for ms in times_ms.tolist()]


def head_text(metric: Metric) -> str:
    """Return the lines before the samples of a family."""
    name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
    return f"# TYPE {name} {metric.kind}\n# HELP {name} {_escaped(metric.help)}\n"


def track_text(metric: Metric, track: AnyTrack, times: Sequence[str]) -> str:
    """Return the samples of one metric, a line each; empty where it has none."""
    if isinstance(track, HistogramTrack):
        return _histogram_text(metric, track, times)
    head = f"{metric.name}{_labels_text(track.labels)} "
    lines, last = [], "nan"
    for value, time in zip(_texts(track.values), times, strict=True):
        if value != "nan" or last != "nan":
            lines.append(f"{head}{'NaN' if value == 'nan' else value} {time}\n")
        last = value
    return "".join(lines)


def num_series(metric: Metric) -> int:
    """Return how many series a track of a family is: a histogram has each bucket, a sum and a count."""
    return len(metric.buckets) + 3 if metric.kind == "histogram" else 1


def _histogram_text(metric: Metric, track: HistogramTrack, times: Sequence[str]) -> str:
    """All samples of an instant before those of the next one, as the format wants it."""
    # The names of buckets as clients of Prometheus spell them: a bound that is spelled otherwise is another series.
    bounds = [*map(repr, metric.buckets), "+Inf"]
    heads = [f"{metric.name}_bucket{_labels_text({**track.labels, 'le': bound})}" for bound in bounds]
    plain = _labels_text(track.labels)
    heads += [f"{metric.name}_count{plain}", f"{metric.name}_sum{plain}"]
    cumulated = np.cumsum(track.counts, axis=0)
    columns = [*map(_texts, cumulated), _texts(cumulated[-1]), _texts(track.totals)]
    return "".join(
        f"{head} {value} {time}\n"
        for *values, time in zip(*columns, times, strict=True)
        for head, value in zip(heads, values, strict=True)
    )


def _texts(values: Column) -> list[str]:
    """Numbers as the shortest text that reads back as the same; ``nan`` for what is none."""
    texts = list(map(repr, values.tolist()))
    if values.dtype.kind == "f" and np.isinf(values).any():
        texts = [_INFINITE.get(text, text) for text in texts]
    return texts


def _labels_text(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
