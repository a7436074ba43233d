"""Carries finished calls to the collector on a thread of its own, so that no request ever waits for it.

    event loop ── offer ──► bounded queue ── thread ──► spans ──► exporter ──► collector

What does not fit into the queue is dropped, and so is what the collector did not take in time; both are
counted, and neither is ever an error of a request. Knows spans, and exporters only as something to call.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import sleep
from typing import Final, Protocol

from gateway.tracing.spans import Span, spans_of
from gateway.tracing.tracer import Finished

log = logging.getLogger("overspill.tracing")

MOST_QUEUED: Final = 4096
"""Finished calls that wait for the collector, about 10 kB each."""
BATCH: Final = 256
"""Calls that are sent at once, about half a megabyte: a request to the collector costs as much as a dozen."""
AT_ONCE: Final = 8
"""Calls of which spans are made before the event loop is let in: a few tenths of a millisecond. To change
between the two costs both of them what is near the processor.
"""
EVERY_S: Final = 1.0
"""How long a call waits for others to be sent with it."""


class Exporter(Protocol):
    """Sends spans. Both are called from the outbox's thread, except `stop`."""

    def export(self, spans: Sequence[Span]) -> bool:
        """Were they taken? May block for as long as its timeout."""
        ...

    def stop(self) -> None:
        """Give up what is being sent, and close. From any thread."""
        ...


class Outbox:
    """The queue and its thread.

    exported:  calls whose spans the collector took
    dropped:   calls that found the queue full
    failed:    calls whose spans the collector did not take
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        most: int = MOST_QUEUED,
        every_s: float = EVERY_S,
        make: Callable[[Finished], Sequence[Span]] = spans_of,
    ) -> None:
        self.exported = self.dropped = self.failed = 0
        self._exporter = exporter
        self._most = most
        self._every_s = every_s
        self._make = make
        self._queue: deque[Finished] = deque()
        self._full = threading.Event()
        self._closing = self._given_up = False
        self._failing = False
        # A daemon: a collector that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._begun = False

    def offer(self, finished: Finished) -> None:
        """Send it, some time. Never waits, and raises nothing."""
        if self._closing or len(self._queue) >= self._most:
            self.dropped += 1
            return
        self._queue.append(finished)
        if not self._begun:
            self._begun = True
            self._thread.start()
        if len(self._queue) >= BATCH:
            self._full.set()

    def close(self, timeout: float) -> None:
        """Send what waits, for at most `timeout` seconds; count the rest as failed."""
        self._closing = True
        self._full.set()
        if self._begun:
            self._thread.join(timeout)
        self._exporter.stop()
        if self._thread.is_alive():
            self._given_up = True
            self.failed += len(self._queue)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._full.wait(self._every_s)
            self._full.clear()
            closing = self._closing  # read before the queue is emptied: nothing comes after it
            while self._queue and not self._given_up:
                self._send([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
            if closing:
                return

    def _send(self, batch: list[Finished]) -> None:
        try:
            spans: list[Span] = []
            for place, finished in enumerate(batch, 1):
                spans += self._make(finished)
                if place % AT_ONCE == 0:
                    sleep(0)  # lets the event loop have the interpreter
            taken = self._exporter.export(spans)
        except Exception:
            if not self._failing:
                log.exception("spans could not be made or sent")
            taken = False
        if taken:
            self.exported += len(batch)
        else:
            self.failed += len(batch)
        if taken == self._failing:
            self._failing = not taken
            if taken:
                log.info("the collector takes spans again")
            else:
                log.warning("the collector did not take spans; what it does not take is dropped and counted")
