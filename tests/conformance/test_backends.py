"""What every registered backend keeps, whatever it talks to. Walks the registry: no list to maintain."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from backends import backends
from backends.base import Backend
from gateway.errors import BackendDown, BackendError
from gateway.vocab import Reply, Start, Verdict, Work
from tests.conformance.support import EVERY, NOWHERE, ON_A_SERVER, attempted, consumed, example
from tests.support.provider import SECRET, Received, Wire, a_call_for, providing, refusing_url, until


def test_there_is_something_to_test() -> None:
    assert {"triton", "runpod", "modal", "aws_lambda"} <= set(backends)


@EVERY
def test_the_example_is_a_valid_section(kind: type[Backend]) -> None:
    options = kind.Options.model_validate(kind.example(NOWHERE))
    assert options.max_in_flight >= 1
    assert options.type in backends
    assert kind.Options.model_json_schema()["additionalProperties"] is False


@EVERY
@pytest.mark.parametrize("wrong", [{"no_such_option": 1}, {"max_in_flight": 0}, {"max_in_flight": None}])
def test_a_wrong_section_is_refused(kind: type[Backend], wrong: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.Options.model_validate({**kind.example(NOWHERE), **wrong})
    assert {error["loc"][0] for error in caught.value.errors()} == set(wrong)


@EVERY
def test_every_option_is_explained(kind: type[Backend]) -> None:
    for name, field in kind.Options.model_fields.items():
        assert field.description, name


@EVERY
async def test_what_it_says_of_itself(kind: type[Backend]) -> None:
    async with example(kind, NOWHERE) as (backend, _):
        now = backend.kit.clock.now()
        assert len(set(backend.replicas)) == len(backend.replicas) >= 1
        assert backend.settle(now) == []
        assert all(count == 0 for count in backend.instances(now).values())
        assert set(backend.instances(now)) <= {"opening", "busy", "idle"}
        assert backend.cannot_carry(a_call_for(backend)) is None
        assert backend.price_known


@EVERY
async def test_no_secret_is_shown(kind: type[Backend]) -> None:
    async with example(kind, NOWHERE) as (backend, _):
        shown = [repr(backend), repr(backend.options), backend.options.model_dump_json()]
        shown += [repr(value) for value in vars(backend).values()]
        assert not any(SECRET in text for text in shown)


@EVERY
async def test_it_can_be_closed_unused_and_twice(kind: type[Backend]) -> None:
    async with example(kind, NOWHERE) as (backend, _):
        await backend.close()


@ON_A_SERVER
async def test_nobody_there_means_that_nothing_started(kind: type[Backend]) -> None:
    async with example(kind, await refusing_url()) as (backend, _):
        for _attempt in range(2):  # a failure leaves it usable
            with pytest.raises(BackendDown) as caught:
                await consumed(backend)
            assert caught.value.work is Work.NOT_STARTED
            assert caught.value.verdict is Verdict.FAILURE
            assert SECRET not in str(caught.value)
        assert await backend.probe(0) in (False, None)
        assert all(count == 0 for count in backend.instances(backend.kit.clock.now()).values())


@ON_A_SERVER
@pytest.mark.parametrize(
    "status", [200, 204, 301, 303, 400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504]
)
async def test_whatever_is_answered_becomes_a_reply_or_a_backend_error(
    kind: type[Backend], status: int
) -> None:
    bodies = [b"", b"{}", b"null", b"[[", b"\xff\x00", None]
    turn = 0

    async def answer(request: Received, wire: Wire) -> None:
        echoed = " ".join(value for value in request.fields.values() if SECRET in value)
        body = bodies[turn]
        body = echoed.encode() if body is None else body
        await wire.answer(status, b"" if status == 204 else body, {"x-note": "1", "location": echoed or "/"})

    async with providing(answer) as provider:
        async with example(kind, provider.url) as (backend, background):
            while turn < len(bodies):
                came = await attempted(backend)
                if isinstance(came, BackendError):
                    assert SECRET not in str(came)
                    assert came.verdict is not Verdict.NEUTRAL or came.work is Work.NOT_STARTED
                else:
                    assert 200 <= came.status < 500
                    assert came.start in Start
                assert await backend.probe(0) in (True, False, None)
                turn += 1
            await background.done()
            assert backend.instances(backend.kit.clock.now()).get("busy", 0) == 0


@ON_A_SERVER
async def test_429_is_back_pressure(kind: type[Backend]) -> None:
    async def full(request: Received, wire: Wire) -> None:
        await wire.answer(429, b"full", {"retry-after": "2"})

    async with providing(full) as provider:
        async with example(kind, provider.url) as (backend, _):
            came = await attempted(backend)
            if isinstance(came, Reply):
                pytest.skip("a 429 of this server is the application's own")
            assert (came.work, came.verdict) == (Work.NOT_STARTED, Verdict.NEUTRAL)


@ON_A_SERVER
async def test_being_cancelled_leaves_nothing_busy(kind: type[Backend]) -> None:
    let_go = asyncio.Event()

    async def stall(request: Received, wire: Wire) -> None:
        await let_go.wait()
        await wire.answer(500)

    async with providing(stall) as provider:
        async with example(kind, provider.url) as (backend, background):
            task = asyncio.ensure_future(consumed(backend))
            await until(lambda: provider.busy == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            let_go.set()
            await background.done()
            await until(lambda: provider.busy == 0)
            assert backend.instances(backend.kit.clock.now()).get("busy", 0) == 0
        await until(lambda: provider.connections == 0)


@ON_A_SERVER
async def test_attempts_at_once_do_not_wait_for_each_other(kind: type[Backend]) -> None:
    both = asyncio.Barrier(2)

    async def meet(request: Received, wire: Wire) -> None:
        if "health" not in request.target:
            await both.wait()
        await wire.answer(500)

    async with providing(meet) as provider:
        async with example(kind, provider.url) as (backend, _):
            async with asyncio.timeout(5):
                results = await asyncio.gather(*(consumed(backend) for _ in range(2)), return_exceptions=True)
            assert all(isinstance(result, BackendError) for result in results)
