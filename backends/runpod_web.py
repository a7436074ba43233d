"""What RunPod's load-balancing endpoints and OpenAI routes share: address, key, bill and settings.

Knows the web endpoint that it extends; it must never know which answers are RunPod's own.
"""

from typing import Any, ClassVar

from pydantic import Field

from backends.base import Kit
from backends.client import join_url
from backends.elastic import PricePerSecond, rent_by_second
from backends.instances import Ticket
from backends.pings import Pinged
from backends.runpod_control import WORKERS_STEP_S, ControlOptions, RunPodControl, control_secrets
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.options import SecretRef
from gateway.vocab import Call, Headers


class RunPodWebOptions(WebOptions):
    """What of a serverless endpoint of RunPod is reached by plain HTTP. Each kind has its `url`, in which
    `{endpoint_id}` stands for the id.
    """

    endpoint_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Id of the endpoint, as in its URL."""
    api_key: SecretRef
    """API key of the account, by reference."""
    control: ControlOptions | None = None
    """Access to the endpoint's settings, with a key of its own. Left out, they are not even read."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""


class RunPodWeb(WebEndpoint):
    """One endpoint. `PAYLOAD_LIMIT`: bytes of a request."""

    PAYLOAD_LIMIT: ClassVar[int]
    STARTS_FOR_WAITING: ClassVar[bool] = True
    options: RunPodWebOptions

    def __init__(self, name: str, options: RunPodWebOptions, kit: Kit) -> None:
        rent = rent_by_second(options.price, options.cold_start, round_up_s=WORKERS_STEP_S)
        secrets = {"api_key": options.api_key, **control_secrets(options.control)}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._control = RunPodControl(self, options.endpoint_id, options.control) if options.control else None
        self.base = options.url.replace("{endpoint_id}", options.endpoint_id)

    def cannot_carry(self, call: Call) -> str | None:
        """Too large."""
        size = call.body.length or 0
        if size > self.PAYLOAD_LIMIT:
            return f"{self.name}: {size} bytes, {self.PAYLOAD_LIMIT} are allowed"
        return None

    def address(self, call: Call) -> str:
        """The endpoint's own."""
        return join_url(self.base, call.target)

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the account's key."""
        ours = (b"authorization", b"Bearer " + self.credentials["api_key"].encode())
        rest = [field for field in headers if field[0] != b"authorization"]
        return self.added.onto([*rest, ours], self.credentials)

    def soon(self, ticket: Ticket) -> bool:
        """Whether this call's answer came far sooner than a worker boots."""
        return self.kit.clock.now() - ticket.began <= self.options.cold_start.expect / 4

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """A worker more, by the endpoint's settings, where they may be changed; else one request."""
        if self._control is not None and self._control.manages and ticket.fresh:
            return await self._control.open_one(ticket, self.pings.patience)
        return await self.ask_to_ping(call, ticket)

    async def ask_to_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One request, which makes a worker start if none is up. Raises BackendError."""
        return await super().send_ping(call, ticket)

    async def probe(self, replica: int) -> bool | None:
        """Whether it may have workers, if its settings may be read: a request would make one start."""
        return None if self._control is None else await self._control.usable()


def runpod_example(kind: str, url: str) -> dict[str, Any]:
    """Options of a backend of this kind at `url`, as in the file, without what it costs and how it boots."""
    return {
        "type": kind,
        "endpoint_id": "abc123",
        "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
        "url": url,
        "max_in_flight": 4,
    }
