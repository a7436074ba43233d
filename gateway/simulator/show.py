"""Runs the simulations a person asked for, and shows the table or the JSON on standard output.

What happens meanwhile is told on standard error. Knows no policy and no number: `main.py` makes the
results, `report.py` the table.
"""

import json
from collections.abc import Sequence
from functools import partial

import typer
from rich.console import Console

from backends.base import Backend
from gateway.config.schema import Settings
from gateway.registry import Registry
from gateway.simulator.main import Wanted, simulation
from gateway.simulator.report import Unit, table
from policies.base import Policy

PLAIN_WIDTH = 150
"""Columns of the table where nobody says how wide the paper is."""


def show(
    traces: Sequence[str],
    wanted: Wanted,
    registries: tuple[Registry[Backend], Registry[Policy]],
    settings: Settings | None,
    *,
    unit: Unit,
    as_json: bool,
) -> None:
    """One result for each trace. Raises ValueError or OSError for what cannot be simulated."""
    said = Console(stderr=True)
    with said.status("") as status:
        run = simulation(
            wanted, *registries, settings, tell=status.update, warn=partial(said.print, markup=False)
        )
        results = [run(trace) for trace in traces]
    if as_json:
        typer.echo(json.dumps(results if len(results) > 1 else results[0], indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for result in results:
        console.print(table(result, unit=unit))
