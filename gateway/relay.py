"""Step 7: copy the answer to the client with back-pressure, and say on it where it came from.

It notices the first byte, a stall on either side, and an answer that breaks off. It never changes a
body and never buffers more than the two sockets do. The fields it adds are those every answer carries.
"""

import asyncio

from gateway.clock import Clock
from gateway.errors import AnswerTruncated, BackendError, ClientGone
from gateway.exchange import Conversation
from gateway.record import Record
from gateway.vocab import HOP_BY_HOP, Headers, Outcome, Reply

_NOT_PASSED_ON = HOP_BY_HOP | {
    b"content-length",  # framing is the exchange's, whatever a backend passes on
    b"x-request-id",
    b"x-overspill-route",
    b"x-overspill-backend",
    b"x-overspill-reason",
    b"x-overspill-start",
    b"x-overspill-cost-usd",
    b"server-timing",
}


class Relay:
    """Copies answers. `stamps` caches ready header lines: its keys come from closed lists only."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._stamps: dict[tuple[str, str, str | None, str | None], bytes] = {}

    async def copy(
        self, reply: Reply, exchange: Conversation, record: Record, *, usd: float | None, stall_timeout: float
    ) -> None:
        """Send the reply. Raises AnswerTruncated or ClientGone if it cannot be completed.

        usd:            what the answer costs as far as is known now
        stall_timeout:  longest silence inside a streamed answer, seconds
        """
        record.start = reply.start
        record.status = status = reply.status
        record.usage = reply.usage
        headers = passed_on(reply.headers)
        extra = self.stamp(record, usd)
        record.outcome = _outcome(status)
        if reply.body is not None:
            record.first_byte_at = self._clock.now()
            exchange.send(status, headers, extra, reply.body, length=reply.length)
        else:
            exchange.begin(status, headers, extra, reply.length)
            await self._stream(reply, exchange, record, stall_timeout)
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
        return b"x-request-id: %b\r\n%bserver-timing: queue;dur=%.1f, upstream;dur=%.1f\r\n%b" % (
            record.request_id.encode("ascii"),
            lines,
            record.queued_s * 1000,
            record.upstream_s * 1000,
            cost,
        )

    async def _stream(
        self, reply: Reply, exchange: Conversation, record: Record, stall_timeout: float
    ) -> None:
        assert reply.stream is not None
        clock = self._clock
        loop = asyncio.get_running_loop()
        began = clock.now()
        draining = 0.0
        waits_for_client = False
        try:
            async with asyncio.timeout(stall_timeout) as silence:
                async for chunk in reply.stream:
                    if record.first_byte_at is None:
                        record.first_byte_at = clock.now()
                    exchange.write(chunk)
                    if exchange.congested:
                        waits_for_client, since = True, clock.now()
                        await exchange.drain()
                        waits_for_client = False
                        draining += clock.now() - since
                    silence.reschedule(loop.time() + stall_timeout)
        except TimeoutError:
            if waits_for_client:
                raise ClientGone(f"the client read nothing for {stall_timeout:g} s") from None
            raise AnswerTruncated(f"the backend sent nothing for {stall_timeout:g} s") from None
        except BackendError as error:
            raise AnswerTruncated(str(error), usage=error.usage) from error
        finally:
            record.upstream_s += clock.now() - began - draining
            record.bytes_out = exchange.bytes_out
        if record.first_byte_at is None:
            record.first_byte_at = clock.now()


def passed_on(headers: Headers) -> Headers:
    """A backend's fields without those that the gateway writes itself."""
    if _NOT_PASSED_ON.isdisjoint([name for name, _ in headers]):
        return headers
    return [field for field in headers if field[0] not in _NOT_PASSED_ON]


def _outcome(status: int) -> Outcome:
    if status < 400:
        return Outcome.OK
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
