"""Signals of the process: who is told of which. The one place where handlers are put in and taken out.

Any number of handlers can wait for one signal. Knows nothing of what they do.
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
        """While the context is open, on the running loop."""
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            for number, handlers in self._handlers.items():
                loop.add_signal_handler(number, partial(_call, handlers))
                undo.callback(loop.remove_signal_handler, number)
            yield


def _call(handlers: list[Handler]) -> None:
    for handler in handlers:
        handler()
