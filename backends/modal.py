"""Modal web functions: plain HTTP with a proxy token, and a chain of 303s for answers that take long.

The call's own path, fields and body go out unchanged below `url`, and the answer streams back. Knows
which failures are Modal's own and which are the application's; it never retries a call.

Wire facts (Modal documentation, "Web functions" and "Request timeouts"; error texts as seen in use):
- after 150 s Modal answers 303 to the same URL with `__modal_function_call_id` in its query; that has
  to be asked with GET, again and again, and may be asked twice: it never runs the function again;
- its own errors are text that begins with `modal-http: `;
- it says nothing about cold starts: the worker kit's two fields do. Without them it is unknown.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal

from yarl import URL

from backends.base import BackendOptions, Kit, backends
from backends.client import Exchange, Upload, join_url
from backends.elastic import (
    ColdStart,
    Elastic,
    ElasticOptions,
    HttpUrl,
    PricePerSecond,
    retry_after,
    start_by_boot,
)
from backends.envelope import carried
from backends.instances import Boot, Ticket, take_boot
from backends.pings import Pinged
from gateway.errors import BackendBroke, BackendDenied, BackendDown, BackendError, BackendFull, OverspillError
from gateway.options import Options, SecretRef
from gateway.vocab import HOP_BY_HOP, Call, Headers, Rent, Reply, Start

_CALL_ID = "__modal_function_call_id"
_OWN_ERROR = b"modal-http:"
_WHOLE = 256 * 1024  # answers of a declared size up to this are read whole
_ERROR_LIMIT = 8 * 2**20
_CHAIN_FAILURES = 3  # in a row, until the answer is given up


class ProxyAuth(Options):
    """A proxy auth token of the workspace."""

    key: SecretRef
    """Token id (`wk-…`), sent as Modal-Key."""
    secret: SecretRef
    """Token secret (`ws-…`), sent as Modal-Secret."""


class ModalOptions(ElasticOptions):
    """A web function of Modal."""

    type: Literal["modal"]
    """Kind of backend."""
    url: HttpUrl
    """URL of the function; the path of each request is appended to it."""
    proxy_auth: ProxyAuth | None = None
    """Token for a function that requires proxy authorization."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "60s"})
    """What is known ahead about its containers; `idle_after` is the function's scaledown window."""


