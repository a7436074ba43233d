"""How figures become metric families under `overspill_`: names, labels, buckets and their examples.

Knows the prometheus client and histograms. It never knows what a figure means.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.samples import Exemplar, Sample, Timestamp

from gateway.clock import Clock
from gateway.histogram import Histogram

Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Stamp:
    """Turns moments of the clock into wall time, at one moment: a scrape."""

    def __init__(self, clock: Clock) -> None:
        self._offset = clock.wall() - clock.now()

    def __call__(self, moment: float) -> Timestamp:
        """Wall time of `moment`."""
        nanoseconds = int((moment + self._offset) * 1e9)
        return Timestamp(*divmod(nanoseconds, 10**9))


def counted(
    name: str, text: str, labels: Sequence[str], samples: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    """A counter with a value for each combination of labels."""
    family = CounterMetricFamily(f"overspill_{name}", text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def gauged(
    name: str, text: str, labels: Sequence[str], samples: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    """A gauge with a value for each combination of labels."""
    family = GaugeMetricFamily(f"overspill_{name}", text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def joined(families: Iterable[Metric]) -> list[Metric]:
    """One family for each name, with the samples of all of that name."""
    one: dict[str, Metric] = {}
    for family in families:
        if family.name in one:
            one[family.name].samples += family.samples
        else:
            one[family.name] = family
    return list(one.values())


def plain(sample: Sample) -> list[Any]:
    """Name, labels and value of a sample; where it has an exemplar, also that: labels, value, time."""
    exemplar = sample.exemplar
    if exemplar is None:
        return [sample.name, sample.labels, sample.value]
    seen = 0.0 if exemplar.timestamp is None else float(exemplar.timestamp)
    return [sample.name, sample.labels, sample.value, [exemplar.labels, exemplar.value, seen]]


def latest(exemplars: Iterable[Sequence[Any]]) -> Exemplar | None:
    """The newest of several exemplars as `plain` says them."""
    newest = max(exemplars, key=lambda each: float(each[2]), default=None)
    return None if newest is None else Exemplar(newest[0], newest[1], newest[2])


def buckets(histogram: Histogram, stamp: Stamp | None = None) -> list[Bucket]:
    """Cumulative buckets; with `stamp`, each with the trace of the last value that fell into it.

    An exemplar is one label `trace_id`, the value and its time (OpenMetrics 1.0, Exemplars). The plain text
    format has no room for them, so only who asks for OpenMetrics sees them.
    """
    pairs = [(repr(edge), float(count)) for edge, count in histogram.cumulative()]
    pairs.append(("+Inf", float(histogram.count)))
    examples = histogram.examples
    if stamp is None or not examples:
        return list(pairs)
    made: list[Bucket] = []
    for bucket, (edge, count) in enumerate(pairs):
        example = examples.get(bucket)
        if example is None:
            made.append((edge, count))
        else:
            value, trace, at = example
            made.append((edge, count, Exemplar({"trace_id": trace[3:35]}, value, stamp(at))))
    return made
