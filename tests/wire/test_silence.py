"""A stream that falls silent, measured without a timer for each of its parts."""

import asyncio

import pytest

from gateway.silence import Silence

pytestmark = pytest.mark.virtual_time


async def listen(pauses: list[float], longest: float) -> int:
    """How many parts were heard before it was silent for too long."""
    heard = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit, Silence(limit, longest, loop) as silence:
            for pause in pauses:
                await asyncio.sleep(pause)
                heard += 1
                silence.broken()
    except TimeoutError:
        return heard
    return -heard


async def test_as_long_as_something_comes_in_time_it_goes_on() -> None:
    assert await listen([0.9] * 20, 1.0) == -20


async def test_it_ends_the_wait_as_soon_as_the_silence_is_too_long() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await listen([0.3, 0.3, 5.0], 1.0) == 2
    assert loop.time() - began == pytest.approx(1.6)


async def test_the_first_part_may_be_missing_too() -> None:
    assert await listen([5.0], 1.0) == 0


async def test_afterwards_nothing_fires() -> None:
    assert await listen([0.1], 1.0) == -1
    await asyncio.sleep(5.0)  # a timer left behind would end this wait
