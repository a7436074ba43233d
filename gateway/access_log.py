"""The access log: one JSON object per line and call, written in batches that never hold up a request.

Knows records and tallies. It never sees a body, a header value, a key or a token, and it never raises
into a request: lines that cannot be written are counted in `lost`. The schema of a line is `Line`: all
of its fields are always there, `null` where a value is not known; UTF-8, shorter than 4,096 bytes.
"""

import asyncio
import logging
import os
import select
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.json import Encoder

from gateway.clock import Clock
from gateway.record import Record
from gateway.tallies import Tally
from gateway.vocab import Outcome

logger = logging.getLogger(__name__)

FLUSH_BYTES: Final = 64 * 1024
FLUSH_SECONDS: Final = 0.5

BACKLOG_BYTES: Final = 1024 * 1024
"""What is kept for a reader that does not read; lines beyond it are lost."""

_ATOMIC = 4096
"""A pipe takes that many bytes at once or not at all (PIPE_BUF on Linux), so that lines of several
processes on one pipe never mix, and a pipe that polls as writable never blocks on them."""

_WORD = 256
_CACHED = 1024
_MILLISECONDS = tuple(f"{count:03d}Z" for count in range(1000))
"""The end of every time stamp: looked up, since a line is made for each request."""


class Line(Struct, gc=False):
    """One line. Durations are milliseconds; `bytes_in` and `bytes_out` count bodies only.

    ts           when the request arrived: RFC 3339, UTC, milliseconds
    request_id   as in the answer's x-request-id; `trace_id` as in the traceparent sent to the backend
    protocol     kserve, openai or raw; `operation` its word for what was asked
    model        as asked for, cut after 256 characters
    route        the route it took; `backend` and `replica`: the last that had it
    reason       why it went there or was not served; `start`: warm, cold, unknown; `outcome`: how it ended
    status       what the client saw, 0 if nothing; `attempts`: slots taken for it
    queued_ms    waiting for slots; `upstream_ms` waiting for backends
    ttfb_ms      from arrival to the first byte of the answer; `duration_ms` from arrival to the end
    usd          what it cost, retries included; `error`: word of the error that ended it
    hedged       `won` or `lost` where a second attempt ran beside the first: was its answer used?
    caller       who called: id of a key, subject of a token, name in a certificate; `tenant`: for whom
    """

    ts: str
    request_id: str
    trace_id: str | None
    protocol: str | None
    operation: str | None
    model: str | None
    route: str | None
    backend: str | None
    replica: str | None
    reason: str | None
    start: str | None
    outcome: str
    status: int
    attempts: int
    queued_ms: float
    upstream_ms: float
    ttfb_ms: float | None
    duration_ms: float
    bytes_in: int
    bytes_out: int
    usd: float | None
    error: str | None
    hedged: str | None
    caller: str | None
    tenant: str | None


