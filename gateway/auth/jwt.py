"""Signed tokens (JWT, RFC 7519 and 8725): whose they are, and whether that can be believed.

What a token says of its own keys (`jku`, `x5u`, `jwk`, `x5c`) is never looked at, and its algorithm must be
on its issuer's list, where a secret and public keys never stand together. Knows no request.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from re import fullmatch
from typing import Any

from gateway.auth.jwks import Fetch, FetchedKeys, FileKeys, KeySource, SharedSecret, Spawn, library
from gateway.auth.keys import NOT_KNOWN
from gateway.clock import Clock
from gateway.config.auth import NAME, TokenIssuer
from gateway.errors import ConfigError, Unauthorised
from gateway.identity import Identity, plain_name

LONGEST_TOKEN = 8192
"""Characters; what is longer is not even taken apart."""
_LONGEST_KID = 256
_MOST_ROUTES = 200
_NO_CHECK = {"verify_signature": False}
_BY_LIBRARY = {
    "require": ["exp", "iss", "aud"],
    # By the gateway's own clock, below.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


def invalid(why: str) -> Unauthorised:
    """The refusal of a token."""
    return Unauthorised(f"the token is not accepted: {why}", invalid=True)


class Issuer:
    """One issuer: what its tokens must say, and its keys."""

    def __init__(self, options: TokenIssuer, keys: KeySource) -> None:
        self.options = options
        self.keys = keys

    @classmethod
    def of(cls, options: TokenIssuer, *, fetch: Fetch, spawn: Spawn, clock: Clock) -> "Issuer":
        """As the file describes it. Raises ConfigError where its keys or a package for them are missing."""
        library()
        if options.secret is not None:
            return cls(options, SharedSecret(partial(shared_secret, options), options.secret.file))
        if options.jwks_file is not None:
            return cls(options, FileKeys(options.jwks_file))
        assert options.jwks_url is not None
        return cls(
            options,
            FetchedKeys(
                options.jwks_url, issuer=plain_name(options.issuer), refresh_s=options.refresh,
                fetch=fetch, spawn=spawn, clock=clock,
            ),
        )  # fmt: skip


def shared_secret(options: TokenIssuer) -> str:
    """The issuer's secret. Raises ConfigError when it cannot be had, or is shorter than is safe."""
    assert options.secret is not None
    try:
        secret = options.secret.resolve()
    except LookupError as error:
        raise ConfigError(f"auth.jwt: {error}") from None
    # As long as the digest at least (RFC 7518 section 3.2).
    needed = max(int(name.removeprefix("HS")) for name in options.allowed) // 8
    if len(secret.encode()) < needed:
        raise ConfigError(f"auth.jwt: the secret is shorter than {needed} bytes, so it can be guessed")
    return secret


class Tokens:
    """All issuers."""

    def __init__(self, issuers: Iterable[Issuer], clock: Clock) -> None:
        self.issuers: Mapping[str, Issuer] = {each.options.issuer: each for each in issuers}
        self._clock = clock
        self._jwt = library()

    async def verify(self, text: str) -> Identity:
        """Whose token this is. Raises Unauthorised, and IssuerDown when that cannot be told now."""
        if len(text) > LONGEST_TOKEN or text.count(".") != 2:
            raise Unauthorised(NOT_KNOWN, invalid=True)
        header, issuer = self._looked_at(text)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in issuer.options.allowed:
            raise invalid("its algorithm is not one of its issuer's")
        if "crit" in header or "b64" in header:
            raise invalid("its header asks for extensions that are not known here")
        if kid is not None and (not isinstance(kid, str) or len(kid) > _LONGEST_KID):
            raise invalid("its key id is not a short text")
        key = await issuer.keys.find(algorithm, kid)
        if key is None:
            raise invalid("it names no key of its issuer")
        return self._checked(text, issuer.options, algorithm, key.key)

    def _looked_at(self, text: str) -> tuple[Mapping[str, Any], Issuer]:
        """Its header, and who it says it is of. None of that is believed yet."""
        try:
            header = self._jwt.get_unverified_header(text)
            claims = self._jwt.decode(text, options=_NO_CHECK)
        except (self._jwt.PyJWTError, ValueError, RecursionError):
            raise invalid("it cannot be read") from None
        name = claims.get("iss")
        issuer = self.issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise invalid("its issuer is not known here")
        return header, issuer

    def _checked(self, text: str, options: TokenIssuer, algorithm: str, key: Any) -> Identity:
        jwt = self._jwt
        try:
            claims: dict[str, Any] = jwt.decode(
                text, key, algorithms=[algorithm], audience=list(options.audiences),
                issuer=options.issuer, options=_BY_LIBRARY,
            )  # fmt: skip
        except jwt.MissingRequiredClaimError:
            raise invalid("it must have exp, iss and aud") from None
        except jwt.InvalidAudienceError:
            raise invalid("it is for another audience") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise invalid("its signature or a claim is wrong") from None
        expires = self._in_time(claims, options.leeway)
        name = claims.get(options.name_claim, "")
        if not isinstance(name, str) or not name:
            raise invalid(f"its {options.name_claim} is not a text")
        return Identity(
            plain_name(name), "token", _tenant(claims, options), _routes(claims, options),
            options.priority, expires,
        )  # fmt: skip

    def _in_time(self, claims: Mapping[str, Any], leeway: float) -> float:
        """From when on it is not good any more, Unix time."""
        now = self._clock.wall()
        expires = _moment(claims["exp"]) + leeway
        if now >= expires:
            raise invalid("it has expired")
        for name in ("nbf", "iat"):
            if name in claims and now < _moment(claims[name]) - leeway:
                raise invalid("it is not good yet")
        return expires


def _moment(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        return float(value)
    raise invalid("exp, nbf and iat must be numbers of seconds")


def _tenant(claims: Mapping[str, Any], options: TokenIssuer) -> str | None:
    if options.tenant_claim is None:
        return options.tenant
    tenant = claims.get(options.tenant_claim)
    if not isinstance(tenant, str) or not fullmatch(NAME, tenant):
        raise invalid(f"its {options.tenant_claim} names no tenant")
    return tenant


def _routes(claims: Mapping[str, Any], options: TokenIssuer) -> tuple[str, ...] | None:
    fixed = None if options.routes is None else tuple(options.routes)
    if options.routes_claim is None:
        return fixed
    said = claims.get(options.routes_claim, [])
    listed = said.split() if isinstance(said, str) else said
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise invalid(f"its {options.routes_claim} is no list of routes")
    routes = tuple(listed[:_MOST_ROUTES])
    return routes if fixed is None else tuple(each for each in routes if each in fixed)