@backends.add("modal")
class Modal(Elastic):
    """One web function."""

    Options: ClassVar[type[BackendOptions]] = ModalOptions
    options: ModalOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ModalOptions)
        self._usd = options.price.usd_per_second if options.price else None
        rent = Rent(self._usd, idle_s=options.cold_start.idle_after, boot_s=options.cold_start.expect)
        auth = options.proxy_auth
        secrets = {"key": auth.key, "secret": auth.secret} if auth else {}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._origin = URL(options.url).origin()

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a web function that is served at `url`."""
        secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
        return {
            "type": "modal",
            "url": url,
            "proxy_auth": {"key": secret, "secret": secret},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.000222},
            "cold_start": {"expect": "6s", "idle_after": "60s"},
        }

    @property
    def price_known(self) -> bool:
        """True when the file says what a second costs."""
        return self._usd is not None

    def price(self, billed_s: float) -> float | None:
        """US dollars of a call's seconds."""
        return None if self._usd is None else billed_s * self._usd

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One request. Whatever the application answers, a container is up then, unless it says 5xx."""
        async with contextlib.AsyncExitStack() as held:
            exchange = await self._first(call, ticket, held)
            while (location := self._continues(exchange)) is not None:
                await held.aclose()
                exchange = await self._follow(location, held)
            headers, boot = take_boot(exchange.headers)
            body = await exchange.read(_ERROR_LIMIT)
            refusal = self._refusal(exchange.status, headers, body)
            if refusal is None and exchange.status >= 500:
                refusal = BackendBroke(f"{self.name}: the function answered a ping with {exchange.status}")
            if refusal is not None:
                raise refusal
        if boot is None:
            return Pinged()
        start = self._start(boot, ticket)
        return Pinged(boot.id, start, boot.age if start is Start.COLD else 0.0, boot.age)

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One request. Leaving before the answer's end closes the connection, which ends the input."""
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        with self.attempt(call) as ticket:
            async with contextlib.AsyncExitStack() as held:
                exchange = await self._first(call, ticket, held)
                while (location := self._continues(exchange)) is not None:
                    await held.aclose()
                    exchange = await self._follow(location, held)
                yield await self._reply(exchange, ticket)

    async def _first(self, call: Call, ticket: Ticket, held: contextlib.AsyncExitStack) -> Exchange:
        """The call itself. A small body goes in one piece; a large one streams through."""
        body: Upload = call.body.whole()
        if body is None:
            body = call.body.chunks()
        elif not body and call.method in (b"GET", b"HEAD"):
            body = None
        opening = self.client.open(
            call.method.decode("latin-1"),
            join_url(self.options.url, call.target),
            headers=self._fields(carried(call)),
            body=body,
            length=call.body.length,
        )
        try:
            return await held.enter_async_context(opening)
        except BackendError:
            raise
        except OverspillError:
            # The request could not be read to its end: there was nothing to run.
            self.table.undo(ticket)
            raise

    def _fields(self, headers: Headers) -> Headers:
        ours: Headers = []
        if self.options.proxy_auth is not None:
            ours = [
                (b"modal-key", self.credentials["key"].encode()),
                (b"modal-secret", self.credentials["secret"].encode()),
            ]
        names = {name for name, _ in ours}
        return self.added.onto([f for f in headers if f[0] not in names] + ours, self.credentials)

    def _continues(self, exchange: Exchange) -> str | None:
        """Where the answer will be, if this is Modal's 303; None for any other answer.

        The token goes to the function's own host only: a call id on another host is not followed.
        """
        if exchange.status != 303:
            return None
        location = dict(exchange.headers).get(b"location", b"").decode("latin-1")
        try:
            url = URL(self.options.url).join(URL(location, encoded=True))
            ours = _CALL_ID in url.query
            same_host = url.origin() == self._origin
        except ValueError:
            return None
        if not ours:
            return None  # a redirect of the application's own: the client's to follow
        if not same_host:
            raise BackendBroke(f"{self.name}: Modal's redirect leads to another host; it was not followed")
        return str(url)

    async def _follow(self, location: str, held: contextlib.AsyncExitStack) -> Exchange:
        """Ask for the answer of a call that is running. Asking again is safe, and never runs it again."""
        failures = 0
        while True:
            try:
                return await held.enter_async_context(
                    self.client.open("GET", location, headers=self._fields([]))
                )
            except BackendError as error:
                failures += 1
                if failures > _CHAIN_FAILURES or not isinstance(error, BackendBroke | BackendDown):
                    # Whatever kept us from asking: the work itself has begun.
                    raise BackendBroke(f"{self.name}: lost a running call: {error}") from error

    async def _reply(self, exchange: Exchange, ticket: Ticket) -> Reply:
        headers, boot = take_boot([f for f in exchange.headers if f[0] not in HOP_BY_HOP])
        if exchange.status in (401, 429) or exchange.status >= 500:
            raise await self._failure(exchange, headers, boot, ticket)
        if exchange.status in (400, 403, 404):
            body = await exchange.read(_ERROR_LIMIT)
            if body.startswith(_OWN_ERROR):
                raise self._denied(exchange.status, body)
            return self._whole(exchange.status, headers, body, boot, ticket)
        if exchange.length is not None and exchange.length <= _WHOLE:
            reply = self._whole(exchange.status, headers, await exchange.read(_WHOLE), boot, ticket)
            reply.length = exchange.length  # the answer to HEAD has a length and no body
            return reply
        reply = Reply(exchange.status, headers, length=exchange.length)
        reply.start = self._start(boot, ticket)
        reply.stream = self._relayed(exchange, reply, boot, ticket)
        return reply

    async def _relayed(
        self, exchange: Exchange, reply: Reply, boot: Boot | None, ticket: Ticket
    ) -> AsyncIterator[bytes]:
        """The answer's bytes; with the last one, what it used."""
        async with contextlib.aclosing(exchange.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        self._account(reply, boot, ticket)

    def _whole(self, status: int, headers: Headers, body: bytes, boot: Boot | None, ticket: Ticket) -> Reply:
        reply = Reply(status, headers, body)
        reply.start = self._start(boot, ticket)
        self._account(reply, boot, ticket)
        return reply

    def _start(self, boot: Boot | None, ticket: Ticket) -> Start:
        if boot is None:
            return Start.UNKNOWN
        now = self.kit.clock.now()
        return start_by_boot(boot, now - ticket.began, seen=self.table.knows(boot.id, now))

    def _account(self, reply: Reply, boot: Boot | None, ticket: Ticket) -> None:
        """Modal reports nothing, so the seconds are measured: those of start-up are within them."""
        boot_s: float | None = None
        if reply.start is Start.WARM:
            boot_s = 0.0
        elif reply.start is Start.COLD and boot is not None:
            boot_s = boot.age
        instance = boot.id if boot else ""
        span = self.table.end(ticket, self.kit.clock.now(), instance_id=instance, boot_s=boot_s)
        reply.usage = self.usage(span, boot_s, instance, reported=False)

    async def _failure(
        self, exchange: Exchange, headers: Headers, boot: Boot | None, ticket: Ticket
    ) -> BackendError:
        """What a status means that is no answer to the client: 401, 429, 5xx."""
        body = await exchange.read(_ERROR_LIMIT)
        refusal = self._refusal(exchange.status, headers, body)
        if refusal is not None:
            return refusal
        reply = self._whole(exchange.status, headers, body, boot, ticket)
        said = f"{self.name}: the function answered {exchange.status}"
        return BackendBroke(said, answer=reply, usage=reply.usage)

    def _refusal(self, status: int, headers: Headers, body: bytes) -> BackendError | None:
        """What is no answer of the application's, or says that it did not begin; None for anything else."""
        own = body.startswith(_OWN_ERROR)
        if status == 401 or (own and status in (400, 403, 404)):
            return self._denied(status, body)
        said = f"{self.name}: {'Modal' if own else 'the function'} answered {status}"
        if own:
            said += f": {self.credentials.excerpt(body)}"
        if status in (429, 503):
            # Neither starts the work: a limit, or no container. An application's own 503 says it is full.
            answer = None if own else Reply(status, headers, body)
            return BackendFull(said, answer=answer, retry_after=retry_after(headers, self.kit.clock.wall()))
        return BackendBroke(said) if own and status >= 500 else None

    def _denied(self, status: int, body: bytes) -> BackendDenied:
        said = self.credentials.excerpt(body)
        self.credentials.forget()
        return BackendDenied(f"{self.name}: Modal answered {status}: {said}")
