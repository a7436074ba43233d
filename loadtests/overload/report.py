"""Figures as text. Knows nothing of how they came about."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from loadtests.overload.figures import Ends, Figures


def one(load: Figures, out: Console) -> None:
    """A load, as a table by priority."""
    table = Table(
        title=f"{load.factor:g} x: {load.offered_per_s:.0f}/s offered, "
        f"{load.goodput_per_s:.0f}/s answered in budget",
        title_justify="left",
    )
    for name in ("", "offered", "in budget", "late", "shed", "without an answer"):
        table.add_column(name, justify="left" if name in {"", "shed", "without an answer"} else "right")
    for name, ends in (*load.by_priority.items(), ("all", load.everybody)):
        table.add_row(name, *_row(ends))
    out.print(table)
    memory = load.memory
    out.print(
        f"  answers p50 {load.answered_p50_s * 1e3:.1f} ms, p99 {load.answered_p99_s * 1e3:.1f} ms; "
        f"refusals p50 {load.shed_p50_s * 1e3:.1f} ms, p99 {load.shed_p99_s * 1e3:.1f} ms; "
        f"CPU {load.cpu_s / load.seconds:.0%} of a core; memory {memory.before:.0f} MiB before, "
        f"{memory.half:.0f} half-way, {memory.end:.0f} at the end, {memory.most:.0f} at most; "
        f"client's turns p99 {load.client_lag_p99_s * 1e3:.0f} ms",
        highlight=False,
    )


def whole(capacity: float, costs: tuple[float, float] | None, problems: Sequence[str], out: Console) -> None:
    """What the loads of a scenario say together."""
    text = f"  capacity {capacity:.0f}/s"
    if costs is not None:
        text += f"; gateway CPU {costs[0] * 1e6:.0f} us an answer, {costs[1] * 1e6:.0f} us a refusal"
    out.print(text, highlight=False)
    for problem in problems:
        out.print(f"  [red]wrong[/]: {problem}", highlight=False)


def _row(ends: Ends) -> tuple[str, ...]:
    return str(ends.offered), str(ends.in_budget), str(ends.late), _words(ends.shed), _words(ends.lost)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items(), key=lambda each: -each[1]))
