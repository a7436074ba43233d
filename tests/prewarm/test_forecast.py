"""Arrivals, their forecast, its probabilities, the hour of the week, and bursts."""

from random import Random

import pytest

from gateway.forecast import CATCH_UP_S, Arrivals, BurstDetector, Forecast, Season, Sketch
from tests.prewarm.world import poisson


def fed(forecast: Forecast, counts: list[int], start: int = 0) -> float:
    for index, count in enumerate(counts, start=start):
        forecast.second(index, count)
    return start + len(counts) + 0.0


def test_calls_are_counted_by_the_second_empty_seconds_too() -> None:
    arrivals = Arrivals(10.5)
    for moment in (10.6, 10.99, 11.0, 13.2, 13.3, 13.9):
        arrivals.arrived(moment)
    assert arrivals.drain(13.95) == [(10, 2), (11, 1), (12, 0)]
    assert arrivals.current == 3
    assert arrivals.drain(15.0) == [(13, 3), (14, 0)]
    assert arrivals.drain(15.5) == []


def test_a_long_silence_is_told_in_bounded_time() -> None:
    arrivals = Arrivals(0.0)
    arrivals.arrived(0.5)
    told = arrivals.drain(1e9)
    assert told[0] == (0, 1)
    assert len(told) == CATCH_UP_S + 1
    assert told[-1] == (int(1e9) - 1, 0)


def test_arrivals_that_nobody_drains_do_not_pile_up() -> None:
    arrivals = Arrivals(0.0)
    for second in range(5_000):
        arrivals.arrived(second + 0.5)
    assert len(arrivals.drain(5_000.0)) <= 2 * CATCH_UP_S


def test_a_steady_rate_is_its_own_forecast() -> None:
    forecast = Forecast()
    now = fed(forecast, [7] * 300)
    for horizon in (1, 6, 30, 200):
        assert forecast.demand(horizon, 0.5, now) == pytest.approx(7, rel=0.1)


def test_a_rising_rate_is_forecast_to_rise() -> None:
    forecast = Forecast()
    now = fed(forecast, [second // 10 for second in range(400)])
    assert forecast.demand(20, 0.5, now) > 39.0


def test_silence_is_forecast_as_silence_and_nothing_is_divided_by_it() -> None:
    forecast = Forecast(window_s=4, life_s=5)
    now = fed(forecast, [0] * 300)
    assert forecast.demand(10, 0.99, now) == pytest.approx(0.0, abs=0.05)
    assert forecast.chance(10, 3.0, now) == 0.0


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.98])
def test_a_quantile_of_demand_is_exceeded_as_often_as_it_says(quantile: float) -> None:
    chance, forecast = Random(1), Forecast()
    counts = [poisson(20.0, chance) for _ in range(6_000)]
    said: dict[int, float] = {}
    for index, count in enumerate(counts):
        forecast.second(index, count)
        if index >= 600:
            said[index + 10] = forecast.demand(10, quantile, index + 1.0)
    hits = [counts[index] > limit for index, limit in said.items() if index < len(counts)]
    assert sum(hits) / len(hits) == pytest.approx(1 - quantile, abs=0.08)


def test_the_chance_of_a_demand_falls_with_the_demand_and_needs_a_history() -> None:
    chance, forecast = Random(2), Forecast()
    now = fed(forecast, [poisson(20.0, chance) for _ in range(50)])
    assert forecast.chance(10, 1.0, now) == 0.0
    now = fed(forecast, [poisson(20.0, chance) for _ in range(1_000)], start=50)
    chances = [forecast.chance(10, rate, now) for rate in (0.0, 10.0, 20.0, 30.0, 60.0)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.99
    assert chances[-1] < 0.01


def test_a_longer_window_smooths_what_a_queue_can_carry() -> None:
    bursts = [10 if second % 10 == 0 else 0 for second in range(1_000)]
    sharp, smooth = Forecast(window_s=1, life_s=10), Forecast(window_s=10, life_s=10)
    now = fed(sharp, bursts)
    fed(smooth, bursts)
    assert sharp.chance(5, 5.0, now) > 0.9
    assert smooth.chance(5, 5.0, now) < 0.01


def test_the_hours_of_the_day_are_learned_over_days() -> None:
    season = Season()
    for hour in range(24 * 5):
        for second in range(3600):
            season.second(hour * 3600 + second, 9 if hour % 24 == 9 else 1)
    day = 5 * 86_400
    assert season.factor(day + 9 * 3600 + 1800) > 4.0
    assert season.factor(day + 15 * 3600) == pytest.approx(0.75, rel=0.1)
    before, after = Forecast(season=season), Forecast()
    start = day + 9 * 3600 - 1200
    now = fed(before, [1] * 20, start=start)
    fed(after, [1] * 20, start=start)
    assert before.demand(80, 0.5, now) > 1.03  # on its way from the hour before to the busy one
    assert after.demand(80, 0.5, now) == pytest.approx(1.0)


def test_a_season_that_knows_nothing_changes_nothing() -> None:
    season = Season(offset_s=12_345.0)
    assert {season.factor(second) for second in range(0, 700_000, 997)} == {1.0}


def test_steady_traffic_is_no_burst() -> None:
    chance, detector = Random(3), BurstDetector()
    bursts = 0
    for second in range(7_200):
        detector.second(second, poisson(10.0, chance))
        bursts += detector.burst(second + 1.0)
    assert bursts <= 3


def test_a_flash_crowd_is_seen_within_two_seconds() -> None:
    chance, detector = Random(4), BurstDetector()
    for second in range(600):
        detector.second(second, poisson(10.0, chance))
    assert not detector.burst(600.0)
    seen = []
    for second in (600, 601):
        detector.second(second, poisson(60.0, chance))
        seen.append(detector.burst(second + 1.0))
    assert any(seen)
    assert detector.rate() > 40


def test_a_burst_needs_a_history_and_survives_silence() -> None:
    detector = BurstDetector()
    assert not detector.burst(0.0)
    detector.second(0, 1_000)
    assert not detector.burst(1.0)
    quiet = BurstDetector()
    for second in range(500):
        quiet.second(second, 0)
    assert not quiet.burst(500.0)
    quiet.second(500, 2)
    assert not quiet.burst(501.0)  # two calls are no crowd
    quiet.second(501, 9)
    assert quiet.burst(502.0)
    assert not quiet.burst(510.0)  # what was last seen is old


def test_a_sketch_forgets() -> None:
    sketch = Sketch(-8, 20, half_life=10.0)
    for _ in range(100):
        sketch.add(4.0)
    for _ in range(100):
        sketch.add(0.5)
    assert sketch.above(3.0) < 0.01
    for _ in range(100_000):  # far beyond where the weights of a naive one overflow
        sketch.add(2.0)
    assert sketch.mass == pytest.approx(1 / (2**0.1 - 1), rel=0.01)
    assert sketch.quantile(0.5) == pytest.approx(2.0, rel=0.1)


def test_a_nearly_equal_shape_keeps_what_was_learned_and_another_one_does_not() -> None:
    forecast = Forecast(window_s=10, life_s=20)
    now = fed(forecast, [5] * 300)
    forecast.aim(11.4, 22.0)
    assert (forecast.window_s, forecast.life_s) == (10, 20)
    assert forecast.chance(5, 1.0, now) > 0.9
    forecast.aim(3.0, 20.0)
    assert (forecast.window_s, forecast.life_s) == (3, 20)
    assert forecast.chance(5, 1.0, now) == 0.0
    fed(forecast, [5] * 300, start=300)
    assert forecast.windowed == pytest.approx(5.0)
