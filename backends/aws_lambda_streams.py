"""Streamed invocations of one Lambda function: the answer as it is written, and its bill at the end.

Knows how a streamed invocation ends; it must never know how one is signed, nor what a second of it costs.
"""

import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from backends.aws_lambda_api import LambdaApi, Opened
from backends.aws_lambda_bill import LONGEST_S, LambdaBill
from backends.aws_lambda_stream import Invocation
from backends.elastic import Elastic
from backends.instances import Boot, Ticket, take_boot
from backends.pings import Pinged
from gateway.errors import AnswerTruncated, BackendBroke, BackendError
from gateway.vocab import Reply

_BYTES = (b"content-type", b"application/octet-stream")  # what Lambda says of an answer without a head


class LambdaStreams:
    """One function's."""

    def __init__(self, owner: Elastic, api: LambdaApi, bill: LambdaBill) -> None:
        self._owner = owner
        self._api = api
        self._bill = bill

    async def ping(self, payload: bytes, ticket: Ticket) -> Pinged:
        """A function that streams would answer a plain invocation with bytes that are not JSON."""
        async with AsyncExitStack() as held:
            opened = await self._api.stream(payload)
            held.push_async_callback(opened.leave)
            invocation = self._invocation(opened, held)
            boot: Boot | None = None
            try:
                head = await invocation.head()
                async for _ in invocation.body():
                    pass
                if head.prelude is not None:
                    status, headers, _ = self._owner.unpack(head.prelude)
                    boot = take_boot(headers)[1]
                    if status >= 500:
                        said = f"{self._owner.name}: the function answered a ping with {status}"
                        raise BackendBroke(said)
            except BackendError as error:
                if invocation.report is not None:
                    error.usage = self._bill.judge(invocation.report, boot, ticket)[1]
                raise
        return self._bill.pinged(invocation.report, boot, ticket)

    async def answered(self, payload: bytes, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The head of an answer. `held` owns the rest of it. Raises BackendError."""
        opened = await self._bill.outlasting(self._api.stream(payload), ticket, self._unclaimed)
        held.push_async_callback(opened.leave)
        return await self._head(self._invocation(opened, held), ticket)

    def _invocation(self, opened: Opened, held: AsyncExitStack) -> Invocation:
        invocation = Invocation(self._owner.name, opened.it, self._owner.credentials)
        held.push_async_callback(invocation.close)
        return invocation

    async def _head(self, invocation: Invocation, ticket: Ticket) -> Reply:
        """Raises BackendBroke, with its usage, for a function's error."""
        try:
            head = await invocation.head()
            if head.prelude is None:
                return self._flowing(Reply(200, [_BYTES]), head.rest, invocation, None, ticket)
            status, headers, body = self._owner.unpack(head.prelude)
        except BackendBroke as error:
            if invocation.report is not None:
                error.usage = self._bill.judge(invocation.report, None, ticket)[1]
                self._bill.end(ticket, error.usage)
            raise
        headers, boot = take_boot(headers)
        if head.whole:
            start, usage = self._bill.judge(invocation.report, boot, ticket)
            self._bill.end(ticket, usage)
            return Reply(status, headers, body, start=start, usage=usage)
        return self._flowing(Reply(status, headers), head.rest, invocation, boot, ticket)

    def _flowing(
        self, reply: Reply, rest: bytes, invocation: Invocation, boot: Boot | None, ticket: Ticket
    ) -> Reply:
        """`reply` with its body on the way; what it used follows with the end."""
        start, usage = self._bill.judge(None, boot, ticket)
        reply.start = start
        self._bill.met(boot, start, ticket)

        async def relayed() -> AsyncIterator[bytes]:
            try:
                async with contextlib.aclosing(invocation.body(rest)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except AnswerTruncated as error:
                if invocation.report is not None:
                    error.usage = self._bill.judge(invocation.report, boot, ticket)[1]
                    self._bill.end(ticket, error.usage)
                raise
            reply.start, reply.usage = start, usage
            if invocation.report is not None:
                reply.start, reply.usage = self._bill.judge(invocation.report, boot, ticket)
            self._bill.end(ticket, reply.usage)

        reply.stream = relayed()
        return reply

    def _unclaimed(self, opened: Opened, ticket: Ticket) -> None:
        self._owner.kit.spawn(self._drain(opened, ticket), name=f"{self._owner.name}: invocation")

    async def _drain(self, opened: Opened, ticket: Ticket) -> None:
        """An invocation whose call had gone before it began to answer: its end says what it used."""
        invocation = Invocation(self._owner.name, opened.it, self._owner.credentials)
        boot: Boot | None = None
        try:
            async with timeout(LONGEST_S):
                head = await invocation.head()
                if head.prelude is not None:
                    boot = take_boot(self._owner.unpack(head.prelude)[1])[1]
                if not head.whole:
                    self._bill.met(boot, self._bill.judge(None, boot, ticket)[0], ticket)
                async for _ in invocation.body():
                    pass
        except (BackendError, TimeoutError):
            pass  # an error has an end, too
        finally:
            await invocation.close()
            await opened.leave()
            report = invocation.report
            usage = None if report is None else self._bill.judge(report, boot, ticket)[1]
            self._bill.charge(None, usage, ticket)
