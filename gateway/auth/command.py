"""`overspill keys`: make, list, revoke and check API keys. A key is shown once, when it is made.

Knows the key file and the terminal. Standard output carries the key, or the list, and nothing else.
"""

import hmac
import json
import secrets
import sys
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from gateway.auth.key_file import (
    KeyEntry,
    find,
    hash_of,
    id_in,
    instant,
    locked,
    new_id,
    new_key,
    parse_instant,
    write_keys,
)
from gateway.auth.keys import read_key_file
from gateway.clock import SystemClock
from gateway.config.problems import ConfigProblems
from gateway.options import parse_duration

BAD = 2
"""Exit status for a file or an option that cannot be used."""
_LONGEST_LINE = 4096

keys = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="API keys: make, list, revoke and check them. A running gateway sees a change within two seconds.",
)


class Priority(StrEnum):
    """Of calls."""

    CRITICAL = "critical"
    DEFAULT = "default"
    BEST_EFFORT = "best_effort"


KeyFile = Annotated[
    Path,
    typer.Option("--file", "-f", metavar="FILE", help="The key file, as in `auth: {keys: {file: …}}`."),
]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in `overspill keys list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@keys.command()
def create(
    file: KeyFile,
    *,
    key_id: Annotated[
        str | None,
        typer.Option("--id", help="Its name in logs, of a-z, 0-9 and -; absent: one is made up."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose calls these are.")] = None,
    route: Annotated[
        list[str] | None, typer.Option(help="A route that it may use, given once for each; absent: all.")
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Highest priority of its calls; absent: any.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="A duration like 90d, or a moment like 2027-01-31; absent: never."),
    ] = None,
    note: Annotated[str | None, typer.Option(help="For people.")] = None,
) -> None:
    """Make a key, add its hash to the file, and print it. It cannot be had again."""
    now = SystemClock().wall()
    try:
        name = new_id(secrets.choice) if key_id is None else key_id
        key = new_key(name, secrets.choice)
        fields = {
            "id": name, "hash": hash_of(key), "tenant": tenant, "routes": route or None,
            "priority": None if priority is None else priority.value, "note": note,
            "expires_at": None if expires is None else _when(expires, now),
        }  # fmt: skip
        entry = KeyEntry.model_validate(fields)
        with locked(file):
            entries = _entries(file, missing_ok=True)
            if any(each.id == entry.id for each in entries):
                raise ValueError(f"there is a key {entry.id!r} already; revoke it, or choose another id")
            write_keys([*entries, entry], file)
    except (ValueError, OSError, ConfigProblems) as error:
        raise _told(error) from None
    typer.echo(key)
    typer.echo(f"key {entry.id} is in {file}; it is shown this once, so keep it now", err=True)


@keys.command("list")
def list_keys(file: KeyFile, *, as_json: AsJson = False) -> None:
    """Show every key of the file, and whether it is good now; never its hash."""
    now = SystemClock().wall()
    try:
        entries = _entries(file)
    except (OSError, ConfigProblems) as error:
        raise _told(error) from None
    if as_json:
        typer.echo(json.dumps([_row(entry, now) for entry in entries], indent=2))
        return
    from gateway.auth.listing import show  # noqa: PLC0415 - not a part of what serves, and it draws tables

    show([(entry, _state(entry, now)) for entry in entries])


@keys.command()
def revoke(key_id: KeyId, file: KeyFile) -> None:
    """Make a key worth nothing from now on. It stays in the list."""
    now = SystemClock().wall()
    try:
        with locked(file):
            entries = _entries(file)
            entry = find(entries, key_id)
            if entry.revoked_at is None:
                gone = entry.model_copy(update={"revoked_at": now})
                write_keys([gone if each.id == key_id else each for each in entries], file)
    except (ValueError, OSError, ConfigProblems) as error:
        raise _told(error) from None
    since = "already" if entry.revoked_at is not None else "now"
    typer.echo(f"key {key_id} is {since} revoked", err=True)


@keys.command()
def check(
    file: KeyFile,
    *,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read a key from standard input and say whether it is good now.")
    ] = False,
) -> None:
    """Check a key file: exit status 0 if it is good, 2 if not, 1 for a key that would be refused.

    A key is never an argument: those stand in the process list and in the shell's history.
    """
    now = SystemClock().wall()
    try:
        entries = _entries(file)
    except (OSError, ConfigProblems) as error:
        raise _told(error) from None
    if not stdin:
        good = sum(_state(entry, now) == "good" for entry in entries)
        typer.echo(f"{file}: good: {good} of {len(entries)} keys can be used")
        return
    text = sys.stdin.readline(_LONGEST_LINE).strip()
    entry = next((each for each in entries if each.id == id_in(text)), None)
    digest = sha256(text.encode("utf-8", "replace")).digest()
    same = hmac.compare_digest(digest, bytes(32) if entry is None else entry.digest)
    if entry is None or not same:
        typer.echo("not a key of this file", err=True)
        raise typer.Exit(1)
    state = _state(entry, now)
    typer.echo(f"key {entry.id}: {state}")
    raise typer.Exit(0 if state == "good" else 1)


def _entries(file: Path, *, missing_ok: bool = False) -> list[KeyEntry]:
    return [] if missing_ok and not file.exists() else read_key_file(file)


def _state(entry: KeyEntry, now: float) -> str:
    if entry.revoked_at is not None:
        return "revoked"
    return "expired" if entry.expires_at is not None and now >= entry.expires_at else "good"


def _row(entry: KeyEntry, now: float) -> dict[str, str | list[str] | None]:
    moments = {
        name: None if (value := getattr(entry, name)) is None else instant(value)
        for name in ("expires_at", "revoked_at")
    }
    return {
        "id": entry.id, "state": _state(entry, now), "tenant": entry.tenant, "routes": entry.routes,
        "priority": entry.priority, **moments, "note": entry.note,
    }  # fmt: skip


def _when(text: str, now: float) -> str:
    """A moment as the file has it. Raises ValueError."""
    try:
        ahead = parse_duration(text)
    except ValueError:
        try:
            moment = parse_instant(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is neither a duration like 90d nor a moment like 2027-01-31"
            ) from None
    else:
        assert isinstance(ahead, float)
        moment = now + ahead
    if moment <= now:
        raise ValueError(f"{text!r} is over already")
    try:
        return instant(moment)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is too far away") from None


def _told(error: Exception) -> typer.Exit:
    if isinstance(error, ConfigProblems):
        for problem in error.problems:
            typer.echo(str(problem), err=True)
    else:
        typer.echo(f"overspill keys: {_words(error)}", err=True)
    return typer.Exit(BAD)


def _words(error: Exception) -> str:
    """Of a model's error only what is wrong and where: it would carry what was given too."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors())
