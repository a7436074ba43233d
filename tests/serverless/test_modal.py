"""Modal: HTTP as it is, the chain of 303s, and whose failure it was."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from backends.modal import Modal
from gateway.clock import FakeClock
from gateway.errors import (
    AnswerTruncated,
    BackendBroke,
    BackendDenied,
    BackendDown,
    BackendError,
    BackendFull,
    SlowRequest,
)
from gateway.vocab import Charge, Start, Verdict, Work
from tests.support.endpoints import endpoint, failure, read, says
from tests.support.provider import (
    SECRET,
    Behaviour,
    Received,
    Wire,
    a_call,
    built,
    providing,
    refusing_url,
    until,
)
from tests.support.requests import ArrivingBody


def boot(id: str, age: float) -> dict[str, str]:
    return {"X-Overspill-Boot-Id": id, "X-Overspill-Boot-Age": str(age)}


async def test_the_request_goes_out_as_it_came_with_the_token() -> None:
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"x-mine", b"1"),
        (b"authorization", b"Bearer the-callers"),
        (b"x-overspill-priority", b"high"),
    ]
    call = a_call(b"\x00\xff", method=b"PUT", target=b"/v2/a%2Fb?x=1", headers=headers)
    async with endpoint(Modal, says(200, b"ok")) as (backend, provider):
        assert await read(backend, call) == b"ok"
    request = provider.seen[0]
    assert (request.method, request.target, request.body) == ("PUT", "/v2/a%2Fb?x=1", b"\x00\xff")
    assert (request.fields["modal-key"], request.fields["modal-secret"]) == (SECRET, SECRET)
    assert request.fields["x-mine"] == "1"
    assert request.fields["x-request-id"] == "req-1"
    assert request.fields["content-type"] == "application/octet-stream"
    assert not {"authorization", "x-overspill-priority"} & set(request.fields)


async def test_a_path_of_the_function_is_kept_in_front() -> None:
    async with providing(says(200, b"ok")) as provider:
        options = {**Modal.example(provider.url), "url": provider.url + "/base/", "proxy_auth": None}
        async with built(Modal, options) as (backend, _):
            await read(backend)
    assert provider.seen[0].target == "/base/v2/models/minilm/infer"
    assert "modal-key" not in provider.seen[0].fields


@pytest.mark.parametrize("declared", [200_000, None])
async def test_a_body_that_is_still_arriving_is_streamed(declared: int | None) -> None:
    data = bytes(200_000)
    body = ArrivingBody(data, declared=declared, chunks_of=50_000)
    async with endpoint(Modal, says(200, b"ok")) as (backend, provider):
        assert await read(backend, a_call(body)) == b"ok"
    assert provider.seen[0].body == data
    assert provider.seen[0].fields.get("content-length") == (str(declared) if declared else None)


async def test_a_client_that_stops_sending_is_not_the_backends_fault() -> None:
    class Stalling(ArrivingBody):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise SlowRequest("the body did not arrive")

    async with endpoint(Modal, says(200, b"ok")) as (backend, _):
        with pytest.raises(SlowRequest):
            await read(backend, a_call(Stalling(b"xx", declared=2)))
        assert backend.instances(0.0) == {"opening": 0, "busy": 0, "idle": 0}
        assert backend.settle(math.inf) == []


async def test_an_answer_streams_as_it_comes() -> None:
    more = asyncio.Event()

    async def drip(request: Received, wire: Wire) -> None:
        await wire.head(
            200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **boot("b", 0)}
        )
        await wire.write(b"3\r\none\r\n")
        await more.wait()
        await wire.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with endpoint(Modal, drip) as (backend, _):
        async with backend.send(a_call(stream=True), 0) as reply:
            assert (reply.body, reply.length, reply.usage) == (None, None, None)
            assert reply.headers == [(b"content-type", b"text/event-stream")]
            assert reply.start is Start.COLD
            assert reply.stream is not None
            assert await anext(aiter(reply.stream)) == b"one"
            assert backend.instances(0.0)["idle"] == 0
            more.set()
            assert [chunk async for chunk in reply.stream] == [b"two"]
            assert reply.usage is not None
            assert reply.usage.instance == "b"


async def test_a_large_answer_is_streamed_with_its_length() -> None:
    body = bytes(range(256)) * 4000
    async with endpoint(Modal, says(200, body)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.body, reply.length) == (None, len(body))
            assert reply.stream is not None
            assert b"".join([chunk async for chunk in reply.stream]) == body


async def test_a_head_request_has_no_body() -> None:
    async def head(request: Received, wire: Wire) -> None:
        await wire.head(200, {"content-length": "500"})

    async with endpoint(Modal, head) as (backend, provider):
        for _ in range(2):
            async with backend.send(a_call(b"", method=b"HEAD"), 0) as reply:
                assert (reply.body, reply.length) == (b"", 500)
    assert provider.connections == 0
    assert len(provider.seen) == 2


def chain(*, links: int, location: str = "{url}/v2/x?__modal_function_call_id=fc-1") -> Behaviour:
    left = links

    async def behave(request: Received, wire: Wire) -> None:
        nonlocal left
        if left:
            left -= 1
            host = f"http://{request.fields['host']}"
            await wire.answer(303, b"", {"location": location.format(url=host)})
        else:
            await wire.answer(200, b"at last")

    return behave


async def test_a_long_answer_is_followed_with_get_until_it_is_there() -> None:
    async with endpoint(Modal, chain(links=3)) as (backend, provider):
        assert await read(backend, a_call(b"body")) == b"at last"
        assert backend.client.in_use == 0
    assert [request.method for request in provider.seen] == ["POST", "GET", "GET", "GET"]
    for request in provider.seen[1:]:
        assert request.target == "/v2/x?__modal_function_call_id=fc-1"
        assert request.body == b""
        assert request.fields["modal-key"] == SECRET
        assert "content-type" not in request.fields


async def test_a_relative_location_is_understood() -> None:
    async with endpoint(Modal, chain(links=1, location="/x?__modal_function_call_id=fc-1")) as (
        backend,
        provider,
    ):
        assert await read(backend) == b"at last"
    assert provider.seen[1].target == "/x?__modal_function_call_id=fc-1"


async def test_the_token_never_follows_to_another_host() -> None:
    async with providing(says(200, b"stolen")) as elsewhere:
        location = elsewhere.url + "/?__modal_function_call_id=fc-1"
        async with endpoint(Modal, chain(links=1, location=location)) as (backend, _):
            error = await failure(backend)
        assert type(error) is BackendBroke
        assert elsewhere.seen == []


async def test_the_applications_own_redirect_is_an_answer() -> None:
    async with endpoint(Modal, says(303, b"", {"location": "/login"})) as (backend, provider):
        async with backend.send(a_call(), 0) as reply:
            assert reply.status == 303
            assert (b"location", b"/login") in reply.headers
    assert len(provider.seen) == 1


async def test_asking_for_a_running_answer_again_is_safe() -> None:
    count = 0

    async def flaky(request: Received, wire: Wire) -> None:
        nonlocal count
        count += 1
        if count == 1:
            await wire.answer(303, b"", {"location": "/x?__modal_function_call_id=fc-1"})
        elif count == 2:
            await wire.reset()
        else:
            await wire.answer(200, b"at last")

    async with endpoint(Modal, flaky) as (backend, _):
        assert await read(backend) == b"at last"


async def test_an_answer_that_is_lost_may_have_run_although_nothing_can_be_reached() -> None:
    async def vanish(request: Received, wire: Wire) -> None:
        if request.method == "POST":
            await wire.answer(
                303, b"", {"location": "/x?__modal_function_call_id=fc-1", "connection": "close"}
            )
        else:
            await wire.reset()

    async with endpoint(Modal, vanish) as (backend, _):
        error = await failure(backend)
    assert type(error) is BackendBroke
    assert error.work is Work.MAYBE


@pytest.mark.parametrize(
    ("status", "body", "kind", "relayed"),
    [
        (401, b"modal-http: missing credentials for proxy authorization", BackendDenied, False),
        (401, b"who are you", BackendDenied, False),
        (404, b"modal-http: invalid function call", BackendDenied, False),
        (404, b"modal-http: workspace acme is disabled", BackendDenied, False),
        (400, b"modal-http: bad redirect method", BackendDenied, False),
        (429, b"modal-http: rate limit", BackendFull, False),
        (429, b"too many", BackendFull, True),
        (503, b"no container", BackendFull, True),
        (500, b"modal-http: internal error: function was terminated by signal", BackendBroke, False),
        (502, b"", BackendBroke, True),
        (504, b"modal-http: timeout", BackendBroke, False),
        (500, b"Traceback", BackendBroke, True),
    ],
)
async def test_whose_failure_it_was(
    status: int, body: bytes, kind: type[BackendError], relayed: bool
) -> None:
    async with endpoint(Modal, says(status, body, {"retry-after": "3"})) as (backend, _):
        error = await failure(backend)
    assert type(error) is kind
    assert (error.work is Work.NOT_STARTED) == (kind is not BackendBroke)
    assert (error.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    assert (error.answer is not None) == relayed
    if error.answer is not None:
        assert (error.answer.status, error.answer.body) == (status, body)
    if kind is BackendFull:
        assert error.retry_after == 3.0
    if body.startswith(b"modal-http") and kind is BackendDenied:
        assert body.decode() in str(error)


@pytest.mark.parametrize(
    ("status", "body"), [(400, b"bad tensor"), (404, b"no such model"), (422, b"{}"), (403, b"")]
)
async def test_the_applications_own_refusal_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(Modal, says(status, body)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (status, body)


async def test_an_error_that_echoes_the_token_does_not_show_it() -> None:
    async with endpoint(Modal, says(404, b"modal-http: bad token " + SECRET.encode())) as (backend, _):
        assert "bad token …" in str(await failure(backend))


async def test_a_connection_that_breaks_before_the_head_may_have_run() -> None:
    async def reset(request: Received, wire: Wire) -> None:
        await wire.reset()

    async with endpoint(Modal, reset) as (backend, _):
        error = await failure(backend)
    assert type(error) is BackendBroke
    assert error.usage is not None


async def test_a_small_answer_that_breaks_off_is_broken() -> None:
    async def cut(request: Received, wire: Wire) -> None:
        await wire.head(200, {"content-length": "100"})
        await wire.write(b"half")
        await wire.reset()

    async with endpoint(Modal, cut) as (backend, _):
        assert type(await failure(backend)) is BackendBroke


async def test_a_stream_that_breaks_off_is_truncated_and_still_accounted_for() -> None:
    clock = FakeClock()

    async def cut(request: Received, wire: Wire) -> None:
        await wire.head(200, {"transfer-encoding": "chunked"})
        await wire.write(b"4\r\nhalf\r\n")
        clock.advance(2)
        await wire.reset()

    async with endpoint(Modal, cut, clock, price={"usd_per_second": 1.0}) as (backend, _):
        error = await failure(backend)
        assert type(error) is AnswerTruncated
        assert error.usage is not None
        assert error.usage.usd == 2.0
        assert backend.instances(clock.now())["idle"] == 1


async def test_measured_seconds_are_the_usage_start_up_included() -> None:
    clock = FakeClock()

    names = iter(("b1", "b2"))

    async def slow(request: Received, wire: Wire) -> None:
        clock.advance(6.5)
        await wire.answer(200, b"ok", boot(next(names), 6.0))

    async with endpoint(Modal, slow, clock, price={"usd_per_second": 0.1}) as (backend, _):
        for _ in range(2):
            async with backend.send(a_call(), 0) as reply:
                assert reply.start is Start.COLD  # its process is younger than the wait
                assert reply.usage is not None
                assert reply.usage.reported is False
                assert reply.usage.usd == pytest.approx(0.65)
                assert reply.usage.billed_s == pytest.approx(6.5)
                assert reply.usage.boot_s == 6.0


@pytest.mark.parametrize(
    ("fields", "start", "boot_s"),
    [({}, Start.UNKNOWN, None), (boot("b", 0.001), Start.COLD, 0.001), (boot("b", 300), Start.WARM, 0.0)],
)
async def test_warm_or_cold(fields: dict[str, str], start: Start, boot_s: float | None) -> None:
    async with endpoint(Modal, says(200, b"ok", {"x-kept": "1", **fields})) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start
            assert reply.usage is not None
            assert reply.usage.boot_s == boot_s
            assert (b"x-kept", b"1") in reply.headers
            assert not any(name.startswith(b"x-overspill") for name, _ in reply.headers)


async def test_an_id_alone_tells_a_new_container_from_a_known_one() -> None:
    async with endpoint(Modal, says(200, b"ok", {"x-overspill-boot-id": "b"})) as (backend, _):
        starts = []
        for _ in range(2):
            async with backend.send(a_call(), 0) as reply:
                starts.append(reply.start)
    assert starts == [Start.COLD, Start.WARM]


async def test_leaving_early_closes_the_connection_and_charges_the_time() -> None:
    clock = FakeClock()

    async def endless(request: Received, wire: Wire) -> None:
        await wire.head(200, {"transfer-encoding": "chunked"})
        await wire.write(b"1\r\nx\r\n")
        await wire.hang()

    async with endpoint(Modal, endless, clock, price={"usd_per_second": 1.0}) as (backend, provider):
        async with backend.send(a_call(), 0) as reply:
            assert reply.stream is not None
            await anext(aiter(reply.stream))
            clock.advance(4)
        await until(lambda: provider.connections == 0)
        assert backend.client.in_use == 0
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 4.0)]
        clock.advance(60)
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 60.0)]


async def test_without_a_price_nothing_has_one() -> None:
    async with endpoint(Modal, says(200, b"ok"), price=None) as (backend, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
        assert backend.settle(math.inf) == []


async def test_nobody_there() -> None:
    async with built(Modal, Modal.example(await refusing_url())) as (backend, _):
        error = await failure(backend)
        assert type(error) is BackendDown
        assert backend.instances(0.0) == {"opening": 0, "busy": 0, "idle": 0}
        # No question to a scaled-to-zero function is free.
        assert await backend.probe(0) is None
