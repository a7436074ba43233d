"""What a spill budget promises: reserved and spent dollars stay within its limits, whatever the order."""

import logging
from math import ceil, fsum, inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import SpillBudget
from gateway.spending import (
    DAY_S,
    HOUR_S,
    Budget,
    Purse,
    Reservation,
    Spending,
    refusal,
    reservation_usd,
)
from gateway.vocab import Reason, Rent

NOW = 36_000.0


def budget(name: str = "route embed", share: float | None = None, **limits: Any) -> Budget:
    options = SpillBudget.model_construct(
        **{"usd_per_hour": None, "usd_per_day": None, "on_exhausted": "queue", **limits}
    )
    return Budget(name, options, share_of_requests=share)


def bound(spending: Spending, route: str, backend: str) -> Purse:
    purse = spending.purse(route, backend)
    assert purse is not None
    return purse


def reserved(purse: Purse, usd: float | None, now: float) -> Reservation:
    reservation = purse.reserve(usd, now)
    assert reservation is not None
    return reservation


# -- never more than the limit ---------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), hour=st.floats(0.01, 3.0), day=st.floats(0.01, 30.0))
def test_no_order_of_attempts_spends_more_than_any_hour_or_day_allows(
    seed: int, hour: float, day: float
) -> None:
    chance = Random(seed)
    purse = Purse([budget(usd_per_hour=hour), budget("backend burst", usd_per_day=day)])
    now, running, booked = NOW, list[Reservation](), list[tuple[float, float]]()
    for _ in range(200):
        now += chance.expovariate(1 / chance.choice([0.1, 60.0, 1800.0]))
        if running and chance.random() < 0.5:
            ended = running.pop(chance.randrange(len(running)))
            assert ended.usd is not None
            how = chance.randrange(4)
            cost = [0.0, ended.usd, ended.usd, ended.usd * chance.random()][how]
            if how == 0:
                ended.cancel()
            elif how == 1:
                ended.settle(None, now)
            elif how == 2:
                ended.cut_off(now)
            else:
                ended.settle(cost, now)
            booked.append((now, cost))
        elif (new := purse.reserve(chance.random() * 0.5, now)) is not None:
            running.append(new)
        aside = fsum(each.usd or 0.0 for each in running)
        for limit, window in ((hour, HOUR_S), (day, DAY_S)):
            spent = fsum(cost for at, cost in booked if at > now - window)
            assert spent + aside <= limit + 1e-9


def test_calls_that_start_together_cannot_spend_the_same_dollar() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    granted = [purse.reserve(0.3, NOW) for _ in range(10)]
    assert sum(each is not None for each in granted) == 3


def test_ten_dimes_are_exactly_a_dollar() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    for _ in range(10):
        reserved(purse, 0.1, NOW).settle(0.1, NOW)
    assert purse.budgets[0].remaining_usd(NOW) == 0.0
    assert purse.reserve(1e-9, NOW) is None


# -- ends of a reservation ---------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "left"), [("settle", 0.9), ("unknown", 0.6), ("cut", 0.6), ("cancel", 1.0)])
def test_what_an_attempt_leaves_behind(end: str, left: float) -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    reservation = reserved(purse, 0.4, NOW)
    assert purse.budgets[0].remaining_usd(NOW) == 0.6
    if end == "settle":
        reservation.settle(0.1, NOW)
    elif end == "unknown":
        reservation.settle(None, NOW)
    elif end == "cut":
        reservation.cut_off(NOW)
    else:
        reservation.cancel()
    assert purse.budgets[0].remaining_usd(NOW) == left
    with pytest.raises(RuntimeError, match="before"):
        reservation.cancel()


def test_a_bill_above_the_reservation_drives_the_budget_below_zero() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    reserved(purse, 0.5, NOW).settle(1.5, NOW)
    assert purse.budgets[0].remaining_usd(NOW) == -0.5
    assert purse.reserve(0.0, NOW) is None


@pytest.mark.parametrize(("charged", "left"), [(0.3, 0.6), (0.4, 0.6), (0.5, 0.5)])
def test_the_charge_for_an_attempt_that_was_cut_off_counts_once(charged: float, left: float) -> None:
    one = budget(usd_per_hour=1.0)
    reserved(Purse([one]), 0.4, NOW).cut_off(NOW)
    one.spend(charged, NOW + 1)
    assert one.remaining_usd(NOW + 1) == left


