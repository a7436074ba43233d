"""Draws series as SVG, to be put into a page that has the colours (`page.css`).

Text, shapes and scales only: it counts nothing, and what comes from outside is escaped here. Every
drawing says in words, for those who cannot see it, what it shows and what its highest point is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from gateway.simulator.series import BUSY, IDLE, OPENING, Grid, Latencies, Levels

WIDTH = 900
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 24, 36
LINES = 8
"""Kinds of line in the style sheet; a ninth looks like the first."""

Format = Callable[[float], str]

_TIMES = ((1.0, "seconds", 180.0), (60.0, "minutes", 10_800.0), (3600.0, "hours", 259_200.0))
_DAY = (86_400.0, "days")


class Drawing(NamedTuple):
    """An SVG element, and in words what its highest point is."""

    svg: str
    words: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Of the upright axis: from `low` at the bottom to `high`, in even steps or even ratios."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def linear(cls, high: float, *, whole: bool = False, count: int = 4) -> "Scale":
        """From 0 to a little above `high`, marked at round numbers."""
        high = high if high > 0 else 1.0
        step = nice_step(high / count)
        step = max(1.0, step) if whole else step
        marks = ceil(high / step - 1e-9)
        return cls(0.0, marks * step, tuple(index * step for index in range(marks + 1)))

    @classmethod
    def logarithmic(cls, low: float, high: float) -> "Scale":
        """Whole decades around both, marked at every one (and at 2 and 5 of it where they are few)."""
        first, last = floor(log10(low)), ceil(log10(high) + 1e-9)
        fine = (1, 2, 5) if last - first <= 2 else (1,)
        every = ceil((last - first) / 6)
        ticks = tuple(part * 10.0**decade for decade in range(first, last, every) for part in fine)
        return cls(10.0**first, 10.0**last, (*ticks, 10.0**last), log=True)

    def height(self, value: float) -> float:
        """0 at the bottom, 1 at the top, never outside."""
        if self.log:
            value = log10(max(value, self.low) / self.low) / log10(self.high / self.low)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, value))


@dataclass(slots=True)
class Chart:
    """One drawing over time: shapes are added in the order in which they cover each other."""

    ident: str
    title: str
    words: str
    axis: Grid
    scale: Scale
    unit: str
    height: int = 150
    name: Format = lambda value: f"{value:,.10g}"
    parts: list[str] = field(default_factory=list)

    def x(self, moment: float) -> str:
        """Where a moment is drawn."""
        share = (moment - self.axis.start) / (self.axis.end - self.axis.start)
        return _number(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT))

    def y(self, value: float) -> str:
        """Where a value is drawn."""
        room = self.height - TOP - BOTTOM
        return _number(TOP + (1.0 - self.scale.height(value)) * room)

    def band(self, style: str, grid: Grid, lows: Sequence[float], highs: Sequence[float]) -> None:
        """The area between two stairs."""
        there = self._stairs(grid, highs)
        back = self._stairs(grid, lows, backwards=True)
        self.parts.append(f'<path class="{style}" d="M{there}L{back}Z"/>')

    def stairs(self, style: str, grid: Grid, values: Sequence[float]) -> None:
        """A line that is level within each bin."""
        self.parts.append(f'<path class="{style}" d="M{self._stairs(grid, values)}"/>')

    def line(self, style: str, grid: Grid, values: Sequence[float]) -> None:
        """A line from edge to edge of the bins."""
        points = "L".join(f"{self.x(grid.edge(index))} {self.y(value)}" for index, value in enumerate(values))
        self.parts.append(f'<path class="{style}" d="M{points}"/>')

    def dots(self, style: str, points: Iterable[tuple[float, float]]) -> None:
        """One dot for each (moment, value); those that cover each other once."""
        places = dict.fromkeys((self.x(moment), self.y(value)) for moment, value in points)
        if places:
            path = "".join(f"M{x} {y}h0" for x, y in places)
            self.parts.append(f'<path class="{style}" d="{path}"/>')

    def level(self, style: str, value: float, label: str) -> None:
        """A line across at `value`, with its name above it at the right."""
        y = self.y(value)
        self.parts.append(
            f'<path class="{style}" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
            f'<text class="label" x="{WIDTH - RIGHT - 3}" y="{_number(float(y) - 4)}" '
            f'text-anchor="end">{escape(label)}</text>'
        )

    def drawn(self) -> "Drawing":
        """All of it, with its axes."""
        mark = escape(self.ident)
        svg = (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-labelledby="{mark}-t {mark}-d">'
            f'<title id="{mark}-t">{escape(self.title)}</title>'
            f'<desc id="{mark}-d">{escape(self.words)}</desc>'
            f"{self._upright()}{self._time()}{''.join(self.parts)}"
            f'<path class="axis" d="M{LEFT} {TOP}V{self.height - BOTTOM}H{WIDTH - RIGHT}"/></svg>'
        )
        return Drawing(svg, self.words)

    def _upright(self) -> str:
        rows = [f'<text class="unit" x="4" y="13">{escape(self.unit)}</text>']
        for tick in self.scale.ticks:
            y = self.y(tick)
            rows.append(
                f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
                f'<text x="{LEFT - 6}" y="{_number(float(y) + 4)}" text-anchor="end">'
                f"{escape(self.name(tick))}</text>"
            )
        return "".join(rows)

    def _time(self) -> str:
        span = self.axis.end - self.axis.start
        seconds, word = next(((unit, name) for unit, name, most in _TIMES if span <= most), _DAY)
        step = nice_step(span / seconds / 8)
        foot = self.height - BOTTOM
        rows = []
        for index in range(int(span / seconds / step + 1e-9) + 1):
            x = self.x(self.axis.start + index * step * seconds)
            rows.append(
                f'<path class="grid" d="M{x} {TOP}V{foot}"/>'
                f'<text x="{x}" y="{foot + 15}" text-anchor="middle">{index * step:,.10g}</text>'
            )
        middle = _number((LEFT + WIDTH - RIGHT) / 2)
        rows.append(
            f'<text class="unit" x="{middle}" y="{foot + 31}" text-anchor="middle">'
            f"{word} since the first request</text>"
        )
        return "".join(rows)

    def _stairs(self, grid: Grid, values: Sequence[float], *, backwards: bool = False) -> str:
        """Points of stairs, without those that lie on a straight line."""
        points: list[str] = []
        before: str | None = None
        for index in range(grid.count - 1, -1, -1) if backwards else range(grid.count):
            y = self.y(values[index])
            if y != before:
                x = self.x(grid.edge(index + 1 if backwards else index))
                points.append(f"{x} {y}" if before is None else f"H{x}V{y}")
                before = y
        points.append(f"H{self.x(grid.start if backwards else grid.end)}")
        return "".join(points)


def arrivals(ident: str, axis: Grid, grid: Grid, most: Sequence[int], means: Sequence[float]) -> Drawing:
    """Requests per second: the busiest second of each bin, and the mean."""
    chart = Chart(
        ident,
        "Arrivals per second",
        f"The busiest second has {max(most):,} arrivals. {_bins(grid)}",
        axis,
        Scale.linear(max(most), whole=True),
        "requests per second",
    )
    chart.band("arrived", grid, [0] * grid.count, most)
    chart.stairs("mean", grid, means)
    return chart.drawn()


def cost(
    ident: str,
    grid: Grid,
    lines: Sequence[tuple[str, Sequence[float]]],
    bound: float | None,
    *,
    unit: str,
    name: Callable[[float], Format],
) -> Drawing:
    """Paid so far, a line for each policy; `name` makes the numbers' format from the step between them."""
    highest = max([*(values[-1] for _, values in lines), bound or 0.0])
    scale = Scale.linear(highest, count=5)
    ends = ", ".join(f"{policy} {name(highest / 1000)(values[-1])}" for policy, values in lines)
    words = f"At the end: {ends}."
    chart = Chart(
        ident, "Cost over time", words, grid, scale, unit, 260, name=name(scale.ticks[1] - scale.ticks[0])
    )
    for number, (_, values) in enumerate(lines):
        chart.line(f"line p{number % LINES}", grid, values)
    if bound is not None:
        chart.level("bound", bound, "lower bound, whole trace")
    return chart.drawn()


