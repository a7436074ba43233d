"""Streamed invocations of one Lambda function: the answer as it is written, and its bill at the end.

Knows how a streamed invocation ends; it must never know how one is signed, nor what a second of it costs.
"""

import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from backends.aws_lambda_api import LambdaApi
from backends.aws_lambda_bill import LONGEST_S, LambdaBill
from backends.aws_lambda_stream import Head, Invocation
from backends.elastic import Elastic
from backends.instances import Boot, Ticket, take_boot
from backends.pings import Pinged
from gateway.errors import AnswerTruncated, BackendBroke, BackendError
from gateway.vocab import Headers, Reply, Start

_BYTES = (b"content-type", b"application/octet-stream")  # what Lambda says of an answer without a head


class Begun(NamedTuple):
    """An invocation that has begun to answer.

    body:   the first bytes of the body; all of them of one that has ended with that (`whole`)
    close:  be rid of it
    """

    invocation: Invocation
    close: Callable[[], Awaitable[None]]
    status: int
    headers: Headers
    body: bytes
    boot: Boot | None = None
    whole: bool = False


class LambdaStreams:
    """One function's."""

    def __init__(self, owner: Elastic, api: LambdaApi, bill: LambdaBill) -> None:
        self._owner = owner
        self._api = api
        self._bill = bill

    async def ping(self, payload: bytes, ticket: Ticket) -> Pinged:
        """A function that streams would answer a plain invocation with bytes that are not JSON."""
        begun = await self._begin(payload, ticket)
        invocation, boot = begun.invocation, begun.boot
        try:
            async for _ in invocation.body():
                pass
            if begun.status >= 500:
                raise BackendBroke(f"{self._owner.name}: the function answered a ping with {begun.status}")
        except BackendError as error:
            if invocation.report is not None:
                error.usage = self._bill.judge(invocation.report, boot, ticket, died=invocation.died)[1]
            raise
        finally:
            await begun.close()
        return self._bill.pinged(invocation.report, boot, ticket)

    async def answered(self, payload: bytes, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The head of an answer. `held` owns the rest of it. Raises BackendError."""
        try:
            begun = await self._bill.outlasting(self._begin(payload, ticket), ticket, self._unclaimed)
        except BackendBroke as error:
            if error.usage is not None:
                self._bill.end(ticket, error.usage)
            raise
        held.push_async_callback(begun.close)
        if not begun.whole:
            reply = self._flowing(begun, ticket)
            held.callback(self._over, begun, reply.start, ticket)
            return reply
        start, usage = self._bill.judge(begun.invocation.report, begun.boot, ticket)
        self._bill.end(ticket, usage, begun.boot)
        return Reply(begun.status, begun.headers, begun.body, start=start, usage=usage)

    async def _begin(self, payload: bytes, ticket: Ticket) -> Begun:
        """Raises BackendError; that of a function which failed has its usage with it."""
        opened = await self._api.stream(payload)
        async with AsyncExitStack() as held:
            held.push_async_callback(opened.leave)
            invocation = Invocation(self._owner.name, opened.it, self._owner.credentials)
            held.push_async_callback(invocation.close)
            try:
                return self._begun(invocation, await invocation.head(), held)
            except BackendBroke as error:
                if invocation.report is not None:
                    error.usage = self._bill.judge(invocation.report, None, ticket, died=invocation.died)[1]
                raise

    def _begun(self, invocation: Invocation, head: Head, held: AsyncExitStack) -> Begun:
        """It owns from now on what `held` did."""
        if head.prelude is None:
            return Begun(invocation, held.pop_all().aclose, 200, [_BYTES], head.rest)
        status, headers, body = self._owner.unpack(head.prelude)
        headers, boot = take_boot(headers)
        body = body if head.whole else head.rest
        return Begun(invocation, held.pop_all().aclose, status, headers, body, boot, head.whole)

    def _flowing(self, begun: Begun, ticket: Ticket) -> Reply:
        """A reply whose body is on the way; what it used follows with the end."""
        invocation, boot = begun.invocation, begun.boot
        start, usage = self._bill.judge(None, boot, ticket)
        reply = Reply(begun.status, begun.headers, start=start)

        async def relayed() -> AsyncIterator[bytes]:
            try:
                async with contextlib.aclosing(invocation.body(begun.body)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except AnswerTruncated as error:
                if invocation.report is not None:
                    error.usage = self._bill.judge(invocation.report, boot, ticket, died=invocation.died)[1]
                    self._bill.end(ticket, error.usage, boot)
                raise
            reply.start, reply.usage = start, usage
            if invocation.report is not None:
                reply.start, reply.usage = self._bill.judge(invocation.report, boot, ticket)
            self._bill.end(ticket, reply.usage, boot)

        reply.stream = relayed()
        return reply

    def _over(self, begun: Begun, start: Start, ticket: Ticket) -> None:
        if begun.invocation.report is None:
            self._bill.unreported(begun.boot, start, ticket)

    def _unclaimed(self, begun: Begun, ticket: Ticket) -> None:
        self._owner.kit.spawn(self._drain(begun, ticket), name=f"{self._owner.name}: invocation")

    async def _drain(self, begun: Begun, ticket: Ticket) -> None:
        """An invocation whose call had gone before it began to answer: its end says what it used."""
        invocation, boot = begun.invocation, begun.boot
        start = Start.UNKNOWN if begun.whole else self._bill.judge(None, boot, ticket)[0]
        try:
            async with timeout(LONGEST_S):
                async for _ in invocation.body():
                    pass
        except (BackendError, TimeoutError):
            pass  # an error has an end, too
        finally:
            await begun.close()
            self._over(begun, start, ticket)
            report = invocation.report
            usage = None if report is None else self._bill.judge(report, boot, ticket)[1]
            self._bill.charge(None, usage, ticket, boot)
