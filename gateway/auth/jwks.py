"""The public keys of an issuer (RFC 7517): read, found, fetched, and fetched again when they rotate.

Knows the PyJWT library, imported when the first set is read. It must never be led by a token to an address:
where keys come from says the configuration alone.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gateway.auth.fetch import NotFetched
from gateway.auth.keys import marks_of
from gateway.clock import Clock
from gateway.config.auth import HMAC_ALGORITHMS
from gateway.errors import ConfigError, IssuerDown

log = logging.getLogger("overspill.auth")

COOL_DOWN_S = 10.0
"""Least time from one fetch to the next: tokens with made-up key ids must not become requests."""
MOST_KEYS = 100
SHORTEST_RSA = 2048
"""Bits (RFC 7518 section 3.3)."""

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

Fetch = Callable[[str], Awaitable[bytes]]
Spawn = Callable[..., None]


def library() -> Any:
    """PyJWT. Raises ConfigError where it, or what it needs for public keys, is not installed."""
    try:
        import cryptography  # noqa: F401, PLC0415 - optional
        import jwt  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "auth.jwt needs the packages PyJWT and cryptography, of which one is not installed: "
            "pip install 'overspill[jwt]'"
        ) from None
    return jwt


class SigningKey(NamedTuple):
    """One key, and the algorithms that it is for."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any


class KeySource(Protocol):
    """Where an issuer's keys are."""

    changed: Callable[[], None] | None
    """Called when other keys are in force, before any token is judged by them."""

    async def find(self, algorithm: str, kid: str | None) -> SigningKey | None:
        """The key for a token that names these. Raises IssuerDown."""
        ...

    async def tend(self) -> None:
        """Look whether they are still the same; called every second or so. Raises nothing."""
        ...