def fleet(ident: str, grid: Grid, levels: Levels, slots: int) -> Drawing:
    """Slots of the fleet in use, below the line of how many there are."""
    count, when = levels.highest[0]
    chart = Chart(
        ident,
        "Fleet slots in use",
        f"Most in use: {count} of {slots}, first {_ago(when, grid)}. {_bins(grid)}",
        grid,
        Scale.linear(max(count, slots), whole=True, count=3),
        "slots",
        130,
    )
    chart.band("fleet", grid, [0] * grid.count, [column[0] for column in levels.fullest])
    chart.stairs("mean", grid, [column[0] for column in levels.means])
    chart.level("limit", slots, f"{slots} in all")
    return chart.drawn()


def rented(ident: str, endpoint: str, grid: Grid, levels: Levels, *, top: int) -> Drawing:
    """Instances of one endpoint by what they do, on each other; `top` makes several drawings comparable."""
    words = ", ".join(
        f"{word} {levels.highest[state][0]:,}"
        for word, state in (("serving", BUSY), ("opening", OPENING), ("idle", IDLE))
    )
    chart = Chart(
        ident,
        f"Rented instances of {endpoint}",
        f"Most at once: {levels.peak:,}. Most of each state: {words}. {_bins(grid)}",
        grid,
        Scale.linear(top, whole=True),
        "instances",
        160,
    )
    low = [0] * grid.count
    for style, state in (("busy", BUSY), ("opening", OPENING), ("idle", IDLE)):
        high = [below + column[state] for below, column in zip(low, levels.fullest, strict=True)]
        if high != low:
            chart.band(style, grid, low, high)
        low = high
    chart.stairs("mean", grid, [sum(column) for column in levels.means])
    return chart.drawn()


