"""What the demo shows while it runs: a live table on a terminal, one plain line a second elsewhere.

Must never know processes or sockets: it reads a tally and the latest figures, and draws them.
"""

from collections import Counter
from types import TracebackType
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gateway.demo.figures import NOTHING, Figures
from gateway.demo.plan import BACKENDS, ROUTE, Plan
from gateway.demo.tally import Tally
from gateway.vocab import Start


class Moment(NamedTuple):
    """Where the run stands."""

    phase: str
    elapsed: float


class Screen:
    """Draws the run on `console`. Use it as a context manager around the load."""

    def __init__(self, console: Console, plan: Plan, tally: Tally) -> None:
        self._console = console
        self._plan = plan
        self._tally = tally
        self._progress = Progress(
            TextColumn("{task.description:>10}"), BarColumn(None), TextColumn("{task.fields[clock]}")
        )
        self._bar: TaskID = self._progress.add_task("calm", total=plan.seconds, clock="")
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said = -1

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment, money: Figures = NOTHING) -> None:
        """Draw this moment. Without a terminal, at most once per second of the run."""
        if self._live is None:
            if int(moment.elapsed) > self._said:
                self._said = int(moment.elapsed)
                self._console.print(self.line(moment, money), highlight=False, soft_wrap=True)
            return
        clock = f"{min(moment.elapsed, self._plan.seconds):.0f} / {self._plan.seconds:.0f} s"
        self._progress.update(
            self._bar, completed=moment.elapsed, description=moment.phase, clock=clock, refresh=False
        )
        self._live.update(self.picture(money), refresh=True)

    def line(self, moment: Moment, money: Figures) -> str:
        """The moment as one line."""
        cells = self._cells(money)
        reasons = " ".join(f"{reason} {count}" for reason, count in self._tally.reasons.most_common())
        return (
            f"{int(moment.elapsed):4d} s  {moment.phase:<10}  {cells['rps']:>4} rps  p50 {cells['p50']}"
            f"  p95 {cells['p95']} of {cells['budget']}  warm {cells['warm']}  cold {cells['cold']}"
            f"  spill {cells['spill']}  $/1,000 {cells['price']}  {reasons}"
        )

    def picture(self, money: Figures) -> RenderableType:
        """The moment as tables."""
        return Group(self._route(money), self._backends(money), self._reasons(), self._progress)

    def _cells(self, money: Figures) -> dict[str, str]:
        tally = self._tally
        per_thousand = money.get("cost_per_1k_requests_usd").get((ROUTE,))
        return {
            "rps": f"{tally.rps():.0f}",
            "p50": milliseconds(tally.latency(0.5)),
            "p95": milliseconds(tally.latency(0.95)),
            "budget": milliseconds(self._plan.within),
            "warm": share(tally.starts(Start.WARM), tally.served()),
            "cold": share(tally.starts(Start.COLD), tally.served()),
            "spill": f"{100 * tally.spilled():.0f}%",
            "price": "-" if per_thousand is None else dollars(per_thousand),
        }

    def _route(self, money: Figures) -> Table:
        cells = self._cells(money)
        late = self._tally.latency(0.95) > self._plan.within
        table = Table(expand=True)
        for column in ("route", "rps", "p50", "p95", "budget", "warm", "cold", "spill", "$ per 1,000"):
            table.add_column(column, justify="left" if column == "route" else "right")
        p95 = Text(cells["p95"], style="red" if late else "green")
        table.add_row(
            ROUTE,
            cells["rps"],
            cells["p50"],
            p95,
            cells["budget"],
            cells["warm"],
            cells["cold"],
            cells["spill"],
            cells["price"],
        )
        return table

    def _backends(self, money: Figures) -> Table:
        table = Table(expand=True)
        for column in ("backend", "now", "answers", "warm", "cold", "unknown", "$"):
            table.add_column(column, justify="left" if column == "backend" else "right")
        in_flight, spent = money.get("in_flight"), money.usd_by_backend()
        for name in BACKENDS:
            seen = self._tally.backends.get(name, Counter())
            starts = (str(seen[start.value]) for start in Start)
            table.add_row(
                name,
                f"{in_flight.get((name,), 0):.0f}",
                str(sum(seen.values())),
                *starts,
                dollars(spent.get(name, 0.0)),
            )
        return table

    def _reasons(self) -> Text:
        parts = [f"{reason} {count}" for reason, count in self._tally.reasons.most_common()]
        trouble = {"lost": self._tally.lost, "wrong": self._tally.wrong, "shed": self._tally.shed}
        parts += [f"{name} {count}" for name, count in trouble.items() if count]
        return Text("reasons  " + "  ·  ".join(parts or ["-"]))


def milliseconds(seconds: float) -> str:
    """A latency for people."""
    return f"{1000 * seconds:.0f} ms"


def dollars(usd: float | None) -> str:
    """A sum of money for people: four figures, and never in powers of ten."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd >= 100 else f"${usd:.4f}" if usd >= 0.01 else f"${usd:.6f}"


def share(part: float, whole: float) -> str:
    """A share in per cent; `-` of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "-"
