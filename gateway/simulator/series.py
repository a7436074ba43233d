"""What went on during a simulated run, as series over time in few enough bins to be drawn.

Derived from what an `Outcome` recorded; nothing is decided or simulated again. A bin keeps the most and
the mean of what it covers, so that no peak is averaged away however long the trace is. Standard library
only. It never knows how a series is drawn.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isnan
from operator import itemgetter, mul

from gateway.simulator.run import Outcome
from gateway.simulator.scenario import Scenario, Workload
from gateway.simulator.world import SimulatedEndpoint

BINS = 360
"""Most bins of a series."""
SAME_S = 1e-9
"""Moments that are nearer to each other are one: adding and taking off a service time rounds."""
LATENCY_BIN = 20
"""Requests that a bin of latencies should hold on average: with fewer, quantiles say little."""
MOST_LATE = 4
"""Late answers that are kept for each bin: the highest, the lowest, and some between."""

OPENING, BUSY, IDLE = range(3)
"""The states of a rented instance, in the order of the columns of `rented`."""

Change = tuple[float, int, int]
"""When, which column, by how much."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Equal bins from `start` on, each `width` seconds long."""

    start: float
    width: float
    count: int

    @classmethod
    def over(cls, start: float, end: float, *, bins: int = BINS, least: float = 0.0) -> "Grid":
        """So many bins that end with `end`; fewer, and up to one bin longer, if they need `least` seconds."""
        span = max(end - start, least, SAME_S)
        width = max(span / bins, least)
        return cls(start, width, max(1, ceil(span / width - 1e-6)))

    def at(self, moment: float) -> int:
        """The bin of a moment; those outside belong to the first or the last."""
        return min(max(int((moment - self.start) / self.width), 0), self.count - 1)

    def edge(self, index: int) -> float:
        """When bin number `index` begins."""
        return self.start + index * self.width

    @property
    def end(self) -> float:
        """When the last bin ends."""
        return self.edge(self.count)


