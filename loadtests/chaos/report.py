"""The fault matrix for people, and as JSON. Must never know how a figure was come by."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from loadtests.chaos.trial import Result, books

_COLUMNS = (
    ("lost", "lost"), ("twice", "twice"), ("wrong", "wrong"), ("cut", "cut off"), ("refused", "errors"),
    ("billed_twice", "billed\ntwice"), ("repeated", "run\nagain"), ("gap_s", "gap s"),
    ("healthy_s", "healthy\nafter s"), ("left_over", "left\nover"), ("unlogged", "not\nlogged"),
)  # fmt: skip


def table(results: Sequence[Result]) -> Table:
    """One row for each fault; each figure as `seen ≤ expected`, or alone where none is expected."""
    made = Table(title="faults: seen ≤ expected", show_lines=False, pad_edge=False)
    made.add_column("fault", no_wrap=True)
    made.add_column("calls", justify="right")
    made.add_column("fault\nmet", justify="right")
    for _, title in _COLUMNS:
        made.add_column(title, justify="right")
    made.add_column("retries $", justify="right")
    made.add_column("asked $/booked $", justify="right")
    made.add_column("")
    for result in results:
        _row(made, result)
    return made


def _row(made: Table, result: Result) -> None:
    seen, limits = result.seen, result.limits
    if seen is None or limits is None:
        why = result.skipped or "; ".join(result.problems)
        blank = [""] * (len(_COLUMNS) + 3)
        made.add_row(result.fault, "", *blank, Text("skipped" if result.skipped else f"FAILED {why}"))
        return
    figures = seen._asdict()
    cells = [_cell(figures[name], limits[name]) for name, _ in _COLUMNS]
    money = _cell(seen.retry_usd, limits["retry_usd"], "{:.3f}")
    account = Text(f"{seen.books_usd:.4f}/{seen.ledger_usd:.4f}")
    if any(error > limits[name] for name, error in books(seen).items()):
        account.stylize("red")
    verdict = Text("FAILED", "red") if result.problems else Text("as expected", "green")
    made.add_row(result.fault, str(seen.calls), str(result.met), *cells, money, account, verdict)


def _cell(value: float, limit: float, shape: str = "{:.3g}") -> Text:
    text = shape.format(value) + (f" ≤ {shape.format(limit)}" if limit else "")
    return Text(text, "red" if value > limit + 1e-9 else "")


def notes(results: Sequence[Result]) -> list[str]:
    """A line for everything that is not as expected, and for what was left out."""
    lines = [f"{each.fault}: skipped, {each.skipped}" for each in results if each.skipped]
    return lines + [f"{each.fault}: {problem}" for each in results for problem in each.problems]


def document(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "seed": seed,
        "as_expected": not any(each.problems for each in results),
        "faults": [
            {
                "fault": each.fault,
                "what": each.what,
                "skipped": each.skipped,
                "expected_at_most": each.limits,
                "seen": None if each.seen is None else {**each.seen._asdict(), **books(each.seen)},
                "statuses": each.statuses,
                "held": each.held,
                "met": each.met,
                "problems": list(each.problems),
            }
            for each in results
        ],
    }