class AccessLog:
    """Lines wait in memory until there are 64 KiB of them or half a second has passed.

    target:  path of the file, or a descriptor such as 1 for stdout, which stays open at the end
    share:   which part of the calls is written, drawn with `chance`; failed calls always are

    Raises OSError if the file cannot be opened. Writing to a file happens on the event loop: it is a
    copy into the page cache. A pipe, a socket or a terminal is given only what it takes at once.
    """

    def __init__(
        self, target: Path | int, *, clock: Clock, share: float = 1.0, chance: Random | None = None
    ) -> None:
        if share < 1.0 and chance is None:
            raise ValueError("a sample needs a Random to be drawn with")
        self.lost = 0
        self.before_flush: Callable[[], None] = _nothing
        """Called first by whoever flushes: whoever has lines still to give gives them now."""
        self._target = target
        self._clock = clock
        self._share = share
        self._chance = chance if share < 1.0 else None
        self._encode_lines = Encoder().encode_lines
        self._buffer = bytearray()
        self._torn = False
        self._failing = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._seconds: dict[int, str] = {}
        self._offset = clock.wall() - clock.now()
        self._fd = _opened(target)
        self._plain = _never_stuck(self._fd)

    def write(self, ended: Iterable[tuple[Record, Tally]]) -> None:
        """Add the lines of closed records."""
        chance = self._chance
        if chance is not None:
            share, draw = self._share, chance.random
            ended = [each for each in ended if each[0].outcome is not Outcome.OK or draw() < share]
        make = self._line
        lines = [make(record, tally) for record, tally in ended]
        if not lines:
            return
        buffer = self._buffer
        size = len(buffer)
        try:
            buffer += self._encode_lines(lines)
        except UnicodeEncodeError:  # half a surrogate pair in a name that the client made up
            for line in lines:
                line.model = _cleaned(line.model)
                line.operation = _cleaned(line.operation)
            buffer += self._encode_lines(lines)
        self.expect()
        if len(buffer) >= FLUSH_BYTES and size < FLUSH_BYTES:
            self.flush()

    @property
    def expects(self) -> bool:
        """Will it be flushed without being asked to?"""
        return self._timer is not None

    def expect(self) -> None:
        """Lines will come, by `before_flush` at the latest: half a second from now they are to be written."""
        if self._timer is None:
            self._arm()

    def flush(self) -> None:
        """Write what waits, as far as it can be written now. Raises nothing."""
        self.before_flush()
        # People set clocks; the log follows within one flush.
        self._offset = self._clock.wall() - self._clock.now()
        self._disarm()
        if self._closed:
            self._lose(len(self._buffer))
            return
        try:
            if self._plain:
                self._write_file()
            else:
                self._write_pipe()
        except OSError as error:
            if not self._failing:  # said once, not twice a second until the disk is cleaned up
                logger.warning("access log: lines are being lost: %s", error.strerror)
            self._failing = True
            self._lose(len(self._buffer))
        else:
            self._failing = False
        if self._buffer:
            self._trim()
            self._arm()

    def reopen(self) -> None:
        """Go on in a new file under the same path, after the old one was moved away. Raises nothing."""
        self.flush()
        if isinstance(self._target, int) or self._closed:
            return
        try:
            fd = _opened(self._target)
        except OSError as error:
            logger.warning("access log: %s; still writing to the old file", error)
            return
        os.close(self._fd)
        self._fd = fd
        self._plain = _never_stuck(fd)

    def close(self) -> None:
        """Write what waits and let go of the file. What cannot be written now is lost."""
        if self._closed:
            return
        self.flush()
        self._disarm()
        self._lose(len(self._buffer))
        self._closed = True
        if not isinstance(self._target, int):
            os.close(self._fd)

    def _line(self, record: Record, tally: Tally) -> Line:
        arrived = record.arrived
        moment = arrived + self._offset
        second = int(moment)
        stamp = self._seconds.get(second) or self._stamp(second)
        first = record.first_byte_at
        closed = record.closed_at or arrived
        operation = record.operation
        model = record.model
        # Whole microseconds, as `x * 1e6 // 1 / 1e3`: the shortest decimals at the least cost.
        return Line(
            stamp + _MILLISECONDS[int((moment - second) * 1e3)],
            record.request_id,
            record.traceparent[3:35] or None,  # version "-" trace id "-" … (W3C Trace Context)
            record.protocol or None,
            (operation if len(operation) <= _WORD else operation[:_WORD]) or None,
            (model if len(model) <= _WORD else model[:_WORD]) or None,
            tally.log_route,
            tally.log_backend,
            record.replica or None,
            tally.log_reason,
            tally.log_start,
            tally.log_outcome,
            record.status,
            record.attempts,
            record.queued_s * 1e6 // 1.0 / 1e3,
            record.upstream_s * 1e6 // 1.0 / 1e3,
            None if first is None else (first - arrived) * 1e6 // 1.0 / 1e3,
            (closed - arrived) * 1e6 // 1.0 / 1e3,
            record.bytes_in,
            record.bytes_out,
            record.usd,
            record.error or None,
            None if record.hedge is None else record.hedge.result,
            None if (caller := record.caller) is None else caller.name,
            None if caller is None else caller.tenant,
        )

    def _stamp(self, second: int) -> str:
        if len(self._seconds) >= _CACHED:
            self._seconds.clear()
        stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        self._seconds[second] = stamp
        return stamp

    def _arm(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # before the loop runs, or after it: size and `close` still flush
            return
        self._timer = loop.call_later(FLUSH_SECONDS, self.flush)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_file(self) -> None:
        if self._torn:  # the line that a full disk cut off stays a line of its own
            self._torn = os.write(self._fd, b"\n") == 0
        while self._buffer:
            written = os.write(self._fd, self._buffer)
            self._torn = self._buffer[written - 1] != ord("\n")
            del self._buffer[:written]

    def _write_pipe(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        done = 0
        try:
            while done < len(self._buffer) and poll.poll(0):
                end = self._buffer.rfind(b"\n", done, done + _ATOMIC) + 1
                done += os.write(self._fd, self._buffer[done:end])
        except BlockingIOError:
            pass  # another owner of the pipe made it non-blocking: as good as not writable
        finally:
            del self._buffer[:done]

    def _trim(self) -> None:
        if len(self._buffer) > BACKLOG_BYTES:
            self._lose(self._buffer.find(b"\n", len(self._buffer) - BACKLOG_BYTES) + 1)

    def _lose(self, size: int) -> None:
        self.lost += self._buffer.count(b"\n", 0, size)
        del self._buffer[:size]


def _nothing() -> None:
    """Nobody has lines to give."""


def _cleaned(word: str | None) -> str | None:
    return word and word.encode("utf-8", "replace").decode("utf-8")


def _opened(target: Path | int) -> int:
    if isinstance(target, int):
        return target
    return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _never_stuck(fd: int) -> bool:
    """Does a write return without waiting for a reader? True of files and of /dev/null."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))
