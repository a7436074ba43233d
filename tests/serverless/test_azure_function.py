"""Azure Functions: HTTP with a function key, the host's own refusals, and an execution's bill."""

from typing import Any

import pytest
from pydantic import ValidationError

from backends.azure_function import BODY_LIMIT, AzureFunction
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import endpoint, failure, says
from tests.support.provider import SECRET, Behaviour, Received, Wire, a_call, built, providing
from tests.support.requests import ArrivingBody

AFFINITY = {"Set-Cookie": "ARRAffinity=abc;Path=/;HttpOnly"}


async def test_the_request_goes_out_as_it_came_with_our_key_only() -> None:
    headers = [(b"x-functions-key", b"callers"), (b"x-ms-coldstart", b"1"), (b"authorization", b"callers")]
    async with providing(says(200, b"ok", AFFINITY)) as provider:
        options = {**AzureFunction.example(provider.url), "url": f"{provider.url}/api"}
        async with built(AzureFunction, options) as (backend, _):
            async with backend.send(a_call(b"body", headers=headers), 0) as reply:
                assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
                assert not any(name == b"set-cookie" for name, _ in reply.headers)
    request = provider.seen[0]
    assert (request.target, request.body) == ("/api/v2/models/minilm/infer", b"body")
    assert request.fields["x-functions-key"] == SECRET
    assert not {"x-ms-coldstart", "authorization"} & set(request.fields)


async def test_the_applications_own_cookies_stay() -> None:
    async with endpoint(AzureFunction, says(200, b"", {"Set-Cookie": "mine=1"})) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (b"set-cookie", b"mine=1") in reply.headers


async def test_an_entra_token_is_for_the_application_that_takes_it() -> None:
    async def grant(request: Received, wire: Wire) -> None:
        await wire.json(200, {"access_token": "aad", "expires_in": "3599"})

    async with providing(grant) as machine:
        entra: dict[str, Any] = {
            "entra": {"metadata_url": machine.url},
            "resource": "api://embed",
            "key": None,
        }
        async with endpoint(AzureFunction, says(200), **entra) as (backend, provider):
            async with backend.send(a_call(), 0):
                pass
    assert "resource=api%3A%2F%2Fembed" in machine.seen[0].target
    assert provider.seen[0].fields["authorization"] == "Bearer aad"
    assert "x-functions-key" not in provider.seen[0].fields


@pytest.mark.parametrize("alone", [{"entra": {}}, {"resource": "api://embed"}])
def test_an_identity_and_what_it_is_for_go_together(alone: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="entra and resource go together"):
        AzureFunction.Options.model_validate({**AzureFunction.example("http://127.0.0.1:9"), **alone})


@pytest.mark.parametrize(
    ("status", "body", "fields", "kind", "relayed"),
    [
        (401, b"", {}, BackendDenied, False),
        (403, b"<h1>Error 403 - This web app is stopped.</h1>", {}, BackendDenied, False),
        (429, b"", {"X-FUNCTION-SCALEOUT": "1"}, BackendFull, False),
        (429, b"my own limit", {}, BackendFull, True),
        (503, b"Function host is not running.", {}, BackendUnready, False),
        (503, b"The service is unavailable.", {}, BackendFull, True),
        (500, b"Traceback", {}, BackendBroke, True),
        (502, b"", {}, BackendBroke, True),
        (504, b"", {}, BackendBroke, True),
    ],
)
async def test_whose_failure_it_was(
    status: int, body: bytes, fields: dict[str, str], kind: type[BackendError], relayed: bool
) -> None:
    async with endpoint(AzureFunction, says(status, body, {**fields, **AFFINITY, "retry-after": "3"})) as (
        backend,
        provider,
    ):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is kind
    assert (came.work is Work.NOT_STARTED) == (kind is not BackendBroke)
    assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    assert (came.answer is not None) == relayed
    if came.answer is not None:
        assert (came.answer.status, came.answer.body) == (status, body)
        assert not any(name == b"set-cookie" for name, _ in came.answer.headers)
    if kind is BackendFull:
        assert came.retry_after == 3.0