@dataclass(frozen=True, slots=True)
class Levels:
    """How many there were of each column, for every bin.

    fullest:  the columns at the moment of the bin at which their sum was highest
    means:    the columns, averaged over the time of the bin
    highest:  the most there ever was of each column, and when that began
    """

    fullest: list[tuple[int, ...]]
    means: list[tuple[float, ...]]
    highest: list[tuple[int, float]]

    @property
    def peak(self) -> int:
        """The highest sum there ever was."""
        return max(map(sum, self.fullest))


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of the requests that arrived in each bin; None where none was answered.

    bands:  least, median, 95th percentile and greatest answer, in seconds
    late:   (arrival, answer) of answers after the budget, at most MOST_LATE of a bin, its greatest always
    lost:   arrivals of requests that were never answered, the first of each bin
    """

    grid: Grid
    bands: list[tuple[float, float, float, float] | None]
    late: list[tuple[float, float]]
    lost: list[float]
    misses: int


@dataclass(frozen=True, slots=True)
class RunSeries:
    """One policy's run.

    fleet:    slots of the fleet in use; one column
    rented:   by endpoint: instances opening, serving and idle
    waiting:  requests that have arrived and are not being served; one column
    cost:     paid so far at every edge of the grid, in the unit of the prices
    """

    fleet: Levels
    rented: dict[str, Levels]
    waiting: Levels
    latency: Latencies
    cost: list[float]


def arrivals_per_second(workload: Workload) -> tuple[Grid, list[int], list[float]]:
    """For bins of whole seconds: the arrivals of the busiest second in each, and the mean per second."""
    start, end = workload.arrivals[0], workload.arrivals[-1]
    grid = Grid.over(start, end, least=1.0)
    grid = Grid(start, float(ceil(grid.width - 1e-6)), 1)
    grid = Grid(start, grid.width, int((end - start) / grid.width) + 1)
    seconds = Counter(int(arrival - start) for arrival in workload.arrivals)
    most, total = [0] * grid.count, [0] * grid.count
    for second, count in seconds.items():
        index = grid.at(start + second + 0.5)
        most[index] = max(most[index], count)
        total[index] += count
    return grid, most, [count / grid.width for count in total]


def span(workload: Workload, outcomes: Iterable[Outcome]) -> Grid:
    """The time that all runs cover, from the first arrival to the last thing that is paid for."""
    start = workload.arrivals[0]
    end = workload.arrivals[-1]
    for outcome in outcomes:
        end = max(end, start + outcome.duration)
        for endpoint in outcome.endpoints:
            end = max(end, max((life.gone or 0.0 for life in endpoint.lives), default=0.0))
    return Grid.over(start, end)


def run_series(workload: Workload, scenario: Scenario, outcome: Outcome, grid: Grid) -> RunSeries:
    """All series of one run, on the bins of `grid`; latencies have wider ones where requests are few."""
    fleet: list[Change] = []
    busy: dict[int, list[Change]] = {}
    fleet_place = _place(outcome, scenario)
    for place, began, ended in _services(workload, outcome):
        changes = fleet if place == fleet_place else busy.setdefault(place, [])
        column = 0 if place == fleet_place else BUSY
        changes += ((began, column, 1), (ended, column, -1))
    rented = {
        endpoint.name: levels(
            _lives(endpoint, grid.end, busy.get(outcome.place_names.index(endpoint.name), [])), 3, grid
        )
        for endpoint in outcome.endpoints
    }
    return RunSeries(
        fleet=levels(fleet, 1, grid),
        rented=rented,
        waiting=levels(_waiting(workload, outcome, grid.end), 1, grid),
        latency=_latencies(workload, outcome, scenario.budget_s),
        cost=_cost(workload, scenario, outcome, rented, grid),
    )


def levels(changes: Iterable[Change], columns: int, grid: Grid) -> Levels:
    """The counts that begin at 0 and move by `changes`, over the bins of `grid`.

    What happens within SAME_S happens at once: a level that lasts no time was never there.
    """
    now = [0] * columns
    found = _Bins(grid, columns)
    highest = [(0, grid.start)] * columns
    since = grid.start
    for moment, together in _moments(changes):
        found.hold(since, moment, now)
        since = max(since, moment)
        for _, column, by in together:
            now[column] += by
        for column, count in enumerate(now):
            if count > highest[column][0]:
                highest[column] = (count, moment)
    found.hold(since, grid.end, now)
    means = [tuple(area / grid.width for area in areas) for areas in found.areas]
    return Levels(found.fullest, means, highest)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; nearest rank."""
    return ascending[max(0, ceil(share * len(ascending) - 1e-9) - 1)]


class _Bins:
    """What the bins have seen so far."""

    def __init__(self, grid: Grid, columns: int) -> None:
        self._grid = grid
        self._tops = [-1] * grid.count
        self.fullest: list[tuple[int, ...]] = [(0,) * columns] * grid.count
        self.areas = [[0.0] * columns for _ in range(grid.count)]

    def hold(self, since: float, until: float, now: Sequence[int]) -> None:
        """Nothing changes from `since` to `until`."""
        if until <= since:
            return
        grid, tops = self._grid, self._tops
        total = sum(now)
        for index in range(grid.at(since), grid.at(until) + 1):
            lasted = min(until, grid.edge(index + 1)) - max(since, grid.edge(index))
            if lasted <= 0:
                continue
            if total > tops[index]:
                tops[index] = total
                self.fullest[index] = tuple(now)
            area = self.areas[index]
            for column, count in enumerate(now):
                if count:
                    area[column] += count * lasted


def _moments(changes: Iterable[Change]) -> Iterator[tuple[float, list[Change]]]:
    together: list[Change] = []
    for change in sorted(changes, key=itemgetter(0)):
        if together and change[0] - together[0][0] > SAME_S:
            yield together[0][0], together
            together = []
        together.append(change)
    if together:
        yield together[0][0], together


def _place(outcome: Outcome, scenario: Scenario) -> int | None:
    name = scenario.fleet.name if scenario.fleet is not None else None
    return outcome.place_names.index(name) if name in outcome.place_names else None


def _services(workload: Workload, outcome: Outcome) -> Iterator[tuple[int, float, float]]:
    """Who served, from when, until when: of every request that was served."""
    rows = zip(outcome.places, outcome.begun, workload.arrivals, outcome.answers, strict=True)
    for place, began, arrived, answer in rows:
        if place >= 0 and not isnan(answer):
            yield place, began, arrived + answer


