"""What is written within one turn of the event loop leaves together, at the turn's end.

A write wakes whoever waits for it at the other end, and the processor that he sleeps on has to be called for
that: on a virtual machine this costs as much as the rest of the write. Where many requests are under way,
those who are written to in one go find the other end awake after the first. Where one is alone there is
nothing to wait for, and a turn would only make it later: then writes go straight out, and now and then one
is held to find out whether that is still so.

Shared by everything on one event loop that writes small pieces: both sides of the warm path, and HTTP/2. It
must never know what is written, nor to whom. Bytes for one transport stay in order as long as all of them
come through here, or `flush` goes before those that do not.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf

log = logging.getLogger("overspill.cork")

LARGEST = 16 * 1024
"""Bytes held for one transport. More goes out at once: its transport must say how it copes with that."""
MOST = 64
"""Transports that are held for: what was written first waits while the others are worked out."""
STRAIGHT = 16
"""Writes that go straight out after a turn in which only one was held."""


class Cork:
    """The pieces of one event loop.

    at_once: holds nothing, for who has no loop that turns by itself
    sent:    told when something went out alone; a loop with more to do than that does not come to sleep
    """

    __slots__ = ("_held", "_sent", "_straight")

    def __init__(self, *, at_once: bool = False, sent: Callable[[], None] | None = None) -> None:
        self._held: dict[asyncio.WriteTransport, bytes] = {}
        self._sent = sent
        self._straight = inf if at_once else 0.0

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Send these bytes by the end of this turn, unless the transport closes before."""
        if self._straight:
            self._straight -= 1.0
            transport.write(data)
            if self._sent is not None:
                self._sent()
            return
        held = self._held
        before = held.get(transport)
        if before is not None:
            data = before + data
        elif not held:
            asyncio.get_running_loop().call_soon(self.flush)
        held[transport] = data
        if len(data) > LARGEST or len(held) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Send what is held, now."""
        held, self._held = self._held, {}
        for transport, data in held.items():
            if transport.is_closing():
                continue  # nobody is there any more, or nothing is to reach him
            try:
                transport.write(data)
            except Exception:
                # Nobody else's bytes may be lost with it.
                log.exception("a transport would not write; its connection is closed")
                transport.abort()
        if len(held) == 1:
            self._straight = STRAIGHT
            if self._sent is not None:
                self._sent()
