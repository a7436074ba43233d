"""`overspill prices`: the lines that `price: {like: …}` may name, for people and for programs.

Knows the sheets and how to print them. It must never know a backend.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gateway.clock import SystemClock
from gateway.config.load import read_text
from gateway.config.price_sheet import OLD_DAYS, Priced, PriceLine, age_days, read_sheet, together
from gateway.config.problems import ConfigProblems, printable
from gateway.config.tree import NotYaml

_UNITS = {
    "usd_per_second": "s",
    "usd_per_hour": "h",
    "usd_per_core_second": "core s",
    "usd_per_gib_second": "GiB s",
    "usd_per_gb_second": "GB s",
    "usd_per_request": "request",
    "usd_per_gb": "GB moved",
}


def prices(
    word: Annotated[
        str, typer.Argument(metavar="[WORD]", help="Only lines whose name has this in it, like `l4`.")
    ] = "",
    *,
    own: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="A file of your own, as `prices` in the configuration."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as one JSON object.")] = False,
) -> None:
    """List the prices that `price: {like: NAME}` can refer to, with their dates and where to compare them."""
    try:
        mine = {} if own is None else read_sheet(read_text(own), printable(str(own)))
        sheet = together(mine)
    except (ConfigProblems, NotYaml) as error:
        problems = [f"{own}: {error}"] if isinstance(error, NotYaml) else map(str, error.problems)
        for problem in problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from None
    found = {name: sheet[name] for name in sorted(sheet) if word.lower() in name}
    if as_json:
        typer.echo(json.dumps({name: _plain(priced) for name, priced in found.items()}, indent=2))
    elif not found:
        typer.echo(f"no price has {printable(word)!r} in its name", err=True)
        raise typer.Exit(1)
    else:
        Console().print(_table(found, SystemClock().wall()))


def _plain(priced: Priced) -> dict[str, Any]:
    return {**priced.line.model_dump(mode="json", exclude_none=True), "file": priced.file}


def _table(found: Mapping[str, Priced], wall: float) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("price", "US dollars", "paid for", "as of", "source"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("price", "as of"))
    for name, (line, _) in found.items():
        table.add_row(name, money(line), billing(line), _dated(line, wall), line.url or line.source)
    return table


def money(line: PriceLine) -> str:
    """`0.00019/s`, with the smallest figures readable."""
    return ", ".join(f"{_decimal(usd)}/{_UNITS[key]}" for key, usd in line.money().items())


def billing(line: PriceLine) -> str:
    """What beside the work itself is paid for, as far as the line says."""
    said = [word for word, billed in (("boot", line.bills_boot), ("idle", line.bills_idle)) if billed]
    if line.round_up:
        said.append(f"rounded up to {line.round_up:g}s")
    if line.lacks:
        said.append(f"without {line.lacks}")
    return ", ".join(said)


def _dated(line: PriceLine, wall: float) -> str:
    if line.unverified:
        return f"{line.as_of}, unverified"
    return f"{line.as_of}, old" if age_days(line.as_of, wall) > OLD_DAYS else line.as_of


def _decimal(usd: float) -> str:
    return f"{usd:.12f}".rstrip("0").rstrip(".")
