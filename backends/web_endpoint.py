"""What backends share that are reached with the call's own HTTP request: path, fields and body unchanged.

A provider says by overriding five small questions what is its own: the address (`address`), the fields
that prove who we are (`fields`), which answers are not the application's (`refusal`), what an answer says
about its start (`told`), and which detours lead to it (`arrive`). Knows the backend contract and the
sibling helpers; it must never know which provider asks.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NamedTuple

from backends.base import Kit
from backends.client import Answer, Exchange, Upload, join_url
from backends.elastic import ColdStart, Elastic, ElasticOptions, HttpUrl, retry_after, start_by_boot
from backends.envelope import carried
from backends.instances import Ticket, take_boot
from backends.pings import Pinged
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, OverspillError
from gateway.options import SecretRef
from gateway.vocab import HOP_BY_HOP, Call, Headers, Rent, Reply, Start

_WHOLE = 256 * 1024
"""Answers of a declared size up to this are read whole."""
ERROR_LIMIT = 8 * 2**20
"""Most bytes of an answer that has to be looked into."""


class WebOptions(ElasticOptions):
    """An endpoint with an address of its own."""

    url: HttpUrl
    """Address of the endpoint; the path of each request is appended to it."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "60s"})
    """What is known ahead about its instances."""


class Told(NamedTuple):
    """What an answer says about the instance that gave it.

    boot_s:  seconds that this call waited for the instance to boot; 0.0 for a warm start, None if not told
    up_s:    age of the instance in seconds, None if not told
    """

    start: Start = Start.UNKNOWN
    boot_s: float | None = None
    instance: str = ""
    up_s: float | None = None


