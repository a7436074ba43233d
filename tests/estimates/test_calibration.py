"""Predictions, stretched by the calibration, hold as often as the objective says."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calibration import HIGHEST, LOWEST, recalibrated, steps
from gateway.estimates import BackendEstimates, Expectation, Prior


def coverage(objective: float, actual: Callable[[int, Random], float], calls: int = 12_000) -> float:
    chance = Random(11)
    estimates = BackendEstimates(Expectation(objective=objective, service=Prior(0.5, 2.0)))
    bucket, now, held = estimates.bucket_of(100.0), 0.0, 0
    for call in range(calls):
        now += chance.expovariate(5.0)
        profile = estimates.profiles[bucket]
        predicted = profile.mean + estimates.calibration * (profile.tail - profile.mean)
        seconds = actual(call, chance)
        held += seconds <= predicted
        estimates.learn_served(bucket, seconds, now)
    return held / calls


SETTINGS: dict[str, Callable[[int, Random], float]] = {
    "steady": lambda _, chance: chance.lognormvariate(0, 0.4),
    "drifting up": lambda call, chance: (1 + call / 2_000) * chance.lognormvariate(0, 0.4),
    "jumping": lambda call, chance: (3.0 if call // 3_000 % 2 else 1.0) * chance.lognormvariate(0, 0.4),
    "heavy": lambda _, chance: 0.2 * chance.paretovariate(1.7),
}


@pytest.mark.parametrize("objective", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("setting", SETTINGS)
def test_coverage_reaches_the_objective(setting: str, objective: float) -> None:
    share = coverage(objective, SETTINGS[setting])
    assert share >= objective - 0.2 * (1 - objective)
    # after a jump the worse of two tails is kept on purpose, and the stretch has its end stop
    assert share <= objective + (0.4 if setting == "jumping" else 0.2) * (1 - objective)


@pytest.mark.parametrize("bias", [0.5, 2.0])
def test_a_predictor_that_is_wrong_is_put_right(bias: float) -> None:
    chance = Random(12)
    multiplier, held = 1.0, 0
    for _ in range(8_000):
        predicted = 1.0 + multiplier * bias * 0.93  # the true distance of the 0.95 quantile is 0.93
        seconds = chance.lognormvariate(0, 0.4)
        held += seconds <= predicted
        multiplier = recalibrated(multiplier, steps(0.95), predicted, seconds)
    assert held / 8_000 == pytest.approx(0.95, abs=0.01)


@given(
    outcomes=st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), max_size=300),
    objective=st.floats(0.5, 0.999),
)
def test_the_stretch_stays_between_its_stops(outcomes: list[tuple[float, float]], objective: float) -> None:
    multiplier = 1.0
    for predicted, actual in outcomes:
        multiplier = recalibrated(multiplier, steps(objective), predicted, actual)
        assert LOWEST <= multiplier <= HIGHEST


def test_an_outcome_exactly_as_predicted_held() -> None:
    assert recalibrated(1.0, steps(0.9), 0.1 + 0.2, 0.3) < 1
    assert recalibrated(1.0, steps(0.9), 0.3, 0.1 + 0.2) < 1
    assert recalibrated(1.0, steps(0.9), 0.3, 0.31) > 1
