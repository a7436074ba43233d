"""The live tick: when it looks, what it hands on, what it survives."""

import asyncio

import pytest

from gateway.background import Background
from gateway.config.problems import ConfigProblems
from gateway.config.schema import Prewarm
from gateway.errors import NoCapacity
from gateway.prewarm import Cause, Controller, State
from gateway.prewarm_loop import run, step
from gateway.warmth import Idle
from tests.config.plugins import read
from tests.prewarm.world import ALLOWED, state
from tests.support.virtual_time import LoopClock


class FakePool:
    """A pool (`Prewarmable`) that notes what it was told."""

    def __init__(self, shown: State | None) -> None:
        self.shown = shown
        self.looked: list[float] = []
        self.told: list[tuple[str, str, int, str]] = []
        self.refuse = False
        self.stall = 0.0

    def prewarm_state(self, now: float) -> State | None:
        self.looked.append(now)
        return self.shown

    def open(self, backend: str, count: int, *, kind: str) -> None:
        if self.refuse:
            raise NoCapacity("the endpoint is gone")
        self.told.append(("open", backend, count, kind))

    def ping(self, backend: str, count: int, *, kind: str) -> None:
        self.told.append(("ping", backend, count, kind))


def controller(options: Prewarm | None = ALLOWED, now: float = 1_000.0) -> Controller:
    return Controller("embed", options, now=now)


def crowded(now: float, options: Prewarm | None = ALLOWED) -> Controller:
    """A controller that was quiet for five minutes and sees a crowd since a second ago."""
    made = controller(options, now - 301.0)
    for second in range(300):
        made.arrived(now - 301.0 + second)
    for place in range(12):
        made.arrived(now - 1.0 + place / 12)
    return made


def test_a_step_hands_on_what_was_decided() -> None:
    pool = FakePool(state())
    plan = step(crowded(5_000.0), pool, 5_000.0)
    assert plan is not None
    assert plan.reason is Cause.BURST
    assert pool.told == [("open", "burst", 2, "prewarm")]


def test_a_step_pings_what_is_worth_keeping() -> None:
    pool = FakePool(state(idle=(Idle(4.0, 4.0), Idle(1.0, 1.0))))
    made = controller()
    for _ in range(20):
        made.gap(7.0, 999.0)
    step(made, pool, 1_001.0)
    assert pool.told == [("ping", "burst", 1, "prewarm")]


def test_a_step_without_a_backend_to_warm_or_without_permission_tells_nothing() -> None:
    away = FakePool(None)
    assert step(crowded(5_000.0), away, 5_000.0) is None
    off = FakePool(state())
    plan = step(crowded(5_000.0, None), off, 5_000.0)
    assert plan is not None
    assert plan.reason is Cause.OFF
    assert away.told == off.told == []


async def ticked(pool: FakePool, made: Controller, seconds: float) -> None:
    """Let the loop run for so long, then end it as a shutdown does."""
    background = Background()
    background.spawn(run(made, pool, LoopClock()), name="prewarm embed")
    await asyncio.sleep(seconds)
    assert len(background) == 1  # it is still at work
    await background.close(grace=0.0)
    assert len(background) == 0


@pytest.mark.virtual_time
async def test_it_ticks_once_a_second_until_it_is_cancelled() -> None:
    now = asyncio.get_running_loop().time()
    pool = FakePool(state())
    await ticked(pool, controller(now=now), 10.5)
    assert pool.looked == [now + second for second in range(11)]


@pytest.mark.virtual_time
async def test_a_backend_that_cannot_be_opened_costs_its_tick_only(caplog: pytest.LogCaptureFixture) -> None:
    now = asyncio.get_running_loop().time()
    pool = FakePool(state())
    pool.refuse = True
    await ticked(pool, crowded(now), 3.5)
    assert len(pool.looked) == 4
    assert "the endpoint is gone" in caplog.text
    assert "embed" in caplog.text


ROUTE = """\
version: 1
backends:
  burst: {type: rented, endpoint: e, api_key: {env: RENTED_API_KEY}, max_in_flight: 4}
routes:
  embed:
    tiers: [{backend: burst, when_full: shed}]
"""


def test_it_is_off_unless_the_route_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTED_API_KEY", "k")
    assert read(ROUTE).settings.routes["embed"].prewarm is None
    told = read(f"{ROUTE}    prewarm: {{max_instances: 2, usd_per_hour: 0.5}}\n").settings.routes["embed"]
    assert told.prewarm == Prewarm(max_instances=2, usd_per_hour=0.5)


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("{max_instances: 2}", "usd_per_hour"),
        ("{usd_per_hour: 1}", "max_instances"),
        ("{max_instances: 0, usd_per_hour: 1}", "max_instances"),
        ("{max_instances: 2, usd_per_hour: 0}", "usd_per_hour"),
        ("{max_instances: 2, usd_per_hour: .inf}", "usd_per_hour"),
        ("{max_instances: 2, usd_per_hour: 1, miss_usd: -1}", "miss_usd"),
        ("yes", "prewarm"),
    ],
)
def test_a_section_without_limits_is_refused(
    written: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENTED_API_KEY", "k")
    with pytest.raises(ConfigProblems, match=rf"8:.*prewarm.*{wrong}|7:.*prewarm.*{wrong}|7:.*{wrong}"):
        read(f"{ROUTE}    prewarm: {written}\n")
