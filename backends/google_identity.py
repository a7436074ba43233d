"""Tokens of Google Cloud: from the metadata server, or for a service account's key. ID or access tokens.

Knows Google's two token hosts; it must never know what a token is used for. The metadata server needs
nothing; signing for a key needs the package `cryptography`, which is imported when such a key is there.

Wire facts (Google Cloud documentation, "About VM metadata", "Get an ID token", "Using OAuth 2.0 for server
to server applications"):
- the metadata server wants `Metadata-Flavor: Google`, and answers with it;
- an ID token is a JWT whose `exp` says when it ends; an access token comes with `expires_in`;
- a key's owner signs a JWT (RS256, an hour at most) and has it exchanged at `token_uri`: with `scope` for an
  access token, with `target_audience` for an ID token.
"""

import base64
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from pydantic import model_validator

from backends.elastic import HttpUrl
from backends.tokens import GivenToken, Token, TokenHost, TokenSource, checked, read_grant, sendable
from gateway.clock import Clock
from gateway.errors import BackendDenied, ConfigError
from gateway.options import Options, SecretRef

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_DEFAULT_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_ASSERTION_S = 3600


class GoogleIdentity(Options):
    """As whom Google Cloud is called. Empty: as the machine's own service account."""

    service_account: SecretRef | None = None
    """A service account's key, the JSON file as it was downloaded."""
    token: SecretRef | None = None
    """A token that something else keeps fresh. It is read again when it is refused."""
    metadata_url: HttpUrl = "http://metadata.google.internal"
    """Address of the metadata server."""
    token_url: HttpUrl = _TOKEN_URL
    """Where a service account's signature is exchanged. What the key says of it does not count: the
    signature goes nowhere else."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.service_account is not None and self.token is not None:
            raise ValueError("give one of service_account and token, or neither for the metadata server")
        return self

    def source(self, name: str, clock: Clock, *, audience: str | None) -> TokenSource:
        """Where the tokens come from: ID tokens for `audience`, access tokens without one."""
        if self.token is not None:
            return GivenToken(name, self.token)
        if self.service_account is not None:
            return ServiceAccount(name, self.service_account, clock, self.token_url, audience=audience)
        return MetadataServer(name, clock, self.metadata_url, audience=audience)


class MetadataServer:
    """The tokens of the machine's own service account."""

    def __init__(self, name: str, clock: Clock, url: str, *, audience: str | None) -> None:
        self._host = TokenHost(name, url.rstrip("/"), metadata=True)
        self._clock = clock
        self._audience = audience

    def check(self) -> None:
        """Nothing can be told before it is asked."""

    async def close(self) -> None:
        """Close every connection."""
        await self._host.close()

    async def fetch(self) -> Token:
        """A token. Raises BackendError whose `work` is NOT_STARTED."""
        base = self._host.url + _DEFAULT_ACCOUNT
        url = f"{base}/token"
        if self._audience is not None:
            url = f"{base}/identity?audience={quote(self._audience, safe='')}&format=full"
        answer = await self._host.ask("GET", url, [(b"metadata-flavor", b"Google")])
        if (b"metadata-flavor", b"Google") not in answer.headers:
            raise BackendDenied(f"{self._host.said}: it is not Google's metadata server")
        if self._audience is None:
            return read_grant(self._host, answer, "access_token")
        value = sendable(self._host, answer.body.decode("latin-1").strip())
        return Token(value, lasts(value, self._clock.wall()))


class Key(NamedTuple):
    """What of a service account's key is used."""

    email: str
    key_id: str
    private_key: str

    def __repr__(self) -> str:
        return f"Key({self.email!r})"


class ServiceAccount:
    """The tokens of a service account whose key is here."""

    def __init__(
        self, name: str, reference: SecretRef, clock: Clock, url: str, *, audience: str | None
    ) -> None:
        self._name = name
        self._reference = reference
        self._clock = clock
        self._host = TokenHost(name, url)
        self._audience = audience

    def check(self) -> None:
        """Raise ConfigError if the key is none, or cannot be signed with here."""
        checked(self._assertion)

    async def close(self) -> None:
        """Close every connection."""
        await self._host.close()

    async def fetch(self) -> Token:
        """A token. Raises BackendError whose `work` is NOT_STARTED."""
        form = urlencode({"grant_type": _GRANT, "assertion": self._assertion()}).encode()
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        answer = await self._host.ask("POST", self._host.url, headers, form)
        if self._audience is None:
            return read_grant(self._host, answer, "access_token")
        token = read_grant(self._host, answer, "id_token")
        return Token(token.value, lasts(token.value, self._clock.wall()))

    def _assertion(self) -> str:
        key = self._key()
        now = int(self._clock.wall())
        what = {"scope": _SCOPE} if self._audience is None else {"target_audience": self._audience}
        claims = {"iss": key.email, "aud": _TOKEN_URL, "iat": now, "exp": now + _ASSERTION_S, **what}
        header = {"alg": "RS256", "typ": "JWT", **({"kid": key.key_id} if key.key_id else {})}
        signed = f"{_packed(header)}.{_packed(claims)}"
        try:
            signature = rs256(key.private_key, signed.encode())
        except ValueError as error:
            raise BackendDenied(f"{self._name}: {self._where()} holds no key: {error}") from None
        return f"{signed}.{_base64(signature)}"

    def _key(self) -> Key:
        """The key as it is now: it may have been rotated. Raises BackendDenied, quoting nothing of it."""
        try:
            text = self._reference.resolve()
        except LookupError as error:
            raise BackendDenied(f"{self._name}: {error}") from None
        try:
            document = msgspec.json.decode(text, type=dict[str, Any])
            email, private = str(document["client_email"]), str(document["private_key"])
        except (msgspec.MsgspecError, KeyError):
            raise BackendDenied(
                f"{self._name}: {self._where()} is not a service account's key; it is a JSON file with "
                "client_email and private_key"
            ) from None
        return Key(email, str(document.get("private_key_id", "")), private)

    def _where(self) -> str:
        return f"the secret in {self._reference.env or self._reference.file}"


def rs256(private_key: str, data: bytes) -> bytes:
    """The signature of `data` (RFC 7518 section 3.3) with a PEM key. Raises ValueError, ConfigError."""
    try:
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - optional
        from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "a service account's key needs the package cryptography: install overspill[gcp]"
        ) from None
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError):  # their texts could quote it
        raise ValueError("its private_key cannot be read") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("its private_key is not an RSA key")
    return bytes(key.sign(data, padding.PKCS1v15(), hashes.SHA256()))


def lasts(jwt: str, wall: float) -> float:
    """Seconds until a JWT expires (RFC 7519 section 4.1.4). One that does not say so is used once."""
    try:
        part = jwt.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return max(0.0, float(claims["exp"]) - wall)
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError):
        return 0.0


def origin(url: str) -> str:
    """Scheme and host of `url`: what a Cloud Run service expects as the audience."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _packed(document: dict[str, Any]) -> str:
    return _base64(msgspec.json.encode(document))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
