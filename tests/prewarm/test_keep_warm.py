"""How long an unused instance pays, from the gaps between its uses."""

from random import Random

import pytest

from gateway.keep_warm import ENOUGH_GAPS, LONGEST_S, KeepWarm, Terms, ping_age

TERMS = Terms(usd_per_second=0.001, cold_usd=0.02, idle_s=5.0)


def learned(gaps: list[float], start: float = 0.0) -> tuple[KeepWarm, float]:
    keep_warm, now = KeepWarm(), start
    for gap in gaps:
        now += gap + 1.0
        keep_warm.gap(gap, now)
    return keep_warm, now


def test_regular_gaps_just_above_the_time_out_are_bridged() -> None:
    keep_warm, now = learned([7.0] * 30)
    keep = keep_warm.keep(now, TERMS)
    assert 7.0 <= keep + TERMS.idle_s < 9.0


def test_long_gaps_are_not() -> None:
    keep_warm, now = learned([300.0] * 30)
    assert keep_warm.informative(now)
    assert keep_warm.keep(now, TERMS) == 0.0


def test_gaps_inside_the_time_out_need_no_ping() -> None:
    keep_warm, now = learned([2.0] * 30)
    assert keep_warm.keep(now, TERMS) == 0.0


def test_it_stops_paying_when_idling_costs_more_than_the_cold_start() -> None:
    keep_warm, now = learned([7.0] * 30)
    assert keep_warm.keep(now, TERMS._replace(cold_usd=0.001)) == 0.0
    assert keep_warm.keep(now, TERMS._replace(ping_usd=0.05)) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_best_life_is_cheaper_than_any_other_on_the_gaps_it_saw(seed: int) -> None:
    chance = Random(seed)
    gaps = [chance.lognormvariate(2.0, 1.0) for _ in range(400)]
    keep_warm = KeepWarm()
    for gap in gaps:
        keep_warm.gap(gap, 0.0)
    free = TERMS._replace(idle_s=1e9)

    def usd(life: float) -> float:
        return sum(0.001 * gap if gap <= life else 0.001 * life + 0.02 for gap in gaps)

    best = keep_warm.best_life(0.0, free)
    others = min(usd(life / 4) for life in range(800))
    assert usd(best) <= others * 1.05  # the bins are a fifth wide


def test_without_enough_gaps_it_stops_at_break_even() -> None:
    keep_warm, now = learned([7.0] * (int(ENOUGH_GAPS) - 2))
    assert not keep_warm.informative(now)
    assert keep_warm.keep(now, TERMS) == pytest.approx(0.02 / 0.001 - 5.0)
    assert keep_warm.keep(now, TERMS._replace(cold_usd=0.004)) == 0.0


def test_gaps_beyond_the_histogram_make_it_uninformative() -> None:
    keep_warm, now = learned([LONGEST_S * 2] * 5 + [7.0] * 4)
    assert not keep_warm.informative(now)


def test_old_gaps_give_way_to_new_ones() -> None:
    keep_warm, now = learned([300.0] * 50)
    for _ in range(30):
        now += 2_000.0
        keep_warm.gap(7.0, now)
    now += 10.0
    for _ in range(20):
        keep_warm.gap(7.0, now)
    assert keep_warm.keep(now, TERMS) > 0.0


def test_the_long_memory_speaks_when_the_short_one_has_faded() -> None:
    keep_warm, now = learned([7.0] * 40)
    assert keep_warm.keep(now + 5 * 3600.0, TERMS) > 0.0
    assert keep_warm.informative(now + 5 * 3600.0)
    assert not keep_warm.informative(now + 100 * 86_400.0)


def test_nothing_overflows_after_years() -> None:
    keep_warm, now = learned([7.0] * 40)
    later = now + 50 * 365 * 86_400.0
    for _ in range(10):
        keep_warm.gap(7.0, later)
    assert keep_warm.informative(later)
    assert keep_warm.keep(later, TERMS) > 0.0


def test_it_says_so_when_the_providers_time_out_is_far_off() -> None:
    regular, now = learned([30.0] * 40)
    dear = Terms(usd_per_second=0.001, cold_usd=1.0, idle_s=5.0)
    assert "too short" in (regular.advice(now, dear) or "")
    rare, now = learned([900.0] * 40)
    assert "too long" in (rare.advice(now, TERMS._replace(idle_s=60.0)) or "")
    fitting, now = learned([7.0] * 40)
    assert fitting.advice(now, TERMS._replace(idle_s=8.0)) is None
    assert KeepWarm().advice(0.0, TERMS) is None


def test_a_price_of_nothing_divides_nothing() -> None:
    keep_warm, now = learned([])
    assert keep_warm.keep(now, Terms(0.0, 0.0, 0.0)) == 0.0
    assert keep_warm.keep(now, Terms(0.0, 0.01, 5.0)) == LONGEST_S - 5.0
    assert keep_warm.keep(now, Terms(0.0, 0.01, 5.0, ping_usd=0.001)) == pytest.approx(10 * ping_age(5.0))
