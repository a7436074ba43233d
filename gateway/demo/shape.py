"""The demo's load as a list of moments: calm, a burst, calm again. Pure and seeded."""

from random import Random
from typing import NamedTuple


class Phase(NamedTuple):
    """A stretch of time with one mean rate."""

    name: str
    begins: float  # seconds from the start of the load
    ends: float
    rps: float


def phases(seconds: float, *, calm_rps: float, burst_rps: float) -> list[Phase]:
    """30 % calm, 40 % burst, 30 % calm."""
    first, second = 0.3 * seconds, 0.7 * seconds
    return [
        Phase("calm", 0.0, first, calm_rps),
        Phase("burst", first, second, burst_rps),
        Phase("calm again", second, seconds, calm_rps),
    ]


def arrivals(plan: list[Phase], chance: Random) -> list[float]:
    """Poisson arrivals of every phase, ascending, in seconds from the start of the load."""
    moments: list[float] = []
    for phase in plan:
        # A Poisson process has no memory: drawing anew at the border changes nothing.
        moment = phase.begins + chance.expovariate(phase.rps)
        while moment < phase.ends:
            moments.append(moment)
            moment += chance.expovariate(phase.rps)
    return moments


def phase_at(plan: list[Phase], moment: float) -> Phase:
    """The phase that `moment` falls into; the last one for any later moment."""
    return next((phase for phase in plan if moment < phase.ends), plan[-1])
