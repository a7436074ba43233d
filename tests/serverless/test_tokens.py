"""Tokens: had once for all, again when they expire or are refused, and never shown."""

import asyncio
import base64
import importlib.util
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from backends.google_identity import GoogleIdentity, ServiceAccount, lasts, rs256
from backends.tokens import EARLY_S, GivenToken, Token, Tokens
from gateway.clock import FakeClock
from gateway.errors import BackendDenied, BackendDown, BackendError, BackendUnready, ConfigError
from gateway.options import SecretRef
from gateway.vocab import Work
from tests.support.provider import Behaviour, Provider, Received, Wire, providing, refusing_url

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="the package cryptography is not installed"
)


class Source:
    """Hands out t1, t2, … when it is let."""

    def __init__(self, lasts_s: float | None = 3600.0) -> None:
        self.lasts_s = lasts_s
        self.fetches = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: BackendError | None = None

    def check(self) -> None: ...

    async def close(self) -> None: ...

    async def fetch(self) -> Token:
        self.fetches += 1
        mine = self.fetches
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Token(f"t{mine}", self.lasts_s)


def tokens(source: Any, clock: FakeClock, cover: Callable[[str], None] = lambda _: None) -> Tokens:
    return Tokens(source, clock=clock, cover=cover)


async def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    clock, source, covered = FakeClock(), Source(), list[str]()
    kept = tokens(source, clock, covered.append)
    assert kept.current() is None
    assert [await kept.value(), await kept.value()] == ["t1", "t1"]
    clock.advance(3600 - EARLY_S - 1)
    assert await kept.value() == "t1"
    clock.advance(1)
    assert kept.current() is None
    assert await kept.value() == "t2"
    assert covered == ["t1", "t2"]


@pytest.mark.parametrize(("lasts_s", "used_for"), [(20.0, 10.0), (0.0, 0.0), (None, 1e9)])
async def test_short_lived_and_everlasting_tokens(lasts_s: float | None, used_for: float) -> None:
    clock, source = FakeClock(), Source(lasts_s)
    kept = tokens(source, clock)
    await kept.value()
    clock.advance(used_for)
    assert await kept.value() == ("t1" if lasts_s is None else "t2")


async def test_all_who_wait_get_what_one_has_fetched() -> None:
    source = Source()
    kept = tokens(source, FakeClock())
    source.open.clear()
    waiting = [asyncio.ensure_future(kept.value()) for _ in range(50)]
    await asyncio.sleep(0)
    source.open.set()
    assert await asyncio.gather(*waiting) == ["t1"] * 50
    assert source.fetches == 1


async def test_all_who_wait_get_the_same_failure_and_the_next_one_asks_again() -> None:
    source = Source()
    source.failure = BackendDenied("burst: no")
    source.open.clear()
    kept = tokens(source, FakeClock())
    waiting = [asyncio.ensure_future(kept.value()) for _ in range(20)]
    await asyncio.sleep(0)
    source.open.set()
    came = await asyncio.gather(*waiting, return_exceptions=True)
    assert {(type(error), str(error)) for error in came} == {(BackendDenied, "burst: no")}
    assert source.fetches == 1
    source.failure = None
    assert await kept.value() == "t2"


async def test_who_leaves_while_fetching_leaves_the_others_their_token() -> None:
    source = Source()
    source.open.clear()
    kept = tokens(source, FakeClock())
    first, second = asyncio.ensure_future(kept.value()), asyncio.ensure_future(kept.value())
    await asyncio.sleep(0)
    first.cancel()
    source.open.set()
    assert await second == "t2"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_refused_token_is_had_anew_once() -> None:
    source = Source()
    kept = tokens(source, FakeClock())
    old = await kept.value()
    kept.refused(old)
    assert await kept.value() == "t2"
    kept.refused(old)  # another call had the old one too
    assert await kept.value() == "t2"