def test_charges_outside_attempts_are_debited_even_below_zero() -> None:
    spending = Spending(routes={"embed": budget(usd_per_hour=1.0)}, backends={"burst": budget(usd_per_day=9)})
    spending.spend("embed", "burst", 1.25, NOW)
    spending.spend("other", "burst", 1.0, NOW)
    assert spending.routes["embed"].remaining_usd(NOW) == -0.25
    assert spending.backends["burst"].remaining_usd(NOW) == 6.75


# -- time ----------------------------------------------------------------------------------------------


def test_money_comes_back_when_it_said_and_not_earlier() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    reserved(purse, 0.9, NOW).settle(0.9, NOW)
    at = purse.available_at(0.5, NOW)
    assert NOW + HOUR_S <= at <= NOW + HOUR_S + 30.0
    assert not purse.would_allow(0.5, at - 0.001)
    assert purse.would_allow(0.5, at)


def test_a_day_outlasts_an_hour() -> None:
    purse = Purse([budget(usd_per_hour=1.0, usd_per_day=1.0)])
    reserved(purse, 1.0, NOW).settle(1.0, NOW)
    assert not purse.would_allow(0.1, NOW + 2 * HOUR_S)
    assert NOW + DAY_S <= purse.available_at(0.1, NOW) <= NOW + DAY_S + 300.0


def test_more_than_the_limit_never_comes() -> None:
    assert Purse([budget(usd_per_hour=1.0)]).available_at(1.1, NOW) == inf


def test_money_that_is_only_set_aside_may_come_back_any_moment() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    reserved(purse, 1.0, NOW)
    assert NOW < purse.available_at(0.5, NOW) <= NOW + 1.0


def test_what_is_there_is_there_now() -> None:
    assert Purse([budget(usd_per_hour=1.0)]).available_at(0.5, NOW) == NOW


# -- share of the calls --------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_no_more_calls_are_rented_than_the_share_rounded_up(seed: int, share: float) -> None:
    chance = Random(seed)
    one = budget(share=share)
    rented = 0
    for came in range(1, 300):
        one.requested(NOW)
        if chance.random() < 0.7 and one.reserve(None, NOW):
            rented += 1
        assert rented <= ceil(share * came)


def test_the_share_is_of_the_last_hour() -> None:
    one = budget(share=0.5)
    for _ in range(10):
        one.requested(NOW)
    assert one.reserve(0.1, NOW + HOUR_S - 60)
    assert not one.reserve(0.1, NOW + HOUR_S + 31)


def test_a_call_that_was_never_sent_does_not_use_up_the_share() -> None:
    one = budget(share=0.1)
    one.requested(NOW)
    purse = Purse([one])
    reserved(purse, None, NOW).cancel()
    assert purse.would_allow(None, NOW)
    reserved(purse, None, NOW).settle(0.2, NOW)
    assert not purse.would_allow(None, NOW)


def test_a_share_has_no_dollars_to_show() -> None:
    assert budget(share=0.1).remaining_usd(NOW) is None


# -- unknown prices ------------------------------------------------------------------------------------


def test_an_unknown_price_is_never_taken_for_zero() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    assert purse.reserve(None, NOW) is None
    assert purse.available_at(None, NOW) == inf
    assert reservation_usd(Rent(None), service_s=1.0) is None


@pytest.mark.parametrize("usd", [-0.1, inf, float("nan")])
def test_dollars_that_make_no_sense_are_refused(usd: float) -> None:
    with pytest.raises(ValueError, match="no sense"):
        budget(usd_per_hour=1.0).spend(usd, NOW)


# -- used up -------------------------------------------------------------------------------------------


def test_queue_makes_what_is_rented_look_full_and_shed_does_not() -> None:
    for mode, full in (("queue", True), ("shed", False), ("warn", False)):
        purse = Purse([budget(usd_per_hour=1.0, on_exhausted=mode)])
        assert not purse.looks_full(0.5, NOW)
        purse.budgets[0].spend(1.0, NOW)
        assert purse.looks_full(0.5, NOW) is full
        refusing = purse.refusing(0.5, NOW)
        assert (refusing and refusing.on_exhausted) == (None if mode == "warn" else mode)