@pytest.mark.parametrize(
    ("status", "body"), [(400, b"bad"), (403, b"mine"), (404, b"no model"), (422, b"{}")]
)
async def test_the_applications_own_refusal_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(AzureFunction, says(status, body)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, Start.UNKNOWN),
        ({"x-overspill-cold": "1"}, Start.COLD),
        ({"x-overspill-cold": "0"}, Start.WARM),
        ({"x-overspill-boot-id": "b", "x-overspill-boot-age": "300", "x-overspill-cold": "1"}, Start.WARM),
        ({"x-overspill-boot-id": "b", "x-overspill-boot-age": "0"}, Start.COLD),
    ],
)
async def test_warm_or_cold(fields: dict[str, str], start: Start) -> None:
    async with endpoint(AzureFunction, says(200, b"ok", {"x-kept": "1", **fields})) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start
            assert (b"x-kept", b"1") in reply.headers
            assert not any(name.startswith(b"x-overspill") for name, _ in reply.headers)


async def test_the_limit_of_a_request() -> None:
    async with endpoint(AzureFunction, says(200)) as (backend, _):
        assert backend.cannot_carry(a_call(ArrivingBody(bytes(10), declared=10))) is None
        call = a_call(Declared(b"", declared=BODY_LIMIT + 1))
        assert (
            backend.cannot_carry(call) == "burst: 210000001 bytes for Azure Functions, 210000000 are allowed"
        )


class Declared(ArrivingBody):
    """A body whose declared size is all there is of it."""

    def __init__(self, data: bytes, *, declared: int) -> None:
        super().__init__(data, declared=declared)
        self._declared_size = declared

    @property
    def length(self) -> int:
        return self._declared_size


def slow(clock: FakeClock, seconds: float, fields: dict[str, str] | None = None) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        clock.advance(seconds)
        await wire.answer(200, b"ok", fields)

    return behave


@pytest.mark.parametrize(
    ("seconds", "memory", "gb_seconds"),
    [
        (0.0204, "512MiB", 0.1 * 0.5),  # 100 ms at the least
        (0.2501, "512MiB", 0.251 * 0.5),  # whole milliseconds
        (1.0, "1MiB", 0.125),  # steps of 128 MB
        (1.0, "129MiB", 0.25),
    ],
)
async def test_an_execution_is_billed_by_its_memory_and_time(
    seconds: float, memory: str, gb_seconds: float
) -> None:
    clock = FakeClock()
    price = {"usd_per_gb_second": 1.0, "usd_per_request": 0.001}
    async with endpoint(AzureFunction, slow(clock, seconds), clock, memory=memory, price=price) as (
        backend,
        _,
    ):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == pytest.approx(gb_seconds + 0.001)
            assert reply.usage.reported is False
        clock.advance(3600)
        assert backend.settle(clock.now()) == []


async def test_a_start_up_that_is_known_is_not_in_the_bill() -> None:
    clock = FakeClock()
    price = {"usd_per_gb_second": 1.0, "least": "1s"}
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "4.0"}
    async with endpoint(AzureFunction, slow(clock, 6.5, fields), clock, memory="1GiB", price=price) as (
        backend,
        _,
    ):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD
            assert reply.usage is not None
            assert reply.usage.boot_s == 4.0
            assert reply.usage.usd == pytest.approx(2.5)


def test_a_price_needs_the_memory() -> None:
    with pytest.raises(ValidationError, match="price needs memory"):
        AzureFunction.Options.model_validate({**AzureFunction.example("http://127.0.0.1:9"), "memory": None})


async def test_without_a_price_nothing_has_one() -> None:
    async with endpoint(AzureFunction, says(200), price=None) as (backend, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
