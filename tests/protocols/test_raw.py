"""`/invoke/ROUTE/…`: the path names the route, the rest goes on as it is."""

import pytest

from gateway.errors import BadCall, MethodNotAllowed, Refused, UnknownRoute
from gateway.protocols.raw import Raw
from gateway.vocab import Call
from tests.support.requests import ArrivingBody, FakeRequest


async def invoke(target: bytes, method: bytes = b"POST", accept: bytes | None = None) -> Call:
    headers = [] if accept is None else [(b"accept", accept)]
    read = await Raw().read(FakeRequest(method, target, b"body", headers))
    assert isinstance(read, Call)
    return read


@pytest.mark.parametrize(
    ("target", "route", "upstream"),
    [
        (b"/invoke/r", "r", b"/"),
        (b"/invoke/r/", "r", b"/"),
        (b"/invoke/r?x=1", "r", b"/?x=1"),
        (b"/invoke/r/a/b", "r", b"/a/b"),
        (b"/invoke/r/a/b/?x=1&y=%2F..", "r", b"/a/b/?x=1&y=%2F.."),
        (b"/invoke/r/a%20b", "r", b"/a%20b"),
        (b"/invoke/my%20route/a", "my route", b"/a"),
        (b"/invoke/r/a//b", "r", b"/a//b"),
        (b"/invoke/r/invoke/s", "r", b"/invoke/s"),
        (b"/invoke/r/v1/chat/completions", "r", b"/v1/chat/completions"),
    ],
)
async def test_the_path_names_the_route_and_the_rest_is_the_target(
    target: bytes, route: str, upstream: bytes
) -> None:
    read = await invoke(target)
    assert (read.protocol, read.operation, read.route_hint, read.target) == ("raw", "invoke", route, upstream)
    assert (read.model, read.inference, read.body.whole()) == ("", True, b"body")


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"REPORT"]
)
async def test_any_method_goes_on(method: bytes) -> None:
    assert (await invoke(b"/invoke/r/a", method)).method == method


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE"])
async def test_tunnels_and_echoes_do_not(method: bytes) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        await invoke(b"/invoke/r", method)
    assert "POST" in caught.value.allow


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        (None, False),
        (b"*/*", False),
        (b"text/event-stream", True),
        (b"application/json, Text/Event-Stream;q=0.9", True),
    ],
)
async def test_a_client_that_accepts_events_asks_for_a_stream(accept: bytes | None, stream: bool) -> None:
    assert (await invoke(b"/invoke/r", accept=accept)).stream is stream


@pytest.mark.parametrize("target", [b"/invoke", b"/invoke/", b"/invoke//a", b"/invoke/r//evil.example/a"])
async def test_a_path_that_names_no_route_or_no_path_is_404(target: bytes) -> None:
    with pytest.raises(UnknownRoute):
        await invoke(target)


@pytest.mark.parametrize(
    "target", [b"/invoke/r/../s", b"/invoke/r/%2e%2e/s", b"/invoke/r%2fs", b"/invoke/r/a\\b"]
)
async def test_a_path_that_could_leave_its_route_is_400(target: bytes) -> None:
    with pytest.raises(BadCall) as caught:
        await invoke(target)
    assert caught.value.status == 400


@pytest.mark.parametrize("rest", [b"v2/repository/models/m/unload", b"v2", b"%762/systemsharedmemory/status"])
async def test_what_the_kserve_protocol_refuses_cannot_be_had_here(rest: bytes) -> None:
    with pytest.raises(Refused):
        await invoke(b"/invoke/r/" + rest)


async def test_the_body_is_not_touched() -> None:
    body = ArrivingBody(b"\x00" * 100)
    await Raw().read(FakeRequest(b"POST", b"/invoke/r", body))
    assert body.fetched == 0
