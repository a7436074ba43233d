"""Who sends this request, told from its head alone: nothing of its body is read for somebody unknown.

Stands before step 2. Knows the ways in that the file names, and of a request its target and its fields; it
must never keep a credential: what was verified is remembered by a digest, until it expires or its file
changes.

A request shows one credential: `Authorization: Bearer …`, `x-api-key: …` or `api-key: …`. A wrong one is
refused even where none would do. None of these fields goes on to a backend.
"""

from hashlib import sha256

from gateway.auth.certificates import CertificateNames
from gateway.auth.jwt import Tokens
from gateway.auth.keys import NOT_KNOWN, KeyRing, looks_like_a_key
from gateway.clock import Clock
from gateway.errors import Unauthorised
from gateway.exchange import Conversation
from gateway.identity import Identity
from gateway.kept_fields import KeptFields
from gateway.vocab import Headers

OPEN = frozenset(
    (
        b"/v2/health/live",
        b"/v2/health/ready",
        b"/inference.GRPCInferenceService/ServerLive",
        b"/inference.GRPCInferenceService/ServerReady",
        b"/grpc.health.v1.Health/Check",
    )
)
"""What is answered to everybody, by the gateway itself: load balancers have no credentials."""
OPEN_BELOW = b"/webhooks/"
"""What providers send is proved by their own signatures, which the backend that takes it checks."""

_FIELDS = frozenset((b"authorization", b"x-api-key", b"api-key"))
_BARE = (b"x-api-key", b"api-key")
_AUTHORIZATION = b"authorization"
_REMEMBERED = 4096


class Gatekeeper:
    """The ways in, of one configuration. None of them: it refuses everybody."""

    def __init__(
        self,
        *,
        clock: Clock,
        keys: KeyRing | None = None,
        tokens: Tokens | None = None,
        certificates: CertificateNames | None = None,
        anonymous: Identity | None = None,
    ) -> None:
        self.keys = keys
        self.tokens = tokens
        self._wall = clock.wall
        self._certificates = certificates
        self._anonymous = anonymous
        self._known: dict[bytes, Identity] = {}
        self._age = object()  # what was kept with a head's fields is worth nothing at another age

    def begin(self) -> None:
        """It is in force from now on: what others keys make invalid is to be forgotten here."""
        if self.keys is not None:
            self.keys.changed = self._forget
        for issuer in self.tokens.issuers.values() if self.tokens is not None else ():
            issuer.keys.changed = self._forget

    def _forget(self) -> None:
        self._known.clear()
        self._age = object()

    def known(self, exchange: Conversation) -> Identity | None:
        """Who calls, where that was found out before, in about 2 us. None: it takes `admit` to know."""
        headers = exchange.headers
        if type(headers) is KeptFields and (before := headers.known.get(self)) is not None:
            identity: Identity
            age, identity, rest = before
            if age is self._age and (identity.expires_at is None or self._wall() < identity.expires_at):
                exchange.headers = rest
                return identity
        shown = None
        for field in headers:
            if field[0] in _FIELDS:
                if shown is not None:
                    return None
                shown = field
        if shown is None:
            return None
        known = self._known.get(sha256(shown[1]).digest())
        if known is None or (known.expires_at is not None and self._wall() >= known.expires_at):
            return None
        if shown[0] != _AUTHORIZATION:
            exchange.headers = [field for field in headers if field is not shown]
        if type(headers) is KeptFields:
            exchange.headers = KeptFields(exchange.headers)
            headers.keep(self, (self._age, known, exchange.headers))
        return known

    async def admit(self, exchange: Conversation) -> Identity | None:
        """Who calls; None for what everybody may ask. Raises Unauthorised and IssuerDown.

        From then on the request has none of the fields that would go on to a backend: `authorization` no
        protocol takes on, whether anybody is asked or not.
        """
        if (target := exchange.target) in OPEN or target.startswith(OPEN_BELOW):
            return None
        shown = [field for field in exchange.headers if field[0] in _FIELDS]
        if not shown:
            return self._without(exchange)
        exchange.headers = [field for field in exchange.headers if field[0] not in _BARE]
        text = _credential(shown)
        if text is None:
            return self._without(exchange)
        identity = await self._verified(text)
        if len(shown) == 1:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[sha256(shown[0][1]).digest()] = identity
        return identity

    async def _verified(self, text: str) -> Identity:
        if self.keys is not None and (self.tokens is None or looks_like_a_key(text)):
            return self.keys.verify(text)
        if self.tokens is not None:
            return await self.tokens.verify(text)
        raise Unauthorised(NOT_KNOWN, invalid=True)

    def _without(self, exchange: Conversation) -> Identity:
        """Whoever shows no credential in the head."""
        if self._certificates is not None and (certificate := exchange.certificate):
            return self._certificates.verify(certificate)
        if self._anonymous is not None:
            return self._anonymous
        ways = "an `Authorization: Bearer …` or `x-api-key: …` field"
        if self.keys is None and self.tokens is None:
            ways = "a client certificate"
        raise Unauthorised(f"it is not known who calls: send {ways}")


def _credential(shown: Headers) -> str | None:
    """The one text that these fields show; None where they show none. Raises Unauthorised."""
    texts: set[bytes] = set()
    for name, value in shown:
        if name in _BARE:
            texts.add(value.strip())
        else:
            scheme, _, rest = value.partition(b" ")
            if scheme.lower() == b"bearer":
                texts.add(rest.strip())
    if len(texts) > 1:
        raise Unauthorised("more than one credential was sent; send one", invalid=True)
    if not texts:
        return None
    text = texts.pop()
    if not text or not text.isascii():
        raise Unauthorised(NOT_KNOWN, invalid=True)
    return text.decode("ascii")
