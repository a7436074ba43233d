"""The emulated Modal web function over a real socket, its result URLs and its own errors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from backends.emulators.hosted import Asgi
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator, ModalOptions
from backends.workers import modal_app
from gateway.clock import FakeClock
from tests.emulators.apps import echo, until

LASTING = FleetOptions(boot=BootTimes(0.0, 0.0, 1.0, 0.0), idle_after_s=60.0)
TOKEN = {"Modal-Key": "wk-emulated", "Modal-Secret": "ws-emulated"}


class Call:
    """An answer that has been read."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """Raw requests that follow no redirect."""

    def __init__(self, server: ModalEmulator, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def ask(self, method: str, target: str, **options: Any) -> Call:
        url = target if target.startswith("http") else self.server.url + target
        everything: dict[str, Any] = {"headers": TOKEN, "allow_redirects": False} | options
        async with self.session.request(method, url, **everything) as answer:
            return Call(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def modal(
    make: Callable[[str], Asgi] = lambda _: modal_app.make_asgi(echo),
    *,
    options: FleetOptions = LASTING,
    clock: Any = None,
    **function: Any,
) -> AsyncIterator[Client]:
    server = ModalEmulator(make, options=options, function=ModalOptions(**function), clock=clock)
    async with server, aiohttp.ClientSession() as session:
        yield Client(server, session)


def answering(gate: asyncio.Event, *pieces: bytes) -> Callable[[str], Asgi]:
    """An application that waits for the gate before its first byte."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await gate.wait()
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"b")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return lambda _: app


async def test_http_reaches_the_function_as_it_is() -> None:
    async with modal() as client:
        answer = await client.ask("POST", "/v2/models/m/infer?a=b%20c", data=b"\x00\xff")
    assert (answer.status, answer.body) == (200, b"\xff\x00")
    assert answer.headers["x-seen"] == "POST /v2/models/m/infer?a=b%20c"
    assert answer.headers["content-type"] == "text/plain"


async def test_boot_id_stays_with_a_container() -> None:
    async with modal() as client:
        answers = [await client.ask("GET", "/") for _ in range(2)]
        client.server.fail_next(1, "kill")
        assert (await client.ask("GET", "/")).status == 500
        answers.append(await client.ask("GET", "/"))
    ids = [each.headers["x-overspill-boot-id"] for each in answers]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        (TOKEN, 200, ""),
        ({}, 401, "modal-http: missing credentials for proxy authorization"),
        ({"Modal-Key": "wk-emulated"}, 401, "modal-http: missing credentials for proxy authorization"),
        (TOKEN | {"Modal-Secret": "no"}, 401, "modal-http: invalid credentials for proxy authorization"),
    ],
)
async def test_proxy_token_opens(headers: dict[str, str], status: int, text: str) -> None:
    async with modal() as client:
        answer = await client.ask("GET", "/", headers=headers)
    assert (answer.status, answer.body.decode()) == (status, text)


async def test_function_without_proxy_auth_is_open() -> None:
    async with modal(key=None) as client:
        assert (await client.ask("GET", "/", headers={})).status == 200


async def test_slow_answer_goes_through_a_chain_of_result_urls_and_runs_once() -> None:
    gate = asyncio.Event()
    async with modal(answering(gate, b"late"), redirect_after_s=0.05) as client:
        first = await client.ask("POST", "/run?x=1", data=b"in")
        assert first.status == 303
        location = first.headers["Location"]
        assert location.startswith(f"{client.server.url}/run?x=1&__modal_function_call_id=fc-")
        second = await client.ask("GET", location)
        assert (second.status, second.headers["Location"]) == (303, location)
        gate.set()
        third = await client.ask("GET", location)
        assert (third.status, third.body, third.headers["x-a"]) == (201, b"late", "b")
        # The result can be loaded again, and that runs nothing.
        assert (await client.ask("GET", location)).body == b"late"
        assert client.server.bill().requests == 1


async def test_result_url_takes_only_get_and_only_known_calls() -> None:
    gate = asyncio.Event()
    async with modal(answering(gate, b"late"), redirect_after_s=0.05) as client:
        location = (await client.ask("POST", "/", data=b"in")).headers["Location"]
        again = await client.ask("POST", location, data=b"in")
        assert (again.status, again.body) == (400, b"modal-http: bad redirect method")
        unknown = await client.ask("GET", "/?__modal_function_call_id=fc-unknown")
        assert (unknown.status, unknown.body) == (404, b"modal-http: invalid function call")
        gate.set()


