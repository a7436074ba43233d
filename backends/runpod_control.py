"""RunPod's control plane, for one endpoint: how many workers there are and may be, and one more on request.

Opt-in, with a key of its own: the key that runs jobs need not be allowed to change endpoints. It reads only,
unless the file says `manage_workers: true`. It must never know a job or a call.

Wire facts (RunPod documentation, REST API v2): `GET /v2/serverless/ID` and `…/workers`, and
`PATCH /v2/serverless/ID` with `{"workers": {"min": N}}`; errors are `application/problem+json`. The names
within the answers are those of the request's, which is not documented: each may be missing. An endpoint that
nobody used for a week is set to 0 workers at most; its jobs then wait for ever.
"""

import asyncio
from asyncio import timeout
from typing import Any

import msgspec

from backends.client import Answer
from backends.elastic import Elastic, HttpUrl, retry_after
from backends.instances import Ticket
from backends.pings import Pinged
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.options import Options, SecretRef
from gateway.vocab import Headers, Start

WORKERS_STEP_S = 1.0
"""A worker's life is billed in whole multiples of so many seconds (RunPod documentation, "Pricing")."""

CONTROL_KEY = "control api_key"
"""Under which a backend keeps the key among its secrets."""

_ASK_S = 10.0
_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.25, 4.0, 1.5  # 60 requests a minute are allowed
_TRIES = 8  # of putting the settings back: about a minute
_UP = ("idle", "running")


class ControlOptions(Options):
    """Access to the endpoint's settings."""

    api_key: SecretRef
    """API key that may read, and with `manage_workers` change, the endpoint."""
    manage_workers: bool = False
    """Open an instance by raising the endpoint's least number of workers for as long as that takes. Without
    it nothing about the endpoint is ever changed."""
    base_url: HttpUrl = "https://api.runpod.io/v2"
    """Address of the API."""


def control_secrets(options: ControlOptions | None) -> dict[str, SecretRef]:
    """What a backend adds to its secrets."""
    return {} if options is None else {CONTROL_KEY: options.api_key}


class Workers(msgspec.Struct):
    """The endpoint's settings for its workers; None where it does not say."""

    min: int | None = None
    max: int | None = None


class _Endpoint(msgspec.Struct):
    workers: Workers = msgspec.field(default_factory=Workers)


class _Listed(msgspec.Struct):
    summary: dict[str, Any] = {}


class RunPodControl:
    """One endpoint's."""

    def __init__(self, owner: Elastic, endpoint_id: str, options: ControlOptions) -> None:
        self.manages = options.manage_workers
        self._owner = owner
        self._url = f"{options.base_url.rstrip('/')}/serverless/{endpoint_id}"
        self._changing = asyncio.Lock()
        self._wanted = 0
        self._before: Workers | None = None
        self._base = 0

    async def usable(self) -> bool | None:
        """False where it may have no worker at all; None where that cannot be told."""
        try:
            async with timeout(_ASK_S):
                settings = await self.settings()
        except (BackendError, TimeoutError):
            return None
        return None if settings.max is None else settings.max > 0

    async def settings(self) -> Workers:
        """Raises BackendError."""
        endpoint: _Endpoint = self._read(await self._ask("GET", ""), _Endpoint)
        return endpoint.workers

    async def up(self) -> int:
        """Workers that serve or could serve now. Raises BackendError."""
        listed: _Listed = self._read(await self._ask("GET", "/workers"), _Listed)
        counts = {state.lower(): count for state, count in listed.summary.items() if isinstance(count, int)}
        return sum(counts.get(state, 0) for state in _UP)

    async def open_one(self, ticket: Ticket, patience: float) -> Pinged:
        """Wait until there is a worker more than before; the least number is put back on every way out.

        Raises BackendFull after `patience` seconds without one, BackendError as the API refuses.
        """
        clock = self._owner.kit.clock
        give_up = clock.now() + patience
        before = await self.up()
        try:
            await self._want(1, before)
            pause = _PAUSE_S
            while await self.up() <= before:
                if clock.now() >= give_up:
                    raise BackendFull(f"{self._owner.name}: RunPod started no worker within {patience:g} s")
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * _PAUSE_GROWTH)
            return Pinged(start=Start.COLD, boot_s=clock.now() - ticket.began, busy_s=0.0)
        finally:
            # Also when this was cancelled: what is left raised is paid for without end.
            self._owner.kit.spawn(self._put_back(), name=f"{self._owner.name}: workers")

    async def _want(self, more: int, up: int = 0) -> None:
        """Have the endpoint keep so many more workers than are `up`; with the last one gone, as it was."""
        self._wanted += more
        async with self._changing:
            if self._before is None:
                self._before, self._base = await self.settings(), up
            before, wanted = self._before, self._wanted  # which others may change during the exchange
            least = before.min or 0
            if wanted:
                least = max(least, self._base) + wanted
                least = least if before.max is None else min(least, before.max)
            await self._ask("PATCH", "", msgspec.json.encode({"workers": {"min": least}}))
            if not wanted:
                self._before = None

    async def _put_back(self) -> None:
        more, pause = -1, _PAUSE_S
        for _ in range(_TRIES):
            try:
                async with timeout(_ASK_S):
                    await self._want(more)
                return
            except (BackendError, TimeoutError):
                more = 0  # it is counted already
                await asyncio.sleep(pause)
                pause *= 2

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        owner = self._owner
        headers: Headers = [(b"authorization", b"Bearer " + owner.credentials[CONTROL_KEY].encode())]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        answer = await owner.client.exchange(method, self._url + path, headers=headers, body=body)
        if 200 <= answer.status < 300:
            return answer
        said = f"{owner.name}: RunPod's control plane answered {answer.status}"
        if answer.status == 429:
            raise BackendFull(said, retry_after=retry_after(answer.headers, owner.kit.clock.wall()))
        if answer.status in (401, 403, 404):
            owner.credentials.forget()
            raise BackendDenied(f"{said}: {owner.credentials.excerpt(answer.body)}")
        raise BackendBroke(f"{said}: {owner.credentials.excerpt(answer.body)}")

    def _read(self, answer: Answer, shape: type[Any]) -> Any:
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self._owner.name}: RunPod's control plane gave no usable answer") from None
