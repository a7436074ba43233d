"""A backend and the stand-in that it calls, together, and what came of one attempt."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from backends.base import Backend
from gateway.clock import Clock
from gateway.errors import BackendError
from gateway.vocab import Call, Reply
from tests.support.provider import SECRET, Behaviour, Provider, Received, Wire, a_call_for, built, providing

T = TypeVar("T", bound=Backend)


@asynccontextmanager
async def endpoint(
    kind: type[T], behaviour: Behaviour, clock: Clock | None = None, **options: Any
) -> AsyncIterator[tuple[T, Provider]]:
    """A backend like its example but for `options`, opened, and the provider that answers it."""
    async with providing(behaviour) as provider:
        async with built(kind, {**kind.example(provider.url), **options}, clock=clock) as (backend, _):
            yield backend, provider


def says(status: int, body: bytes = b"{}", fields: dict[str, str] | None = None) -> Behaviour:
    """Always the same answer."""

    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, fields)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One behaviour for each request, in this order."""
    left = list(behaviours)

    async def behave(request: Received, wire: Wire) -> None:
        await left.pop(0)(request, wire)

    return behave


async def failure(backend: Backend, call: Call | None = None) -> BackendError:
    """The error of one attempt: it names the backend, and no secret."""
    with pytest.raises(BackendError) as caught:
        await answer(backend, call)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("burst: ")
    if (client := getattr(backend, "client", None)) is not None:
        assert client.in_use == 0
    assert all(count == 0 for kind, count in backend.instances(0.0).items() if kind == "busy")
    return caught.value


async def read(backend: Backend, call: Call | None = None) -> bytes:
    """The body of one attempt's reply."""
    return (await answer(backend, call)).body or b""


async def answer(backend: Backend, call: Call | None = None) -> Reply:
    """The reply of one attempt, read to its end."""
    async with backend.send(call or a_call_for(backend), 0) as reply:
        if reply.stream is not None:
            reply.body = b"".join([part async for part in reply.stream])
        return reply
