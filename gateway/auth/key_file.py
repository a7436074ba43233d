"""The file of API keys: what an entry says, how it is read and written, how a key is made.

It holds hashes only. A key is 256 bits of chance, so one round of SHA-256 is enough to keep it: there is
nothing to guess. Knows no request and no gateway.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator, Field

from gateway.config.auth import PlainName, Priority
from gateway.config.explain import validate
from gateway.config.problems import FILE, ConfigProblems, Problem, printable, quoted
from gateway.config.tree import NotYaml, read_tree
from gateway.options import Options

PREFIX = "ovs_"
"""Every key begins so: it can be told from a token, and found where it should not be."""
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_LENGTH = 43
"""Characters of base 62: 256 bits."""
LONGEST_KEY = 200

_ID = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_KEY = re.compile(rf"{PREFIX}({_ID})_[0-9A-Za-z]{{32,128}}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def _written_hash(value: object) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value
    # Not quoted: somebody may have written the key itself.
    raise ValueError("not a hash; it is `sha256:` and 64 hex digits, as `overspill keys create` writes it")


def _written_id(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(_ID, value):
        return value
    raise ValueError("no id: it has up to 40 of a-z, 0-9 and -, not at its ends")  # nor is this one quoted


def parse_instant(value: object) -> float:
    """`2027-01-31T12:00:00Z` or `2027-01-31` (its first moment, UTC) to Unix time. Raises ValueError."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and (moment.tzinfo is not None or len(value) == 10):
            return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, float):
        return value
    raise ValueError(f"{value!r} is not a moment; write it as 2027-01-31T12:00:00Z or 2027-01-31")


def instant(moment: float) -> str:
    """Unix time as people read it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Instant = Annotated[float, BeforeValidator(parse_instant)]


class KeyEntry(Options):
    """One key."""

    id: Annotated[str, BeforeValidator(_written_id)]
    """Its name in logs; it is also a part of the key."""
    hash: Annotated[str, BeforeValidator(_written_hash)]
    """`sha256:` and the digest of the whole key."""
    tenant: PlainName | None = None
    """Whose calls these are."""
    routes: list[PlainName] | None = None
    """Routes that it may use; absent: all."""
    priority: Priority | None = None
    """Highest priority of its calls; absent: any."""
    expires_at: Instant | None = None
    """From when on it is not good any more; absent: never."""
    revoked_at: Instant | None = None
    """Since when it is not good any more, whatever else stands here."""
    note: Annotated[str, Field(max_length=500)] | None = None
    """For people."""

    @property
    def digest(self) -> bytes:
        """Of the whole key."""
        return bytes.fromhex(self.hash.removeprefix("sha256:"))


def new_key(key_id: str, draw: Callable[[str], str]) -> str:
    """The text of a fresh key. `draw`: one character of these by chance, like `secrets.choice`."""
    if not re.fullmatch(_ID, key_id):
        raise ValueError(f"{key_id!r} is no id; use up to 40 of a-z, 0-9 and -, not at its ends")
    return f"{PREFIX}{key_id}_{''.join(draw(ALPHABET) for _ in range(SECRET_LENGTH))}"


def new_id(draw: Callable[[str], str]) -> str:
    """An id of its own."""
    return "".join(draw("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(10))


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return "sha256:" + sha256(key.encode("ascii")).hexdigest()


def id_in(key: str) -> str | None:
    """The id that a key says it has; None for what has not the shape of a key."""
    match = _KEY.fullmatch(key) if len(key) <= LONGEST_KEY else None
    return match[1] if match else None


def read_keys(text: str, file: str) -> list[KeyEntry]:
    """The entries of a file called `file`. Raises ConfigProblems, with the place of every mistake."""
    name = printable(file)
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return []
    try:
        tree = read_tree(text, name)
    except NotYaml as error:
        raise ConfigProblems([Problem(name, *error.place, FILE, str(error))]) from None
    data = tree.data
    if not isinstance(data, list):
        tree.problem(tree.at_value(()), (), "is not a list of keys; `overspill keys create` makes one")
        raise ConfigProblems(tree.problems)
    entries: list[KeyEntry] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(data):
        entry = validate(KeyEntry, item, tree, (index,))
        if entry is None:
            continue
        if (first := seen.setdefault(entry.id, index)) != index:
            path = (index, "id")
            line = tree.at_key((first,)).line
            what = f"{quoted(entry.id)} is the id of the key in line {line} too; each has its own"
            tree.problem(tree.at_value(path), path, what)
        entries.append(entry)
    if tree.problems:
        raise ConfigProblems(tree.problems)
    return entries


_HEADER = """\
# API keys of an Overspill gateway (`auth: {keys: {file: …}}`), written by `overspill keys`.
# Only hashes are kept here: who lost a key is given another. Comments below this one are not kept.
"""


def write_keys(entries: Iterable[KeyEntry], path: Path) -> None:
    """Put these in the file, all at once: whoever reads it sees the old one or the new one. Raises OSError.

    Nobody but its owner may read it (0600): hashes are no secrets, but nobody needs them either.
    """
    body = [_plain(entry) for entry in entries]
    text = _HEADER + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=200)
    path = path.resolve()  # of a link, what it points to
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with the file until the end: two commands at once would lose one's work. Raises OSError."""
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def find(entries: Sequence[KeyEntry], key_id: str) -> KeyEntry:
    """The entry of that id. Raises ValueError, naming those that there are."""
    for entry in entries:
        if entry.id == key_id:
            return entry
    known = ", ".join(entry.id for entry in entries[:20]) or "none"
    raise ValueError(f"there is no key {key_id!r}; known are: {known}")


def _plain(entry: KeyEntry) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name in type(entry).model_fields:
        value = getattr(entry, name)
        if value is not None:
            fields[name] = instant(value) if name.endswith("_at") else value
    return fields
