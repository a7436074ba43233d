"""What `overspill top` does: polls the admin port and shows it, live on a terminal, once elsewhere."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.live import Live

from gateway.clock import SystemClock
from gateway.options import parse_duration
from gateway.top.client import AdminClient, NotUsable
from gateway.top.command import TOKEN
from gateway.top.screen import Screen, plain
from gateway.top.snapshot import Missing
from gateway.top.terminal import QUIT, Terminal
from gateway.top.watch import View, Watch

LONGEST_TOKEN = 8192
SHORTEST_S, LONGEST_S = 0.1, 3600.0
PLAIN_WIDTH = 200
"""Where there is no terminal, nothing is left out."""


def top(
    url: str, interval: str, *, once: bool, as_json: bool, token_file: Path | None, ca_file: Path | None
) -> int:
    """Until it is ended; with `once` one look. The exit status."""
    try:
        seconds = _seconds(interval)
        client = AdminClient(
            url, SystemClock(), token=_token(token_file), ca=None if ca_file is None else str(ca_file)
        )
    except ValueError as error:
        typer.echo(f"overspill top: {error}", err=True)
        return 2
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _print(client, url, seconds, as_json=as_json)
    _live(client, url, seconds)
    return 0


def _seconds(text: str) -> float:
    seconds = parse_duration(text)
    if not isinstance(seconds, float) or not SHORTEST_S <= seconds <= LONGEST_S:
        raise NotUsable("--interval must be from 100ms to 1h")
    return seconds


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        with file.open("rb") as opened:
            token = opened.read(LONGEST_TOKEN).decode("ascii").strip()
    except OSError as error:
        raise NotUsable(f"--token-file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotUsable(f"--token-file {file}: the token must be printable ASCII on one line") from None
    if not token:
        raise NotUsable(f"--token-file {file}: it is empty")
    return token


def _print(client: AdminClient, url: str, seconds: float, *, as_json: bool) -> int:
    """Two looks, for rates are differences; the exit status."""
    watch = Watch()
    pause = threading.Event()
    for last in (False, True):
        found = client.poll()
        if isinstance(found, Missing):
            typer.echo(f"overspill top: {_title(url)}: not reachable: {found.why}", err=True)
            return 1
        view = watch.take(found)
        if not last:
            pause.wait(seconds)
    client.close()
    if as_json:
        typer.echo(json.dumps(as_values(view), allow_nan=False))
    else:
        width = Console().width if sys.stdout.isatty() else PLAIN_WIDTH
        typer.echo(plain(view, width, title=_title(url)), nl=False)
    return 0


def as_values(view: View) -> dict[str, Any]:
    """The view for JSON: its names as they are, whatever is in them."""
    return {
        "wall": view.wall,
        "routes": [
            {
                **row.state._asdict(),
                "requests_per_s": row.per_s,
                "spill_share": row.spill,
                "cold_share": row.cold,
                "spent_usd": row.spent_usd,
            }
            for row in view.routes
        ],
        "backends": [each._asdict() for each in view.backends],
        "config": {
            "revision": view.revision, "rejected_at": view.rejected_at, "problems": list(view.problems),
        },
        "events": [event._asdict() for event in view.events],
    }  # fmt: skip


def _title(url: str) -> str:
    return f"overspill {url}"


def _live(client: AdminClient, url: str, seconds: float) -> None:
    watch = Watch()
    terminal = Terminal(sys.stdin.fileno())
    poller = _Poller(client, watch, terminal, seconds)
    screen = Screen(lambda: watch.view, _title(url))
    with terminal.taken(), Live(screen, screen=True, auto_refresh=False, transient=True) as live:
        poller.start()
        try:
            while QUIT not in terminal.wait():
                live.refresh()
        finally:
            poller.ended.set()


class _Poller(threading.Thread):
    """Polls beside the screen, which must not stand still while an answer takes its time."""

    def __init__(self, client: AdminClient, watch: Watch, terminal: Terminal, seconds: float) -> None:
        super().__init__(name="polls", daemon=True)
        self.ended = threading.Event()
        self._client = client
        self._watch = watch
        self._terminal = terminal
        self._seconds = seconds

    def run(self) -> None:
        """Until it is over."""
        while not self.ended.is_set():
            self._watch.take(self._client.poll())
            self._terminal.wake()
            self.ended.wait(self._seconds)