async def test_result_is_forgotten_in_the_end() -> None:
    gate, clock = asyncio.Event(), FakeClock()
    async with modal(answering(gate, b"late"), clock=clock, redirect_after_s=0.05, kept_s=60.0) as client:
        location = (await client.ask("POST", "/")).headers["Location"]
        gate.set()
        assert (await client.ask("GET", location)).status == 201
        clock.advance(61)
        assert (await client.ask("GET", location)).status == 404


async def test_answer_that_was_never_redirected_is_not_kept() -> None:
    async with modal() as client:
        await client.ask("GET", "/")
        assert client.server.calls == {}


async def test_streamed_answer_arrives_piece_by_piece() -> None:
    more = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await more.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with modal(lambda _: app) as client:
        async with client.session.get(client.server.url, headers=TOKEN) as answer:
            assert await answer.content.readany() == b"one"
            more.set()
            assert await answer.content.read() == b"two"


async def test_stream_that_dies_is_cut_and_not_ended() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError

    async with modal(lambda _: app) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", "/")


async def test_application_that_raises_answers_500_like_any_asgi_server() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError

    async with modal(lambda _: app) as client:
        answer = await client.ask("GET", "/")
    assert (answer.status, answer.body) == (500, b"Internal Server Error")


@pytest.mark.parametrize(
    ("cue", "status", "text"),
    [
        ("kill", 500, "modal-http: internal error: function was terminated by signal"),
        ("throttle", 429, "modal-http: too many requests"),
        ("stopped", 404, "modal-http: app for invoked web endpoint is stopped"),
        ("disabled", 404, "modal-http: workspace emulated is disabled"),
        ("error", 500, "Internal Server Error"),
    ],
)
async def test_failures_on_cue_have_modals_own_words(cue: str, status: int, text: str) -> None:
    async with modal() as client:
        client.server.fail_next(1, cue)
        answer = await client.ask("POST", "/", data=b"x")
        assert (answer.status, answer.body.decode()) == (status, text)
        assert (await client.ask("POST", "/", data=b"x")).status == 200


async def test_execution_over_its_timeout_is_an_internal_error() -> None:
    async with modal(answering(asyncio.Event()), timeout_s=0.05) as client:
        answer = await client.ask("GET", "/")
    assert (answer.status, answer.body) == (500, b"modal-http: internal error: function execution timed out")


async def test_backlog_over_its_limit_is_429() -> None:
    gate = asyncio.Event()
    options = LASTING._replace(cap=1)
    async with modal(answering(gate, b"x"), options=options, backlog=1) as client:
        asked = []
        for waiting in (0, 1):
            asked.append(asyncio.ensure_future(client.ask("GET", "/")))
            await until(
                lambda n=waiting: client.server.bill().cold_starts and client.server.fleet.waiting == n
            )
        refused = await client.ask("GET", "/")
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [201, 201]
    assert (refused.status, refused.body) == (429, b"modal-http: too many requests")


@pytest.mark.parametrize(("ends", "busy"), [(True, 0), (False, 1)])
async def test_hang_up_ends_the_execution_if_so_configured(ends: bool, busy: int) -> None:
    gate = asyncio.Event()
    async with modal(answering(gate, b"x"), hang_up_ends=ends) as client:
        asked = asyncio.ensure_future(client.ask("GET", "/"))
        await until(lambda: [i["phase"] for i in client.server.fleet.state()["instances"]] == ["busy"])
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: not client.server.calls)
        await until(
            lambda: sum(i["phase"] == "busy" for i in client.server.fleet.state()["instances"]) == busy
        )
        gate.set()


async def test_pace_is_kept_before_the_answer_begins() -> None:
    async with modal(options=LASTING._replace(pace_s=0.15)) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.ask("GET", "/")
        assert loop.time() - began >= 0.145  # timers may fire a little early


async def test_bill_is_container_seconds_with_the_idle_tail() -> None:
    clock = FakeClock()
    options = LASTING._replace(idle_after_s=2.5)
    async with modal(clock=clock, options=options, usd_per_second=2.0) as client:
        await client.ask("GET", "/")
        clock.advance(100)
        bill = client.server.bill()
    assert bill.billed_seconds == pytest.approx(2.5)
    assert bill.usd == pytest.approx(5.0)
