"""What a worker's result that comes whole means for a call: an answer, or a failure that has cost something.

Pure. It must never know whose result it is, nor what was used.
"""

from collections.abc import Callable
from typing import NamedTuple

from backends.boot import Boot, take_boot
from gateway.errors import BackendBroke
from gateway.vocab import Headers, Reply, Start, Usage

Parts = tuple[int, Headers, bytes]
"""Status, fields and body."""


class Heard(NamedTuple):
    """A result that was read: `answer`, or the `fault` in its place, and what the worker said of itself."""

    answer: Parts | None
    fault: BackendBroke | None
    boot: Boot | None

    def reply(self, start: Start, usage: Usage) -> Reply:
        """The client's answer. Raises the fault, with its usage, where there is none."""
        if self.answer is not None:
            return Reply(*self.answer, start=start, usage=usage)
        assert self.fault is not None
        self.fault.usage = usage
        raise self.fault.again()

    def fault_of_ping(self, who: str) -> BackendBroke | None:
        """Why this is no answer to a ping, if it is none."""
        if self.answer is not None and self.answer[0] >= 500:
            return BackendBroke(f"{who} answered a ping with {self.answer[0]}")
        return self.fault


def hear(read: Callable[[], Parts], *, kit: bool) -> Heard:
    """What `read` returns, or the BackendBroke that it raises.

    kit:  whether the worker kit speaks: its two fields are taken off the answer
    """
    try:
        status, headers, body = read()
    except BackendBroke as error:
        return Heard(None, error, None)
    if not kit:
        return Heard((status, headers, body), None, None)
    headers, boot = take_boot(headers)
    return Heard((status, headers, body), None, boot)
