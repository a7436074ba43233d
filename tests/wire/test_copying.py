"""How a stream is copied to the client: part by part, with an end to silence, and whoever reads slowly is waited for.

Both ways in which streams come are held to it: those that are asked for their next part, and those that hand
it over.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import AnswerTruncated, BackendBroke, BackendError, BackendFull, ClientGone
from gateway.record import Record
from gateway.relay import Relay
from gateway.stream_watch import StreamWatch
from gateway.vocab import Headers, Poured, Reply
from tests.support.virtual_time import LoopClock

pytestmark = pytest.mark.virtual_time

EVENTS: Headers = [(b"content-type", b"text/event-stream")]
WORD = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
FULL = b'data: {"error": {"code": 429}}\n\n'
LATE_S = StreamWatch.TICK_S
STALL_S = 1.0

Script = list[float | bytes | Exception]
"""What a stream does, in order: wait, give a part, fail."""


class Tap(Poured):
    """A stream that hands its parts over, from a task of its own."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def __aiter__(self) -> AsyncIterator[bytes]:
        return pulled(self.script)

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        task = asyncio.get_running_loop().create_task(self._run(take))
        try:
            return await task
        finally:
            task.cancel()

    async def _run(self, take: Callable[[bytes], bool]) -> bool:
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif not take(step):
                return False
        return True


async def pulled(script: Script) -> AsyncIterator[bytes]:
    for step in script:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
        else:
            yield step


class Reader:
    """A client. `reads_after_s`: how long it lets what is written lie."""

    def __init__(self, reads_after_s: float = 0.0) -> None:
        self.got = b""
        self.complete = False
        self.congested = False
        self._reads_after_s = reads_after_s

    @property
    def bytes_out(self) -> int:
        return len(self.got)

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        raise AssertionError("a stream is not sent whole")

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        self.got += b"<%d>" % status

    def write(self, data: bytes) -> None:
        assert not self.congested, "it was told to wait"
        self.got += data
        self.congested = bool(self._reads_after_s and data)

    async def drain(self) -> None:
        await asyncio.sleep(self._reads_after_s)
        self.congested = False

    def end(self) -> None:
        self.complete = True


class Copy:
    """One stream, copied by a relay of its own."""

    def __init__(
        self, script: Script, *, poured: bool, reads_after_s: float = 0.0, hold_s: float = 3.0
    ) -> None:
        self.clock = LoopClock()
        self.relay = Relay(clock=self.clock, hold_s=hold_s)
        self.client = Reader(reads_after_s)
        self.record = Record("r", "", self.clock.now())
        self.reply = Reply(200, EVENTS, stream=Tap(script) if poured else pulled(script))

    async def run(self) -> float:
        """Seconds that it took."""
        began = self.clock.now()
        try:
            await self.relay.copy(self.reply, self.client, self.record, None, STALL_S)
        finally:
            self.took_s = self.clock.now() - began
            assert not len(self.relay._watch), "nothing of it is looked at any more"
        return self.took_s

    async def fails(self, kind: type[Exception]) -> str:
        with pytest.raises(kind) as caught:
            await self.run()
        assert type(caught.value) is kind
        return str(caught.value)


both = pytest.mark.parametrize("poured", [False, True], ids=["pulled", "poured"])


@both
async def test_as_long_as_something_comes_in_time_it_goes_on(poured: bool) -> None:
    copy = Copy([step for _ in range(20) for step in (0.9, WORD)], poured=poured)
    assert await copy.run() == pytest.approx(18.0)
    assert copy.client.got == b"<200>" + WORD * 20
    assert copy.client.complete
    assert copy.record.first_byte_at == pytest.approx(copy.record.arrived + 0.9)
    assert copy.record.upstream_s == pytest.approx(18.0)


@both
async def test_after_too_long_a_silence_it_is_cut_off_soon_and_never_early(poured: bool) -> None:
    copy = Copy([0.3, WORD, 0.3, WORD, 50.0], poured=poured)
    assert await copy.fails(AnswerTruncated) == "the backend sent nothing for 1 s"
    assert 1.6 <= round(copy.took_s, 6) <= 1.6 + LATE_S
    assert copy.client.got == b"<200>" + WORD * 2
    assert not copy.client.complete


