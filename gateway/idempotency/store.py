"""What becomes of a key once its call has ended: the contract of a store, and the one in memory.

Knows nothing of calls: a key is a digest, a request is a digest, an answer is three values. Sizes are bytes,
times seconds.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from gateway.clock import Clock
from gateway.vocab import Headers

OVERHEAD = 512
"""What a remembered key takes beside its answer: digests, times and the objects around them."""


class Kept(NamedTuple):
    """A complete answer, as it can be given again."""

    status: int
    headers: Headers
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that remembering it takes."""
        return OVERHEAD + len(self.body) + sum(len(name) + len(value) + 64 for name, value in self.headers)


class State(Enum):
    """What is known of a key of which there is no answer."""

    FRESH = "fresh"  # it is the caller's now, until `settle`
    RUNNING = "running"  # its first call runs in another process
    UNKNOWN = "unknown"  # its call may have been carried out, and nobody knows
    NOT_KEPT = "not_kept"  # its call was carried out, and its answer was too large
    OTHER = "other"  # it stands for another request


class Store(Protocol):
    """Where keys are. Of one process at most one `claim` of a key is under way at once.

    key:      digest of the key and of who calls
    request:  digest of what is asked
    """

    async def claim(self, key: bytes, request: bytes, *, again: bool) -> Kept | State:
        """Make the key one's own, if nothing is known of it. Raises KeysDown.

        again:  what may have been carried out may be so again
        """
        ...

    def settle(
        self, key: bytes, request: bytes, ending: Kept | State | None, then: Callable[[], None]
    ) -> None:
        """The call of a claimed key has ended; None: it was not carried out, the key is as if never seen.

        `then` is called when that is written down, or could not be.
        """
        ...

    async def open(self) -> None:
        """Before the first claim. Raises ConfigError."""
        ...

    async def run(self) -> None:
        """What goes on beside the calls, until it is cancelled."""
        ...

    async def close(self) -> None:
        """Write what is to be written, and let go."""
        ...


class _Entry(NamedTuple):
    request: bytes
    ending: Kept | State
    until: float
    size: int


class Memory:
    """Keys of this process, the oldest forgotten first.

    keep:       seconds that an ended call is remembered
    max_bytes:  most bytes of all of it; `max_keys` most keys
    """

    def __init__(self, *, clock: Clock, keep: float, max_bytes: int, max_keys: int) -> None:
        self._clock = clock
        self._keep = keep
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def claim(self, key: bytes, request: bytes, *, again: bool) -> Kept | State:
        """See `Store.claim`. Which keys are running is known to whoever asks."""
        self._expire()
        entry = self._entries.get(key)
        if entry is None:
            return State.FRESH
        if entry.request != request:
            return State.OTHER
        if again and isinstance(entry.ending, State):
            self._forget(key)
            return State.FRESH
        return entry.ending

    def settle(
        self, key: bytes, request: bytes, ending: Kept | State | None, then: Callable[[], None]
    ) -> None:
        """See `Store.settle`."""
        self._forget(key)
        if ending is not None:
            size = ending.size if isinstance(ending, Kept) else OVERHEAD
            self._entries[key] = _Entry(request, ending, self._clock.now() + self._keep, size)
            self.size += size
            while len(self._entries) > self._max_keys or self.size > self._max_bytes:
                self._forget(next(iter(self._entries)))
        self._expire()
        then()

    async def open(self) -> None:
        """Nothing to open."""

    async def run(self) -> None:
        """Nothing goes on."""

    async def close(self) -> None:
        """Nothing to write."""

    def _expire(self) -> None:
        """Entries stand in the order in which they end."""
        now = self._clock.now()
        while self._entries and next(iter(self._entries.values())).until <= now:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