async def test_a_given_token_is_read_again_when_it_was_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    given = GivenToken("burst", SecretRef(file=file))
    given.check()
    kept = tokens(given, FakeClock())
    assert await kept.value() == "one"
    file.write_text("two")
    assert await kept.value() == "one"
    kept.refused("one")
    assert await kept.value() == "two"
    file.unlink()
    with pytest.raises(ConfigError, match="cannot read secret file"):
        GivenToken("burst", SecretRef(file=file)).check()


def test_a_token_does_not_show_itself() -> None:
    assert "secret" not in repr(Token("secret", 3.0))
    assert "secret" not in repr(tokens(GivenToken("burst", SecretRef(env="X")), FakeClock()))


# -- Google's

FLAVOR = {"metadata-flavor": "Google"}


def jwt(exp: float) -> str:
    def packed(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")

    return f"{packed({'alg': 'RS256'})}.{packed({'exp': exp})}.c2ln"


@asynccontextmanager
async def metadata(
    behaviour: Behaviour, clock: FakeClock, audience: str | None
) -> AsyncIterator[tuple[Tokens, Provider]]:
    async with providing(behaviour) as provider:
        source = GoogleIdentity(metadata_url=provider.url).source("burst", clock, audience=audience)
        kept = tokens(source, clock)
        kept.check()
        try:
            yield kept, provider
        finally:
            await kept.close()


def says(status: int, body: bytes, fields: dict[str, str] | None = None) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, fields)

    return behave


async def test_the_metadata_server_gives_id_tokens_that_last_as_they_say() -> None:
    clock = FakeClock()
    body = jwt(clock.wall() + 600).encode()
    async with metadata(says(200, body, FLAVOR), clock, "https://svc.run.app") as (kept, provider):
        assert await kept.value() == body.decode()
        clock.advance(600 - EARLY_S)
        assert kept.current() is None
    request = provider.seen[0]
    assert request.target == (
        "/computeMetadata/v1/instance/service-accounts/default/identity"
        "?audience=https%3A%2F%2Fsvc.run.app&format=full"
    )
    assert request.fields["metadata-flavor"] == "Google"


@pytest.mark.parametrize("expires_in", [100, "100"])
async def test_the_metadata_server_gives_access_tokens(expires_in: object) -> None:
    clock = FakeClock()
    body = json.dumps({"access_token": "ya29.x", "expires_in": expires_in, "token_type": "Bearer"}).encode()
    async with metadata(says(200, body, FLAVOR), clock, None) as (kept, provider):
        assert await kept.value() == "ya29.x"
        clock.advance(50)
        assert kept.current() is None
    assert provider.seen[0].target.endswith("/service-accounts/default/token")


@pytest.mark.parametrize("token", ["x", "a.b.c", "a.!!.c", jwt(-5), f"a.{'e30'}.c"])
def test_a_token_that_does_not_say_how_long_it_lasts_is_used_once(token: str) -> None:
    assert lasts(token, 1_800_000_000.0) == 0.0


@pytest.mark.parametrize(
    ("status", "body", "fields", "kind", "says_so"),
    [
        (200, b"a.b.c", {}, BackendDenied, "not Google's metadata server"),
        (200, b"", FLAVOR, BackendDenied, "has none"),
        (200, b"two words", FLAVOR, BackendDenied, "has none"),
        (404, b"no such account: secret", FLAVOR, BackendDenied, "it answered 404"),
        (302, b"", {"location": "http://127.0.0.1:9/"}, BackendDenied, "it answered 302"),
        (429, b"", FLAVOR, BackendUnready, "it answered 429"),
        (503, b"", FLAVOR, BackendUnready, "it answered 503"),
        (400, b'{"error":"invalid_grant","error_description":"secret"}', {}, BackendDenied, "400 invalid_grant"),
        (400, b'{"error":"the secret of Bob"}', {}, BackendDenied, "it answered 400"),
        (400, b'{"error":{"message":"secret"}}', {}, BackendDenied, "it answered 400"),
    ],
)  # fmt: skip
async def test_no_token_is_a_failure_before_anything_was_sent(
    status: int, body: bytes, fields: dict[str, str], kind: type[BackendError], says_so: str
) -> None:
    async with metadata(says(status, body, fields), FakeClock(), "https://svc") as (kept, provider):
        with pytest.raises(BackendError) as caught:
            await kept.value()
        assert len(provider.seen) == 1
    assert type(caught.value) is kind
    assert caught.value.work is Work.NOT_STARTED
    assert says_so in str(caught.value)
    assert str(caught.value).startswith("burst: no token from 127.0.0.1")
    assert "secret" not in str(caught.value)


