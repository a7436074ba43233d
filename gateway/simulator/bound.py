"""The clairvoyant lower bound: a cost that no schedule of the same requests can undercut.

It knows arrivals, service times and prices, and never a policy. The bound is the value of a linear
program over a grid of times 0 < t_1 < t_2 < …, in which work is a fluid that may be paused and moved
freely between slots, and capacity is there the moment it is wanted:

    minimise    duration * k  +  sum_b premium * (t_b - t_b-1) * y_b  +  premium * (cold + idle) * u_b
    where       D(t_b)  <=  P_b + M_b  <=  A(t_b)          work due, work that can have been done
                P_b - P_b-1  <=  (t_b - t_b-1) * (k + y_b)  k fleet slots, y_b elastic ones on average
                y_b - y_b-1  <=  u_b                        elastic slots opened
                M_b does not fall, and ends at most at the work of the requests that may be missed

Why it is below every real schedule: take for P_b the work that the schedule has done by t_b on requests
that it answers in time, for M_b what the others could have had by then, and for y_b the mean number of
elastic slots alive in the bin. An instance's share of the bins rises once and falls once, so that the
rises of y add up to at most the number of activations, each of which is billed its cold start and its
idle time-out. The curves A and D are exact at the points of the grid: a request of work p can have had
at most min(p, t - arrival) by then, and at least p minus the time left to its deadline. A coarser grid
only leaves conditions out. It holds in expectation over cold starts, as nobody can foresee those.

Two things take a variable more, z_b <= y_b, the elastic slots that serve, in place of y_b in the second
condition. Where idling is not billed the price is on z_b, and y_b costs its rise alone: an instance that is
not paid for may stay. What calls cost beside their time, fees and rounding up, is a convex function of the
elastic work, sum_b (t_b - t_b-1) * z_b: nobody does so much of it for less than with those calls for which
that is least for their work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_TOLERANCE = 1e-6
"""Share taken off the solver's value, which is right to about 1e-7."""


class SolverMissing(LookupError):
    """numpy and scipy, which the bound needs and nothing else does, are not installed."""


@dataclass(frozen=True, slots=True)
class Bound:
    """cost in fleet slot-seconds, the fleet slots at which it is reached, the bins' length in seconds."""

    cost: float
    replicas: int
    dt: float


def lower_bound(
    arrivals: Sequence[float],
    services: Sequence[float],
    *,
    budget: float,
    attained: float,
    premium: float,
    cold_mean: float,
    idle: float,
    duration: float,
    replicas: int | None = None,
    dt: float | None = None,
    bills_idle: bool = True,
    extras: Sequence[float] = (),
) -> Bound:
    """The bound for requests that take `services` seconds of one slot, fleet or elastic alike.

    budget:     seconds from arrival to the end of the answer
    attained:   share of the requests that must make it; the rest costs nothing here
    premium:    price of a second of an elastic slot, in seconds of a fleet slot
    cold_mean:  seconds billed for a cold start on average; 0 where the provider does not bill them
    idle:       seconds billed after an instance's last request; 0 where idling is not billed
    duration:   seconds for which the fleet is paid
    replicas:   fleet slots; None finds the number that makes the bound least
    dt:         seconds per bin; None chooses them so that 220,000 requests take less than 3 s
    bills_idle: whether an instance is paid for between its requests
    extras:     what each request costs on an elastic slot beside its time, in slot-seconds; none: nothing

    Raises ValueError for arguments that make no sense, SolverMissing without numpy and scipy, and
    ArithmeticError if the solver gives up.
    """
    _check_rows(arrivals, services, "arrival")
    amounts = {"budget": budget, "premium": premium, "cold_mean": cold_mean, "idle": idle}
    _check_amounts(amounts | {"duration": duration, "replicas": replicas or 0}, attained, dt)
    if extras:
        _check_rows(extras, services, "extra")
    fluid = _fluid()
    busy = [row for row, work in enumerate(services) if work > 0]
    if not busy:
        return Bound((replicas or 0) * duration, replicas or 0, dt or 0.0)
    demand = fluid.Demand.of(
        [arrivals[row] for row in busy], [services[row] for row in busy], budget=budget, dt=dt
    )
    # A hair more, never less, may be missed: (1 - 0.9) * 10 is 0.9999... in floating point.
    missed = int((1.0 - attained) * len(services) + 1e-6)
    program = fluid.Program(
        demand,
        premium=premium,
        activation=premium * (cold_mean + idle),
        bills_idle=bills_idle,
        extras=[(extras[row], services[row]) for row in busy] if any(extras) else [],
        missed_work=math.fsum(sorted(services, reverse=True)[:missed]),
        duration=duration,
    )
    return _best(program, demand.dt, replicas)


def _best(program: Any, dt: float, replicas: int | None) -> Bound:
    """With that many fleet slots, or with as many as make it least."""
    if replicas is not None:
        return Bound(_lowered(program.solve(replicas)[0]), replicas, dt)
    _, best = program.solve(None)
    # The value is convex in the number of slots, so the best whole number is beside the best real one.
    whole = {math.floor(best + _TOLERANCE), math.ceil(best - _TOLERANCE)}
    cost, fleet = min((program.solve(slots)[0], slots) for slots in whole)
    return Bound(_lowered(cost), fleet, dt)


def _fluid() -> ModuleType:
    try:
        from gateway.simulator import fluid  # noqa: PLC0415 - optional, and seconds to import
    except ImportError as error:
        raise SolverMissing(
            "the lower bound needs numpy and scipy; install them, or ask for no bound"
        ) from error
    return fluid


def _lowered(value: float) -> float:
    return max(0.0, value * (1.0 - _TOLERANCE))


def _check_amounts(amounts: Mapping[str, float], attained: float, dt: float | None) -> None:
    for name, value in amounts.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")
    if not 0 <= attained <= 1:
        raise ValueError(f"attained is {attained}; it is a share from 0 to 1")
    if dt is not None and not 0 < dt < math.inf:
        raise ValueError(f"dt is {dt}; it must be a finite number above 0")


def _check_rows(first: Sequence[float], services: Sequence[float], noun: str) -> None:
    if len(first) != len(services):
        raise ValueError(f"{len(first)} {noun}s but {len(services)} service times")
    for name, values in ((noun, first), ("service time", services)):
        for row, value in enumerate(values):
            if not 0 <= value < math.inf:
                raise ValueError(f"request {row}: its {name} is {value}; it must be finite and at least 0")
