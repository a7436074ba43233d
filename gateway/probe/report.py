"""The figures of a probe as a table for people. Pure: figures in, a rich table out."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.probe.calibration import quantile, spell
from gateway.probe.figures import Figures, Level

UNKNOWN = "unknown"


def report(figures: Figures, title: str, *, owned: bool) -> RenderableType:
    """One line for each figure, the levels of concurrency below, then what has to be known about them."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _rows(figures, owned=owned):
        table.add_row(name, value)
    parts: list[RenderableType] = [table]
    if figures.levels:
        parts += [Text(), _levels(figures)]
    parts += [Text(f"note: {note}") for note in figures.notes]
    return Group(*parts)


def _rows(figures: Figures, *, owned: bool) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    colds, warm = figures.cold_starts(), figures.service()
    if colds:
        rows.append(("cold start", f"{_spread(colds)}   ({_count(len(colds))}, beyond a warm call)"))
        if figures.assumed:
            rows.append(("", f"{figures.assumed} of them not said to be cold, but after the idle time-out"))
        if boots := figures.reported_boots():
            rows.append(("  of it reported", f"p50 {spell(quantile(boots, 0.5))}"))
    elif not owned:
        rows.append(("cold start", "not measured"))
    if warm:
        rows.append(("warm call", f"{_spread(warm, 0.5, 0.95, 0.99)}   ({_count(len(warm))})"))
        first = sorted(sample.first_byte for sample in figures.warm)
        if quantile(first, 0.5) < 0.9 * quantile(warm, 0.5):
            rows.append(("  first byte", _spread(first, 0.5, 0.95, 0.99)))
    if (knee := figures.knee()) is not None:
        most = figures.levels[-1].concurrency
        reached = (
            "latency doubles, or calls are refused, beyond it"
            if knee.concurrency < most
            else "latency has not doubled there"
        )
        rows.append(("knee", f"{knee.concurrency} at once, {knee.per_second:.4g}/s   ({reached})"))
    memory = figures.memory_gb()
    if memory is not None:
        rows.append(("memory", f"{memory:g} GB   (as the provider reports it)"))
    usd = figures.usd_per_1k()
    what = "a fully used replica" if owned else "warm, without idle time"
    rows.append(("$ per 1,000", UNKNOWN if usd is None else f"${usd:.4g}   ({what})"))
    if not owned:
        spent = figures.spent_usd
        rows.append(("this probe cost", UNKNOWN if spent is None else f"${spent:.4g}   (idle time included)"))
    if figures.failed:
        rows.append(("failed calls", str(figures.failed)))
    return rows


def _levels(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("at once", "per second", "p50", "p95", "cold", "refused"):
        table.add_column(name, justify="right")
    for level in figures.levels:
        table.add_row(*_cells(level))
    return table


def _cells(level: Level) -> tuple[str, ...]:
    rate = f"{level.per_second:.4g}"
    return (
        str(level.concurrency), rate, spell(level.p50), spell(level.p95), str(level.cold), str(level.refused),
    )  # fmt: skip


def _spread(ascending: list[float], *shares: float) -> str:
    return "  ".join(
        f"p{100 * share:g} {spell(quantile(ascending, share))}" for share in shares or (0.5, 0.95)
    )


def _count(number: int) -> str:
    return "1 sample" if number == 1 else f"{number} samples"
