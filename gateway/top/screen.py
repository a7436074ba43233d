"""A view as text for a terminal of any size. Pure: the same view, width and height give the same lines.

Whatever comes from outside is stripped of control characters before it gets here or beyond: a name can
neither move the cursor nor turn text around. Where a table is wider than the terminal, columns are left out,
the first of `ROUTES_LEAVE` and `BACKENDS_LEAVE` first; where it is longer, the last rows are, and counted.
"""

import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from gateway.top.snapshot import BackendState
from gateway.top.watch import RouteRow, View

ROUTES_LEAVE = ("queue", "p50", "budget $", "cold", "$/1k", "in time", "ready")
BACKENDS_LEAVE = ("kind", "opening", "idle", "free", "breaker", "$")
LONGEST_NAME = 40
SHORTEST_NAME = 8
FEWEST_ROWS = 1
EVENT_ROWS = 5
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_GAP = 2

GOOD, WARN, BAD, DIM, HEAD = "green", "yellow", "red", "dim", "bold"


class Cell(NamedTuple):
    """Text and its style; numbers stand right."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column: its head, and whether it is of numbers."""

    head: str
    right: bool = True


Line = tuple[Cell, ...]


def clean(text: object, most: int = 200) -> str:
    """Without what a terminal acts upon: control and format characters become `?`, long texts end in `…`."""
    shown = "".join("?" if unicodedata.category(mark) in _HIDDEN else mark for mark in str(text)[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def lines(view: View, width: int, height: int | None, *, title: str, keys: bool = True) -> list[Line]:
    """All lines, none wider than `width`, no more than `height`; None: as many as there are."""
    head = _head(view, title)
    problems = _problems(view)
    foot: list[Line] = [(Cell("q or Ctrl-C: quit", DIM),)] if keys else []
    if not view.seen:
        return _fitted([*head, *foot], width, height)
    routes = _table(_ROUTES, [_route_cells(row) for row in view.routes], width, ROUTES_LEAVE)
    backends = _table(_BACKENDS, [_backend_cells(each) for each in view.backends], width, BACKENDS_LEAVE)
    events = _events(view)
    if height is not None:
        left = height - len(head) - len(problems) - len(foot) - 2 - 2  # two heads of tables, two empty lines
        events = events[: max(0, min(len(events), left - len(view.routes) - len(view.backends)))]
        left -= len(events)
        share = max(FEWEST_ROWS, min(len(view.routes), left - min(len(view.backends), left // 2)))
        routes = _cut(routes, share + 1)
        backends = _cut(backends, max(FEWEST_ROWS, left - (len(routes) - 1)) + 1)
    return _fitted([*head, *problems, *routes, (), *backends, (), *events, *foot], width, height)


def plain(view: View, width: int, *, title: str) -> str:
    """The same as text without colours, all of it."""
    rows = (
        "".join(cell.text for cell in line).rstrip()
        for line in lines(view, width, None, title=title, keys=False)
    )
    return "\n".join(rows).rstrip() + "\n"


class Screen:
    """Lines for rich, made anew for the size that the terminal has at the moment."""

    def __init__(self, view: Callable[[], View], title: str) -> None:
        self._view = view
        self._title = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich asks for."""
        width, height = options.max_width, options.height or options.size.height
        shown = lines(self._view(), width, height, title=self._title)
        for place, line in enumerate(shown):
            for cell in line:
                yield Segment(cell.text, Style.parse(cell.style) if cell.style else None)
            if place + 1 < len(shown):
                yield Segment.line()


# -- what stands in the cells

_ROUTES = tuple(
    map(Column, ("route", "req/s", "spill", "p50", "p95", "budget", "in time", "cold", "$/1k", "budget $",
                 "queue", "ready"))
)  # fmt: skip
_BACKENDS = tuple(
    map(Column, ("backend", "kind", "busy", "free", "idle", "opening", "ready", "breaker", "$"))
)
_LEFT = frozenset(("route", "backend", "kind", "ready", "breaker"))


def _route_cells(row: RouteRow) -> list[Cell]:
    state = row.state
    late = None not in (state.p95_s, state.within_s) and (state.p95_s or 0.0) > (state.within_s or 0.0)
    missed = None not in (state.attained, state.objective) and (state.attained or 0) < (state.objective or 0)
    attained = _share(state.attained)
    if state.objective is not None:
        attained += f"/{state.objective * 100:.4g}%"
    money = "" if state.limit_usd is None else f"{_usd(row.spent_usd)}/{_usd(state.limit_usd)}"
    spent = row.spent_usd is not None and state.limit_usd is not None and row.spent_usd >= state.limit_usd
    return [
        Cell(clean(state.name, LONGEST_NAME), HEAD),
        Cell(_number(row.per_s)),
        Cell(_share(row.spill)),
        Cell(_seconds(state.p50_s)),
        Cell(_seconds(state.p95_s), BAD if late else ""),
        Cell(_seconds(state.within_s), DIM),
        Cell(attained, BAD if missed else ""),
        Cell(_share(row.cold)),
        Cell(_usd(state.usd_per_1k)),
        Cell(money, BAD if spent or row.overrun else WARN if row.refused else ""),
        Cell(str(state.queue), WARN if state.queue else ""),
        Cell("yes", GOOD) if state.ready else Cell("no", BAD),
    ]


def _backend_cells(state: BackendState) -> list[Cell]:
    ready = f"{state.replicas_ready}/{state.replicas}"
    breaker = {"closed": "", "open": BAD}.get(state.breaker, WARN)
    return [
        Cell(clean(state.name, LONGEST_NAME), HEAD),
        Cell("owned" if state.owned else "rented", DIM),
        Cell(f"{state.in_flight}/{state.capacity}"),
        Cell(str(state.free)),
        Cell("" if state.idle is None else str(state.idle)),
        Cell("" if state.opening is None else str(state.opening), WARN if state.opening else ""),
        Cell(ready if state.ready else f"{ready} no", GOOD if state.ready else BAD),
        Cell(clean(state.breaker, 12), breaker),
        Cell(_usd(state.usd)),
    ]


def _head(view: View, title: str) -> list[Line]:
    moment = _clock(view.wall)
    if view.missing_since is not None:
        since = _clock(view.missing_since)
        return [
            (Cell(f"{clean(title)}  {moment}"),),
            (Cell(f"not reachable since {since}: {clean(view.why)}", BAD),),
        ]
    if not view.seen:
        return [(Cell(f"{clean(title)}  waiting for the first answer"),)]
    return [(Cell(f"{clean(title)}  {moment}  config {clean(view.revision, 16)}"),)]


def _problems(view: View) -> list[Line]:
    if view.rejected_at is None:
        return []
    first = (Cell(f"a configuration was rejected at {clean(view.rejected_at, 30)}; what runs goes on", BAD),)
    return [first, *((Cell(f"  {clean(problem)}", BAD),) for problem in view.problems[:2])]


def _events(view: View) -> list[Line]:
    if not view.events:
        return [(Cell("no errors since this began", DIM),)]
    return [
        (Cell(f"{_clock(event.wall)}  ", DIM), Cell(clean(event.text))) for event in view.events[:EVENT_ROWS]
    ]


# -- tables


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, leave: Sequence[str]
) -> list[Line]:
    kept = [column.head for column in columns]
    table = [[Cell(column.head, DIM) for column in columns], *rows]
    widths = {column.head: max(cell_len(row[at].text) for row in table) for at, column in enumerate(columns)}
    going = list(leave)
    first = kept[0]
    while going and sum(widths[head] + _GAP for head in kept) - _GAP > width - (
        0 if widths[first] <= SHORTEST_NAME else SHORTEST_NAME - widths[first]
    ):
        kept.remove(going.pop(0))
    spare = width - sum(widths[head] + _GAP for head in kept[1:])
    widths[first] = max(1, min(widths[first], spare))
    places = {column.head: at for at, column in enumerate(columns)}
    return [
        _row([row[places[head]] for head in kept], [widths[head] for head in kept], kept) for row in table
    ]


def _row(cells: Sequence[Cell], widths: Sequence[int], heads: Sequence[str]) -> Line:
    parts: list[Cell] = []
    for cell, width, head in zip(cells, widths, heads, strict=True):
        text = _sized(cell.text, width)
        room = " " * (width - cell_len(text))
        text = text + room if head in _LEFT else room + text
        parts += [Cell(" " * _GAP), Cell(text, cell.style)] if parts else [Cell(text, cell.style)]
    return tuple(parts)


def _sized(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…" if width > 1 else "…"


def _cut(table: list[Line], most: int) -> list[Line]:
    if len(table) <= most:
        return table
    return [*table[: most - 1], (Cell(f"… and {len(table) - most + 1} more", DIM),)]


def _fitted(found: Sequence[Line], width: int, height: int | None) -> list[Line]:
    fitted = []
    for line in found if height is None else found[:height]:
        left, cells = width, []
        for cell in line:
            text = _sized(cell.text, left) if left > 0 else ""
            left -= cell_len(text)
            cells.append(Cell(text, cell.style))
        fitted.append(tuple(cells))
    return fitted


# -- numbers: what is not known is `?`, what there is none of is empty or `-`


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.4g}%" if value >= 0.9999 else f"{value * 100:.1f}%"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f}ms" if value < 1 else f"{value:.3g}s"


def _usd(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%SZ")
