"""Whatever a server answers, and however it breaks: one of our errors, the truth about the work, no trace.

One backend and one stub for all behaviours of a test: each has to leave it as good as new for the next.
"""

import asyncio

from backends.base import Backend
from gateway.errors import BackendFull
from gateway.vocab import Verdict, Work
from tests.conformance.stubs import BROKEN, DEEP, ODD, POISONED, WRONG, accepted, good, saying
from tests.conformance.support import ON_A_SERVER, Came, came_of, example, nothing_owed, nothing_runs
from tests.support.provider import Received, Wire, providing, until


@ON_A_SERVER
async def test_a_broken_answer_is_a_failure_of_work_that_may_have_begun(kind: type[Backend]) -> None:
    wrong: dict[str, object] = {}
    async with providing(good) as provider, example(kind, provider.url) as (backend, background):
        fine = await came_of(backend)
        assert fine.error is None
        for name, behaviour in BROKEN.items():
            provider.behaviour = behaviour
            came = await came_of(backend)
            if came.error is None or came.work is Work.NOT_STARTED or came.verdict is not Verdict.FAILURE:
                wrong[name] = came
            assert await backend.probe(0) in (True, False, None)
            provider.behaviour = good
            if not (after := await came_of(backend)).same_as(fine):
                wrong[f"after {name}"] = after
            await background.done()
            nothing_runs(backend)
    assert not wrong


@ON_A_SERVER
async def test_what_was_accepted_once_is_never_taken_for_unstarted(kind: type[Backend]) -> None:
    """Of a call that takes several exchanges, all after the first one fail."""

    async def once(request: Received, wire: Wire) -> None:
        await (accepted if len(provider.seen) == first else trouble)(request, wire)

    async with providing(once) as provider, example(kind, provider.url) as (backend, background):
        for trouble in (BROKEN["reset"], saying(b"[", 500)):  # noqa: B007 - the server does it
            first = len(provider.seen) + 1
            came = await came_of(backend)
            if came.error is not None and len(provider.seen) > first:
                assert (came.work, came.verdict) == (Work.MAYBE, Verdict.FAILURE)
            await background.done()
            nothing_runs(backend)


@ON_A_SERVER
async def test_an_answer_is_the_same_however_it_comes(kind: type[Backend]) -> None:
    wrong: dict[str, object] = {}
    async with providing(good) as provider, example(kind, provider.url) as (backend, background):
        fine = await came_of(backend)
        for name, behaviour in ODD.items():
            provider.behaviour = behaviour
            if not (came := await came_of(backend)).same_as(fine):
                wrong[name] = came
        await background.done()
        nothing_runs(backend)
    assert not wrong


@ON_A_SERVER
async def test_what_follows_an_answer_is_never_taken_for_the_next_one(kind: type[Backend]) -> None:
    wrong: dict[str, object] = {}
    async with providing(good) as provider, example(kind, provider.url) as (backend, background):
        fine = await came_of(backend)
        for name, behaviour in POISONED.items():
            provider.behaviour = behaviour
            came = await came_of(backend)
            if b"poisoned" in came.body and name != "followed_later":  # which may meet a second exchange
                wrong[name] = came
            await until(lambda: provider.busy == 0)
            await asyncio.sleep(0.005)  # what was written last has arrived by then
            provider.behaviour = good
            after = await came_of(backend)
            if not (after.same_as(fine) or (kind.needs and after.verdict is Verdict.FAILURE)):
                wrong[f"after {name}"] = after  # a library's client may notice only when it reads
        await background.done()
        nothing_runs(backend)
    assert not wrong


@ON_A_SERVER
async def test_an_answer_that_makes_no_sense_is_passed_on_or_refused(kind: type[Backend]) -> None:
    wrong: dict[str, object] = {}
    async with providing(good) as provider, example(kind, provider.url) as (backend, background):
        for name, behaviour in WRONG.items():
            provider.behaviour = behaviour
            came = await came_of(backend)
            if came.error is not None:
                if came.work is Work.NOT_STARTED or came.verdict is not Verdict.FAILURE:
                    wrong[name] = came
            elif not _can_be_relayed(came, unpacked=name == "zipped" and b"fine" in came.body):
                wrong[name] = came
        for status in (400, 404, 500):
            for body in DEEP:
                provider.behaviour = saying(body, status)
                await came_of(backend)
        await background.done()
        nothing_runs(backend)
    assert not wrong


def _can_be_relayed(came: Came, *, unpacked: bool) -> bool:
    """Its fields are fields, and its body is what they say it is."""
    encoded = (b"content-encoding", b"gzip") in came.fields
    fields = all(b"\r" not in n + v and b"\n" not in n + v and n == n.lower() for n, v in came.fields)
    return 200 <= came.status < 600 and fields and not (encoded and unpacked)


@ON_A_SERVER
async def test_an_endless_head_is_not_read_for_ever(kind: type[Backend]) -> None:
    written = 0
    most = 64 * 2**20

    async def endless(request: Received, wire: Wire) -> None:
        nonlocal written
        await wire.write(b"HTTP/1.1 200 OK\r\n")
        while written < most:
            written += 1 << 16
            await wire.write(b"".join(b"x-%d: %b\r\n" % (n, b"x" * 1000) for n in range(64)))
        await wire.hang()

    async with providing(endless) as provider, example(kind, provider.url) as (backend, background):
        came = await came_of(backend)
        assert came.error is not None
        assert came.work is not Work.NOT_STARTED
        assert written < most
        await background.done()
        nothing_runs(backend)


@ON_A_SERVER
async def test_back_pressure_is_neutral_and_says_when_to_come_back(kind: type[Backend]) -> None:
    said: dict[str, float | None] = {
        "2": 2.0, "1.5": 1.5, "0": 0.0, "-1": None, "nan": None, "soon": None, "9" * 400: None, "1, 2": None,
        "Thu, 01 Jan 1970 00:00:00 GMT": 0.0, "Thu, 99 Foo 2099": None,
    }  # fmt: skip
    field = ""

    async def full(request: Received, wire: Wire) -> None:
        await wire.answer(429, b"full", {"retry-after": field})

    async with providing(full) as provider, example(kind, provider.url) as (backend, background):
        for field, seconds in said.items():
            came = await came_of(backend)
            if came.error is None:
                continue  # the application's own 429, passed on with its field
            assert (came.error, came.work, came.verdict) == (BackendFull, Work.NOT_STARTED, Verdict.NEUTRAL)
            # A server's own answer is passed on with its field, if no other tier takes the call.
            assert came.retry_after == seconds or (came.answered and came.retry_after is None), field
        await background.done()
        nothing_runs(backend)
        nothing_owed(backend)


@ON_A_SERVER
async def test_a_503_is_never_the_clients_answer_without_an_error(kind: type[Backend]) -> None:
    async def unavailable(request: Received, wire: Wire) -> None:
        await wire.answer(503, b"no healthy upstream", {"retry-after": "3"})

    async with providing(unavailable) as provider, example(kind, provider.url) as (backend, background):
        came = await came_of(backend)
        assert came.error is not None
        if came.work is Work.NOT_STARTED:
            nothing_owed(backend)
        else:
            assert came.verdict is Verdict.FAILURE
        await background.done()
        nothing_runs(backend)
