"""From seconds to the block that people paste, and back to what estimates and the simulator start from."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.base import BackendOptions
from gateway.app import registries
from gateway.config.effective import effective
from gateway.config.problems import ConfigProblems
from gateway.config.schema import Settings
from gateway.probe.calibration import Priors, block, log_normal, modes, priors, quantile, spell
from gateway.probe.figures import Figures, Level, Sample, steps
from gateway.simulator import from_file
from gateway.simulator.distributions import Empirical, Lognormal
from gateway.vocab import Start, Usage

MEASURED = {
    "cold_start": {
        "samples": 4,
        "p50": "2.1s",
        "p95": "8s",
        "modes": [{"share": 0.75, "p50": "2s"}, {"share": 0.25, "p50": "8s"}],
    },
    "service": {"p50": "200ms", "p95": "400ms", "p99": "500ms", "mean": "220ms"},
    "concurrency": {"knee": 8, "per_second": 31.5, "most": 16},
    "usd_per_1k": 0.0462,
}

seconds = st.floats(min_value=0.0, max_value=10_000.0, allow_nan=False)


def options(calibration: Any) -> BackendOptions:
    return BackendOptions.model_validate({"type": "any", "max_in_flight": 4, "calibration": calibration})


def sample(took: float, start: Start = Start.WARM, usd: float | None = 0.001, boot: float = 0.0) -> Sample:
    return Sample(took, took, start, Usage(boot_s=boot), usd)


@given(
    warm=st.lists(seconds, max_size=30),
    colds=st.lists(seconds, max_size=10),
    rates=st.lists(st.floats(min_value=0.001, max_value=1e6), max_size=5),
)
def test_what_is_printed_is_what_the_file_takes(
    warm: list[float], colds: list[float], rates: list[float]
) -> None:
    figures = Figures(
        warm=[sample(took) for took in warm],
        colds=[sample(took, Start.COLD) for took in colds],
        levels=[Level(2**n, 10, rate, 1.0 + n, 2.0 + n, 0, 0) for n, rate in enumerate(rates)],
    )
    calibration = figures.calibration()
    text = yaml.safe_load(block(calibration))
    read = options(text["calibration"] or None).calibration
    if read is None:
        assert not figures or not (warm or rates)
        return
    for mine, theirs in ((calibration.service, read.service), (calibration.cold_start, read.cold_start)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert theirs.p50 == pytest.approx(mine.p50, rel=1e-6, abs=1e-12)
            assert theirs.p95 == pytest.approx(mine.p95, rel=1e-6, abs=1e-12)
    if calibration.concurrency is not None:
        assert read.concurrency is not None
        assert read.concurrency.knee == calibration.concurrency.knee
        assert read.concurrency.per_second == pytest.approx(calibration.concurrency.per_second, rel=1e-6)
    assert (read.usd_per_1k is None) == (calibration.usd_per_1k is None)


def test_an_unknown_price_is_never_a_figure() -> None:
    figures = Figures(warm=[sample(0.1, usd=0.001), sample(0.1, usd=None)])
    assert figures.usd_per_1k() is None
    assert "usd_per_1k: unknown" in block(figures.calibration())
    assert "usd_per_1k" not in (yaml.safe_load(block(figures.calibration()))["calibration"])
    assert figures.as_json()["calibration"]["usd_per_1k"] is None


def test_a_cold_start_is_what_the_call_took_longer_than_a_warm_one() -> None:
    figures = Figures(warm=[sample(0.5)] * 3, colds=[sample(2.5, Start.COLD), sample(0.25, Start.COLD)])
    assert figures.cold_starts() == [0.0, 2.0]
    assert Figures(colds=[sample(2.5, Start.COLD)]).cold_starts() == []


def test_starts_fall_into_two_kinds_where_the_gap_is_wide() -> None:
    two = modes([2.0, 2.2, 2.4, 30.0])
    assert [(mode.share, mode.p50) for mode in two] == [(0.75, 2.2), (0.25, 30.0)]
    assert [mode.p50 for mode in modes([2.0, 3.0, 4.0])] == [3.0]
    assert len(modes([0.0, 0.0001])) == 1  # nothing but noise


def test_the_knee_is_the_last_level_before_latency_doubles_or_calls_are_refused() -> None:
    def level(concurrency: int, p50: float, refused: int = 0) -> Level:
        return Level(concurrency, 10, 10.0, p50, p50, 0, refused)

    def knee(*levels: Level) -> int:
        found = Figures(levels=list(levels)).knee()
        assert found is not None
        return found.concurrency

    assert knee(level(1, 1.0), level(2, 1.5), level(4, 2.0), level(8, 1.0)) == 2
    assert knee(level(1, 1.0), level(2, 1.5)) == 2
    assert knee(level(1, 1.0), level(2, 1.0, refused=1)) == 1
    assert Figures().knee() is None


def test_levels_double_up_to_the_most() -> None:
    assert [list(steps(most)) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


@given(st.lists(seconds, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_one_of_the_values_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = quantile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "250ms"), (8.2, "8.2s"), (0.0, "0ms"), (123.456, "123.5s")]
)
def test_durations_are_spelled_as_the_file_spells_them(value: float, text: str) -> None:
    assert spell(value) == text


def test_priors() -> None:
    assert priors(options(None)) == Priors()
    assert priors(options({"service": {"p50": "1s"}})) == Priors(service_mean=1.0)
    found = priors(options(MEASURED))
    assert found.cold_mean == pytest.approx(0.75 * 2 + 0.25 * 8)
    assert (found.cold_tail, found.service_mean, found.service_tail) == (8.0, 0.22, 0.5)
    fitted = priors(options({"cold_start": {"p50": "2s", "p95": "6s"}})).cold_mean
    assert fitted is not None
    assert 2.0 < fitted < 6.0


def test_a_fit_has_the_percentiles_it_was_made_from() -> None:
    fitted = log_normal(2.0, 6.0)
    assert fitted is not None
    distribution = Lognormal(*fitted)
    assert distribution.quantile(0.5) == pytest.approx(2.0)
    assert distribution.quantile(0.95) == pytest.approx(6.0)
    assert distribution.mean() == pytest.approx(fitted.mean)
    assert log_normal(None, 6.0) is None
    assert math.isclose(log_normal(2.0, None).sigma, 0.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cold_start": {"p50": "8s", "p95": "2s"}},
        {"cold_start": {"p50": 8}},
        {"cold_start": {"modes": [{"share": 0.5, "p50": "1s"}]}},
        {"service": {"p95": "2s", "p99": "1s"}},
        {"concurrency": {"knee": 0}},
        {"usd_per_1k": -1},
        {"warm": {}},
    ],
)
def test_figures_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(wrong)


FILE = """\
version: 1
backends:
  fleet:
    type: loopback
    max_in_flight: 4
    calibration: {service: {p50: 200ms, p95: 400ms}}
  burst:
    type: loopback_rented
    max_in_flight: 4
    boot: 9s
    price: {usd_per_second: 0.001}
    calibration: {cold_start: {%s}}