def read_jwks(raw: bytes) -> tuple[SigningKey, ...]:
    """The keys of a set that can be used. Raises ValueError where there is none."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    listed = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise ValueError("is not a JWK set: it has no list called keys")
    keys = [key for item in listed[:MOST_KEYS] if (key := _usable(item)) is not None]
    if not keys:
        raise ValueError("holds no public key that can be used to check signatures")
    return tuple(keys)


def _usable(item: object) -> SigningKey | None:
    """Symmetric keys are passed over: whoever can fetch one can sign with it."""
    if not isinstance(item, dict) or item.get("use", "sig") != "sig":
        return None
    public = {name: item[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in item}
    if not all(isinstance(value, str) for value in public.values()):
        return None  # RFC 7517 and 7518: each of them is a string
    kind, curve = public.get("kty"), public.get("crv")
    if kind == "RSA":
        algorithms: tuple[str, ...] = _RSA
    elif kind == "EC" and curve in _CURVES:
        algorithms = (_CURVES[curve],)
    elif kind == "OKP" and curve == "Ed25519":
        algorithms = ("EdDSA",)
    else:
        return None
    jwt = library()
    try:
        key = jwt.PyJWK(public, algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if kind == "RSA" and key.key_size < SHORTEST_RSA:
        return None
    if (only := item.get("alg")) is not None:
        algorithms = tuple(name for name in algorithms if name == only)
    kid = item.get("kid")
    return SigningKey(kid if isinstance(kid, str) else None, algorithms, key)


def _found(keys: Sequence[SigningKey], algorithm: str, kid: str | None) -> SigningKey | None:
    """By its id. A token that names none is checked with the only key that fits, never with one of many."""
    fit = [key for key in keys if algorithm in key.algorithms and kid in (None, key.kid)]
    return fit[0] if len(fit) == 1 or (fit and kid is not None) else None


class SharedSecret:
    """The secret that an issuer signs with. ConfigError at its making, as `read` raises it.

    read:  the secret as it is now
    path:  the file that it stands in, read again when it changes; None: it stays as it is
    """

    def __init__(self, read: Callable[[], str], path: Path | None = None) -> None:
        self.changed: Callable[[], None] | None = None
        self._read = read
        self._path = path
        self._marks = None if path is None else marks_of(path)
        self._key = _signing(read())

    def __repr__(self) -> str:
        return "SharedSecret()"

    async def find(self, algorithm: str, kid: str | None) -> SigningKey | None:
        """See `KeySource.find`."""
        return self._key if algorithm in self._key.algorithms else None

    async def tend(self) -> None:
        """See `KeySource.tend`."""
        marks = None if self._path is None else marks_of(self._path)
        if marks is None or marks == self._marks:
            return
        self._marks = marks
        try:
            key = _signing(self._read())
        except ConfigError as error:
            log.error("%s; the secret of before stays", error)
            return
        if key != self._key:
            self._key = key
            if self.changed is not None:
                self.changed()
            log.info("the secret of an issuer was taken over from its file")


def _signing(secret: str) -> SigningKey:
    return SigningKey(None, HMAC_ALGORITHMS, secret.encode())


class FileKeys:
    """A set in a file, read again when it changes. Raises ConfigError at its making."""

    def __init__(self, path: Path) -> None:
        self.changed: Callable[[], None] | None = None
        self._path = path
        self._marks = marks_of(path)
        self._keys = read_jwks_file(path)

    async def find(self, algorithm: str, kid: str | None) -> SigningKey | None:
        """See `KeySource.find`."""
        return _found(self._keys, algorithm, kid)

    async def tend(self) -> None:
        """See `KeySource.tend`."""
        marks = marks_of(self._path)
        if marks is None or marks == self._marks:
            return
        self._marks = marks
        try:
            self._keys = read_jwks_file(self._path)
        except ConfigError as error:
            log.error("%s; the keys of before stay", error)
        else:
            if self.changed is not None:
                self.changed()


def read_jwks_file(path: Path) -> tuple[SigningKey, ...]:
    """The keys in it. Raises ConfigError."""
    try:
        return read_jwks(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the key set {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the key set {path} {error}") from None


class FetchedKeys:
    """A set at an address. Those who need it at one time wait for one fetch.

    issuer:     its name, for the log
    refresh_s:  age from which on it is fetched again, in the background
    While it cannot be fetched the last one stays in force; before the first one tokens cannot be judged.
    """

    def __init__(
        self, url: str, *, issuer: str, refresh_s: float, fetch: Fetch, spawn: Spawn, clock: Clock
    ) -> None:
        self.changed: Callable[[], None] | None = None
        self._url = url
        self._issuer = issuer
        self._refresh_s = refresh_s
        self._fetch = fetch
        self._spawn = spawn
        self._clock = clock
        self._raw = b""
        self._keys: tuple[SigningKey, ...] = ()
        self._asked_at: float | None = None
        self._had_at: float | None = None
        self._failing = False
        self._flight: asyncio.Future[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> SigningKey | None:
        """See `KeySource.find`. A key that is not there is looked for once more, in a fresh set."""
        key = _found(self._keys, algorithm, kid)
        if key is None and (self._flight is not None or self._cooled()):
            await asyncio.shield(self._fetching())
            key = _found(self._keys, algorithm, kid)
        if not self._keys:
            raise IssuerDown("the keys of the token's issuer cannot be had now", retry_after=COOL_DOWN_S)
        return key

    async def tend(self) -> None:
        """See `KeySource.tend`."""
        stale = self._had_at is None or self._clock.now() - self._had_at >= self._refresh_s
        if stale and self._flight is None and self._cooled():
            self._fetching()

    def _cooled(self) -> bool:
        return self._asked_at is None or self._clock.now() - self._asked_at >= COOL_DOWN_S

    def _fetching(self) -> asyncio.Future[None]:
        """The fetch that is under way, begun here if there is none."""
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_future()
            self._asked_at = self._clock.now()
            self._spawn(self._fly(self._flight), name="fetch the keys of an issuer")
        return self._flight

    async def _fly(self, flight: asyncio.Future[None]) -> None:
        try:
            raw = await self._fetch(self._url)
            if raw != self._raw:
                keys = read_jwks(raw)
                self._raw, self._keys = raw, keys
                if self.changed is not None:
                    self.changed()
                log.info("keys of %s taken over: %d", self._issuer, len(keys))
            self._had_at, self._failing = self._clock.now(), False
        except (NotFetched, ValueError) as error:
            if not self._failing:  # said once, not every ten seconds until it is back
                stay = "the keys of before stay" if self._keys else "its tokens cannot be judged"
                log.warning("the key set of %s %s; %s", self._issuer, error, stay)
            self._failing = True
        finally:
            self._flight = None
            if not flight.done():
                flight.set_result(None)
