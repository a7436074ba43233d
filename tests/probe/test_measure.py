"""What a probe measures, on virtual time against backends whose figures are known."""

import asyncio
from contextlib import suppress

import pytest

from backends.loopback import Loopback, LoopbackRented
from gateway.errors import BackendBroke, BackendDenied, BackendFull
from gateway.probe.measure import ProbeFailed
from gateway.vocab import Reply, Start
from tests.probe.support import PRICE, REQUEST, backend, measurement

pytestmark = pytest.mark.virtual_time


async def test_warm_calls_and_cold_starts_are_what_they_are() -> None:
    probe = measurement(backend())
    await probe.run(REQUEST)
    figures = probe.figures
    assert len(figures.warm) == 20
    assert figures.service() == pytest.approx([0.2] * 20)
    assert figures.cold_starts() == pytest.approx([4.0] * 3)
    assert figures.reported_boots() == pytest.approx([4.0] * 3)
    assert figures.usd_per_1k() == pytest.approx(1000 * 0.2 * PRICE)
    assert figures.assumed == 0


async def test_the_first_call_is_one_of_the_cold_starts_and_the_others_wait_the_instances_out() -> None:
    clock_before = asyncio.get_running_loop().time()
    probe = measurement(backend(), colds=1)
    await probe.run(REQUEST)
    assert len(probe.figures.colds) == 1
    assert asyncio.get_running_loop().time() - clock_before < 10.0  # no idle time-out was waited out


async def test_an_instance_that_outlives_its_idle_time_is_waited_for_longer() -> None:
    probe = measurement(backend(), idle=8.0, colds=2)  # it lives for 10 s
    await probe.run(REQUEST)
    assert len(probe.figures.colds) == 2
    assert any("still warm" in note for note in probe.figures.notes)


async def test_without_an_idle_time_there_are_no_cold_starts_but_everything_else() -> None:
    rented = backend()
    probe = measurement(rented)
    probe._facts = probe._facts._replace(idle_s=None)
    await probe.run(REQUEST)
    assert len(probe.figures.colds) == 1  # the first call
    assert any("--idle" in note for note in probe.figures.notes)


async def test_an_owned_backend_has_no_cold_starts_and_the_price_of_a_full_replica() -> None:
    probe = measurement(backend(Loopback), most=8)
    probe.figures.usd_per_replica_hour = 3.6
    await probe.run(REQUEST)
    figures = probe.figures
    assert figures.colds == []
    assert [level.concurrency for level in figures.levels] == [1, 2, 4, 8]
    assert [level.per_second for level in figures.levels] == pytest.approx([5, 10, 20, 40])
    knee = figures.knee()
    assert knee is not None
    assert knee.concurrency == 8
    assert figures.usd_per_1k() == pytest.approx(1000 * 0.001 / 40)


async def test_an_unpriced_backend_costs_an_unknown_amount() -> None:
    probe = measurement(backend(price=None))
    await probe.run(REQUEST)
    assert len(probe.figures.warm) == 20
    assert probe.figures.usd_per_1k() is None
    assert probe.spent() is None


class Silent(LoopbackRented):
    """Says of no answer whether its instance had to start."""

    extra = 0.0

    def begin(self, replica: int) -> float:
        self.extra = super().begin(replica)
        return 0.0

    def delay(self) -> float:
        return super().delay() + self.extra

    def outcome(self, body: bytes) -> Reply:
        return Reply(200, [], body, start=Start.UNKNOWN)


async def test_starts_that_nobody_tells_are_assumed_after_the_idle_time_out_where_the_call_was_slow() -> None:
    probe = measurement(backend(Silent), colds=2)
    await probe.run(REQUEST)
    figures = probe.figures
    assert figures.service() == pytest.approx([0.2] * 20)
    assert figures.cold_starts() == pytest.approx([4.0] * 2)
    assert figures.assumed == 2
    assert any("does not say which calls were warm" in note for note in figures.notes)


