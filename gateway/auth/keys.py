"""API keys of a running gateway: the file as it was last good, and whether a key is in it.

Knows the key file and no request. It must never keep, log or tell a key, nor the hash of one.
"""

import hmac
import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from gateway.auth.key_file import PREFIX, KeyEntry, id_in, read_keys
from gateway.clock import Clock
from gateway.config.problems import FILE, ConfigProblems, Problem, printable
from gateway.config.text import read_text
from gateway.config.tree import NotYaml
from gateway.errors import Unauthorised
from gateway.identity import Identity

log = logging.getLogger("overspill.auth")

NOT_KNOWN = "the credential is not known here"
"""All that is said of a wrong one: neither whether its id exists nor how much of it is right."""

_NOBODYS = bytes(32)
"""What a key with an unknown id is compared with: finding out that there is no such id takes as long."""

Marks = tuple[int, ...]


def marks_of(path: Path) -> Marks | None:
    """What changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_key_file(path: Path) -> list[KeyEntry]:
    """The entries of this file. Raises ConfigProblems, and nothing else."""
    name = printable(str(path))
    try:
        text = read_text(path)
    except NotYaml as error:
        raise ConfigProblems([Problem(name, *error.place, FILE, str(error))]) from None
    return read_keys(text, name)


class KeyRing:
    """The keys of one file. Raises ConfigProblems at its making; later a bad file leaves the last good one.

    changed:  is called when other entries are in force, before anybody is judged by them
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.changed: Callable[[], None] | None = None
        self._clock = clock
        self._marks = marks_of(path)
        self._entries = _by_id(read_key_file(path))

    def has_changed(self) -> bool:
        """Does the file look different from when it was read last? A missing one is no change."""
        marks = marks_of(self.path)
        return marks is not None and marks != self._marks

    def read(self) -> dict[str, KeyEntry] | None:
        """The file as it is now, for `take`; None, with the problems in the log, where it is not good.

        It may take long, and may run in a thread.
        """
        marks = marks_of(self.path)
        try:
            return _by_id(read_key_file(self.path))
        except ConfigProblems as error:
            log.error("the key file was not taken over, the keys of before stay:")
            for problem in error.problems:
                log.error("%s", problem)
            return None
        finally:
            self._marks = marks

    def take(self, entries: dict[str, KeyEntry] | None) -> None:
        """Go by these from now on."""
        if entries is not None and entries != self._entries:
            self._entries = entries
            if self.changed is not None:
                self.changed()
            log.info("keys taken over from %s: %d", printable(str(self.path)), len(entries))

    def verify(self, text: str) -> Identity:
        """Whose key this is. Raises Unauthorised; only of a right key it says what is wrong with it."""
        key_id = id_in(text)
        entry = self._entries.get(key_id) if key_id is not None else None
        digest = sha256(text.encode("ascii", "replace")).digest()
        same = hmac.compare_digest(digest, _NOBODYS if entry is None else entry.digest)
        if entry is None or not same:
            raise Unauthorised(NOT_KNOWN, invalid=True)
        if entry.revoked_at is not None:
            raise Unauthorised(f"the key {entry.id} was revoked", invalid=True)
        if entry.expires_at is not None and self._clock.wall() >= entry.expires_at:
            raise Unauthorised(f"the key {entry.id} has expired", invalid=True)
        return identity_of(entry)


def identity_of(entry: KeyEntry) -> Identity:
    """What its holder may do."""
    return Identity(
        name=entry.id,
        kind="key",
        tenant=entry.tenant,
        routes=None if entry.routes is None else tuple(entry.routes),
        priority=entry.priority,
        expires_at=entry.expires_at,
    )


def looks_like_a_key(text: str) -> bool:
    """A key by its beginning; tokens have another."""
    return text.startswith(PREFIX)


def _by_id(entries: list[KeyEntry]) -> dict[str, KeyEntry]:
    return {entry.id: entry for entry in entries}
