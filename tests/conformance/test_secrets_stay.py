"""Credentials go to their own host and nowhere else: not along with a redirect, not into a log or a message."""

import asyncio
import io
import logging
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import pytest

from backends.base import Backend
from gateway.errors import BackendError
from tests.conformance.stubs import ANSWER, BROKEN, FIELDS, WRONG, good
from tests.conformance.support import ON_A_SERVER, came_of, consumed, example, nothing_runs
from tests.support.provider import SECRET, Received, Wire, providing

REDIRECTS = (301, 302, 303, 307, 308)
MOST_HOPS = 50


def without_secret(request: Received) -> bool:
    text = unquote(f"{request.target} {request.fields} {request.body!r}")
    return SECRET not in text and "authorization" not in request.fields


@ON_A_SERVER
async def test_no_redirect_takes_a_secret_to_another_host(kind: type[Backend]) -> None:
    place = ""

    async def redirect(request: Received, wire: Wire) -> None:
        await wire.answer(status, ANSWER, {**FIELDS, "location": place})

    async with providing(good, host="127.0.0.2") as stranger, providing(redirect) as provider:
        async with example(kind, provider.url) as (backend, background):
            there = urlsplit(stranger.url).netloc
            own = urlsplit(provider.url).netloc
            for status in REDIRECTS:  # noqa: B007 - the server says it
                for place in (  # noqa: B007 - the server says it
                    f"http://{there}/v2/x",
                    f"//{there}/v2/x",
                    f"http://{own}@{there}/v2/x",
                    f"http:\\\\{there}\\x",
                    f"https://{there}/v2/x?__modal_function_call_id=fc-1",
                    f"http://{there}/v2/x?__modal_function_call_id=fc-1",
                ):
                    await came_of(backend)
                    await backend.probe(0)
            await background.done()
            nothing_runs(backend)
        assert all(without_secret(request) for request in stranger.seen), stranger.seen


@ON_A_SERVER
async def test_a_redirect_is_not_followed_to_another_port_scheme_or_kind_of_address(
    kind: type[Backend],
) -> None:
    place = ""

    async def redirect(request: Received, wire: Wire) -> None:
        await wire.answer(303, ANSWER, {**FIELDS, "location": place})

    async with providing(good) as other, providing(redirect) as provider:
        async with example(kind, provider.url) as (backend, background):
            own = urlsplit(provider.url)
            for place in (  # noqa: B007 - the server says it
                f"{other.url}/x?__modal_function_call_id=fc-1",
                f"https://{own.netloc}/x?__modal_function_call_id=fc-1",
                f"ftp://{own.netloc}/x?__modal_function_call_id=fc-1",
                "file:///etc/passwd?__modal_function_call_id=fc-1",
                "http://[::1",
                "http://" + "a" * 70 + ".example/?__modal_function_call_id=fc-1",
                "",
                "\x00",
                "http://127.0.0.1:99999/?__modal_function_call_id=fc-1",
            ):
                await came_of(backend)
            await background.done()
            nothing_runs(backend)
        assert other.seen == []


@ON_A_SERVER
async def test_a_loop_of_redirects_ends_with_the_attempt(kind: type[Backend]) -> None:
    """A chain may be the provider's way to say `not yet`; then it goes on at a bounded pace."""

    async def loop(request: Received, wire: Wire) -> None:
        await wire.answer(303, b"", {"location": f"{provider.url}/again?__modal_function_call_id=fc-1"})

    async with providing(loop) as provider:
        async with example(kind, provider.url) as (backend, background):
            try:
                async with asyncio.timeout(0.1):
                    await consumed(backend)
            except (TimeoutError, BackendError):
                pass
            hops = len(provider.seen)
            assert hops <= MOST_HOPS
            await background.done()
            nothing_runs(backend)
            assert len(provider.seen) <= hops + 1


@pytest.fixture
def everything_said() -> Iterator[io.StringIO]:
    """What any logger says at any level, tracebacks included."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield said
    root.removeHandler(handler)
    root.setLevel(level)


@ON_A_SERVER
async def test_nothing_that_is_logged_or_shown_quotes_a_secret(
    kind: type[Backend], everything_said: io.StringIO
) -> None:
    status = 0

    async def echo(request: Received, wire: Wire) -> None:
        told = " ".join(request.fields.values())
        await wire.answer(status, told.encode(), {"x-told": told, "location": told, "retry-after": told})

    async with providing(good) as provider, example(kind, provider.url) as (backend, background):
        for behaviour in (*BROKEN.values(), *WRONG.values()):
            provider.behaviour = behaviour
            await _logged(backend)
        provider.behaviour = echo
        for status in (200, 201, 202, 303, 400, 401, 403, 404, 409, 422, 424, 429, 500, 502, 503, 504):  # noqa: B007
            await _logged(backend)
        await background.done()
        shown = [repr(backend), repr(backend.options), repr(backend.report(backend.kit.clock.now()))]
        shown += [repr(value) for value in vars(backend).values()]
    assert SECRET not in everything_said.getvalue()
    assert not any(SECRET in text for text in shown)


async def _logged(backend: Backend) -> None:
    """One attempt and a probe; its error is logged with all that it came of."""
    try:
        async with asyncio.timeout(5):
            await consumed(backend)
    except BackendError:
        logging.getLogger("overspill.test").exception("an attempt failed")
    await backend.probe(0)
