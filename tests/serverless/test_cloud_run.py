"""Cloud Run: HTTP with an ID token, Google's own refusals, and two ways to bill."""

import asyncio
import logging

import pytest
from pydantic import ValidationError

from backends.cloud_run import REQUEST_LIMIT, CloudRun
from gateway.clock import Clock, FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.vocab import Start, Verdict, Work
from tests.serverless.test_tokens import FLAVOR, jwt
from tests.support.endpoints import endpoint, failure, says
from tests.support.provider import SECRET, Behaviour, Received, Wire, a_call, providing
from tests.support.requests import ArrivingBody


async def test_the_request_goes_out_as_it_came_with_our_token_only() -> None:
    headers = [(b"authorization", b"Bearer callers"), (b"x-serverless-authorization", b"Bearer callers")]
    call = a_call(b"\x00\xff", target=b"/v2/a%2Fb?x=1", headers=headers)
    async with endpoint(CloudRun, says(200, b"ok")) as (backend, provider):
        async with backend.send(call, 0) as reply:
            assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
    request = provider.seen[0]
    assert (request.target, request.body) == ("/v2/a%2Fb?x=1", b"\x00\xff")
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert "x-serverless-authorization" not in request.fields


async def test_where_the_application_wants_authorization_the_token_goes_beside_it() -> None:
    own = {"Authorization": {"env": "APP_KEY"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APP_KEY", "Basic app")
        async with endpoint(CloudRun, says(200), headers=own) as (backend, provider):
            async with backend.send(a_call(), 0):
                pass
    assert provider.seen[0].fields["authorization"] == "Basic app"
    assert provider.seen[0].fields["x-serverless-authorization"] == f"Bearer {SECRET}"


async def test_a_public_service_gets_no_token() -> None:
    async with endpoint(CloudRun, says(200), identity=None) as (backend, provider):
        async with backend.send(a_call(), 0):
            pass
    assert "authorization" not in provider.seen[0].fields


class Metadata:
    """Google's metadata server: t1, t2, … as ID tokens, each of which the service may refuse."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.given: list[str] = []

    async def __call__(self, request: Received, wire: Wire) -> None:
        token = jwt(self.clock.wall() + 3600 + len(self.given))
        self.given.append(token)
        await wire.answer(200, token.encode(), FLAVOR)


async def test_calls_at_once_fetch_one_token_for_the_services_own_host() -> None:
    clock = FakeClock()
    async with providing(Metadata(clock)) as google:
        identity = {"metadata_url": google.url}
        async with endpoint(CloudRun, says(200), clock, identity=identity) as (backend, provider):

            async def call() -> None:
                async with backend.send(a_call(), 0):
                    pass

            await asyncio.gather(*(call() for _ in range(8)))
            assert len(google.seen) == 1
            audience = provider.url.replace(":", "%3A").replace("/", "%2F")
            assert f"audience={audience}&" in google.seen[0].target
            assert len({request.fields["authorization"] for request in provider.seen}) == 1
            clock.advance(3600)
            await call()
            assert len(google.seen) == 2


async def test_no_token_is_logged_or_follows_a_redirect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    metadata = Metadata(FakeClock())
    async with providing(says(200, b"stolen")) as elsewhere, providing(metadata) as google:
        moved = says(302, b"", {"location": elsewhere.url})
        async with endpoint(CloudRun, moved, metadata.clock, identity={"metadata_url": google.url}) as (
            backend,
            _,
        ):
            async with backend.send(a_call(), 0) as reply:
                assert reply.status == 302  # the application's own: the client's to follow
        assert elsewhere.seen == []
    assert not any(token in caplog.text for token in metadata.given)


@pytest.mark.parametrize("refusals", [1, 5])
async def test_a_refused_token_is_replaced_once(refusals: int) -> None:
    clock = FakeClock()
    refused = 0

    async def fussy(request: Received, wire: Wire) -> None:
        nonlocal refused
        if len(provider.seen) > 1 and refused < refusals:
            refused += 1
            await wire.answer(401, b"token " + request.fields["authorization"].encode())
        else:
            await wire.answer(200, b"ok")

    metadata = Metadata(clock)
    async with providing(metadata) as google:
        async with endpoint(CloudRun, fussy, clock, identity={"metadata_url": google.url}) as (
            backend,
            provider,
        ):
            async with backend.send(a_call(), 0):
                pass
            if refusals == 1:
                async with backend.send(a_call(), 0) as reply:
                    assert reply.body == b"ok"
            else:
                came = await failure(backend)
                assert type(came) is BackendDenied
                assert not any(token in str(came) for token in metadata.given)
            assert (len(google.seen), len(provider.seen)) == (2, 3)


async def test_a_request_that_is_gone_is_not_sent_again() -> None:
    body = ArrivingBody(bytes(200_000), declared=200_000, chunks_of=50_000)
    async with endpoint(CloudRun, says(401)) as (backend, provider):
        with pytest.raises(BackendDenied):
            async with backend.send(a_call(), 0):
                pass
        with pytest.raises(BackendDenied):
            async with backend.send(a_call(body), 0):
                pass
        assert len(provider.seen) == 2


async def test_no_token_means_that_nothing_was_sent() -> None:
    async with providing(says(503)) as google:
        async with endpoint(CloudRun, says(200), identity={"metadata_url": google.url}) as (
            backend,
            provider,
        ):
            came = await failure(backend)
            assert type(came) is BackendUnready
            assert provider.seen == []
            assert backend.instances(0.0)["busy"] == 0


@pytest.mark.parametrize(
    ("status", "body", "kind", "relayed"),
    [
        (401, b"The request was not authorized to invoke this service.", BackendDenied, False),
        (403, b"<h2>Your client does not have permission to get URL <code>/</code>", BackendDenied, False),
        (404, b"<h2>The requested URL was not found on this server.</h2>", BackendDenied, False),
        (429, b"Rate exceeded.", BackendFull, False),
        (429, b"The request was aborted because there was no available instance.", BackendFull, False),
        (500, b"The request was aborted because there was no available instance.", BackendFull, False),
        (503, b"The request was aborted because there was no available instance.", BackendFull, False),
        (503, b"The service you requested is not available yet.", BackendFull, False),
        (429, b"my own limit", BackendFull, True),
        (503, b"my own queue is full", BackendFull, True),
        (503, b"upstream connect error or disconnect/reset before headers", BackendBroke, False),
        (
            503,
            b"The request failed because either the HTTP response was malformed or connection to the "
            b"instance had an error.",
            BackendBroke, False,
        ),
        (500, b"Traceback", BackendBroke, True),
        (502, b"", BackendBroke, True),
        (504, b"upstream request timeout", BackendBroke, True),
    ],
)  # fmt: skip
async def test_whose_failure_it_was(
    status: int, body: bytes, kind: type[BackendError], relayed: bool
) -> None:
    async with endpoint(CloudRun, says(status, body, {"retry-after": "3"})) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is kind
    assert (came.work is Work.NOT_STARTED) == (kind is not BackendBroke)
    assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    assert (came.answer is not None) == relayed
    if kind is BackendFull:
        assert came.retry_after == 3.0


@pytest.mark.parametrize(
    ("status", "body"), [(400, b"bad"), (403, b"mine"), (404, b"no model"), (422, b"{}")]
)
async def test_the_applications_own_refusal_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(CloudRun, says(status, body)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize(("age", "start"), [("0.0", Start.COLD), ("300", Start.WARM)])
async def test_the_worker_kit_tells_warm_from_cold(age: str, start: Start) -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": age}
    async with endpoint(CloudRun, says(200, b"ok", fields)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start


async def test_the_limit_of_a_request() -> None:
    async with endpoint(CloudRun, says(200)) as (backend, _):
        assert backend.cannot_carry(a_call(bytes(REQUEST_LIMIT))) is None
        too_large = backend.cannot_carry(a_call(bytes(REQUEST_LIMIT + 1)))
        assert too_large == "burst: 33554433 bytes for Cloud Run, 33554432 are allowed"


def slow(clock: FakeClock, seconds: float) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        clock.advance(seconds)
        await wire.answer(200, b"ok")

    return behave


async def test_by_instance_the_idle_tail_is_paid() -> None:
    clock = FakeClock()
    options = {"price": {"usd_per_second": 1.0}, "cold_start": {"expect": "1s", "idle_after": "10m"}}
    async with endpoint(CloudRun, slow(clock, 0.25), clock, **options) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == pytest.approx(0.25)
        clock.advance(3600)
        (tail,) = backend.settle(clock.now())
        # The life of the instance ends on a whole tenth of a second.
        assert (tail.route, tail.kind) == ("embed", "spill")
        assert tail.usd == pytest.approx(600.05)


async def test_by_request_tenths_of_a_second_and_a_fee_are_paid() -> None:
    clock = FakeClock()
    price = {"usd_per_second": 1.0, "usd_per_request": 0.01}
    async with endpoint(CloudRun, slow(clock, 0.25), clock, billing="request", price=price) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.billed_s == pytest.approx(0.3)
            assert reply.usage.usd == pytest.approx(0.31)
        clock.advance(3600)
        assert backend.settle(clock.now()) == []


def test_a_fee_belongs_to_request_based_billing() -> None:
    price = {"usd_per_second": 1.0, "usd_per_request": 0.01}
    with pytest.raises(ValidationError, match="billing: request"):
        CloudRun.Options.model_validate({**CloudRun.example("http://127.0.0.1:9"), "price": price})


async def test_without_a_price_nothing_has_one() -> None:
    async with endpoint(CloudRun, says(200), price=None) as (backend, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