def waiting(ident: str, grid: Grid, levels: Levels) -> Drawing:
    """Requests that wait."""
    count, when = levels.highest[0]
    chart = Chart(
        ident,
        "Requests waiting",
        f"Longest queue: {count:,} requests, first {_ago(when, grid)}. {_bins(grid)}",
        grid,
        Scale.linear(count, whole=True, count=3),
        "requests",
        130,
    )
    chart.band("waiting", grid, [0] * grid.count, [column[0] for column in levels.fullest])
    chart.stairs("mean", grid, [column[0] for column in levels.means])
    return chart.drawn()


def latency(ident: str, axis: Grid, found: Latencies, budget_s: float, *, low: float, high: float) -> Drawing:
    """Answers by arrival: least to greatest, most of them, the median, and those beyond the budget."""
    bands = [band for band in found.bands if band is not None]
    chart = Chart(
        ident,
        "Latency against the budget",
        f"Greatest: {duration(max((band[3] for band in bands), default=0.0))}; the budget is "
        f"{duration(budget_s)}; requests that miss it: {found.misses:,}. {_bins(found.grid)}",
        axis,
        Scale.logarithmic(min(low, budget_s), max(high, budget_s)),
        "seconds (log scale)",
        210,
    )
    for begin, end in _runs(found.bands):
        part = Grid(found.grid.edge(begin), found.grid.width, end - begin)
        rows = [band for band in found.bands[begin:end] if band is not None]
        chart.band("all", part, [row[0] for row in rows], [row[3] for row in rows])
        chart.band("most", part, [row[0] for row in rows], [row[2] for row in rows])
        chart.stairs("median", part, [row[1] for row in rows])
    chart.level("budget", budget_s, f"budget {duration(budget_s)}")
    chart.dots("late", found.late)
    chart.dots("lost", ((moment, chart.scale.high) for moment in found.lost))
    return chart.drawn()


def split(ident: str, parts: Sequence[tuple[str, float]], most: float, words: str) -> str:
    """One bar of what a cost is made of; `most` is the length of the longest bar beside it."""
    x, pieces = 0.0, []
    for style, amount in parts:
        width = amount / most * 400 if most > 0 else 0.0
        if width > 0:
            pieces.append(
                f'<rect class="{escape(style)}" x="{_number(x)}" y="1" width="{_number(width)}" height="12"/>'
            )
        x += width
    return (
        f'<svg class="bar" viewBox="0 0 400 14" role="img" aria-labelledby="{escape(ident)}-t">'
        f'<title id="{escape(ident)}-t">{escape(words)}</title>{"".join(pieces)}</svg>'
    )


def nice_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least `least`, which is above 0."""
    decade = 10.0 ** floor(log10(least))
    return next(part * decade for part in (1.0, 2.0, 5.0, 10.0) if part * decade >= least * (1 - 1e-9))


def duration(seconds: float) -> str:
    """For people: 0.35 s, 42 s, 9.5 min, 2 h."""
    for unit, word, most in ((1.0, "s", 180.0), (60.0, "min", 10_800.0), (3600.0, "h", 259_200.0)):
        if seconds <= most:
            return f"{seconds / unit:.3g} {word}"
    return f"{seconds / _DAY[0]:.3g} days"


def _bins(grid: Grid) -> str:
    return f"Each column covers {duration(grid.width)}."


def _ago(when: float, grid: Grid) -> str:
    return f"after {duration(max(0.0, when - grid.start))}"


def _runs(bands: Sequence[object | None]) -> list[tuple[int, int]]:
    """Begin and end of each unbroken run of bins that hold something."""
    runs: list[tuple[int, int]] = []
    begin: int | None = None
    for index, band in enumerate([*bands, None]):
        if band is not None and begin is None:
            begin = index
        elif band is None and begin is not None:
            runs.append((begin, index))
            begin = None
    return runs


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
