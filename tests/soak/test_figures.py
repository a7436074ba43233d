"""What a soak is judged by."""

from dataclasses import replace

import pytest

from loadtests.soak.figures import Sample, Verdict, growth, judge, second_half
from loadtests.soak.watch import Scrape

IDLE = Sample(
    at=0.0, rss_mib=90.0, fds=26, threads=12, tasks=13, in_flight=0, queued=0, series=300, requests=100
)


def loaded(count: int = 20, *, grows: float = 0.0) -> list[Sample]:
    """Samples every second; `grows` MiB with each."""
    return [
        replace(IDLE, at=float(n), rss_mib=100 + grows * n, fds=120 + n % 3, tasks=60.0, requests=100 * n)
        for n in range(count)
    ]


def broken(
    samples: list[Sample],
    *,
    end: Sample = IDLE,
    lines: int = 100,
    answered: int = 90,
    wanted: int | None = None,
) -> set[str]:
    verdicts = judge(samples, start=IDLE, end=end, lines=lines, answered=answered, wanted=wanted, errors={})
    return {each.name for each in verdicts if not each.kept}


def test_growth_is_that_of_the_fitted_line_over_the_second_half() -> None:
    samples = loaded(21, grows=1.0)
    assert [each.at for each in second_half(samples)] == [float(n) for n in range(10, 21)]
    assert growth(second_half(samples), lambda each: each.rss_mib) == pytest.approx(10 / 110)
    assert growth(samples[:2], lambda each: each.rss_mib) is None


def test_what_grew_early_and_then_no_more_is_no_growth() -> None:
    samples = [replace(each, rss_mib=min(each.rss_mib, 108.0)) for each in loaded(20, grows=1.0)]
    assert broken(samples) == set()


def test_steady_growth_is_found() -> None:
    assert broken(loaded(20, grows=0.3)) == {"resident memory"}


@pytest.mark.parametrize(
    ("left", "name"),
    [
        ({"tasks": 14.0}, "tasks, idle"),
        ({"fds": 40}, "file descriptors, idle"),
        ({"in_flight": 1.0}, "slots in use, idle"),
        ({"queued": 1.0}, "calls in the queue, idle"),
    ],
)
def test_what_is_left_behind_is_found(left: dict[str, float], name: str) -> None:
    assert broken(loaded(), end=replace(IDLE, **left)) == {name}  # type: ignore[arg-type]


def test_a_line_too_few_or_too_many_is_found() -> None:
    for lines in (99, 101):
        assert broken(loaded(), lines=lines) == {"lines of the access log"}
    assert broken(loaded(), answered=101) == {"lines of the access log"}


def test_descriptors_and_series_that_rise_under_load_are_found() -> None:
    samples = [replace(each, fds=100 + 10 * n, series=300 + n) for n, each in enumerate(loaded())]
    assert broken(samples) == {"file descriptors", "metric series"}


def test_fewer_requests_than_were_asked_for_are_not_enough() -> None:
    assert broken(loaded(), wanted=101) == {"requests"}
    assert broken(loaded(), wanted=100) == set()


def test_without_samples_nothing_is_kept() -> None:
    [only] = judge([], start=IDLE, end=IDLE, lines=0, answered=0, wanted=None, errors={})
    assert only == Verdict(name="samples", want="some", got="none", kept=False)


def test_metrics_are_added_up_by_their_whole_name() -> None:
    seen = Scrape('# HELP a_total x\na_total{b="1"} 2.0\na_total{b="2 "} 3\na_total_more 7\na 1\n')
    assert (seen.total("a_total"), seen.total("a"), seen.series) == (5.0, 1.0, 4)
