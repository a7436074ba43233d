"""Who makes instances boot: one task per instance, one ending each, whatever happens."""

import asyncio
import logging
from random import Random
from typing import Any, NamedTuple

import pytest

from backends.base import Backend, Kit
from backends.loopback import LoopbackRented
from gateway.background import Background
from gateway.errors import BackendDenied, BackendDown, BackendError, BackendFull
from gateway.opening import Opening
from gateway.vocab import Usage, Verdict
from tests.support.virtual_time import LoopClock

pytestmark = pytest.mark.virtual_time


class Rented(LoopbackRented):
    """Boots for two seconds, or fails as the test says."""

    def __init__(self, background: Background) -> None:
        options = LoopbackRented.Options.model_validate(
            {"type": "loopback_rented", "max_in_flight": 4, "boot": "2s", "price": {"usd_per_second": 0.5}}
        )
        super().__init__("burst", options, Kit(LoopClock(), Random(1), background.spawn))
        self.failure: BackendError | None = None
        self.hangs = False
        self.asked: list[tuple[int, str, str, bool]] = []

    async def ping(self, replica: int, *, route: str, kind: str, fresh: bool = True) -> Usage | None:
        self.asked.append((replica, route, kind, fresh))
        if self.failure is not None:
            raise self.failure
        if self.hangs:
            await asyncio.sleep(1e6)
        return await super().ping(replica, route=route, kind=kind, fresh=fresh)


class Place:
    """A slot, as far as it matters here."""

    def __init__(self, backend: Backend, *, opening: bool = True) -> None:
        self.backend = backend
        self.replica = 0
        self.opening = opening
        self.used = False


class Ended(NamedTuple):
    verdict: Verdict
    boot_s: float | None
    at: float


class World:
    """An `Opening` over one backend, and what it said."""

    def __init__(self, tail_s: float = 4.0) -> None:
        self.background = Background()
        self.backend = Rented(self.background)
        self.opening = Opening(spawn=self.background.spawn, cold_tail=lambda route, backend: tail_s)
        self.ended: list[Ended] = []
        self.clock = LoopClock()
        self.began = self.clock.now()

    def open(self, **place: Any) -> Place:
        slot = Place(self.backend, **place)
        self.opening.open(slot, route="embed", kind="prewarm", done=self._done)
        return slot

    def _done(self, verdict: Verdict, boot_s: float | None) -> None:
        self.ended.append(Ended(verdict, boot_s, self.clock.now() - self.began))

    async def all(self) -> None:
        while len(self.background):
            await asyncio.sleep(0.5)
        assert len(self.opening) == 0


async def test_it_says_when_an_instance_is_up_and_how_long_it_booted() -> None:
    world = World()
    slot = world.open()
    assert world.ended == []
    await world.all()
    assert list(world.ended[0]) == [Verdict.SUCCESS, pytest.approx(2.0), pytest.approx(2.0)]
    assert len(world.ended) == 1
    assert world.backend.asked == [(0, "embed", "prewarm", True)]
    assert slot.used
    (charge,) = world.backend.settle(world.clock.now())
    assert (charge.route, charge.kind) == ("embed", "prewarm")
    assert charge.usd == pytest.approx(1.0)


async def test_what_was_up_already_teaches_no_boot() -> None:
    world = World()
    world.open()
    await world.all()
    world.open(opening=False)
    await world.all()
    assert world.ended[1][:2] == (Verdict.SUCCESS, None)
    assert world.backend.asked[1] == (0, "embed", "prewarm", False)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (BackendDown("secret text"), Verdict.FAILURE),
        (BackendDenied("secret text"), Verdict.FAILURE),
        (BackendFull("secret text"), Verdict.NEUTRAL),
    ],
)
async def test_a_failure_is_what_the_error_says_and_is_logged_once_until_it_is_over(
    error: BackendError, verdict: Verdict, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    world.backend.failure = error
    for _ in range(3):
        world.open()
    await world.all()
    assert [each[:2] for each in world.ended] == [(verdict, None)] * 3
    world.backend.failure = None
    world.open()
    await world.all()
    world.backend.failure = error
    world.open()
    await world.all()
    said = [record.getMessage() for record in caplog.records]
    down = f"backend burst: no instance could be opened ({error.word})"
    assert said == [down, "backend burst: instances can be opened again", down]


@pytest.mark.parametrize(("tail_s", "limit_s"), [(4.0, 60.0), (50.0, 100.0)])
async def test_a_ping_has_twice_the_expected_tail_and_at_least_a_minute(
    tail_s: float, limit_s: float
) -> None:
    world = World(tail_s)
    world.backend.hangs = True
    world.open()
    await world.all()
    assert [each[:2] for each in world.ended] == [(Verdict.FAILURE, None)]
    assert world.ended[0].at == pytest.approx(limit_s)


@pytest.mark.parametrize("after_s", [0.0, 1.0])
async def test_at_the_end_every_opening_ends_as_nobodys_fault(after_s: float) -> None:
    world = World()
    world.open()
    world.open()
    if after_s:
        await asyncio.sleep(after_s)
    await world.opening.close()
    assert [each[:2] for each in world.ended] == [(Verdict.NEUTRAL, None)] * 2
    assert world.ended[1].at == pytest.approx(after_s)
    world.open()
    await world.all()
    assert world.ended[2][:2] == (Verdict.NEUTRAL, None)
    assert world.backend.running == [0]
    assert len(world.backend.asked) == (2 if after_s else 0)


async def test_tasks_that_were_cancelled_before_their_first_step_have_an_ending_too() -> None:
    world = World()
    world.open()
    await world.background.close(grace=0.0)
    await world.opening.close()
    assert [each[:2] for each in world.ended] == [(Verdict.NEUTRAL, None)]


async def test_a_defect_is_logged_and_the_slot_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.backend.failure = ValueError("a bug")  # type: ignore[assignment]
    world.open()
    await world.all()
    assert [each[:2] for each in world.ended] == [(Verdict.NEUTRAL, None)]
    assert "open burst for embed failed" in caplog.text