def test_warn_spends_on_counts_it_and_says_so_once_per_exhaustion(caplog: pytest.LogCaptureFixture) -> None:
    purse = Purse([budget(usd_per_hour=1.0, on_exhausted="warn")])
    one = purse.budgets[0]
    with caplog.at_level(logging.WARNING, "overspill.spending"):
        for _ in range(5):
            reserved(purse, 0.5, NOW).settle(0.5, NOW)
        assert (one.overrun, one.refused, one.exhaustions) == (3, 0, 1)
        assert one.remaining_usd(NOW) == -1.5
        later = NOW + 2 * HOUR_S
        for _ in range(3):
            reserved(purse, 0.5, later).settle(0.5, later)
    assert one.exhaustions == len(caplog.records) == 2
    assert "route embed" in caplog.text


def test_the_route_decides_where_both_budgets_are_used_up() -> None:
    purse = Purse([budget(usd_per_hour=0, on_exhausted="shed"), budget(usd_per_hour=0, on_exhausted="queue")])
    assert purse.refusing(0.1, NOW) is purse.budgets[0]
    assert not purse.looks_full(0.1, NOW)


def test_all_budgets_grant_or_none_is_touched() -> None:
    route, backend = budget(share=1.0, usd_per_hour=5.0), budget("backend burst", usd_per_hour=0.1)
    route.requested(NOW)
    assert Purse([route, backend]).reserve(0.2, NOW) is None
    assert route.remaining_usd(NOW) == 5.0
    assert (route.refused, backend.refused) == (0, 1)
    assert route.would_allow(5.0, NOW)


def test_backends_share_the_money_of_a_route_and_routes_that_of_a_backend() -> None:
    spending = Spending(routes={"a": budget(usd_per_hour=1.0)}, backends={"x": budget(usd_per_hour=1.5)})
    assert spending.purse("b", "y") is None
    a_on_x, a_on_y, b_on_x = (bound(spending, *pair) for pair in (("a", "x"), ("a", "y"), ("b", "x")))
    assert a_on_y.reserve(0.75, NOW)
    assert a_on_x.reserve(0.5, NOW) is None
    assert b_on_x.reserve(1.5, NOW)
    assert a_on_x.reserve(0.25, NOW) is None


@pytest.mark.parametrize(("fleet_usable", "status"), [(True, 429), (False, 503)])
def test_a_call_that_is_shed_is_told_when_the_money_comes_back(fleet_usable: bool, status: int) -> None:
    purse = Purse([budget(usd_per_hour=1.0, on_exhausted="shed")])
    reserved(purse, 1.0, NOW).settle(1.0, NOW)
    later = NOW + HOUR_S - 600
    error = refusal("embed", purse, 0.5, later, fleet_usable=fleet_usable)
    assert (error.status, error.reason) == (status, Reason.SHED_BUDGET)
    assert error.retry_after is not None
    assert 600 <= error.retry_after <= 630
    assert purse.would_allow(0.5, later + error.retry_after)


def test_a_call_that_costs_more_than_the_limit_is_not_told_to_wait_for_ever() -> None:
    error = refusal("embed", Purse([budget(usd_per_hour=1.0)]), 5.0, NOW, fleet_usable=True)
    assert error.retry_after == HOUR_S


def test_a_budget_that_makes_calls_queue_says_once_that_it_is_used_up() -> None:
    purse = Purse([budget(usd_per_hour=1.0)])
    purse.budgets[0].spend(1.0, NOW)
    assert [purse.looks_full(0.5, NOW + second) for second in range(5)] == [True] * 5
    assert purse.budgets[0].exhaustions == 1


# -- how much to set aside -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rent", "boot", "usd"),
    [
        (Rent(0.01), 0.0, 0.02),
        (Rent(0.01, usd_per_call=0.5, idle_s=30.0), 0.0, 0.52),
        (Rent(0.01, idle_s=30.0), 8.0, 0.4),
        (Rent(0.01, idle_s=30.0, bills_boot=False), 8.0, 0.32),
        (Rent(0.01, idle_s=30.0, bills_idle=False), 8.0, 0.1),
        (Rent(0.01, round_up_s=60.0), 0.0, 0.6),
    ],
)
def test_an_attempt_is_priced_with_everything_that_starting_it_brings(
    rent: Rent, boot: float, usd: float
) -> None:
    assert reservation_usd(rent, service_s=2.0, boot_s=boot) == pytest.approx(usd)