async def test_a_token_host_that_hangs_up_or_is_not_there() -> None:
    async def reset(request: Received, wire: Wire) -> None:
        await wire.reset()

    async with metadata(reset, FakeClock(), None) as (kept, _):
        with pytest.raises(BackendUnready, match="the connection broke"):
            await kept.value()
    source = GoogleIdentity(metadata_url=await refusing_url()).source("burst", FakeClock(), audience=None)
    with pytest.raises(BackendDown):
        await source.fetch()
    await source.close()


def test_one_way_to_be_somebody() -> None:
    with pytest.raises(ValidationError, match="give one of service_account and token"):
        GoogleIdentity.model_validate({"service_account": {"env": "A"}, "token": {"env": "B"}})


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"client_email": "a@b"}', "-----BEGIN PRIVATE KEY-----"]
)
def test_a_key_that_is_none_is_told_at_start_and_not_quoted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    account = ServiceAccount("burst", SecretRef(file=file), FakeClock(), "http://127.0.0.1:9", audience=None)
    with pytest.raises(
        ConfigError, match=r"is not a service account's key; it is a JSON file with"
    ) as caught:
        account.check()
    assert text not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("cryptography") is not None, reason="it is installed")
def test_without_the_package_the_key_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"client_email": "a@b", "private_key": "x"}))
    account = ServiceAccount("burst", SecretRef(file=file), FakeClock(), "http://127.0.0.1:9", audience=None)
    with pytest.raises(ConfigError, match=r"install overspill\[gcp\]"):
        account.check()


@needs_cryptography
@pytest.mark.parametrize("audience", ["https://svc.run.app", None])
async def test_a_service_account_has_its_signature_exchanged(
    audience: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    file = tmp_path / "key.json"
    file.write_text(
        json.dumps(
            {
                "client_email": "spill@p.iam.gserviceaccount.com",
                "private_key": pem,
                "private_key_id": "k1",
                "token_uri": "https://elsewhere.example/token",
            },
            indent=2,
        )
    )
    clock = FakeClock()
    granted = (
        {"id_token": jwt(clock.wall() + 3600)} if audience else {"access_token": "ya29", "expires_in": 3599}
    )
    caplog.set_level(logging.DEBUG)
    async with providing(says(200, json.dumps(granted).encode())) as provider:
        who = GoogleIdentity.model_validate({"service_account": {"file": file}, "token_url": provider.url})
        kept = tokens(who.source("burst", clock, audience=audience), clock)
        kept.check()
        assert await kept.value() == next(iter(granted.values()))
        await kept.close()
    form = {name: values[0] for name, values in parse_qs(provider.seen[0].body.decode()).items()}
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    signed, _, signature = form["assertion"].rpartition(".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    assert header == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert claims["iss"] == "spill@p.iam.gserviceaccount.com"
    assert claims["aud"] == "https://oauth2.googleapis.com/token"
    assert claims["exp"] - claims["iat"] == 3600
    assert claims.get("target_audience") == audience
    assert ("scope" in claims) == (audience is None)
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    key.public_key().verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert not any(secret in caplog.text for secret in (pem[40:80], form["assertion"], "ya29"))


@needs_cryptography
def test_what_is_no_private_key_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="its private_key cannot be read") as caught:
        rs256("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", b"x")
    assert "c2VjcmV0" not in str(caught.value)
