"""The cap on what a probe may cost, against a bill that is as bad as it can be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.probe.purse import CapReached, Purse, Rates
from gateway.vocab import Charge, Rent, Usage

RATES = Rates(usd_per_second=0.001, usd_per_call=0.0001, tail_s=30.0)

step = st.tuples(st.floats(0.1, 60.0), st.floats(0.0, 1.0), st.booleans())


@given(cap=st.floats(0.0, 2.0), steps=st.lists(step, max_size=60))
def test_serial_calls_never_cost_more_than_the_cap(cap: float, steps: list[Any]) -> None:
    """Each call may take all of its time, then idle to the end; its instance may serve the next one."""
    purse, billed, idle = Purse(RATES, cap), 0.0, 0
    for limit_s, share, gone in steps:
        try:
            reserved = purse.reserve(limit_s, idle)
        except CapReached:
            continue
        if idle:  # the whole gap before it is billed when the call ends
            billed += RATES.tail_usd
            purse.charge([Charge("", "spill", RATES.tail_usd)])
        usd = RATES.call_usd(share * limit_s)
        billed += usd
        purse.settle(reserved, Usage(usd=usd), share * limit_s)
        idle = 1
        if gone:
            billed += RATES.tail_usd
            purse.charge([Charge("", "spill", RATES.tail_usd)])
            idle = 0
    assert billed + idle * RATES.tail_usd <= cap + 1e-9 or not billed
    assert purse.spent == pytest.approx(billed)


@given(cap=st.floats(0.01, 2.0), workers=st.integers(1, 64), limit_s=st.floats(0.1, 20.0))
def test_calls_at_once_never_cost_more_than_the_cap(cap: float, workers: int, limit_s: float) -> None:
    purse, running = Purse(RATES, cap), []
    for _ in range(workers):
        try:
            running.append(purse.reserve(limit_s, 0))
        except CapReached:
            break
    for reserved in running:
        purse.settle(reserved, None, limit_s)
    assert purse.spent is not None
    assert purse.spent + len(running) * RATES.tail_usd <= cap + 1e-9


def test_a_call_whose_cost_is_not_known_costs_all_that_was_set_aside() -> None:
    purse = Purse(RATES, 1.0)
    purse.keep(purse.reserve(10.0, 1))
    assert purse.spent == pytest.approx(0.01 + 0.0001 + 2 * 0.03)


def test_an_unknown_price_is_no_price_of_zero() -> None:
    assert Rates.of(Rent(None)) is None
    assert Rates.of(None) is None
    purse = Purse(None, 0.0)
    assert purse.settle(purse.reserve(10.0, 0), None, 1.0) is None
    assert purse.spent is None


def test_idle_time_that_is_not_billed_is_not_set_aside() -> None:
    rates = Rates.of(Rent(0.001, idle_s=300.0, bills_idle=False, round_up_s=1.0))
    assert rates is not None
    assert rates.tail_s == 1.0


def test_the_reason_says_what_it_would_take() -> None:
    purse = Purse(RATES, 0.1)
    with pytest.raises(CapReached, match=r"40 calls at once .* \$1\.\d+; --max-usd is 0\.1"):
        purse.check(40, 5.0, 0)
