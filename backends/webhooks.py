"""Being told by a provider, over a signed webhook, that a job has moved on, in place of asking for ever.

Knows signatures and who waits for which job; it must never know a provider's jobs, or how a request arrives.
What nobody tells is still asked: a webhook that got lost, or reached another process, costs time only.

Wire facts (standardwebhooks.com, "Webhook metadata" and "Verifying signatures"; Replicate documentation,
"Verify webhooks"):
- the signature is HMAC-SHA256 with the bytes that follow `whsec_` in the secret, base64, over
  `ID.TIMESTAMP.BODY`; `webhook-signature` is a list of `v1,BASE64`, spaces between, of which one must fit;
- the timestamp, Unix seconds, is refused when it is far from now; an id that has been taken is a replay.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field

from backends.credentials import Credentials
from gateway.clock import Clock
from gateway.errors import ConfigError
from gateway.options import Duration, Options, SecretRef
from gateway.vocab import Headers

PATH = "/webhooks"
"""Below which, on the gateway's HTTP port, webhooks arrive: the backend's name follows."""

SECRET_KEY = "webhook secret"  # noqa: S105 - the name under which it is kept
"""Under which a backend keeps the secret among its credentials."""

_MOST_IDS = 10_000
_MOST_EARLY = 1_000
_SECRET = re.compile(r"(?:whsec_)?([A-Za-z0-9+/_-]{16,}={0,2})")
_ID = re.compile(rb"[\x21-\x2d\x2f-\x7e]{1,256}")  # no dot: it would move where the signed parts meet


class WebhookOptions(Options):
    """Where the provider tells that a job is over, and how it proves that it is the provider."""

    url: str = Field(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")
    """Address under which the provider reaches the gateway's HTTP port, like https://gateway.example.com."""
    secret: SecretRef
    """The signing secret, `whsec_…`, by reference."""
    tolerance: Duration = Field(default=300.0, ge=1, le=3600)
    """How far a webhook's timestamp may be from now."""
    poll_every: Duration = Field(default=10.0, ge=0.1, le=300)
    """How often a job is asked about all the same."""


class Told(NamedTuple):
    """What to answer a webhook with: an HTTP status and one line of text."""

    status: int
    said: str


class Verifier:
    """Judges webhooks: theirs, fresh, and new."""

    def __init__(self, credentials: Credentials, clock: Clock, *, tolerance_s: float) -> None:
        self._credentials = credentials
        self._clock = clock
        self._tolerance_s = tolerance_s
        self._taken: dict[bytes, float] = {}  # oldest first

    def fault(self, headers: Headers, body: bytes) -> Told | None:
        """Why it is not taken; None for one that is, and never will be again."""
        identifier, stamp, given = (
            _only(headers, name) for name in (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
        )
        if identifier is None or stamp is None or given is None or not _ID.fullmatch(identifier):
            return Told(400, "webhook-id, webhook-timestamp and webhook-signature are needed, each once")
        if not stamp.isdigit() or len(stamp) > 15:
            return Told(400, "webhook-timestamp is no number of seconds")
        expected = base64.b64encode(
            hmac.digest(self._key(), b"%b.%b.%b" % (identifier, stamp, body), hashlib.sha256)
        )
        fits = False
        for each in given.split(b" ")[:16]:
            version, _, signature = each.partition(b",")
            # All of them are compared, and each in constant time.
            fits |= hmac.compare_digest(signature, expected) and version == b"v1"
        if not fits:
            return Told(401, "no signature fits")
        now = self._clock.wall()
        if abs(now - int(stamp)) > self._tolerance_s:
            return Told(401, "the timestamp is too far from now")
        self._forget(now)
        if identifier in self._taken:
            return Told(409, "it has been taken already")
        if len(self._taken) >= _MOST_IDS:
            return Told(429, "too many webhooks")
        self._taken[identifier] = now
        return None

    def _key(self) -> bytes:
        return signing_key(self._credentials[SECRET_KEY])

    def _forget(self, now: float) -> None:
        """Ids whose timestamp would be refused by now."""
        while self._taken:
            oldest = next(iter(self._taken))
            if now - self._taken[oldest] <= 2 * self._tolerance_s:
                return
            del self._taken[oldest]


def signing_key(secret: str) -> bytes:
    """The bytes of a secret as it is written. Raises ValueError; the secret is not in its text."""
    match = _SECRET.fullmatch(secret.strip())
    if match is None:
        raise ValueError("the webhook secret is not like whsec_BASE64")
    text = match[1].rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("what follows whsec_ in the webhook secret is not base64") from None


def _only(headers: Headers, wanted: bytes) -> bytes | None:
    found = [value for name, value in headers if name == wanted]
    return found[0] if len(found) == 1 else None


class Webhooks:
    """The webhooks of one backend.

    job_of:  the id of the job that a body tells of; None where it tells of none
    """

    def __init__(
        self,
        name: str,
        options: WebhookOptions,
        credentials: Credentials,
        clock: Clock,
        *,
        job_of: Callable[[bytes], str | None],
    ) -> None:
        self.address = f"{options.url.rstrip('/')}{PATH}/{name}"
        """What the provider is to call."""
        self.poll_every = options.poll_every
        self._name = name
        self._credentials = credentials
        self._verifier = Verifier(credentials, clock, tolerance_s=options.tolerance)
        self._job_of = job_of
        self._waiting: dict[str, asyncio.Event] = {}
        self._early: dict[str, None] = {}  # oldest first: told of while nobody waited

    def check(self) -> None:
        """Raises ConfigError for a secret that is none."""
        try:
            signing_key(self._credentials[SECRET_KEY])
        except ValueError as error:
            raise ConfigError(f"backend {self._name}: {error}") from None

    def take(self, headers: Headers, body: bytes) -> Told:
        """A request has arrived for it."""
        fault = self._verifier.fault(headers, body)
        if fault is not None:
            return fault
        job = self._job_of(body)
        if job is None:
            return Told(400, "it tells of no job")
        event = self._waiting.get(job)
        if event is not None:
            event.set()
        else:
            self._early[job] = None
            if len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]
        return Told(200, "taken")

    async def news(self, job: str) -> None:
        """Return when something has been told of the job since last asked, or when it is time to ask."""
        if job in self._early:
            del self._early[job]
            return
        event = self._waiting[job] = asyncio.Event()
        try:
            async with asyncio.timeout(self.poll_every):
                await event.wait()
        except TimeoutError:
            return
        finally:
            del self._waiting[job]
