"""The load of event streams is even: events keep their moments, and streams do not share them."""

import asyncio
import time
from functools import partial

import uvloop

from loadtests.bench.pacing import Pacer

MS = 1_000_000


def called(moments: list[int]) -> list[tuple[int, int]]:
    """Each moment in the order it was called, with the moment it came."""
    seen: list[tuple[int, int]] = []

    def note(due: int) -> None:
        seen.append((due, time.perf_counter_ns()))

    async def run() -> None:
        base = time.perf_counter_ns() + 5 * MS
        with Pacer() as pacer:
            for moment in moments:
                pacer.call_at(base + moment, partial(note, base + moment))
            await pacer.until(base + max(moments) + 1)

    uvloop.run(run())
    return seen


def test_calls_come_in_order_and_never_early() -> None:
    seen = called([3 * MS, 0, 2 * MS + 300_000, 2 * MS + 100_000, 2 * MS + 200_000])
    assert [due for due, _ in seen] == sorted(due for due, _ in seen)
    assert len(seen) == 5
    assert all(came >= due for due, came in seen)


def test_moments_within_one_millisecond_are_told_apart() -> None:
    """A timer of whole milliseconds calls all ten at once. The quickest of a few tries: the machine may be busy."""
    best = min(
        max(came - due for due, came in called([step * 100_000 + 450_000 for step in range(10)]))
        for _ in range(20)
    )
    assert best < MS // 2


def test_what_has_passed_comes_at_once_and_what_was_cancelled_never() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        with Pacer() as pacer:
            now = time.perf_counter_ns()
            pacer.call_at(now + MS, lambda: seen.append("cancelled")).cancel()
            pacer.call_at(now - 1_000 * MS, lambda: seen.append("past"))
            await asyncio.sleep(0)
            await pacer.until(now + 2 * MS)
        return seen

    assert uvloop.run(run()) == ["past"]


def test_what_a_call_has_called_comes_too() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        with Pacer() as pacer:
            now = time.perf_counter_ns()

            def first() -> None:
                seen.append("first")
                pacer.call_at(now + 2 * MS, lambda: seen.append("third"))
                pacer.call_at(now + MS, lambda: seen.append("second"))

            pacer.call_at(now, first)
            await asyncio.sleep(0.001)
            await pacer.until(now + 3 * MS)
        return seen

    assert uvloop.run(run()) == ["first", "second", "third"]
