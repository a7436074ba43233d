"""After something was sent the loop looks on for as long as answers have been quick, and no longer."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.busy_poll import BusyPoll
from gateway.clock import FakeClock
from gateway.cork import Cork
from tests.wire.test_cork import Line
from tests.workers_serving.live import REQUEST, checked, serving

WINDOW_S = 0.0002


class Turns:
    """An event loop's next turn, when the test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()

    @property
    def may_sleep(self) -> bool:
        return not self.due


class Rig:
    def __init__(self) -> None:
        self.clock, self.turns = FakeClock(), Turns()
        self.poll = BusyPoll(WINDOW_S, now=self.clock.now, soon=self.turns.soon)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turns.turn()

    def looking(self) -> None:
        """Two answers, one soon after the other: from here on it looks."""
        self.poll.sent()
        self.clock.advance(WINDOW_S / 2)
        self.poll.sent()
        assert not self.turns.may_sleep


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_that_comes_alone_keeps_nobody_awake(rig: Rig) -> None:
    for _ in range(10):
        rig.poll.sent()
        assert rig.turns.may_sleep
        rig.clock.advance(WINDOW_S * 1.5)


def test_a_short_wait_makes_it_look_until_the_window_is_over(rig: Rig) -> None:
    rig.looking()
    rig.wait(WINDOW_S * 0.9)
    assert not rig.turns.may_sleep
    rig.wait(WINDOW_S * 0.2)
    assert rig.turns.may_sleep


def test_what_is_sent_meanwhile_begins_the_window_anew(rig: Rig) -> None:
    rig.looking()
    for _ in range(10):
        rig.wait(WINDOW_S * 0.9)
        rig.poll.sent()
        rig.turns.turn()
        assert not rig.turns.may_sleep
    rig.wait(WINDOW_S * 1.1)
    assert rig.turns.may_sleep


def test_many_that_are_sent_in_one_turn_are_looked_after_once(rig: Rig) -> None:
    for _ in range(100):
        rig.poll.sent()
    assert len(rig.turns.due) == 1
    for _ in range(5):
        rig.poll.sent()
        rig.turns.turn()
        assert len(rig.turns.due) == 1


def test_after_it_gave_up_one_long_wait_is_not_followed_by_looking(rig: Rig) -> None:
    rig.looking()
    rig.wait(WINDOW_S * 1.1)
    rig.clock.advance(WINDOW_S)
    rig.poll.sent()
    assert rig.turns.may_sleep
    rig.clock.advance(WINDOW_S / 2)
    rig.poll.sent()
    assert not rig.turns.may_sleep


async def test_the_cork_tells_of_what_left_alone_and_of_no_crowd() -> None:
    told: list[str] = []
    lines: list[tuple[str, bytes]] = []
    cork, one, two = Cork(sent=lambda: told.append("sent")), Line("one", lines), Line("two", lines)
    cork.write(one, b"a")
    cork.write(two, b"b")
    await asyncio.sleep(0)
    assert told == []
    cork.write(one, b"c")
    await asyncio.sleep(0)
    assert told == ["sent"]
    cork.write(two, b"d")
    assert told == ["sent", "sent"]
    assert len(lines) == 4


def _sleeps(pid: int) -> int:
    """How often the process has let its processor go by itself."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["voluntary_ctxt_switches"])


async def _sleeps_of(folder: Path, calls: int, *, more: str) -> tuple[float, int]:
    """For each of these calls, one after the other; and in half a second without any."""
    folder.mkdir()
    async with checked(0.0) as (_, replica), serving(folder, replica, workers=1, more=more) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.http)
        before = 0
        for number in range(calls + 20):
            if number == 20:  # from here on it has found out how quick answers are
                before = _sleeps(served.process.pid)
            writer.write(REQUEST)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n{}")
        busy = _sleeps(served.process.pid) - before
        await asyncio.sleep(0.5)
        writer.close()
        return busy / calls, _sleeps(served.process.pid) - before - busy


async def test_a_gateway_does_not_sleep_between_quick_calls_but_does_when_there_are_none(
    tmp_path: Path,
) -> None:
    by_default, _ = await _sleeps_of(tmp_path / "default", 300, more="")
    polling, idle = await _sleeps_of(tmp_path / "polling", 300, more="busy_poll: 10ms")
    assert by_default > 0.9  # it waits for the replica at least, and for the next call
    assert polling < by_default / 2
    assert idle > 10  # its ticks, every 10 ms