async def test_a_call_as_fast_as_a_warm_one_is_never_taken_for_a_cold_start() -> None:
    probe = measurement(backend(Silent, boot="0s"), colds=2)
    await probe.run(REQUEST)
    assert probe.figures.colds == []
    assert any("as fast as a warm one" in note for note in probe.figures.notes)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Reply(400, [], b'{"error": "no such\ntensor"}'), r"answered 400 .*no such tensor"),
        (BackendDenied("burst: the key is wrong"), "the key is wrong"),
        (BackendBroke("burst: the function failed"), "the function failed"),
        (BackendFull("burst: full", answer=Reply(503, [], b"no GPU here")), "full: no GPU here"),
    ],
)
async def test_a_first_call_that_fails_ends_it_at_once(outcome: Reply | Exception, said: str) -> None:
    rented = backend()
    assert isinstance(rented, LoopbackRented)
    rented.script.append(outcome)
    probe = measurement(rented)
    with pytest.raises(ProbeFailed, match=said):
        await probe.run(REQUEST)
    assert not probe.figures


async def test_single_failures_later_on_are_counted_and_left_out() -> None:
    rented = backend()
    assert isinstance(rented, LoopbackRented)
    fine = [Reply(200, [], b"") for _ in range(5)]
    rented.script.extend([*fine, BackendBroke("once"), BackendFull("twice", retry_after=2.0)])
    probe = measurement(rented, colds=0)
    await probe.run(REQUEST)
    assert len(probe.figures.warm) == 20
    assert probe.figures.failed == 2


async def test_failures_in_a_row_end_it_with_what_was_measured() -> None:
    rented = backend()
    assert isinstance(rented, LoopbackRented)
    rented.script.extend(
        [*(Reply(200, [], b"") for _ in range(8)), *(BackendBroke("dead") for _ in range(3))]
    )
    probe = measurement(rented)
    with pytest.raises(ProbeFailed, match="dead"):
        await probe.run(REQUEST)
    assert len(probe.figures.warm) == 5


async def test_an_answer_that_does_not_come_ends_it() -> None:
    probe = measurement(backend(latency="90s"))
    with pytest.raises(ProbeFailed, match=r"did not answer within 60\.0 s"):
        await probe.run(REQUEST)
    spent = probe.spent()
    assert spent is not None
    assert spent >= 60 * PRICE  # it ran, so it is paid for


async def test_a_backend_that_refuses_calls_at_once_is_asked_for_no_more() -> None:
    full = backend(Loopback, full_share=0.0)
    assert isinstance(full, Loopback)
    probe = measurement(full, most=8, calls=5)

    def outcome(body: bytes) -> Reply:
        if full.running[0] > 2:
            raise BackendFull("at most two")
        return Reply(200, [], body)

    full.outcome = outcome  # type: ignore[method-assign]
    await probe.run(REQUEST)
    levels = probe.figures.levels
    assert [(level.concurrency, level.refused > 0) for level in levels] == [(1, False), (2, False), (4, True)]
    knee = probe.figures.knee()
    assert knee is not None
    assert knee.concurrency == 2


async def test_cut_off_it_keeps_what_it_has() -> None:
    probe = measurement(backend())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.0):
            await probe.run(REQUEST)
    assert 0 < len(probe.figures.warm) < 20
    assert probe.spent() == pytest.approx(7 * PRICE, rel=15)


@pytest.mark.parametrize("cap", [0.0, 0.05, 0.08, 0.1, 0.15, 0.3, 1.0])
async def test_the_cap_is_never_exceeded(cap: float) -> None:
    probe = measurement(backend(), cap=cap, most=8, timeout_s=30.0)
    with suppress(ProbeFailed):  # where not even the first call fits
        await probe.run(REQUEST)
    assert bool(probe.figures) == (cap >= 0.05)
    spent = probe.spent()
    assert spent is not None
    assert spent <= cap
    if cap >= 1.0:
        assert len(probe.figures.levels) == 4
