"""The `auth` section of the file: who may call. Knows its shape, and which ports may go without it."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from gateway.options import Duration, Options, SecretRef

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Tenants and routes are named as everything else in the file."""

SHORTEST_SECRET = 16
"""Characters of an admin token: whoever has the time can guess a shorter one."""

PUBLIC_KEY_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip
Priority = Literal["critical", "default", "best_effort"]
PlainName = Annotated[str, Field(pattern=NAME)]
Claim = Annotated[str, Field(min_length=1, max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=500)]


def _written_jwks_url(value: object) -> str:
    if isinstance(value, str) and len(value) <= 2000 and re.fullmatch(r"https?://[!-~]+", value):
        try:
            parts = urlsplit(value)
            host = parts.hostname or ""
            port_is_one = parts.port is None or parts.port > 0
        except ValueError:
            host, port_is_one = "", False
        known = "@" not in parts.netloc and not parts.fragment if host else False
        if known and port_is_one and (parts.scheme == "https" or is_loopback(host)):
            return value
    raise ValueError(
        "not the address of a key set; write https://HOST/…, without user or fragment "
        "(plain http only to this machine)"
    )


def is_loopback(host: str) -> bool:
    """Is this host this machine, by its name alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Grant(Options):
    tenant: PlainName | None = None
    """Whose calls these are, in the access log."""
    routes: list[PlainName] | None = None
    """Routes that these callers may use; absent: all."""
    priority: Priority | None = None
    """Highest `x-overspill-priority` of their calls, which is lowered to it; absent: any."""


class Keys(Options):
    """API keys, as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`."""

    file: Path
    """File of `overspill keys`; it is read again when it changes. It holds hashes, never keys."""


class TokenIssuer(_Grant):
    """Signed tokens (JWT) of one issuer; it takes the extra `overspill[jwt]`."""

    issuer: Word
    """What `iss` of its tokens says, letter by letter."""
    audience: Word | Annotated[list[Word], Field(min_length=1)]
    """What `aud` must name: one of these."""
    jwks_url: Annotated[
        str | None,
        PlainValidator(_written_jwks_url),
        WithJsonSchema({"type": "string", "pattern": "^https?://"}),
    ] = None
    """Address of its public keys (a JWK set); fetched when needed, and again when they change."""
    jwks_file: Path | None = None
    """The same as a file."""
    secret: SecretRef | None = None
    """The secret that it signs with, of 32 bytes or more, where it has no public keys."""
    algorithms: list[Algorithm] = []
    """What it signs with; absent: RS256 and ES256, or HS256 with `secret`."""
    leeway: Annotated[Duration, Field(le=300)] = 30.0
    """How far its clock may be off."""
    refresh: Annotated[Duration, Field(ge=10)] = 600.0
    """How old its keys may become before they are fetched again."""
    name_claim: Claim = "sub"
    """Claim that names the caller in the access log."""
    tenant_claim: Claim | None = None
    """Claim that names the tenant; a token without it is then refused."""
    routes_claim: Claim | None = None
    """Claim that lists the routes, as a list or a text with spaces; a token without it may use none. Where
    `routes` is given too, a route must be in both."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """The algorithms that are accepted."""
        if self.algorithms:
            return tuple(self.algorithms)
        return ("HS256",) if self.secret is not None else ("RS256", "ES256")

    @property
    def audiences(self) -> tuple[str, ...]:
        """One or many."""
        return (self.audience,) if isinstance(self.audience, str) else tuple(self.audience)

    @model_validator(mode="after")
    def _keys_fit(self) -> "TokenIssuer":
        given = [each for each in (self.jwks_url, self.jwks_file, self.secret) if each is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of jwks_url, jwks_file and secret: where its keys are")
        fit = HMAC_ALGORITHMS if self.secret is not None else PUBLIC_KEY_ALGORITHMS
        if strange := [name for name in self.allowed if name not in fit]:
            # Whoever accepts both takes a public key, which everybody has, for a secret.
            what = "a secret" if self.secret is not None else "public keys"
            raise ValueError(f"{strange[0]} does not go with {what}; known are {', '.join(fit)}")
        return self


class ClientCertificate(_Grant):
    """One name in certificates of clients that the TLS of the port has verified."""

    dns: Word | None = None
    """A DNS name among its alternative names."""
    uri: Word | None = None
    """A URI among them, like spiffe://example.org/batch."""
    email: Word | None = None
    """An e-mail address among them."""
    common_name: Word | None = None
    """The common name of its subject."""

    @property
    def named(self) -> tuple[str, str]:
        """The type of the name as Python's `ssl` calls it, and the name."""
        for kind, value in (("DNS", self.dns), ("URI", self.uri), ("email", self.email)):
            if value is not None:
                return kind, value
        return "commonName", self.common_name or ""

    @model_validator(mode="after")
    def _exactly_one(self) -> "ClientCertificate":
        names = [each for each in (self.dns, self.uri, self.email, self.common_name) if each is not None]
        if len(names) != 1:
            raise ValueError("give exactly one of dns, uri, email and common_name")
        return self


class Anonymous(_Grant):
    """Callers that show nothing. `{}`: they may do everything. A wrong credential is refused all the same."""


class AdminAccess(Options):
    """The credential of the admin port, or that it has none."""

    token: SecretRef | None = None
    """At least 16 characters; shown as `Authorization: Bearer …`, or as the password in a browser."""
    anonymous: bool = False
    """True in place of a token: it asks nobody, wherever it listens."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "AdminAccess":
        if (self.token is None) == (not self.anonymous):
            raise ValueError("give exactly one: token: {env: NAME}, or anonymous: true to ask nobody")
        return self


class Auth(Options):
    """Who may call. What is not written here is not a way in."""

    keys: Keys | None = None
    """API keys."""
    jwt: list[TokenIssuer] = []
    """Signed tokens, by issuer."""
    certificates: list[ClientCertificate] = []
    """Names in client certificates, for ports that ask for these."""
    anonymous: Anonymous | None = None
    """Callers that show nothing; absent: they are refused if there is any other way in."""
    admin: AdminAccess | None = None
    """The credential of the admin port. Absent: it asks nobody, and must be on loopback."""

    @property
    def asks_callers(self) -> bool:
        """Is anything said about who may use the data ports?"""
        return bool(self.keys or self.jwt or self.certificates or self.anonymous)

    @model_validator(mode="after")
    def _says_something(self) -> "Auth":
        if not self.asks_callers and self.admin is None:
            raise ValueError("names no way in; write `auth: none` for a gateway that asks nobody")
        issuers = [each.issuer for each in self.jwt]
        if len(set(issuers)) < len(issuers):
            raise ValueError("an issuer is in `jwt` twice; keep one, with all of its audiences")
        names = [each.named for each in self.certificates]
        if len(set(names)) < len(names):
            raise ValueError("a name is in `certificates` twice; keep one")
        return self


AuthSection = Auth | Literal["none"] | None
"""`auth: none` asks nobody, and says so; absent asks nobody either, and is for loopback only."""


def has_admin_token(auth: AuthSection) -> bool:
    """Does the admin port ask for a credential?"""
    return isinstance(auth, Auth) and auth.admin is not None and auth.admin.token is not None
