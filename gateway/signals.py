"""Signals of the process: who is told of which. The one place where handlers are put in and taken out.

Any number of handlers can wait for one signal. A signal that comes before its handler is there can be held
back until it is. Knows nothing of what they do.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

Handler = Callable[[], object]


class Signals:
    """Handlers, called on the event loop in the order in which they were added."""

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, list[Handler]] = {}

    def on(self, *numbers: signal.Signals, call: Handler) -> None:
        """Have `call` called at each of these signals. Before `installed`."""
        for number in numbers:
            self._handlers.setdefault(number, []).append(call)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the context is open, on the running loop. What was held back is taken then."""
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            for number, handlers in self._handlers.items():
                loop.add_signal_handler(number, partial(_call, handlers))
                undo.callback(loop.remove_signal_handler, number)
            before = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handlers)
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            yield


LATER = frozenset((signal.SIGHUP, signal.SIGUSR2))
"""Ask a process for something other than its end: what comes while it starts is done when it has started."""


@contextmanager
def held_back() -> Iterator[None]:
    """While the context is open `LATER` wait for their handlers, across an `execve` too; none kills."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LATER)
    try:
        yield
    finally:
        while signal.sigtimedwait(LATER, 0) is not None:
            pass  # nobody is left who would do it, and it is not to end what ends by itself
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(handlers: list[Handler]) -> None:
    for handler in handlers:
        handler()
