"""Any other HTTP endpoint: where a call goes, what proves who we are, what it costs, what is asked of it."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from backends.http_endpoint import HttpEndpoint, HttpOptions
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendFull
from gateway.vocab import Charge, Rent, Start
from tests.support.endpoints import endpoint, says
from tests.support.provider import (
    SECRET,
    Received,
    Wire,
    a_call,
    a_chat,
)


async def test_a_call_goes_out_as_it_came_but_for_the_token() -> None:
    headers = [(b"content-type", b"text/plain"), (b"authorization", b"Bearer the-callers")]
    async with endpoint(HttpEndpoint, says(200, b"ok")) as (backend, provider):
        call = a_call(b"\x00\xff", method=b"PUT", target=b"/a%2Fb?x=1", headers=headers)
        async with backend.send(call, 0) as reply:
            assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
    request = provider.seen[0]
    assert (request.method, request.target, request.body) == ("PUT", "/a%2Fb?x=1", b"\x00\xff")
    assert request.fields["authorization"] == f"Bearer {SECRET}"


async def test_one_path_can_take_every_call() -> None:
    async with endpoint(HttpEndpoint, says(200), path="/m/{model}:predict", token=None) as (
        backend,
        provider,
    ):
        for call in (a_call(target=b"/v2/models/minilm/infer?raw=1"), a_call()):
            async with backend.send(call, 0):
                pass
        question = a_call()
        question.inference = False
        assert "answers no questions" in (backend.cannot_carry(question) or "")
        assert backend.cannot_carry(a_call()) is None
    assert [request.target for request in provider.seen] == ["/m/minilm:predict?raw=1", "/m/minilm:predict"]
    assert "authorization" not in provider.seen[0].fields


async def test_a_name_cannot_lead_out_of_the_path() -> None:
    async with endpoint(HttpEndpoint, says(200), path="/m/{model}") as (backend, provider):
        call = a_chat()
        call.model = "../admin?x=/#"
        async with backend.send(call, 0):
            pass
    assert provider.seen[0].target == "/m/..%2Fadmin%3Fx%3D%2F%23"


@pytest.mark.parametrize("path", ["predict", "/{name}", "/a b", "/x?y=1"])
def test_a_path_that_makes_no_sense_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        HttpOptions.model_validate({**HttpEndpoint.example("http://host"), "path": path})


async def test_a_body_over_the_limit_is_not_carried() -> None:
    async with endpoint(HttpEndpoint, says(200), max_body="1KiB") as (backend, _):
        assert backend.cannot_carry(a_call(bytes(1024))) is None
        assert backend.cannot_carry(a_call(bytes(1025))) == "burst: 1025 bytes, 1024 are allowed"


@pytest.mark.parametrize(
    ("price", "rent", "usd"),
    [
        ({"usd_per_second": 0.5}, Rent(0.5, idle_s=60.0, boot_s=10.0), 1.0),
        (
            {"usd_per_second": 0.5, "usd_per_request": 0.25, "bills_idle": False, "round_up": "1s"},
            Rent(0.5, 0.25, idle_s=60.0, boot_s=10.0, bills_idle=False, round_up_s=1.0),
            1.25,
        ),
        ({"usd_per_request": 0.25}, Rent(0.0, 0.25, idle_s=60.0, boot_s=10.0, bills_idle=False), 0.25),
        (None, Rent(None, idle_s=60.0, boot_s=10.0), None),
    ],
)
async def test_what_a_call_costs(price: Any, rent: Rent, usd: float | None) -> None:
    clock = FakeClock()

    async def two_seconds(request: Received, wire: Wire) -> None:
        clock.advance(2.0)
        await wire.answer(200, b"ok")

    async with endpoint(HttpEndpoint, two_seconds, clock, price=price) as (backend, _):
        assert backend.rent == rent
        assert backend.price_known == (price is not None)
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert (reply.usage.billed_s, reply.usage.usd) == (2.0, usd)
        idle = backend.settle(math.inf)
        assert idle == ([Charge("embed", "spill", 30.0)] if rent.bills_idle and price else [])


def test_a_price_without_any_figure_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one of usd_per_second, usd_per_request"):
        HttpOptions.model_validate({**HttpEndpoint.example("http://host"), "price": {"bills_idle": False}})


async def test_the_worker_kits_fields_tell_warm_from_cold() -> None:
    fields = {"X-Overspill-Boot-Id": "i-1", "X-Overspill-Boot-Age": "0"}
    async with endpoint(HttpEndpoint, says(200, b"ok", fields)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD
            assert all(not name.startswith(b"x-overspill") for name, _ in reply.headers)


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, BackendDenied), (403, BackendDenied), (429, BackendFull), (503, BackendFull), (500, BackendBroke)],
)
async def test_failures(status: int, error: type[Exception]) -> None:
    async with endpoint(HttpEndpoint, says(status, SECRET.encode())) as (backend, _):
        with pytest.raises(error) as caught:
            async with backend.send(a_call(), 0):
                pass
        assert SECRET not in str(caught.value)


async def test_without_a_token_a_403_is_the_applications_own() -> None:
    async with endpoint(HttpEndpoint, says(403, b"not yours"), token=None) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (403, b"not yours")


async def test_health_is_asked_only_where_the_file_says_where() -> None:
    async with endpoint(HttpEndpoint, says(200)) as (backend, provider):
        assert await backend.probe(0) is None
        assert provider.seen == []
    for status, ready in ((200, True), (204, False), (503, False)):
        async with endpoint(HttpEndpoint, says(status), health={"path": "/up"}) as (backend, provider):
            assert await backend.probe(0) is ready
            assert (provider.seen[0].method, provider.seen[0].target) == ("GET", "/up")
            assert provider.seen[0].fields["authorization"] == f"Bearer {SECRET}"


async def test_a_ping_never_goes_where_the_model_runs() -> None:
    async with endpoint(HttpEndpoint, says(404), path="/predict", late_binding="ping") as (backend, provider):
        assert backend.can_open
        await backend.ping(0, route="embed", kind="spill")
    assert provider.seen[0].target.startswith("/.overspill/ping")
    async with endpoint(HttpEndpoint, says(404)) as (backend, _):
        assert not backend.can_open
