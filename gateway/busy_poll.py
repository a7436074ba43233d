"""After something was sent, the event loop looks for what comes back a little longer before it sleeps.

Putting a processor to sleep and waking it again costs more than a short wait: on virtual machines as much as
the whole call. So where answers come back sooner than that, it is cheaper to keep asking. Linux does the same
for the sleep of a guest (its haltpoll governor, from which the rule is taken): ask on only where the last
wait was short, and no longer than that. Where waits are long nothing is asked twice.

It keeps a processor busy that others may want, so it is off until the file says otherwise. Must never know
what was sent, nor to whom, and delays nothing: whatever is ready in the loop goes first.
"""

from collections.abc import Callable


class BusyPoll:
    """One event loop's patience.

    window: seconds without anything sent after which the loop may sleep; a wait that was longer than this is
            followed by no asking
    now:    monotonic seconds
    soon:   calls back in the loop's next turn, and keeps that turn from sleeping
    """

    __slots__ = ("_asking", "_now", "_sent", "_sent_at", "_soon", "_window")

    def __init__(
        self, window: float, *, now: Callable[[], float], soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._window = window
        self._now = now
        self._soon = soon
        self._asking = False
        self._sent = False
        self._sent_at = float("-inf")

    def sent(self) -> None:
        """Something went out just now: what answers it may be about to come."""
        if self._asking:
            self._sent = True
            return
        now = self._now()
        if now - self._sent_at <= self._window:
            self._asking = True
            self._soon(self._ask)
        self._sent_at = now

    def _ask(self) -> None:
        now = self._now()
        if self._sent:
            self._sent = False
            self._sent_at = now
        elif now - self._sent_at > self._window:
            self._asking = False
            return
        self._soon(self._ask)
