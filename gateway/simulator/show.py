"""Runs the simulations a person asked for, and shows the table or the JSON on standard output, or a page.

What happens meanwhile is told on standard error. Knows no policy and no number: `main.py` makes the
results, `report.py` the table, `html.py` the page.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from backends.base import Backend
from gateway.config.schema import Settings
from gateway.registry import Registry
from gateway.simulator.html import page, section
from gateway.simulator.main import Wanted, simulation
from gateway.simulator.report import Unit, table
from gateway.simulator.sensitivity import sensitivity
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
    html: Path | None = None,
    sensitive: bool = False,
) -> None:
    """One result for each trace. Raises ValueError or OSError for what cannot be simulated."""
    if sensitive and html is None and not as_json:
        raise ValueError("--sensitivity has its table on the page of --html and in --json; give one of them")
    if html is not None and not html.parent.is_dir():
        raise ValueError(f"--html: {html.parent} is no folder that the page could be written to")
    said = Console(stderr=True)
    results, sections = [], []
    with said.status("") as status:
        warn = partial(said.print, markup=False)
        run = simulation(wanted, *registries, settings, tell=status.update, warn=warn)

        def again(trace: str, setting: Wanted, which: str) -> Mapping[str, Any]:
            def tell(text: str) -> None:
                status.update(f"{which}: {text}")

            return simulation(setting, *registries, settings, tell=tell, warn=tell)(trace).result

        for number, trace in enumerate(traces):
            study = run(trace)
            result, rows = dict(study.result), None
            if sensitive:
                rows = sensitivity(wanted, study.scenario, result, partial(again, trace))
                result["sensitivity"] = rows
            results.append(result)
            if html is not None:
                status.update(f"{result['trace']}: page")
                sections.append((result["trace"], section(study, wanted, number=number, variations=rows)))
    if html is not None:
        # A name that is no text (a file's may be) must not cost the page.
        html.write_text(page(sections, seed=wanted.seed), encoding="utf-8", errors="replace")
        said.print(f"wrote {html}", markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps(results if len(results) > 1 else results[0], indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for result in results:
        console.print(table(result, unit=unit))
