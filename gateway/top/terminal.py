"""The terminal of `overspill top`: keys as they are pressed, its size as it changes, and all of it put back.

Signals and keys wake one `select`; nothing is done inside a signal handler. Knows no gateway.
"""

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

RESIZED, WOKEN, QUIT = "resized", "woken", "quit"
_QUIT_KEYS = frozenset(b"qQ\x03\x04")


class Terminal:
    """Waits for what happens. `keys` is the descriptor of the terminal that keys come from."""

    def __init__(self, keys: int) -> None:
        self._keys: int | None = keys
        self._signals, self._signalled = os.pipe()
        self._wake, self._woken = os.pipe()
        for end in (self._signals, self._signalled, self._wake, self._woken):
            os.set_blocking(end, False)

    def wake(self) -> None:
        """From any thread: `wait` returns."""
        with suppress(OSError):  # full, and so awake already, or closed and so over
            os.write(self._woken, b".")

    def wait(self) -> set[str]:
        """What has happened; blocks until something has."""
        watched = [self._signals, self._wake, *([] if self._keys is None else [self._keys])]
        ready = select.select(watched, [], [])[0]
        found = set()
        if self._keys in ready:
            found |= self._pressed()
        if self._wake in ready:
            os.read(self._wake, 4096)
            found.add(WOKEN)
        if self._signals in ready:
            numbers = os.read(self._signals, 4096)
            found.add(RESIZED if set(numbers) == {signal.SIGWINCH} else QUIT)
        return found

    def _pressed(self) -> set[str]:
        try:
            keys = os.read(self._keys or 0, 1024)
        except OSError:
            keys = b""
        if not keys:  # the terminal has gone
            self._keys = None
            return {QUIT}
        return {QUIT} if _QUIT_KEYS & set(keys) else set()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keys one by one and unseen, signals as events; as it was before on every way out."""
        keys = self._keys or 0
        before = termios.tcgetattr(keys)
        numbers = (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.getsignal(number) for number in numbers}
        previous = signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        try:
            for number in numbers:
                signal.signal(number, _nothing)
            tty.setcbreak(keys, termios.TCSANOW)
            yield
        finally:
            with suppress(termios.error):  # the terminal may have gone
                termios.tcsetattr(keys, termios.TCSANOW, before)
            signal.set_wakeup_fd(previous)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            # The pipe of `wake` stays open: another thread may be about to write to it.
            for end in (self._signals, self._signalled):
                os.close(end)


def _nothing(_: int, __: FrameType | None) -> None:
    """A signal is read from the pipe."""
