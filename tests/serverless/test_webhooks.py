"""Signed webhooks: whose they are is proved, each counts once, and who waits is told, or asks by itself."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from backends.replicate import Replicate
from backends.webhooks import signing_key
from gateway.clock import FakeClock, SystemClock
from gateway.errors import ConfigError
from gateway.vocab import Headers, Start
from tests.support.gateways import port_of, running
from tests.support.provider import (
    SECRET,
    Background,
    Provider,
    Received,
    Wire,
    a_call,
    built,
    providing,
    until,
)

KEY = b"0123456789abcdef01234567"
SIGNING = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)
    monkeypatch.setenv("SIGNING", SIGNING)


def signed(body: bytes, at: float, *, identifier: str = "msg_1", key: bytes = KEY) -> dict[str, str]:
    text = b"%b.%d.%b" % (identifier.encode(), at, body)
    signature = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    return {
        "webhook-id": identifier, "webhook-timestamp": str(int(at)), "webhook-signature": f"v1,{signature}"
    }  # fmt: skip


def fields(headers: dict[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def prediction(status: str = "succeeded", **more: Any) -> dict[str, Any]:
    output = {"statusCode": 200, "body": "done"}
    times = {"created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:00.5Z"}
    done = {"output": output, "metrics": {"predict_time": 1.5}, **times} if status == "succeeded" else {}
    return {"id": "p1", "status": status, **done, **more}


BODY = json.dumps(prediction()).encode()


class Api:
    """Replicate's, with one prediction."""

    def __init__(self) -> None:
        self.status = "starting"
        self.asked = 0
        self.made: list[Any] = []

    async def answer(self, request: Received, wire: Wire) -> None:
        if request.method == "GET":
            self.asked += 1
            await wire.json(200, prediction(self.status))
        elif request.target.endswith("/cancel"):
            await wire.json(200, prediction("canceled"))
        else:
            self.made.append(request.json())
            await wire.json(201, prediction(self.status))


@asynccontextmanager
async def replicate(
    api: Api, clock: Any = None, **webhook: Any
) -> AsyncIterator[tuple[Replicate, Provider, Background]]:
    options = {"url": "https://gateway.example.com/", "secret": {"env": "SIGNING"}, **webhook}
    async with providing(api.answer) as provider:
        described = {**Replicate.example(provider.url), "webhook": options}
        async with built(Replicate, described, clock=clock) as (backend, background):
            yield backend, provider, background


def take(backend: Replicate, headers: dict[str, str], body: bytes = BODY) -> int:
    assert backend.webhook is not None
    return backend.webhook(fields(headers), body)[0]


async def answered(backend: Replicate) -> bytes | None:
    async with backend.send(a_call(), 0) as reply:
        assert reply.start in Start
        return reply.body


async def test_an_end_that_is_told_need_not_be_waited_for() -> None:
    api = Api()
    clock = SystemClock()
    async with replicate(api, clock, poll_every="5m") as (backend, _, _):
        call = asyncio.ensure_future(answered(backend))
        await until(lambda: len(api.made) == 1)
        assert api.made[0]["webhook"] == "https://gateway.example.com/webhooks/burst"
        assert api.made[0]["webhook_events_filter"] == ["start", "completed"]
        api.status = "processing"
        begun = json.dumps(prediction("processing")).encode()
        assert take(backend, signed(begun, clock.wall(), identifier="msg_0"), begun) == 200
        await until(lambda: api.asked == 1)
        api.status = "succeeded"
        assert take(backend, signed(BODY, clock.wall())) == 200
        assert await call == b"done"
        assert api.asked == 2, "only when there was something to ask"


async def test_what_nobody_tells_is_asked_for() -> None:
    api = Api()
    async with replicate(api, poll_every="100ms") as (backend, _, _):
        call = asyncio.ensure_future(answered(backend))
        await until(lambda: api.asked >= 2)
        api.status = "succeeded"
        assert await call == b"done"


async def test_a_webhook_that_is_faster_than_the_submission_is_remembered() -> None:
    api = Api()
    clock = SystemClock()
    async with replicate(api, clock, poll_every="5m") as (backend, _, _):
        assert take(backend, signed(BODY, clock.wall())) == 200
        call = asyncio.ensure_future(answered(backend))
        await until(lambda: len(api.made) == 1)
        api.status = "succeeded"
        assert await call == b"done"


