"""Every registered backend, built from its own example, and what one attempt on it came to.

A backend whose `example` does not use the address it is given has no server, so the questions about
connections are not asked of it.
"""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest

from backends import backends
from backends.base import Backend
from gateway.errors import BackendError
from gateway.vocab import Call, Reply, Verdict, Work
from tests.support.provider import SECRET, Background, a_call_for, built

NOWHERE = "http://127.0.0.1:9"
MUCH_LATER = 1e6

CLASSES = {name: backends.get(name) for name in backends}
EVERY = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
WITH_SERVER = {name: kind for name, kind in CLASSES.items() if NOWHERE in json.dumps(kind.example(NOWHERE))}
ON_A_SERVER = pytest.mark.parametrize("kind", WITH_SERVER.values(), ids=WITH_SERVER)


@asynccontextmanager
async def example(
    kind: type[Backend], url: str, more: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Backend, Background]]:
    if kind.needs and find_spec(kind.needs) is None:
        pytest.skip(f"the package {kind.needs} is not installed")
    async with built(kind, {**kind.example(url), **(more or {})}) as pair:
        yield pair


async def consumed(backend: Backend, call: Call | None = None) -> Reply:
    """One attempt, its answer read to the end as the relay would."""
    async with backend.send(call or a_call_for(backend), 0) as reply:
        if reply.stream is not None:
            async for _ in reply.stream:
                pass
        return reply


async def attempted(backend: Backend) -> Reply | BackendError:
    """What came of one attempt; any other exception passes, and fails the test."""
    try:
        return await consumed(backend)
    except BackendError as error:
        return error


class Came(NamedTuple):
    """What came of one attempt, in a form that can be compared."""

    status: int = 0
    body: bytes = b""
    error: type[BackendError] | None = None
    work: Work | None = None
    verdict: Verdict | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()
    retry_after: float | None = None
    answered: bool = False
    """Whether the error has the server's own answer with it."""

    def same_as(self, other: "Came") -> bool:
        return self[:5] == other[:5]


async def came_of(backend: Backend, call: Call | None = None) -> Came:
    """One attempt within five seconds. An error's whole chain is looked through for the secret."""
    try:
        async with asyncio.timeout(5), backend.send(call or a_call_for(backend), 0) as reply:
            body = reply.body or b""
            if reply.stream is not None:
                body = b"".join([part async for part in reply.stream])
            return Came(reply.status, body, fields=tuple(reply.headers))
    except BackendError as error:
        if SECRET in "".join(traceback.format_exception(error)) + repr(error):
            pytest.fail("an error, or what it came of, quotes a secret")
        return Came(
            error=type(error),
            work=error.work,
            verdict=error.verdict,
            retry_after=error.retry_after,
            answered=error.answer is not None,
        )


def nothing_runs(backend: Backend) -> None:
    """Every ticket is back, and every exchange has given up its connection.

    An instance may still be opening: its start-up goes on without the call that has left.
    """
    counts = backend.instances(backend.kit.clock.now())
    assert counts.get("busy", 0) == 0, counts
    client = getattr(backend, "client", None)
    assert client is None or client.in_use == 0


def nothing_owed(backend: Backend) -> None:
    """Not now, and not for any idling either: nothing had started."""
    now = backend.kit.clock.now()
    assert backend.settle(now) == []
    assert backend.settle(now + MUCH_LATER) == []
