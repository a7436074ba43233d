import pytest

from gateway import pricing


def test_an_hourly_price_becomes_seconds_and_months() -> None:
    assert pricing.per_second(0.34) == pytest.approx(0.0000944, abs=5e-8)
    assert pricing.per_second(0.34) * 5 == pytest.approx(0.00047, abs=5e-6)
    assert pricing.per_month(0.34) == pytest.approx(248.20, abs=1e-9)


def test_memory_by_time() -> None:
    assert pricing.gb_seconds(1024 * 1024 * 1024, 0.2) == pytest.approx(0.2)
    assert pricing.gb_seconds(512 * 1024 * 1024, 2.0) == pytest.approx(1.0)


def test_all_slots_held_all_the_time_pay_for_the_fleet_exactly_once() -> None:
    slots, replicas, hours = 16, 3, 5
    everything = pricing.slot_second(0.79, slots) * slots * replicas * hours * 3600
    assert everything == pytest.approx(pricing.standing_usd(0.79, replicas, hours * 3600))
    assert everything == pytest.approx(0.79 * replicas * hours)


def test_a_replica_without_slots_has_no_slot_price() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        pricing.slot_second(1.0, 0)


def test_idle_is_what_nobody_answers_for_and_never_negative() -> None:
    assert pricing.idle_usd(10.0, 4.0, 1.0) == 5.0
    assert pricing.idle_usd(10.0, 11.0) == 0.0


def test_cost_per_thousand_needs_a_request() -> None:
    assert pricing.per_thousand(0.5, 250) == 2.0
    assert pricing.per_thousand(0.5, 0) is None
