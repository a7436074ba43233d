"""Step 7: copy the answer to the client with back-pressure, and say on it where it came from.

It notices the first output, a stall on either side, and an answer that breaks off. It never changes a
body, and beyond a stream's opening events (`preamble`) never buffers more than the two sockets do. The
fields it adds are those every answer carries.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import AnswerTruncated, BackendBroke, BackendError, BackendFull, ClientGone
from gateway.kept_fields import KeptFields
from gateway.preamble import LONGEST_S, Kind, Opening, Preamble, is_events
from gateway.record import Record
from gateway.stream_watch import StreamWatch
from gateway.vocab import HOP_BY_HOP, OK, Headers, Outcome, Poured, Reply, Verdict, Work

_NOT_PASSED_ON = HOP_BY_HOP | {
    b"content-length",  # framing is the exchange's, whatever a backend passes on
    b"x-request-id",
    b"x-overspill-route",
    b"x-overspill-backend",
    b"x-overspill-reason",
    b"x-overspill-start",
    b"x-overspill-cost-usd",
    b"server-timing",
    b"ratelimit",  # a provider's say how much the gateway may ask, not its clients
    b"ratelimit-policy",
}

_FAILED = frozenset((Kind.FULL, Kind.BROKE, Kind.ERROR))


class Client(Protocol):
    """Where an answer goes: what is needed of a conversation."""

    @property
    def bytes_out(self) -> int: ...
    @property
    def congested(self) -> bool: ...
    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None: ...
    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def end(self) -> None: ...


class Relay:
    """Copies answers. `stamps` caches ready header lines: its keys come from closed lists only.

    hold_s:  longest that the head of a stream and its opening events are held back
    """

    def __init__(self, *, clock: Clock, hold_s: float = LONGEST_S) -> None:
        self._clock = clock
        self._hold_s = hold_s
        self._watch = StreamWatch(clock)
        self._stamps: dict[tuple[str, str, str | None, str | None], bytes] = {}

    async def copy(
        self, reply: Reply, exchange: Client, record: Record, usd: float | None, stall_timeout: float
    ) -> None:
        """Send the reply. Raises AnswerTruncated or ClientGone if it cannot be completed.

        Where a stream fails before its first output nothing has been sent: BackendBroke or BackendFull, and
        the call may be tried again.

        usd:            what the answer costs as far as is known now
        stall_timeout:  longest silence inside a streamed answer, seconds
        """
        status = reply.status
        if not 200 <= status <= 599:
            raise BackendBroke(f"the backend answered with {status}, which is no status of a final answer")
        record.start = reply.start
        record.usage = reply.usage
        headers = passed_on(reply.headers)
        extra = self.stamp(record, usd)
        record.outcome = OK if status < 400 else _refused(status)
        if reply.body is not None:
            record.status = status
            record.first_byte_at = self._clock.now()
            exchange.send(status, headers, extra, reply.body, length=reply.length)
        else:
            head = (status, headers, extra, reply.length)
            events = status < 400 and is_events(headers)
            opening = Opening(Preamble(events=events), partial(_begin, exchange, record, head))
            if record.protocol == "grpc" or status >= 400:
                opening.commit()
            await self._stream(reply, exchange, record, stall_timeout, opening)
            record.start = reply.start  # some providers tell only at the end
            record.usage = reply.usage
            exchange.end()
        record.bytes_out = exchange.bytes_out

    def stamp(self, record: Record, usd: float | None) -> bytes:
        """The fields that every answer carries, as ready header lines."""
        key = (record.route, record.backend, record.reason, record.start)
        lines = self._stamps.get(key)
        if lines is None:
            lines = self._stamps[key] = _stamp_lines(*key)
        cost = b"" if usd is None else b"x-overspill-cost-usd: %.9f\r\n" % usd
        if (stay := record.stay) is not None:
            cost += stay.lines(self._clock.now())
        return b"x-request-id: %b\r\n%bserver-timing: queue;dur=%.1f, upstream;dur=%.1f\r\n%b" % (
            record.request_id.encode("ascii"),
            lines,
            record.queued_s * 1000,
            record.upstream_s * 1000,
            cost,
        )

    async def _stream(
        self, reply: Reply, exchange: Client, record: Record, stall_timeout: float, opening: Opening
    ) -> None:
        clock = self._clock
        began = clock.now()
        copying = _Copying(reply, exchange, record, opening, clock, began + self._hold_s, stall_timeout)
        self._watch.add(copying)
        draining, since = 0.0, None
        try:
            while not await copying.go_on():
                since = clock.now()
                await exchange.drain()
                draining += copying.heard() - since
                since = None
        except asyncio.CancelledError:
            if not copying.stopped():
                raise
            if since is not None:
                raise ClientGone(f"the client read nothing for {stall_timeout:g} s") from None
            silent = f"the backend sent nothing for {stall_timeout:g} s"
            raise (AnswerTruncated if opening.begun else BackendBroke)(silent) from None
        except BackendError as error:
            if opening.begun:
                raise AnswerTruncated(str(error), usage=error.usage) from error
            if error.work is not Work.DONE:
                raise
            raise BackendBroke(str(error), usage=error.usage) from error
        finally:
            self._watch.remove(copying)
            record.upstream_s += clock.now() - began - draining
            record.bytes_out = exchange.bytes_out
        opening.commit()  # of an answer that was nothing else
        if record.first_byte_at is None:
            record.first_byte_at = clock.now()


class _Copying:
    """One stream on its way to the client: it takes parts, and is looked at for what is overdue.

    hold_until:  when its opening events go out, whatever has come
    longest:     seconds of silence after which it is over, on either side
    """

    __slots__ = (
        "_client", "_clock", "_expired", "_heard_at", "_hold_until", "_longest", "_opening", "_pour",
        "_record", "_reply", "_task",
    )  # fmt: skip

    def __init__(
        self,
        reply: Reply,
        client: Client,
        record: Record,
        opening: Opening,
        clock: Clock,
        hold_until: float,
        longest: float,
    ) -> None:
        stream, task = reply.stream, asyncio.current_task()
        assert stream is not None
        assert task is not None
        self._reply = reply
        self._client = client
        self._record = record
        self._opening = opening
        self._clock = clock
        self._hold_until = hold_until
        self._longest = longest
        self._task = task
        self._expired = False
        self._heard_at = clock.now()
        self._pour = stream.pour if isinstance(stream, Poured) else partial(_pull, aiter(stream))

    def go_on(self) -> Awaitable[bool]:
        """Copy; True at the end of the stream, False where the client has to catch up first."""
        return self._pour(self.take)

    def take(self, chunk: bytes) -> bool:
        """Send on what has come. False where the client reads more slowly than we write."""
        opening, client = self._opening, self._client
        if opening.begun:
            now = self.heard()
            if self._record.first_byte_at is None:
                self._record.first_byte_at = now
            client.write(chunk)
        else:
            begins = opening.preamble.take(chunk)
            if begins and opening.preamble.kind in _FAILED:
                raise _failure(opening.preamble, self._reply)
            now = self.heard()
            if begins:
                self._record.first_byte_at = now
                opening.commit()
        return not client.congested

    def heard(self) -> float:
        """Something has moved; returns when."""
        self._heard_at = now = self._clock.now()
        return now

    def look(self, now: float) -> None:
        """See `StreamWatch`."""
        if not self._opening.begun and now >= self._hold_until:
            self._opening.commit()
        if now - self._heard_at >= self._longest and not self._expired:
            self._expired = True
            self._task.cancel()

    def stopped(self) -> bool:
        """Was it cancelled from here, and by nobody else?"""
        return self._expired and self._task.uncancel() == 0


async def _pull(stream: AsyncIterator[bytes], take: Callable[[bytes], bool]) -> bool:
    """`Poured.pour` of a stream that is read by who waits for it."""
    async for chunk in stream:
        if not take(chunk):
            return False
    return True


def _begin(
    exchange: Client, record: Record, head: tuple[int, Headers, bytes, int | None], opening: bytes
) -> None:
    record.status = head[0]
    exchange.begin(*head)
    exchange.write(opening)


def _failure(preamble: Preamble, reply: Reply) -> BackendError:
    """What a stream amounts to whose first words are an error of the server's; it is the answer all the same
    if nobody else has another.
    """
    answer = Reply(reply.status, reply.headers, preamble.held)
    if preamble.kind is Kind.FULL:
        return BackendFull(
            "the backend began its stream and then pushed back", answer=answer, usage=reply.usage
        )
    error = BackendBroke("the backend began its stream with an error", answer=answer, usage=reply.usage)
    if preamble.kind is Kind.ERROR:
        error.verdict = Verdict.NEUTRAL  # it may be the request's fault
    return error


def passed_on(headers: Headers) -> Headers:
    """A backend's fields without those that the gateway writes itself."""
    if type(headers) is KeptFields:
        known: KeptFields | None = headers.known.get(_NOT_PASSED_ON)
        if known is None:
            known = KeptFields([field for field in headers if field[0] not in _NOT_PASSED_ON])
            headers.keep(_NOT_PASSED_ON, known)
        return known
    if _NOT_PASSED_ON.isdisjoint([name for name, _ in headers]):
        return headers
    return [field for field in headers if field[0] not in _NOT_PASSED_ON]


def _refused(status: int) -> Outcome:
    return Outcome.BACKEND_REJECTED if status < 500 else Outcome.BACKEND_ERROR


def _stamp_lines(route: str, backend: str, reason: str | None, start: str | None) -> bytes:
    fields: Headers = []
    if route:
        fields.append((b"x-overspill-route", route.encode("utf-8")))
    if backend:
        fields.append((b"x-overspill-backend", backend.encode("utf-8")))
    if reason:
        fields.append((b"x-overspill-reason", reason.encode("ascii")))
    if start:
        fields.append((b"x-overspill-start", start.encode("ascii")))
    return b"".join(b"%b: %b\r\n" % field for field in fields)
