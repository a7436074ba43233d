"""The table of `overspill keys list`. Knows entries and terminals, and shows no hash."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from gateway.auth.key_file import KeyEntry, instant
from gateway.config.problems import printable


def show(rows: Iterable[tuple[KeyEntry, str]]) -> None:
    """Each entry, with what it is worth now."""
    table = Table("id", "state", "tenant", "routes", "priority", "expires", "note", box=None)
    for entry, state in rows:
        routes = "all" if entry.routes is None else " ".join(entry.routes) or "none"
        expires = "-" if entry.expires_at is None else instant(entry.expires_at)
        table.add_row(
            entry.id, state, entry.tenant or "-", routes, entry.priority or "-", expires,
            printable(entry.note or "-"),
        )  # fmt: skip
    Console(markup=False, highlight=False).print(table)
