"""Writes the dashboards into a folder, or says which of those there are not what the code says."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.dashboards.build import as_json
from gateway.dashboards.catalogue import PAGES


def main(
    folder: Annotated[Path, typer.Argument(help="Where they are.")] = Path("config/grafana/dashboards"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 where one differs.")] = False,
) -> None:
    """Write every dashboard as JSON."""
    differing = []
    for name, page in PAGES.items():
        path, text = folder / f"{name}.json", as_json(page)
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                differing.append(str(path))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if differing:
        typer.echo(
            f"not what the code says: {', '.join(differing)}; run python -m gateway.dashboards", err=True
        )
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
