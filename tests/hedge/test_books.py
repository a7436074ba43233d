"""What the ledger makes of calls with two attempts at once."""

import pytest

from gateway.record import Hedged
from gateway.vocab import Outcome, Reason, Usage
from tests.ledger.support import T0, ledger, opened

SLOT = 0.00025
"""Dollars of a slot second of the fleet."""


def test_both_slots_of_a_running_race_are_in_progress_and_the_loser_s_is_booked_as_a_hedge() -> None:
    book = ledger()
    record = opened(book)
    record.hedge = hedge = Hedged("fleet", "fleet-1", T0 + 0.1)
    assert book.in_progress_usd(T0 + 0.3)["fleet"] == pytest.approx(0.5 * SLOT)
    hedge.slot_at = None
    record.lost("fleet", "fleet-1", None, 0.2, refused=False)
    assert book.in_progress_usd(T0 + 0.4)["fleet"] == pytest.approx(0.6 * SLOT)
    record.outcome = Outcome.OK
    book.close(record, T0 + 0.4)
    assert book.lanes["embed", "fleet"].usd == pytest.approx({"fleet": 0.4 * SLOT, "hedge": 0.2 * SLOT})
    assert record.usd == pytest.approx(0.6 * SLOT)
    assert book.routes["embed"].hedges == {"won": 0, "lost": 1}
    assert book.in_progress_usd(T0 + 0.4)["fleet"] == 0.0


def test_a_winner_is_booked_as_any_answer_and_the_first_as_a_hedge() -> None:
    book = ledger()
    record = opened(book)
    record.hedge = hedge = Hedged("burst", "burst", T0 + 0.1)
    record.lost("fleet", "fleet-0", None, 0.2, refused=False)
    hedge.slot_at, hedge.result = None, "won"
    record.took("burst", "burst", Reason.HEDGE, T0 + 0.1)
    record.usage, record.outcome = Usage(0.1, 0.0, 0.5), Outcome.OK
    book.close(record, T0 + 0.2)
    assert book.lanes["embed", "fleet"].usd == pytest.approx({"fleet": 0.0, "hedge": 0.2 * SLOT})
    assert book.lanes["embed", "burst"].usd == {"spill": 0.5}
    assert record.usd == pytest.approx(0.5 + 0.2 * SLOT)
    assert (record.attempts, book.routes["embed"].hedges["won"]) == (2, 1)


@pytest.mark.parametrize(("refused", "usd"), [(True, 0.0), (False, None)])
def test_what_a_rented_loser_cost_is_unknown_unless_it_never_began(refused: bool, usd: float | None) -> None:
    book = ledger()
    record = opened(book, backend="burst")
    record.hedge = Hedged("burst", "burst", T0)
    record.lost("burst", "burst", None, 0.2, refused=refused)
    record.usage, record.outcome = Usage(0.1, 0.0, 0.0), Outcome.OK
    book.close(record, T0 + 0.2)
    assert record.usd == usd
    assert book.lanes["embed", "burst"].unpriced == int(not refused)
