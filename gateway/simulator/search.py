"""How many replicas: the cheapest number under which a policy attains the objective.

Knows nothing but runs and what they cost; a policy never gets here.
"""

from math import ceil, inf
from typing import Protocol

from gateway.simulator.run import Outcome, TooManyMissed
from gateway.simulator.scenario import Scenario, Workload

MOST_REQUESTS = 1_000_000
"""With at most so many requests in all runs together, every number of replicas may be tried."""
STEP = 1.3
"""Else the numbers tried first grow by this factor."""


class Try(Protocol):
    """One run."""

    def __call__(self, replicas: int, *, may_miss: float = inf) -> Outcome:
        """Raises TooManyMissed."""
        ...


def cheapest(workload: Workload, scenario: Scenario, run: Try) -> Outcome:
    """The outcome with the least cost among those that attain the objective.

    Where the services themselves take too long for that, what they allow is the objective. A policy that
    does not attain it with any number of replicas is shown where it attains most: with none or with as
    many as ever have work.

    A run ends when it has missed too much. The fleet's standing price over the trace falls due whatever
    the policy does, which ends the search upwards without a guess. Where the numbers are many, it goes
    from a grid to what lies beside the best of it: exact where the cost has one valley.
    """
    fleet = scenario.fleet
    if fleet is None:
        return run(0)
    requests = len(workload)
    objective = min(scenario.objective, workload.possible(scenario.budget_s))
    most = ceil(workload.peak / fleet.slots)  # with so many nobody waits: more change nothing
    search = _Search(
        run,
        may_miss=requests * (1.0 - objective) + 1e-6,
        standing=workload.span * fleet.usd_per_second,
        grid=_grid(most, every=most * requests <= MOST_REQUESTS),
    )
    found = search.best()
    if found is not None:
        return found
    return max(run(0), run(most), key=lambda outcome: (outcome.attained, -outcome.cost))


class _Search:
    def __init__(self, run: Try, *, may_miss: float, standing: float, grid: list[int]) -> None:
        self._run = run
        self._may_miss = may_miss
        self._standing = standing  # of one replica over the whole trace
        self._grid = grid
        self._costs: dict[int, float] = {}  # of every number tried; inf: missed too much
        self._best: Outcome | None = None

    def best(self) -> Outcome | None:
        """The cheapest that attains the objective, if any does."""
        for replicas in self._grid:
            if not self._may_pay(replicas):
                break
            outcome = self._look(replicas)
            if outcome is not None and replicas and outcome.spilled == outcome.requests:
                break  # there is a fleet, and the policy leaves it aside
        while self._best is not None and (beside := self._beside(self._best.replicas)) is not None:
            self._look(beside)
        return self._best

    def _look(self, replicas: int) -> Outcome | None:
        try:
            outcome = self._run(replicas, may_miss=self._may_miss)
        except TooManyMissed:
            self._costs[replicas] = inf
            return None
        self._costs[replicas] = outcome.cost
        if self._best is None or (outcome.cost, replicas) < (self._best.cost, self._best.replicas):
            self._best = outcome
        return outcome

    def _may_pay(self, replicas: int) -> bool:
        """Could so many replicas be cheaper than the best so far?"""
        return self._best is None or replicas * self._standing < self._best.cost

    def _beside(self, best: int) -> int | None:
        """A number not tried yet, half-way between the best one and the next that was tried."""
        below = max((tried for tried in self._costs if tried < best), default=best)
        if best - below > 1:
            return (best + below) // 2
        above = min((tried for tried in self._costs if tried > best), default=self._grid[-1] + 1)
        middle = (best + above) // 2
        return middle if middle > best and self._may_pay(middle) else None


def _grid(most: int, *, every: bool) -> list[int]:
    """0, 1, 2, … up to `most`, in wider and wider steps unless `every` number is wanted."""
    if every:
        return list(range(most + 1))
    numbers = [0]
    while numbers[-1] < most:
        numbers.append(min(most, max(numbers[-1] + 1, ceil(numbers[-1] * STEP))))
    return numbers