async def test_who_leaves_waits_for_nothing_any_more() -> None:
    api = Api()
    async with replicate(api, poll_every="5m") as (backend, provider, background):
        call = asyncio.ensure_future(answered(backend))
        await until(lambda: len(api.made) == 1)
        await until(lambda: bool(backend._webhooks and backend._webhooks._waiting))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await background.done()
        assert provider.seen[-1].target.endswith("/p1/cancel")
        assert backend._webhooks is not None
        assert not backend._webhooks._waiting


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (signed(BODY, NOW), 200),
        (signed(BODY, NOW - 299), 200),
        (signed(BODY, NOW + 299), 200),
        (signed(BODY, NOW - 301), 401),
        (signed(BODY, NOW + 301), 401),
        (signed(BODY + b" ", NOW), 401),
        (signed(BODY, NOW, key=b"another key"), 401),
        (signed(BODY, NOW) | {"webhook-id": "msg_2"}, 401),
        (signed(BODY, NOW) | {"webhook-timestamp": str(int(NOW) + 1)}, 401),
        (signed(BODY, NOW) | {"webhook-signature": ""}, 401),
        (signed(BODY, NOW) | {"webhook-signature": signed(BODY, NOW)["webhook-signature"][3:]}, 401),
        (signed(BODY, NOW) | {"webhook-signature": "v2" + signed(BODY, NOW)["webhook-signature"][2:]}, 401),
        (signed(BODY, NOW) | {"webhook-signature": "v1,eA== " + signed(BODY, NOW)["webhook-signature"]}, 200),
        (signed(BODY, NOW) | {"webhook-timestamp": "soon"}, 400),
        (signed(BODY, NOW, identifier="a.b"), 400),
        ({"webhook-id": "msg_1"}, 400),
        ({}, 400),
    ],
)
async def test_only_what_is_signed_fresh_and_whole_is_taken(headers: dict[str, str], status: int) -> None:
    async with replicate(Api(), FakeClock(wall=NOW)) as (backend, _, _):
        assert take(backend, headers) == status


async def test_what_has_been_taken_is_refused_a_second_time_and_forgotten_once_it_is_too_old() -> None:
    clock = FakeClock(wall=NOW)
    async with replicate(Api(), clock) as (backend, _, _):
        ahead = signed(BODY, NOW + 300)
        assert take(backend, ahead) == 200
        assert take(backend, ahead) == 409
        clock.advance(600)
        assert take(backend, ahead) == 409, "its timestamp would still do"
        clock.advance(1)
        assert take(backend, ahead) == 401
        assert take(backend, signed(BODY, clock.wall(), identifier="msg_2")) == 200
        assert backend._webhooks is not None
        assert len(backend._webhooks._verifier._taken) == 1


async def test_a_signed_body_that_tells_of_no_prediction_is_refused() -> None:
    async with replicate(Api(), FakeClock(wall=NOW)) as (backend, _, _):
        for number, body in enumerate((b"", b"[]", b'{"id": "../x", "status": "starting"}')):
            assert take(backend, signed(body, NOW, identifier=f"msg_{number}"), body) == 400


async def test_off_unless_asked_for() -> None:
    api = Api()
    api.status = "succeeded"
    async with providing(api.answer) as provider:
        async with built(Replicate, Replicate.example(provider.url)) as (backend, _):
            assert await answered(backend) == b"done"
            assert backend.webhook is None
    assert "webhook" not in api.made[0]


def test_keys() -> None:
    assert signing_key(SIGNING) == signing_key(SIGNING.removeprefix("whsec_").rstrip("=")) == KEY
    for wrong in ("", "whsec_", "whsec_short", "whsec_" + "a" * 21, "pass word" * 4):
        with pytest.raises(ValueError, match="whsec_"):
            signing_key(wrong)


async def test_a_secret_that_is_none_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING", "whsec_!!!")
    with pytest.raises(ConfigError, match="webhook secret") as caught:
        async with replicate(Api()):
            raise AssertionError("it opened")
    assert "!!!" not in str(caught.value)


def test_the_secret_is_a_reference() -> None:
    described = {
        **Replicate.example("http://127.0.0.1:1"),
        "webhook": {"url": "https://x.y", "secret": SIGNING},
    }
    with pytest.raises(ValidationError):
        Replicate.Options.model_validate(described)


CONFIG = """
backends:
  burst: {type: replicate, token: {env: OVERSPILL_EXAMPLE_SECRET}, deployment: acme/minilm, base_url: "URL/v1",
    max_in_flight: 2, late_binding: none, price: {usd_per_second: 0.001},
    webhook: {url: "https://gateway.example.com", secret: {env: SIGNING}, poll_every: 5m}}
routes:
  echo:
    tiers: [{backend: burst, when_full: shed}]
"""


async def test_a_gateway_takes_them_on_its_own_port() -> None:
    api = Api()
    async with providing(api.answer) as provider, aiohttp.ClientSession() as session:
        async with running(CONFIG.replace("URL", provider.url)) as gateway:
            base = f"http://127.0.0.1:{port_of(gateway)}"

            async def told(path: str, **options: Any) -> tuple[int, Any]:
                async with session.post(base + path, data=BODY, **options) as answer:
                    return answer.status, await answer.json()

            async def call() -> str:
                async with session.post(f"{base}/invoke/echo/x", data=b"{}") as answer:
                    return await answer.text()

            asked = asyncio.ensure_future(call())
            await until(lambda: len(api.made) == 1)
            api.status = "succeeded"
            headers = signed(BODY, gateway.clock.wall())
            assert (await told("/webhooks/nobody", headers=headers))[0] == 404
            assert (await told("/webhooks/burst"))[0] == 400
            async with session.get(f"{base}/webhooks/burst") as answer:
                assert answer.status == 405
            assert await told("/webhooks/burst", headers=headers) == (200, {"status": "taken"})
            assert await asked == "done"
            assert await told("/webhooks/burst", headers=headers) == (
                409,
                {"error": "it has been taken already"},
            )
