"""An endpoint of which the file says everything: its token, its price, and how to ask whether it can serve.

Knows the web endpoint that it extends; it must never know whose the endpoint is.
"""

from backends.base import Kit
from backends.health import Health, healthy
from backends.rates import Rates, rent_of
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.errors import BackendError
from gateway.options import SecretRef, Size
from gateway.vocab import Call, Headers


class RatedOptions(WebOptions):
    """An endpoint at `url`."""

    token: SecretRef | None = None
    """Sent as `Authorization: Bearer …`. For any other field, see `headers`."""
    price: Rates | None = None
    """What it costs; `{usd_per_second: 0}` where it costs nothing more. Without it every cost figure of its
    routes is absent."""
    max_body: Size | None = None
    """Largest request body that it takes; larger calls are never sent there."""
    health: Health | None = None
    """How to ask whether it can serve. Without it nothing is asked."""


class RatedEndpoint(WebEndpoint):
    """One endpoint."""

    options: RatedOptions

    def __init__(self, name: str, options: RatedOptions, kit: Kit) -> None:
        cold = options.cold_start
        rent = rent_of(options.price, idle_s=cold.idle_after, boot_s=cold.expect)
        secrets = {"token": options.token} if options.token is not None else {}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)

    def cannot_carry(self, call: Call) -> str | None:
        """Too large."""
        size, most = call.body.length or 0, self.options.max_body
        if most is not None and size > most:
            return f"{self.name}: {size} bytes, {most} are allowed"
        return None

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the token, if there is one."""
        if self.options.token is not None:
            headers = [*headers, (b"authorization", b"Bearer " + self.credentials["token"].encode())]
        return self.added.onto(headers, self.credentials)

    async def probe(self, replica: int) -> bool | None:
        """The answer to `health`; None where the file names no such question."""
        health = self.options.health
        if health is None:
            return None
        try:
            fields = await self.fields([], self.options.url)
        except BackendError:
            return False
        return await healthy(self.client, self.options.url, health, fields)