class WebEndpoint(Elastic):
    """One endpoint, reached by HTTP."""

    options: WebOptions

    def __init__(
        self,
        name: str,
        options: WebOptions,
        kit: Kit,
        *,
        rent: Rent,
        secrets: dict[str, SecretRef] | None = None,
    ) -> None:
        super().__init__(name, options, kit, rent=rent, secrets=secrets or {})

    # -- what a provider says of itself

    def address(self, call: Call) -> str:
        """Where this call goes."""
        return join_url(self.options.url, call.target)

    async def fields(self, headers: Headers, address: str) -> Headers:
        """`headers` with what proves to `address` who we are. May fetch a token; raises BackendError."""
        return self.added.onto(headers, self.credentials)

    async def sealed(self, call: Call, address: str, fields: Headers, body: Upload) -> tuple[Headers, Upload]:
        """Fields and body as they go out, where the one proves the other: a signature over the whole body."""
        return fields, body

    async def arrive(self, exchange: Exchange, held: AsyncExitStack) -> Exchange:
        """The answer itself, where this one only says where it is. `held` owns `exchange`."""
        return exchange

    def judged(self, status: int) -> bool:
        """Whether an answer with this status may be something else than the application's own."""
        return status in (401, 403, 404, 429) or status >= 500

    def refusal(self, answer: Answer) -> BackendError | None:
        """What this answer is, if not the application's own word on the call; None if it is.

        Asked only for a status that is `judged`. A 5xx for which this is None becomes BackendBroke with
        the answer; whatever else, a Reply.
        """
        said = f"{self.name}: the endpoint answered {answer.status}"
        if answer.status == 401:
            return self.denied(said, answer.body)
        if answer.status in (429, 503):
            # An application that says so did not begin.
            return self.full(said, answer)
        return None

    def died(self, answer: Answer) -> bool:
        """Whether this refusal says that the instance which ran the call is no more."""
        return False

    def shown(self, answer: Answer) -> int:
        """The application's own status, where the provider put another in its place."""
        return answer.status

    def unsound(self, answer: Answer) -> BackendError | None:
        """What is wrong with a whole answer whose status says that nothing is; None for a sound one."""
        return None

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """What the answer's fields say about its start, and the fields without what only we understand.

        The worker kit's two fields, unless overridden: a provider that tells nothing leaves it unknown.
        """
        return self.told_by_kit(headers, ticket)

    def told_by_kit(self, headers: Headers, ticket: Ticket, instance: str = "") -> tuple[Headers, Told]:
        """What the worker kit's two fields say. `instance`: the name that the provider gives it, if any."""
        headers, boot = take_boot(headers)
        if boot is None:
            return headers, Told()
        now = self.kit.clock.now()
        instance = instance or boot.id
        start = start_by_boot(boot, now - ticket.began, seen=self.table.knows(instance, now))
        waited = {Start.WARM: 0.0, Start.COLD: boot.age}.get(start)
        return headers, Told(start, waited, instance, boot.age)

    # -- for those that answer `refusal`

    def denied(self, said: str, body: bytes) -> BackendDenied:
        """The credentials are no good: they are read again with the next call."""
        said = f"{said}: {self.credentials.excerpt(body)}"
        self.credentials.forget()
        return BackendDenied(said)

    def full(self, said: str, answer: Answer, *, own: bool = False) -> BackendFull:
        """It pushed back. With `own` the answer is the provider's and is not shown to a client."""
        if own:
            said = f"{said}: {self.credentials.excerpt(answer.body)}"
        reply = None if own else Reply(answer.status, answer.headers, answer.body)
        return BackendFull(said, answer=reply, retry_after=retry_after(answer.headers, self.kit.clock.wall()))

    # -- the attempt

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One request. Leaving before the answer's end closes the connection."""
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        with self.attempt(call) as ticket:
            async with AsyncExitStack() as held:
                yield await self.answered(call, ticket, held)

    async def answered(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The call sent, and the head of its answer. `held` owns what the rest of it comes by."""
        exchange = await self.arrive(await self._first(call, ticket, held), held)
        return await self._reply(exchange, ticket)

    async def _first(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Exchange:
        """The call itself. A small body goes in one piece; a large one streams through."""
        body: Upload = call.body.whole()
        if body is None:
            body = call.body.chunks()
        elif not body and call.method in (b"GET", b"HEAD"):
            body = None
        address = self.address(call)
        try:
            fields = await self.fields(carried(call), address)
            fields, body = await self.sealed(call, address, fields, body)
        except BaseException:
            self.table.undo(ticket)  # nothing was sent
            raise
        opening = self.client.open(
            call.method.decode("latin-1"),
            address,
            headers=fields,
            body=body,
            length=call.body.length,
            first=True,
        )
        try:
            return await held.enter_async_context(opening)
        except BackendError:
            raise
        except OverspillError:
            # The request could not be read to its end: there was nothing to run.
            self.table.undo(ticket)
            raise

    async def _reply(self, exchange: Exchange, ticket: Ticket) -> Reply:
        headers = [f for f in exchange.headers if f[0] not in HOP_BY_HOP]
        if self.judged(exchange.status):
            return await self._judge(exchange, headers, ticket)
        self.table.running(ticket)
        headers, told = self._heard(headers, ticket)
        if exchange.length is not None and exchange.length <= _WHOLE:
            reply = Reply(exchange.status, headers, await exchange.read(_WHOLE), length=exchange.length)
            self._account(reply, told, ticket)  # the answer to HEAD has a length and no body
            if (failed := self.unsound(Answer(exchange.status, headers, reply.body or b""))) is not None:
                failed.usage = reply.usage
                raise failed
            return reply
        reply = Reply(exchange.status, headers, length=exchange.length, start=told.start)
        reply.stream = self._relayed(exchange, reply, told, ticket)
        return reply

    def _heard(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """`told`, noted at once: the answer may break off, and others may be meeting the same instance."""
        headers, told = self.told(headers, ticket)
        if told.instance:
            now = self.kit.clock.now()
            cold = told.start is Start.COLD
            self.table.meet(ticket, now, told.instance, cold=cold, age_s=told.up_s)
        return headers, told

    async def _judge(self, exchange: Exchange, headers: Headers, ticket: Ticket) -> Reply:
        body = await exchange.read(ERROR_LIMIT)
        answer = Answer(exchange.status, headers, body)
        refusal = self._refused(answer, ticket)
        if refusal is not None:
            raise refusal
        headers, told = self._heard(headers, ticket)
        reply = Reply(self.shown(answer), headers, body)
        if exchange.status < 500 or told.instance:
            self._account(reply, told, ticket)  # else nobody knows where it ran, if it did
        if exchange.status >= 500:
            said = f"{self.name}: the endpoint answered {exchange.status}"
            raise BackendBroke(said, answer=reply, usage=reply.usage)
        return reply

    def _refused(self, answer: Answer, ticket: Ticket) -> BackendError | None:
        refusal = self.refusal(answer)
        if refusal is not None and self.died(answer):
            span = self.table.died(ticket, self.kit.clock.now())
            refusal.usage = self.usage(span, None, "", reported=False)
        return refusal

    async def _relayed(
        self, exchange: Exchange, reply: Reply, told: Told, ticket: Ticket
    ) -> AsyncIterator[bytes]:
        """The answer's bytes; with the last one, what it used."""
        async with contextlib.aclosing(exchange.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        self._account(reply, told, ticket)

    def _account(self, reply: Reply, told: Told, ticket: Ticket) -> None:
        """Nothing is reported, so the seconds are measured: those of start-up are within them."""
        reply.start = told.start
        span = self.table.end(
            ticket,
            self.kit.clock.now(),
            instance_id=told.instance,
            boot_s=told.boot_s,
            age_s=told.up_s,
        )
        reply.usage = self.usage(span, told.boot_s, told.instance, reported=False)

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One request. Whatever the application answers, an instance is up then, unless it says 5xx."""
        async with AsyncExitStack() as held:
            exchange = await self.arrive(await self._first(call, ticket, held), held)
            try:
                body = await exchange.read(ERROR_LIMIT)
            except BackendError:
                self._heard(exchange.headers, ticket)  # it broke off, but its head has said who it is
                raise
            answer = Answer(exchange.status, exchange.headers, body)
            refusal = self._refused(answer, ticket) if self.judged(exchange.status) else None
            if refusal is None and exchange.status >= 500:
                self._heard(exchange.headers, ticket)
                refusal = BackendBroke(f"{self.name}: the endpoint answered a ping with {exchange.status}")
            if refusal is not None:
                raise refusal
            _, told = self.told(exchange.headers, ticket)
        if told.start is Start.UNKNOWN:
            return Pinged()
        return Pinged(told.instance, told.start, told.boot_s or 0.0, told.up_s)
