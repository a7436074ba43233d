"""A web endpoint that is opened by a token which expires.

Knows the endpoint it extends and the token it sends; it must never know who issues the token.
"""

from contextlib import AsyncExitStack

from backends.base import Kit
from backends.client import Exchange
from backends.instances import Ticket
from backends.tokens import Tokens, TokenSource
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Rent


class TokenEndpoint(WebEndpoint):
    """One endpoint. A refused token is replaced once, where the request can be sent again."""

    token_field = b"authorization"
    """Field that carries `Bearer` and the token."""
    not_sent: frozenset[bytes] = frozenset()
    """Fields that a client must not set, because they would open or steer the endpoint."""

    def __init__(
        self,
        name: str,
        options: WebOptions,
        kit: Kit,
        *,
        rent: Rent,
        source: TokenSource | None,
        secrets: dict[str, SecretRef] | None = None,
    ) -> None:
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self.tokens: Tokens | None = None
        if source is not None:
            self.tokens = Tokens(source, clock=kit.clock, cover=self.credentials.cover)

    async def open(self) -> None:
        """Check that every secret is there. Raises ConfigError, naming the reference."""
        await super().open()
        if self.tokens is not None:
            self.tokens.check()

    async def close(self) -> None:
        """Close every connection."""
        await super().close()
        if self.tokens is not None:
            await self.tokens.close()

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the token, if there is one; a client's own is never sent."""
        headers = [f for f in headers if f[0] not in self.not_sent and f[0] != self.token_field]
        headers = self.added.onto(headers, self.credentials)
        if self.tokens is not None and not any(name == self.token_field for name, _ in headers):
            headers.append((self.token_field, b"Bearer " + (await self.tokens.value()).encode()))
        return headers

    async def _first(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Exchange:
        used = self.tokens.current() if self.tokens is not None else None
        exchange = await super()._first(call, ticket, held)
        if exchange.status != 401 or self.tokens is None:
            return exchange
        # Whoever says 401 has not begun. A token that was fetched for this very call would not get better.
        self.tokens.refused(used or self.tokens.current() or "")
        if used is None or call.body.whole() is None:
            return exchange
        await held.aclose()
        return await super()._first(call, ticket, held)
