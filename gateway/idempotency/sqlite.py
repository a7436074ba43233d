"""Keys in a SQLite file: they outlast the process, and all workers of a gateway share them.

Every statement runs in one thread of its own, so that a slow disk holds up no other call. A call that runs is
a row whose lease its process renews: when a process dies the lease runs out, and what became of the call is
unknown. Times in the file are those of the wall clock, the only one that processes share; a clock that is set
forward by more than a lease makes running calls look lost. Knows nothing of calls.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.clock import Clock
from gateway.errors import ConfigError, KeysDown
from gateway.idempotency.store import OVERHEAD, Kept, State

log = logging.getLogger("overspill.idempotency")

LEASE_S = 30.0
"""A running call of which nobody has heard for so long is lost."""
RENEW_S = 10.0
"""How often leases are renewed."""
BUSY_S = 5.0
"""How long a statement waits for another process."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  key BLOB PRIMARY KEY, request BLOB NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL,
  until REAL NOT NULL, size INTEGER NOT NULL, answer BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS endings ON keys (until, size) WHERE state != 'running';
"""
_KEPT, _RUNNING = "kept", State.RUNNING.value

T = TypeVar("T")


class Sqlite:
    """See `Store`. Open it before the first claim.

    path:   the file
    owner:  a word for this process that no other one of those that share the file has, or has had
    keep, max_bytes, max_keys:  as in `Memory`
    """

    def __init__(
        self, path: Path, *, clock: Clock, owner: str, keep: float, max_bytes: int, max_keys: int
    ) -> None:
        self._path = path
        self._clock = clock
        self._owner = owner
        self._keep = keep
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idempotency")
        self._running: set[bytes] = set()
        self._file: sqlite3.Connection | None = None
        self._complained = False

    async def open(self) -> None:
        """Open or make the file. Raises ConfigError."""
        try:
            await self._aside(self._open)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"idempotency.store: {self._path} cannot be used: {error}") from None

    async def run(self) -> None:
        """Keep the leases of running calls from ending, for as long as this process lives."""
        while True:
            await asyncio.sleep(RENEW_S)
            if self._running:
                try:
                    await self._aside(partial(self._renew, tuple(self._running)))
                except sqlite3.Error as error:
                    self._complain(error)

    async def claim(self, key: bytes, request: bytes, *, again: bool) -> Kept | State:
        """See `Store.claim`."""
        claiming = self._submit(lambda: self._claim(key, request, again))
        try:
            found = await asyncio.shield(asyncio.wrap_future(claiming))
        except asyncio.CancelledError:
            self._submit(lambda: self._give_back(key, claiming))
            raise
        except sqlite3.Error as error:
            self._complain(error)
            raise KeysDown(
                "the gateway cannot look up the idempotency-key now, and did not carry the call out",
                retry_after=1.0,
            ) from None
        if found is State.FRESH:
            self._running.add(key)
        return found

    def settle(
        self, key: bytes, request: bytes, ending: Kept | State | None, then: Callable[[], None]
    ) -> None:
        """See `Store.settle`."""
        loop = asyncio.get_running_loop()

        def written(result: Future[None]) -> None:
            loop.call_soon_threadsafe(self._settled, key, result, then)

        try:
            self._submit(lambda: self._settle(key, ending)).add_done_callback(written)
        except RuntimeError:  # closed: its lease runs out by itself
            then()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._aside(self._close)
        self._thread.shutdown(wait=False)

    # -- on the loop

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self._thread.submit(work)

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(work))

    def _settled(self, key: bytes, result: Future[None], then: Callable[[], None]) -> None:
        self._running.discard(key)
        if (error := result.exception()) is not None:
            self._complain(error)
        then()

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            log.warning("idempotency keys in %s: %s; calls with a key are refused", self._path, error)

    # -- in the thread

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._file is not None, "open it first"
        return self._file

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # its side files get the same mode
        self._file = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.executescript(_SCHEMA)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _claim(self, key: bytes, request: bytes, again: bool) -> Kept | State:
        now = self._clock.wall()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            found = self._look(key, request, now, again)
            if found is State.FRESH:
                self._db.execute(
                    "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (key, request, _RUNNING, self._owner, now + LEASE_S, OVERHEAD),
                )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._complained = False
        return found

    def _look(self, key: bytes, request: bytes, now: float, again: bool) -> Kept | State:
        row = self._db.execute(
            "SELECT request, state, until, answer FROM keys WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return State.FRESH
        known, state, until, answer = row
        if state == _RUNNING:
            if until > now:
                return State.OTHER if known != request else State.RUNNING
            state = State.UNKNOWN.value  # its process is gone
            until = now + self._keep
            self._db.execute("UPDATE keys SET state = ?, until = ? WHERE key = ?", (state, until, key))
        if until <= now:
            return State.FRESH
        if known != request:
            return State.OTHER
        if state == _KEPT:
            return msgspec.msgpack.decode(answer, type=Kept)
        return State.FRESH if again else State(state)

    def _give_back(self, key: bytes, ended: Future[Kept | State]) -> None:
        """After a claim that nobody waits for any more, which the thread has carried out before this."""
        if ended.exception() is None and ended.result() is State.FRESH:
            try:
                self._settle(key, None)
            except sqlite3.Error as error:
                self._complain(error)

    def _settle(self, key: bytes, ending: Kept | State | None) -> None:
        mine = (key, self._owner)
        if ending is None:
            self._db.execute("DELETE FROM keys WHERE key = ? AND owner = ?", mine)
            return
        now = self._clock.wall()
        kept = ending if isinstance(ending, Kept) else None
        state = _KEPT if kept is not None else ending.value  # type: ignore[union-attr]
        answer = None if kept is None else msgspec.msgpack.encode(kept)
        size = OVERHEAD if kept is None else kept.size
        self._db.execute(
            "UPDATE keys SET state = ?, until = ?, size = ?, answer = ? WHERE key = ? AND owner = ?",
            (state, now + self._keep, size, answer, *mine),
        )
        self._prune(now)

    def _prune(self, now: float) -> None:
        db = self._db
        db.execute("DELETE FROM keys WHERE state != 'running' AND until <= ?", (now,))
        ended = "FROM keys WHERE state != 'running'"
        size, count = db.execute(f"SELECT coalesce(sum(size), 0), count(*) {ended}").fetchone()
        while size > self._max_bytes or count > self._max_keys:
            key, least = db.execute(f"SELECT key, size {ended} ORDER BY until LIMIT 1").fetchone()
            db.execute("DELETE FROM keys WHERE key = ?", (key,))
            size, count = size - least, count - 1

    def _renew(self, keys: tuple[bytes, ...]) -> None:
        until = self._clock.wall() + LEASE_S
        self._db.executemany(
            "UPDATE keys SET until = ? WHERE key = ? AND owner = ? AND state = 'running'",
            [(until, key, self._owner) for key in keys],
        )
