"""A reader of OpenMetrics text for tests: strict about what Prometheus and the format want of an export."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from node.metrics import NODE_METRICS, RUN_METRICS, Metric

METRICS = {**NODE_METRICS, **RUN_METRICS}

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+) ([0-9]+\.[0-9]{3})')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One line."""

    name: str
    labels: Labels
    value: float
    time_ms: int

    def without(self, label: str) -> Labels:
        return tuple(pair for pair in self.labels if pair[0] != label)


def read(text: str) -> dict[str, list[Sample]]:
    """Return the samples of each family, by its name in the table, and check the order and completeness of all."""
    assert text.endswith("\n# EOF\n") or text == "# EOF\n"
    families: dict[str, list[Sample]] = {}
    metric: Metric | None = None
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            metric = METRICS[f"{name}_total" if kind == "counter" else name]
            assert metric.kind == kind
            assert metric.name not in families, f"{name}: a family stands in two places"
            families[metric.name] = []
        elif line.startswith("# HELP "):
            assert metric is not None
            assert line.split(" ", 3)[3].replace(r"\"", '"') == metric.help
        else:
            assert metric is not None
            families[metric.name].append(_sample(line))
    for name, samples in families.items():
        assert samples, f"{name}: a head without samples"
        _check(METRICS[name], samples)
    return families


def _sample(line: str) -> Sample:
    found = LINE.fullmatch(line)
    assert found is not None, line
    pairs = LABEL.findall(found[2] or "")
    seconds, milliseconds = found[4].split(".")
    unescaped = tuple((name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)) for name, value in pairs)
    return Sample(found[1], unescaped, float(found[3]), int(seconds) * 1000 + int(milliseconds))


def _check(metric: Metric, samples: list[Sample]) -> None:
    seen: dict[Labels, int] = {}
    last: Labels | None = None
    for group, time_ms, lines in _points(samples):
        names = [name for name, _ in group]
        assert len(set(names)) == len(names)
        if group != last:
            assert group not in seen, "samples of one metric stand together"
        assert time_ms > seen.get(group, -1), "times increase"
        seen[group], last = time_ms, group
        if metric.kind == "histogram":
            _check_histogram(metric, lines)
        else:
            assert [line.name for line in lines] == [metric.name]
            assert metric.kind != "counter" or lines[0].value >= 0


def _points(samples: list[Sample]) -> Iterator[tuple[Labels, int, list[Sample]]]:
    point: list[Sample] = []
    for sample in samples:
        if point and (sample.without("le"), sample.time_ms) != (point[0].without("le"), point[0].time_ms):
            yield point[0].without("le"), point[0].time_ms, point
            point = []
        point.append(sample)
    yield point[0].without("le"), point[0].time_ms, point


def _check_histogram(metric: Metric, lines: list[Sample]) -> None:
    *buckets, count, total = lines
    assert [dict(line.labels)["le"] for line in buckets] == [*map(repr, metric.buckets), "+Inf"]
    assert {line.name for line in buckets} == {f"{metric.name}_bucket"}
    values = [line.value for line in buckets]
    assert values == sorted(values)
    assert (count.name, count.value) == (f"{metric.name}_count", values[-1])
    assert total.name == f"{metric.name}_sum"


def last_values(samples: list[Sample]) -> dict[tuple[str, Labels], float]:
    """Return the last value of each series."""
    return {(sample.name, sample.labels): sample.value for sample in samples}


def total_of(samples: list[Sample], **labels: str) -> float:
    """Add up the last values of the series with some labels."""
    wanted = set(labels.items())
    return sum(value for (_, found), value in last_values(samples).items() if wanted <= set(found))