@both
async def test_silence_before_the_first_output_leaves_the_call_to_another_attempt(poured: bool) -> None:
    copy = Copy([0.3, ROLE, 50.0], poured=poured)
    await copy.fails(BackendBroke)
    assert copy.client.got == b""


@both
async def test_what_opens_a_stream_goes_out_before_long_whatever_comes(poured: bool) -> None:
    copy = Copy([ROLE, 0.9, ROLE, 0.9, WORD], poured=poured, hold_s=0.5)
    seen: list[tuple[float, bytes]] = []

    async def look() -> None:
        for _ in range(17):
            await asyncio.sleep(0.1)
            seen.append((round(copy.clock.now() - copy.record.arrived, 3), copy.client.got))

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        await copy.run()
    first = next(moment for moment, got in seen if got)
    assert 0.5 <= first <= 0.5 + 2 * LATE_S
    assert copy.client.got == b"<200>" + ROLE + ROLE + WORD
    assert copy.record.first_byte_at == pytest.approx(copy.record.arrived + 0.9)


@both
async def test_an_error_in_place_of_output_fails_the_attempt_and_nothing_was_sent(poured: bool) -> None:
    copy = Copy([ROLE, 0.1, FULL, 0.1, WORD], poured=poured)
    await copy.fails(BackendFull)
    assert copy.client.got == b""


@both
async def test_a_stream_that_breaks_is_told_apart_by_whether_it_had_begun(poured: bool) -> None:
    await Copy([ROLE, BackendBroke("gone")], poured=poured).fails(BackendBroke)
    await Copy([WORD, BackendBroke("gone")], poured=poured).fails(AnswerTruncated)


@both
async def test_who_reads_slowly_is_waited_for_and_that_is_nobody_elses_time(poured: bool) -> None:
    copy = Copy([WORD, WORD, 0.1, WORD], poured=poured, reads_after_s=0.6)
    await copy.run()
    assert copy.client.got == b"<200>" + WORD * 3
    assert copy.record.upstream_s == pytest.approx(copy.took_s - 3 * 0.6)


@both
async def test_who_reads_nothing_is_given_up(poured: bool) -> None:
    copy = Copy([WORD, WORD], poured=poured, reads_after_s=50.0)
    assert await copy.fails(ClientGone) == "the client read nothing for 1 s"
    assert 1.0 <= round(copy.took_s, 6) <= 1.0 + LATE_S


@both
async def test_a_cancellation_from_outside_stays_one_even_in_the_moment_of_the_silence(poured: bool) -> None:
    copy = Copy([WORD, 50.0], poured=poured)
    loop = asyncio.get_running_loop()
    task = loop.create_task(copy.run())

    def look() -> None:  # after the relay's own look, in the same turn of the loop
        if task.cancelling():
            task.cancel()
        else:
            loop.call_later(LATE_S, look)

    await asyncio.sleep(0)
    loop.call_later(LATE_S, look)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not len(copy.relay._watch)


async def test_what_a_client_raises_reaches_the_task_that_waits() -> None:
    class Bad(Reader):
        def write(self, data: bytes) -> None:
            if data:
                raise BackendError("no")

    copy = Copy([0.1, WORD, 0.1, WORD], poured=True)
    copy.client = Bad()
    await copy.fails(AnswerTruncated)


async def test_afterwards_no_timer_is_left() -> None:
    copy = Copy([0.1, WORD], poured=True)
    await copy.run()
    await asyncio.sleep(2 * LATE_S)
    assert not copy.relay._watch._ticking


async def test_one_stream_that_cannot_be_looked_at_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def look(self, now: float) -> None:
            raise ValueError("no")

    copy = Copy([WORD, 50.0], poured=True)
    copy.relay._watch.add(broken := Broken())
    with pytest.raises(AnswerTruncated):
        await copy.relay.copy(copy.reply, copy.client, copy.record, None, STALL_S)
    assert copy.clock.now() - copy.record.arrived <= STALL_S + 2 * LATE_S
    copy.relay._watch.remove(broken)
    assert "a stream could not be looked at" in caplog.text
