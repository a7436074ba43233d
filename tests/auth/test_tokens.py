"""Signed tokens: the known attacks, and what a good one stands for."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from gateway.auth.jwks import FileKeys, SharedSecret, SigningKey, read_jwks
from gateway.auth.jwt import LONGEST_TOKEN, Issuer, Tokens
from gateway.clock import FakeClock
from gateway.config.auth import TokenIssuer
from gateway.errors import Unauthorised
from gateway.identity import Identity
from tests.auth.support import (
    ISSUER,
    WALL,
    claims,
    ec_key,
    ed_key,
    jwks,
    key_set,
    part,
    pem,
    public,
    rsa_key,
    token,
)  # fmt: skip

SECRET = "a secret of the issuer, of 64 bytes or more, as HS512 wants them to be"


class Held:
    """Keys that are there."""

    changed: Callable[[], None] | None = None

    def __init__(self, raw: bytes) -> None:
        self.keys = read_jwks(raw)

    async def find(self, algorithm: str, kid: str | None) -> SigningKey | None:
        return next((key for key in self.keys if key.kid == kid and algorithm in key.algorithms), None)

    async def tend(self) -> None:
        pass


KEYS = jwks(
    public(rsa_key("a"), kid="a"),
    public(rsa_key("b"), kid="b", alg="RS512"),
    public(ec_key(), kid="ec"),
    public(ed_key(), kid="ed"),
    public(rsa_key("encrypts"), kid="encrypts", use="enc"),
    {"kty": "oct", "k": part(SECRET.encode()), "kid": "oct", "alg": "HS256"},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "tiny"},
)


def options(**more: Any) -> TokenIssuer:
    given = {"issuer": ISSUER, "audience": ["overspill", "other"], "jwks_file": "-", **more}
    return TokenIssuer.model_validate({name: value for name, value in given.items() if value is not None})


def tokens(**more: Any) -> Tokens:
    return Tokens([Issuer(options(**more), Held(KEYS))], FakeClock())


def hmac_with(secret: bytes, header: dict[str, Any], body: dict[str, Any]) -> str:
    """What a library may refuse to make."""
    signed = f"{part(header)}.{part(body)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), sha256))}"


def resigned(text: str, body: dict[str, Any]) -> str:
    """Another body under the signature of a good token."""
    head, _, signature = text.split(".")
    return f"{head}.{part(body)}.{signature}"


NONE = f"{part({'alg': 'none'})}.{part(claims())}."
CASES: dict[str, tuple[str, str]] = {
    "alg none": (NONE, "algorithm"),
    "alg none with its id": (f"{part({'alg': 'none', 'kid': 'a'})}.{part(claims())}.", "algorithm"),
    "alg None in capitals": (f"{part({'alg': 'NONE', 'kid': 'a'})}.{part(claims())}.", "algorithm"),
    "no alg": (f"{part({'kid': 'a'})}.{part(claims())}.AAAA", "algorithm"),
    "alg is a list": (f"{part({'alg': ['RS256'], 'kid': 'a'})}.{part(claims())}.AAAA", ""),
    "the public key as a secret": (
        hmac_with(pem(rsa_key()), {"alg": "HS256", "kid": "a"}, claims()),
        "algorithm",
    ),
    "the secret of the set": (
        hmac_with(SECRET.encode(), {"alg": "HS256", "kid": "oct"}, claims()),
        "algorithm",
    ),
    "signed by somebody else": (token(claims(), rsa_key("evil")), "signature"),
    "another body": (resigned(token(claims()), claims(sub="root")), "signature"),
    "no signature": (token(claims()).rpartition(".")[0] + ".", "signature"),
    "another issuer": (token(claims(iss="https://evil.example/")), "issuer is not known"),
    "no issuer": (token(claims(iss=None)), "issuer is not known"),
    "a longer issuer": (token(claims(iss=ISSUER + "x")), "issuer is not known"),
    "another audience": (token(claims(aud="elsewhere")), "another audience"),
    "a longer audience": (token(claims(aud="overspill2")), "another audience"),
    "no audience": (token(claims(aud=None)), "must have exp, iss and aud"),
    "expired": (token(claims(exp=WALL - 31)), "expired"),
    "expired to the second": (token(claims(exp=WALL - 30)), "expired"),
    "no expiry": (token(claims(exp=None)), "must have exp, iss and aud"),
    "expiry as text": (token(claims(exp="2099-01-01")), ""),
    "expiry without end": (
        token(claims()).split(".")[0] + "." + part(b'{"iss": "%s", "exp": Infinity}' % ISSUER.encode()) + ".AA",
        "",
    ),
    "expiry beyond numbers": (token(claims(exp=10**400)), "numbers of seconds"),
    "expiry true": (token(claims(exp=True)), ""),
    "not yet": (token(claims(nbf=WALL + 31)), "not good yet"),
    "issued in the future": (token(claims(iat=WALL + 31)), "not good yet"),
    "an id of another key": (token(claims(), kid="b"), "no key"),
    "an id that is not there": (token(claims(), kid="../../dev/null"), "no key"),
    "an id as a number": (f"{part({'alg': 'RS256', 'kid': 7})}.{part(claims())}.AAAA", ""),
    "a huge id": (token(claims(), kid="a" * 300), "short text"),
    "a key for encryption": (token(claims(), rsa_key("encrypts"), kid="encrypts"), "no key"),
    "an algorithm that its key is not for": (token(claims(), rsa_key("b"), kid="b"), "no key"),
    "an algorithm that is not allowed": (token(claims(), rsa_key(), "PS256"), "algorithm"),
    "a curve that is not allowed": (token(claims(), ed_key(), "EdDSA", kid="ed"), "algorithm"),
    "its own key inside": (
        token(claims(), rsa_key("evil"), jwk=public(rsa_key("evil"), kid="a")), "signature",
    ),
    "keys at an address": (
        token(claims(), rsa_key("evil"), jku="https://evil.example/jwks", x5u="https://evil.example/c"),
        "signature",
    ),
    "an address and an unknown id": (
        token(claims(), rsa_key("evil"), kid="evil", jku="https://evil.example/jwks"), "no key",
    ),
    "critical extensions": (token(claims(), crit=["exp"], exp=1), ""),
    "an unencoded body": (token(claims(), b64=False), ""),
    "two parts": ("a.b", "not known here"),
    "four parts": ("a.b.c.d", "not known here"),
    "five parts, as encrypted ones have": ("a.b.c.d.e", "not known here"),
    "no parts": ("", "not known here"),
    "not base64": ("!!!.???.###", "cannot be read"),
    "not JSON": (f"{part(b'x')}.{part(b'x')}.AAAA", "cannot be read"),
    "JSON that is no object": (f"{part([1])}.{part([1])}.AAAA", "cannot be read"),
    "nested deeply": (f"{part(b'[' * 2900)}.{part(b'[' * 2900)}.AA", "cannot be read"),
    "huge": (token(claims(more="x" * LONGEST_TOKEN)), "not known here"),
    "no name": (token(claims(sub=None)), "sub is not a text"),
    "an empty name": (token(claims(sub="")), "sub is not a text"),
    "a name that is a list": (token(claims(sub=["a"])), ""),
}  # fmt: skip


@pytest.mark.parametrize("attack", CASES)
async def test_a_token_that_is_not_good_is_refused(attack: str) -> None:
    text, says = CASES[attack]
    with pytest.raises(Unauthorised) as caught:
        await tokens().verify(text)
    assert says in str(caught.value)
    assert caught.value.invalid


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (token(claims()), {}),
        (token(claims(aud=["elsewhere", "other"])), {}),
        (token(claims(exp=WALL - 29, nbf=WALL + 29)), {}),
        (token(claims(), rsa_key("b"), "RS512", kid="b"), {"algorithms": ["RS512"]}),
        (token(claims(), rsa_key(), "PS384"), {"algorithms": ["PS384"]}),
        (token(claims(), ec_key(), "ES256", kid="ec"), {}),
        (token(claims(), ed_key(), "EdDSA", kid="ed"), {"algorithms": ["EdDSA"]}),
    ],
)
async def test_a_good_token_names_its_subject(text: str, more: dict[str, Any]) -> None:
    identity = await tokens(**more).verify(text)
    assert (identity.name, identity.kind, identity.routes) == ("batch-7", "token", None)
    assert identity.expires_at is not None
    assert identity.expires_at > WALL


async def test_claims_say_tenant_and_routes() -> None:
    known = tokens(tenant_claim="org", routes_claim="scope", priority="default", name_claim="client")
    said = token(claims(org="acme", scope="one two", client="c\n\ud800" + "x" * 100))
    identity = await known.verify(said)
    assert identity == Identity(
        "c??" + "x" * 60 + "…", "token", "acme", ("one", "two"), "default", WALL + 630
    )
    both = tokens(routes_claim="scope", routes=["two", "three"])
    assert (await both.verify(token(claims(scope=["one", "two"])))).routes == ("two",)
    assert (await both.verify(token(claims()))).routes == ()
    fixed = tokens(tenant="acme", routes=["one"])
    assert (await fixed.verify(token(claims(org="evil"))))[2:4] == ("acme", ("one",))
    for tenant in (None, 7, "a b", "x" * 65, "acme\n"):
        with pytest.raises(Unauthorised, match="org names no tenant"):
            await tokens(tenant_claim="org").verify(token(claims(org=tenant)))
    with pytest.raises(Unauthorised, match="no list of routes"):
        await known.verify(token(claims(org="a", client="c", scope={"one": 1})))


async def test_a_shared_secret_takes_its_own_algorithms_only() -> None:
    issuer = Issuer(options(jwks_file=None, secret={"env": "X"}), SharedSecret(lambda: SECRET))
    known = Tokens([issuer], FakeClock())
    assert (await known.verify(token(claims(), SECRET, "HS256"))).name == "batch-7"
    for wrong in (token(claims(), SECRET, "HS512", kid="a"), token(claims(), rsa_key()), NONE):
        with pytest.raises(Unauthorised):
            await known.verify(wrong)
    assert SECRET not in repr(issuer.keys)


def test_secrets_and_public_keys_are_never_on_one_list() -> None:
    for more in (
        {"algorithms": ["HS256"]},
        {"algorithms": ["RS256", "HS256"]},
        {"algorithms": ["none"]},
        {"jwks_file": None, "secret": {"env": "X"}, "algorithms": ["HS256", "RS256"]},
        {"secret": {"env": "X"}},
        {"jwks_file": None},
    ):
        with pytest.raises(ValueError, match=r"algorithms|does not go with|exactly one"):
            options(**more)


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/jwks", "https://user:pass@x/jwks", "https://x/#a", "file:///etc/passwd", "https://",
        "https:///x", "ftp://x/y", "http://127.0.0.1.evil.example/x", "http://localhost@evil.example/", "https://x y/",
        "http://169.254.169.254/latest",
    ],
)  # fmt: skip
def test_keys_come_over_tls_or_from_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a key set"):
        options(jwks_file=None, jwks_url=url)


def test_a_set_without_a_usable_key_is_none() -> None:
    for raw in (
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        jwks(),
        b"[" * 100_000,
        jwks({"kty": "oct", "k": "AAAA"}),
    ):
        with pytest.raises(ValueError, match=r"is not|holds no"):
            read_jwks(raw)
    assert [key.kid for key in read_jwks(KEYS)] == ["a", "b", "ec", "ed"]


@pytest.mark.parametrize("member", ["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"])
@pytest.mark.parametrize("nonsense", [None, {}, [], ["P-256"], 1, True])
def test_a_key_that_is_nonsense_does_not_take_the_others_with_it(member: str, nonsense: object) -> None:
    for good in (public(ec_key(), kid="bad"), public(rsa_key("a"), kid="bad"), public(ed_key(), kid="bad")):
        keys = read_jwks(jwks({**good, member: nonsense}, public(rsa_key("b"), kid="good")))
        assert "good" in [key.kid for key in keys]


async def test_keys_of_a_file_follow_it(tmp_path: Any) -> None:
    path = key_set(tmp_path / "jwks.json")
    keys = FileKeys(path)
    assert await keys.find("RS256", "a") is not None
    key_set(path, "b", kid="rotated")
    await keys.tend()
    assert await keys.find("RS256", "a") is None
    assert await keys.find("RS256", "rotated") is not None
    path.write_bytes(b"{")
    await keys.tend()
    assert await keys.find("RS256", "rotated") is not None