def _lives(endpoint: SimulatedEndpoint, end: float, busy: list[Change]) -> Iterator[Change]:
    """Instances are idle whenever they neither boot nor serve."""
    for life in endpoint.lives:
        gone = end if life.gone is None else life.gone
        booted = min(life.opened + life.cold_s, gone)
        yield life.opened, OPENING, 1
        yield booted, OPENING, -1
        yield booted, IDLE, 1
        yield gone, IDLE, -1
    for moment, column, by in busy:
        yield moment, column, by
        yield moment, IDLE, -by


def _waiting(workload: Workload, outcome: Outcome, end: float) -> Iterator[Change]:
    """From the arrival to the service; a request that is bound to a booting instance waits as well."""
    for arrived, began in zip(workload.arrivals, outcome.begun, strict=True):
        left = end if isnan(began) else began
        if left - arrived > SAME_S:
            yield arrived, 0, 1
            yield left, 0, -1


def _latencies(workload: Workload, outcome: Outcome, budget_s: float) -> Latencies:
    bins = min(BINS, max(24, len(workload) // LATENCY_BIN))
    grid = Grid.over(workload.arrivals[0], workload.arrivals[-1], bins=bins)
    answered: list[list[tuple[float, float]]] = [[] for _ in range(grid.count)]
    lost: dict[int, float] = {}
    misses = 0
    for arrived, answer in zip(workload.arrivals, outcome.answers, strict=True):
        if isnan(answer):
            lost.setdefault(grid.at(arrived), arrived)
            misses += 1
        else:
            answered[grid.at(arrived)].append((answer, arrived))
            misses += answer > budget_s + SAME_S
    bands: list[tuple[float, float, float, float] | None] = []
    late: list[tuple[float, float]] = []
    for pairs in answered:
        pairs.sort()
        seconds = [answer for answer, _ in pairs]
        bands.append(
            (seconds[0], quantile(seconds, 0.5), quantile(seconds, 0.95), seconds[-1]) if seconds else None
        )
        over = [(arrived, answer) for answer, arrived in pairs if answer > budget_s + SAME_S]
        late += _some(over, MOST_LATE)
    return Latencies(grid, bands, late, list(lost.values()), misses)


def _some(ascending: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(ascending) <= most:
        return ascending
    last = len(ascending) - 1
    return [ascending[round(last * step / (most - 1))] for step in range(most)]


def _cost(
    workload: Workload, scenario: Scenario, outcome: Outcome, rented: dict[str, Levels], grid: Grid
) -> list[float]:
    """The fleet is paid evenly; instances while they live, fees as calls begin. It ends at the cost.

    Lives and calls say when money was spent; how much in all is the outcome's own account.
    """
    split = outcome.cost_split
    prices = {
        plan.name: tuple(plan.usd_per_second * share for share in (plan.bills_boot, 1.0, plan.bills_idle))
        for plan in scenario.endpoints
    }
    per_call = {plan.name: plan.usd_per_call for plan in scenario.endpoints}
    living = [
        sum(sum(map(mul, prices[name], each.means[index])) for name, each in rented.items())
        for index in range(grid.count)
    ]
    fees = [0.0] * grid.count
    for place, began, _ in _services(workload, outcome):
        fees[grid.at(began)] += per_call.get(outcome.place_names[place], 0.0)
    standing, fee = split.get("fleet", 0.0), split.get("fee", 0.0)
    lives = _summed(living, sum(split.values()) - standing - fee)
    calls = _summed(fees, fee)
    return [
        standing * _passed(index * grid.width, outcome.duration) + lives[index] + calls[index]
        for index in range(grid.count + 1)
    ]


def _passed(since_start: float, duration: float) -> float:
    return min(1.0, since_start / duration) if duration > 0 else 1.0


def _summed(parts: Sequence[float], total: float) -> list[float]:
    """Running sums from 0 to `total`, in proportion to the parts."""
    whole = sum(parts)
    sums = [0.0]
    for part in parts:
        sums.append(sums[-1] + (part / whole * total if whole else total / len(parts)))
    return sums
