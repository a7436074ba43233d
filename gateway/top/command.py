"""`overspill top` as the command line knows it: its options and its help. What it does is in `show.py`."""

from pathlib import Path
from typing import Annotated

import typer

TOKEN = "OVERSPILL_ADMIN_TOKEN"  # noqa: S105 - where it is kept


def top(
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="The admin port.", show_default=True)
    ] = "http://127.0.0.1:8002",
    *,
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="From one look to the next: 500ms, 1s, …")
    ] = "1s",
    once: Annotated[
        bool,
        typer.Option("--once", help="Print one snapshot and end, as without a terminal anyway."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print that snapshot as one JSON object.")] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help=f"Holds the admin port's token; without it {TOKEN} is taken, if it is set.",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="Whose certificates are good (https).")
    ] = None,
) -> None:
    """Show a running gateway in the terminal: routes, backends, money, errors.

    Rates and shares of spilled and cold calls are of the time between two looks; latencies, what came in
    time and dollars are since the gateway started. On a narrow terminal columns are left out, of routes first
    queue, then p50, budget $, cold, $/1k, in time, ready; of backends kind, opening, idle, free, breaker, $.
    q or Ctrl-C ends it. Exit status: 0 when it was ended or has printed; 1 when there was nothing to print,
    because the gateway did not answer or asked for another token; 2 for a wrong option.
    """  # fmt: skip
    from gateway.top import show  # noqa: PLC0415 - not a part of what serves requests, and it draws

    raise typer.Exit(
        show.top(url, interval, once=once or as_json, as_json=as_json, token_file=token_file, ca_file=ca_file)
    )
