"""`overspill prices`: the lines that `price: {like: …}` may name, for people and for programs.

Knows the sheets and how to print them. It must never know a backend.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.clock import SystemClock
from gateway.config.price_sheet import OLD_DAYS, SHIPPED, Priced, PriceLine, age_days, read_sheet, together
from gateway.config.problems import ConfigProblems, printable
from gateway.config.text import read_text
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
        typer.echo("\n".join(_lines(found, SystemClock().wall())))


def _plain(priced: Priced) -> dict[str, Any]:
    return {**priced.line.model_dump(mode="json", exclude_defaults=True), "file": priced.file}


def _lines(found: Mapping[str, Priced], wall: float) -> Iterator[str]:
    """One for each price, below the page to compare it with."""
    width = max(map(len, found))
    page = ""
    for name, (line, file) in sorted(found.items(), key=lambda item: (item[1].line.page, item[0])):
        if line.page != page:
            yield from ("", line.page) if page else (line.page,)
            page = line.page
        said = "; ".join(part for part in (money(line), billing(line), _dated(line, wall)) if part)
        yield f"  {name:<{width}}  {said}" + ("" if file == SHIPPED else f"; in {file}")


def money(line: PriceLine) -> str:
    """`$0.00019/s`; without exponents, for people to compare."""
    return ", ".join(f"${_decimal(usd)}/{_UNITS[key]}" for key, usd in line.money().items())


def billing(line: PriceLine) -> str:
    """How the seconds are counted, as far as the line says."""
    pairs = (("boot", line.bills_boot), ("idling", line.bills_idle))
    said = [f"{'with' if billed else 'without'} {word}" for word, billed in pairs if billed is not None]
    if line.round_up:
        said.append(f"in steps of {line.round_up:g} s")
    if line.lacks:
        said.append(f"not counted: {line.lacks}")
    return ", ".join(said)


def _dated(line: PriceLine, wall: float) -> str:
    days = age_days(line.as_of, wall)
    old = f", {days} days ago" if days > OLD_DAYS else ""
    return f"of {line.as_of}{old}{', unverified' if line.unverified else ''}"


def _decimal(usd: float) -> str:
    return f"{usd:.12f}".rstrip("0").rstrip(".")
