"""The linear program behind the lower bound, on numpy and scipy's HiGHS. It knows work, not requests.

Importing it needs numpy and scipy; the text of the program and why it is a bound stand in `bound`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, eye_array, hstack, vstack

Vector = NDArray[np.float64]

_BINS = 2000
"""Most bins of a grid chosen here: the program is then solved in about half a second."""

_BINS_PER_BUDGET = 20
_PIECES = 32
"""Most pieces of the line that stands for what calls cost beside their time."""
_POINTS = 600_000
"""Most points of a grid before those within gaps are left out."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A grid of times, and at each of its points the least and the most work that can have been done.

    lengths:   of the bins, in seconds; `dt` is the usual one
    due:       slot-seconds that must be done by the end of each bin if every request makes its deadline
    possible:  slot-seconds that can be done by then
    """

    lengths: Vector
    due: Vector
    possible: Vector
    dt: float

    @classmethod
    def of(
        cls, arrivals: Sequence[float], services: Sequence[float], *, budget: float, dt: float | None
    ) -> "Demand":
        """Services above 0 throughout; a dt of None chooses one for at most 2,000 bins."""
        work = np.asarray(services, dtype=np.float64)
        first = np.asarray(arrivals, dtype=np.float64)
        # The latest start in time. A request longer than its budget is late anyhow: it is due at once.
        latest = first + np.maximum(0.0, budget - work)
        horizon = float((latest + work).max())
        possible, due = _Ramps(first, work), _Ramps(latest, work)
        chosen = dt or min(horizon, max(budget / _BINS_PER_BUDGET, horizon / _POINTS))
        while True:
            grid = chosen * np.arange(1, math.ceil(horizon / chosen) + 1)
            most = possible.at(grid)
            least = due.at(grid)
            kept = ~_within_gaps(least, most)
            bins = int(kept.sum())
            if dt is not None or bins <= _BINS:
                break
            chosen *= max(1.05, bins / _BINS)
        most = np.maximum.accumulate(most[kept])
        least = np.maximum.accumulate(np.minimum(least[kept], most))
        return cls(np.diff(grid[kept], prepend=0.0), least, most, chosen)


def _within_gaps(least: Vector, most: Vector) -> NDArray[np.bool_]:
    """Points inside a gap, where all that has come is done and nothing comes: one bin will do for it."""
    noise = 1e-9 * (1.0 + most)
    quiet = (most - least <= noise) & (np.diff(most, prepend=0.0) <= noise)
    return np.asarray(quiet & np.append(quiet[1:], False))


class _Ramps:
    """Work that starts at given times and goes on at one second per second until it is done."""

    def __init__(self, starts: Vector, work: Vector) -> None:
        self._edges = [np.sort(starts), np.sort(starts + work)]
        self._sums = [np.concatenate(([0.0], np.cumsum(edges))) for edges in self._edges]

    def at(self, grid: Vector) -> Vector:
        """The work done by each point of the grid: sum of min(work, max(0, t - start))."""
        areas = []
        for edges, sums in zip(self._edges, self._sums, strict=True):
            count = np.searchsorted(edges, grid)
            areas.append(count * grid - sums[count])
        return np.asarray(areas[0] - areas[1])


class Program:
    """The linear program. Its columns are k, then per bin y, u, Q = P + M, and what M grows by; after them z
    and the pieces of the extras, where they are needed.
    """

    def __init__(
        self,
        demand: Demand,
        *,
        premium: float,
        activation: float,
        missed_work: float,
        duration: float,
        bills_idle: bool = True,
        extras: Sequence[tuple[float, float]] = (),
    ) -> None:
        bins = len(demand.lengths)
        one = eye_array(bins, format="csr")
        step = one - diags_array([np.ones(bins - 1)], offsets=[-1], shape=(bins, bins))
        length = diags_array([demand.lengths], offsets=[0])
        none, column = csr_array((bins, bins)), csr_array((bins, 1))
        plain = bills_idle and not extras  # then those that serve need no variable of their own
        zeros, endless = np.zeros(bins), np.full(bins, np.inf)
        capacity = [csr_array(-demand.lengths.reshape(-1, 1)), -length if plain else none, none, step]
        opening = [column, step, -one, none]
        rows: list[list[Any]] = [capacity, opening]
        alive, serving = (
            (premium * demand.lengths, zeros) if bills_idle else (zeros, premium * demand.lengths)
        )
        cost = [np.array([duration]), alive, np.full(bins, activation), zeros]
        least = [np.zeros(1), zeros, zeros, demand.due]
        most = [np.full(1, np.inf), endless, endless, demand.possible]
        limits = [zeros, zeros]
        if missed_work > 0:
            capacity.append(-one)
            opening.append(none)
            rows.append([csr_array((1, 1 + 3 * bins)), csr_array(np.ones((1, bins)))])
            cost.append(zeros)
            least.append(zeros)
            most.append(endless)
            limits.append(np.array([missed_work]))
        if not plain:
            before = sum(map(len, cost))
            rates, amounts = _pieces(extras)
            for row in rows[1:]:
                row.append(csr_array((row[0].shape[0], bins + len(rates))))
            capacity += [-length, csr_array((bins, len(rates)))]
            rows.append(
                [column, -one, csr_array((bins, before - 1 - bins)), one, csr_array((bins, len(rates)))]
            )
            limits.append(zeros)
            if len(rates):
                work = csr_array(demand.lengths.reshape(1, -1))
                rows.append([csr_array((1, before)), work, csr_array(-np.ones((1, len(rates))))])
                limits.append(np.zeros(1))
            cost += [serving, rates]
            least += [zeros, np.zeros(len(rates))]
            most += [endless, amounts]
        self._cost = np.concatenate(cost)
        self._rows = vstack([hstack(row) for row in rows]).tocsr()
        self._limits = np.concatenate(limits)
        self._bounds = np.column_stack((np.concatenate(least), np.concatenate(most)))

    def solve(self, replicas: int | None) -> tuple[float, float]:
        """The least cost and its number of fleet slots. Raises ArithmeticError if there is no answer."""
        bounds = self._bounds.copy()
        if replicas is not None:
            bounds[0] = replicas
        answer = linprog(self._cost, A_ub=self._rows, b_ub=self._limits, bounds=bounds, method="highs-ds")
        if answer.status != 0:
            raise ArithmeticError(f"the lower bound was not found: {answer.message}")
        return float(answer.fun), float(answer.x[0])


def _pieces(extras: Sequence[tuple[float, float]]) -> tuple[Vector, Vector]:
    """Of (cost beside the time, work) of each call: price of a second of work, and so many seconds at it.

    The cheapest first, similar ones together at the price of the cheapest among them.
    """
    if not extras:
        return np.zeros(0), np.zeros(0)
    costs, work = np.asarray(extras, dtype=np.float64).T
    rates = costs / work
    order = np.argsort(rates)
    groups = [group for group in np.array_split(order, _PIECES) if len(group)]
    prices = np.array([rates[group[0]] for group in groups])
    amounts = np.array([work[group].sum() for group in groups])
    # The last one has no end: rounding in the sums above must not make a program without an answer.
    amounts[-1] = np.inf
    return prices, amounts
