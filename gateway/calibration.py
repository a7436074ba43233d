"""How far predictions are stretched so that they hold as often as the objective says.

Standard library only. It knows neither what is predicted nor how: only whether a prediction held.

Adaptive conformal inference (Gibbs, Candes, NeurIPS 2021), on the logarithm of a multiplier instead of
on a level: a prediction that did not hold stretches the next ones by `RATE * objective`, one that held
shrinks them by `RATE * (1 - objective)`. Over T outcomes the share that held differs from the objective
by at most log(HIGHEST / LOWEST) / (RATE * T), whatever the distribution and however it shifts, as long
as the multiplier is not at its end stop.
"""

from math import exp
from typing import Final, NamedTuple

RATE: Final = 0.05
"""A missed prediction stretches the next ones by about 5 %."""
LOWEST: Final = 0.2
HIGHEST: Final = 4.0
"""End stops: an outage must not teach that nothing will ever be in time, nor a lull that all will."""

_ROUNDING: Final = 1.0 + 1e-9


class Steps(NamedTuple):
    """What the multiplier is multiplied with, by what became of a prediction: worked out once, used for every
    answer.
    """

    missed: float
    held: float


def steps(objective: float) -> Steps:
    """Of predictions that are to hold with that chance."""
    return Steps(exp(RATE * objective), exp(RATE * (objective - 1.0)))


def recalibrated(multiplier: float, by: Steps, predicted: float, actual: float) -> float:
    """The multiplier after one outcome: `predicted` was to cover `actual`."""
    if actual > predicted * _ROUNDING:
        multiplier *= by.missed
        return multiplier if multiplier < HIGHEST else HIGHEST
    multiplier *= by.held
    return multiplier if multiplier > LOWEST else LOWEST