routes:
  all:
    latency_budget: {within: 10s}
    tiers: [{backend: fleet, when_full: spill}, {backend: burst, when_full: shed}]
"""


def loaded(cold: str, path: Any) -> Settings:
    from gateway.config.load import load

    path.write_text(FILE % cold)
    return load(path, *registries()).settings


def cold_of(settings: Settings) -> Any:
    return from_file._measured_cold(settings.backends["burst"])


def test_the_simulator_takes_the_figures_from_the_file(tmp_path: Any) -> None:
    settings = loaded("p50: 2s, p95: 6s", tmp_path / "f.yaml")
    assert cold_of(settings) == Lognormal(*log_normal(2.0, 6.0))  # type: ignore[misc]
    service = from_file.measured_service(settings, None)
    assert service == Lognormal(*log_normal(0.2, 0.4))  # type: ignore[misc]
    two = cold_of(loaded("modes: [{share: 75%, p50: 2s}, {share: 25%, p50: 8s}]", tmp_path / "f.yaml"))
    assert isinstance(two, Empirical)
    assert two.mean() == pytest.approx(3.5)


def test_check_shows_them_and_says_what_is_wrong_with_them(tmp_path: Any) -> None:
    text = effective(loaded("samples: 3, p50: 2s, p95: 6s", tmp_path / "f.yaml"))
    assert yaml.safe_load(text)["backends"]["burst"]["calibration"]["cold_start"]["p50"] == "2s"
    with pytest.raises(ConfigProblems) as caught:
        loaded("p50: 2", tmp_path / "f.yaml")
    assert [problem.path for problem in caught.value.problems] == [
        "backends.burst.calibration.cold_start.p50"
    ]
