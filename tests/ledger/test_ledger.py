from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import (
    AnswerTruncated,
    BackendBroke,
    BackendDown,
    ClientGone,
    Contended,
    DeadlinePassed,
    UnknownRoute,
)
from gateway.ledger import BATCH, Ledger
from gateway.record import Record
from gateway.tallies import BackendFacts, RouteFacts
from gateway.vocab import Charge, Outcome, Reason, Reply, Start, Usage, Work
from tests.ledger.support import BURST, EMBED, FLEET, T0, answered, ledger, opened, usd_of

SLOT_USD = 3.6 / 3600 / 4


def lane_usd(book: Ledger, backend: str, kind: str, route: str = "embed") -> float:
    return book.lanes[route, backend].usd.get(kind, 0.0)


# --- one record per call ------------------------------------------------------------------------------


def test_a_record_is_closed_once() -> None:
    book = ledger()
    record = book.open("a", "", T0)
    assert book.open_records == 1
    book.close(record, T0 + 1)
    with pytest.raises(RuntimeError, match="closed twice"):
        book.close(record, T0 + 1)
    with pytest.raises(RuntimeError):
        book.close(Record("never opened", "", T0), T0)
    assert (book.opened, book.closed, book.open_records) == (1, 1, 0)


def test_a_record_that_nobody_completes_is_an_internal_error() -> None:
    book = ledger()
    book.close(book.open("a", "", T0), T0)
    ((labels, tally),) = book.tallies.items()
    assert labels == ("other", "none", None, None, Outcome.INTERNAL_ERROR)
    assert tally.count == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(("open", "close")), max_size=60))
def test_opened_is_closed_plus_in_progress(steps: list[str]) -> None:
    book = ledger()
    waiting: list[Record] = []
    for step in steps:
        if step == "open":
            waiting.append(opened(book))
        elif waiting:
            book.close(waiting.pop(len(waiting) // 2), T0 + 1)
        assert book.opened == book.closed + book.open_records
        assert book.open_records == len(waiting)
    assert sum(tally.count for tally in book.tallies.values()) == book.closed


# --- how a call ends ----------------------------------------------------------------------------------


def test_an_error_gives_outcome_status_word_and_reason() -> None:
    record = Record("a", "", T0)
    record.fail(UnknownRoute("no such model"))
    assert (record.outcome, record.status, record.error) == (Outcome.REJECTED, 404, "unknown_route")
    assert record.reason is Reason.NO_ROUTE


def test_a_reason_stays_where_the_error_is_no_decision() -> None:
    record = Record("a", "", T0)
    record.took("fleet", "r0", Reason.WARM_QUEUED, T0)
    record.fail(BackendBroke("reset"))
    assert record.reason is Reason.WARM_QUEUED


def test_a_status_that_the_client_has_seen_stays() -> None:
    record = Record("a", "", T0)
    record.status = 200
    record.fail(AnswerTruncated("broke off"))
    assert (record.outcome, record.status) == (Outcome.TRUNCATED, 200)


def test_a_backends_own_answer_gives_the_status() -> None:
    record = Record("a", "", T0)
    record.fail(BackendBroke("500", answer=Reply(500, [], b"no")))
    assert (record.outcome, record.status, record.error) == (Outcome.BACKEND_ERROR, 500, "backend_broke")


# --- the latency budget -------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "missed"), [(0.25, 0), (0.2500001, 1)])
def test_the_budget_is_kept_up_to_and_including_its_edge(seconds: float, missed: int) -> None:
    book = ledger()
    answered(book, at=0.0, seconds=seconds)
    route = book.routes["embed"]
    assert (route.budget_calls, route.missed) == (1, missed)
    histogram = book.lanes["embed", "fleet"].duration
    assert dict(histogram.cumulative())[0.25] == 1 - missed


def test_a_stream_keeps_the_budget_with_its_first_byte() -> None:
    for stream, missed in ((True, 0), (False, 1)):
        book = ledger()
        record = opened(book)
        record.outcome, record.stream, record.first_byte_at = Outcome.OK, stream, T0 + 0.1
        book.close(record, T0 + 30)
        assert book.routes["embed"].missed == missed


@pytest.mark.parametrize(
    ("error", "counts", "missed"),
    [
        (Contended("full"), 1, 1),
        (DeadlinePassed("late"), 1, 1),
        (BackendBroke("reset"), 1, 1),
        (AnswerTruncated("cut"), 1, 1),
        (ClientGone(""), 0, 0),
        (UnknownRoute(""), 0, 0),
    ],
)
def test_who_misses_the_budget(error: Exception, counts: int, missed: int) -> None:
    book = ledger()
    record = opened(book)
    record.fail(error)  # type: ignore[arg-type]
    book.close(record, T0 + 0.001)
    assert (book.routes["embed"].budget_calls, book.routes["embed"].missed) == (counts, missed)


def test_questions_about_a_model_count_as_requests_only() -> None:
    book = ledger()
    record = opened(book)
    record.inference, record.outcome = False, Outcome.OK
    assert book.in_progress_usd(T0 + 50)["fleet"] == 0.0
    book.close(record, T0 + 100)
    route = book.routes["embed"]
    assert (route.budget_calls, route.served, usd_of(book, "fleet"), record.usd) == (0, 0, 0.0, None)
    assert sum(tally.count for tally in book.tallies.values()) == 1


def test_overhead_is_what_neither_slot_nor_backend_took() -> None:
    book = ledger()
    record = opened(book)
    record.queued_s, record.upstream_s = 0.04, 0.05
    book.close(record, T0 + 0.1)
    overhead = book.routes["embed"].overhead
    assert overhead.count == 1
    assert overhead.total == pytest.approx(0.01)


# --- money --------------------------------------------------------------------------------------------


def test_a_slot_held_is_paid_by_the_second() -> None:
    book = ledger()
    record = answered(book, seconds=2.0)
    assert record.usd == pytest.approx(2.0 * SLOT_USD)
    assert lane_usd(book, "fleet", "fleet") == pytest.approx(2.0 * SLOT_USD)
    assert book.idle_usd(T0 + 10)["fleet"] == pytest.approx(10 * 0.002 - 2.0 * SLOT_USD)


def test_a_rented_answer_costs_what_its_backend_says() -> None:
    book = ledger()
    record = answered(book, backend="burst", usage=Usage(3.0, 2.0, 0.0007), start=Start.COLD)
    assert record.usd == 0.0007
    assert lane_usd(book, "burst", "spill") == 0.0007
    assert book.lanes["embed", "burst"].boots.total == 2.0


def test_failed_attempts_are_retries_wherever_they_ran() -> None:
    book = ledger()
    record = opened(book)
    record.tried("fleet", None, 1.0, work=Work.MAYBE)
    record.took("burst", "burst", Reason.FALLBACK, T0 + 1)
    record.tried("burst", Usage(usd=0.002), 1.0)
    record.took("burst", "burst", Reason.FALLBACK, T0 + 2)
    record.outcome, record.usage = Outcome.OK, Usage(usd=0.001)
    book.close(record, T0 + 3)
    assert record.attempts == 3
    assert lane_usd(book, "fleet", "retry") == pytest.approx(SLOT_USD)
    assert lane_usd(book, "burst", "retry") == 0.002
    assert lane_usd(book, "burst", "spill") == 0.001
    assert record.usd == pytest.approx(SLOT_USD + 0.003)


def test_an_answer_of_unknown_cost_makes_the_sum_unknown() -> None:
    book = ledger()
    answered(book, backend="burst", usage=Usage(usd=0.001))
    assert "embed" in book.cost_per_thousand(T0 + 1)
    record = answered(book, backend="burst", usage=Usage(usd=None))
    assert record.usd is None
    assert not book.lanes["embed", "burst"].cost_known
    assert "embed" not in book.cost_per_thousand(T0 + 1)


def test_a_broken_attempt_of_unknown_cost_makes_the_sum_a_lower_bound() -> None:
    book = ledger()
    record = opened(book, backend="burst")
    record.fail(ClientGone(""))
    book.close(record, T0 + 1)
    lane = book.lanes["embed", "burst"]
    assert (lane.cost_known, lane.unpriced, record.usd) == (True, 1, None)


def test_a_rented_backend_that_refused_is_owed_nothing() -> None:
    book = ledger()
    record = opened(book, backend="burst")
    record.tried("burst", None, 0.1)
    record.took("burst", "burst", Reason.FALLBACK, T0)
    record.fail(BackendDown("refused"))
    book.close(record, T0 + 1)
    lane = book.lanes["embed", "burst"]
    assert (lane.cost_known, lane.unpriced, record.usd) == (True, 0, 0.0)


@pytest.mark.parametrize(
    "facts", [FLEET._replace(usd_per_replica_hour=None), FLEET._replace(price_known=False)]
)
def test_an_unknown_price_is_never_zero(facts: BackendFacts) -> None:
    book = ledger(facts, BURST)
    record = answered(book)
    assert record.usd is None
    assert not book.lanes["embed", "fleet"].cost_known
    assert book.idle_usd(T0 + 1) == {}
    assert book.cost_per_thousand(T0 + 1) == {}


def test_the_cost_is_known_at_the_head_unless_the_slot_stays_held() -> None:
    book = ledger()
    record = opened(book)
    whole, stream = Reply(200, [], b"x"), Reply(200, [])
    assert book.cost_at_head(record, whole, T0 + 2) == pytest.approx(2 * SLOT_USD)
    assert book.cost_at_head(record, stream, T0 + 2) is None
    record.tried("fleet", None, 2.0, work=Work.MAYBE)
    record.took("burst", "burst", Reason.FALLBACK, T0 + 2)
    priced = Reply(200, [], b"x", usage=Usage(usd=0.01))
    assert book.cost_at_head(record, priced, T0 + 3) == pytest.approx(0.01 + 2 * SLOT_USD)
    assert book.cost_at_head(record, Reply(200, [], b"x", usage=Usage()), T0 + 3) is None
    record.tried("burst", None, 1.0, work=Work.MAYBE)  # broke off without telling
    record.took("burst", "burst", Reason.FALLBACK, T0 + 3)
    assert book.cost_at_head(record, priced, T0 + 4) is None


def test_charges_outside_calls_are_booked_under_their_kind() -> None:
    book = ledger()
    book.charge("burst", Charge("embed", "prewarm", 0.25))
    book.charge("burst", Charge("embed", "spill", 0.5))
    assert (lane_usd(book, "burst", "prewarm"), lane_usd(book, "burst", "spill")) == (0.25, 0.5)
    for wrong in (
        Charge("embed", "gift", 1.0),
        Charge("embed", "spill", -1.0),
        Charge("embed", "spill", float("nan")),
    ):
        with pytest.raises(ValueError):
            book.charge("burst", wrong)


def test_cost_per_thousand_holds_every_kind_and_the_share_of_idle() -> None:
    other = RouteFacts("rank", backends=("fleet",))
    book = ledger(routes=(EMBED, other))
    answered(book, seconds=3.0)
    answered(book, T0 + 3, seconds=1.0, route="rank")
    answered(book, T0 + 3, backend="burst", usage=Usage(usd=0.004))
    book.charge("burst", Charge("embed", "prewarm", 0.001))
    now = T0 + 100
    idle = book.idle_usd(now)["fleet"]
    figures = book.cost_per_thousand(now)
    assert figures["embed"] == pytest.approx(1000 * (3 * SLOT_USD + 0.005 + 0.75 * idle) / 2)
    assert figures["rank"] == pytest.approx(1000 * (1 * SLOT_USD + 0.25 * idle) / 1)
    spent = usd_of(book, "fleet") + usd_of(book, "burst") + idle
    assert (2 * figures["embed"] + figures["rank"]) / 1000 == pytest.approx(spent)


def test_idle_is_shared_evenly_while_no_slot_was_held() -> None:
    book = ledger(routes=(EMBED, RouteFacts("rank", backends=("fleet",))))
    answered(book, backend="burst", usage=Usage(usd=0.0))
    figures = book.cost_per_thousand(T0 + 10)
    assert figures == {"embed": pytest.approx(1000 * 0.02 / 2)}


ONE_SLOT = FLEET._replace(replicas=1, slots_per_replica=1)


def test_more_slots_held_than_there_are_pay_for_the_fleet_once() -> None:
    book = ledger(ONE_SLOT, BURST)
    records = [opened(book) for _ in range(3)]
    for record in records:
        book.close(record, T0 + 10)
    book.settle()
    assert [record.usd for record in records] == [pytest.approx(usd) for usd in (0.01, 0.0, 0.0)]
    assert book.idle_usd(T0 + 10)["fleet"] == 0.0


def test_idle_that_was_shown_is_not_taken_back() -> None:
    book = ledger(ONE_SLOT, BURST)
    assert book.idle_usd(T0 + 10)["fleet"] == pytest.approx(0.010)
    records = [opened(book, T0 + 10) for _ in range(3)]
    assert book.idle_usd(T0 + 14)["fleet"] == pytest.approx(0.010)  # 14 s stood, 12 slot-seconds held
    for record in records:
        book.close(record, T0 + 14)
    assert usd_of(book, "fleet") == pytest.approx(0.004)
    assert book.idle_usd(T0 + 14)["fleet"] == pytest.approx(0.010)


def test_what_a_running_call_holds_is_not_shown_as_idle() -> None:
    book = ledger(ONE_SLOT, BURST)
    record = opened(book)
    record.tried("fleet", None, 4.0)
    record.took("fleet", "r1", Reason.FALLBACK, T0 + 4)
    assert book.idle_usd(T0 + 6)["fleet"] == pytest.approx(0.0)
    assert book.in_progress_usd(T0 + 6)["fleet"] == pytest.approx(0.006)
    book.close(record, T0 + 10)
    assert record.usd == pytest.approx(0.010)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("take", "end", "fail and retry", "look")),
        st.floats(min_value=0.0, max_value=50.0),
        st.integers(min_value=0, max_value=100),
    ),
    max_size=60,
)
FACTS = st.builds(
    lambda usd, replicas, slots: FLEET._replace(
        usd_per_replica_hour=usd, replicas=replicas, slots_per_replica=slots
    ),
    st.floats(min_value=0.0, max_value=100.0),
    st.integers(min_value=1, max_value=2),
    st.integers(min_value=1, max_value=2),
)


@settings(deadline=None)
@given(FACTS, STEPS, st.booleans())
def test_money_is_conserved(
    facts: BackendFacts, steps: list[tuple[str, float, int]], oversubscribed: bool
) -> None:
    """Attributed + idle + in progress is what the fleet costs; idle never falls, nothing is paid twice."""
    book = ledger(facts, BURST)
    running: list[Record] = []
    now, shown = T0, 0.0
    limit = 10**6 if oversubscribed else facts.replicas * facts.slots_per_replica
    hourly = facts.usd_per_replica_hour or 0.0
    for step, seconds, choice in (*steps, *(("end", 1.0, 0) for _ in steps)):
        now += seconds
        if step == "take" and len(running) < limit:
            running.append(opened(book, now))
        elif step == "end" and running:
            record = running.pop(choice % len(running))
            record.outcome = Outcome.OK
            book.close(record, now)
        elif step == "fail and retry" and running:
            record = running[choice % len(running)]
            assert record.slot_at is not None
            record.tried("fleet", None, now - record.slot_at)
            record.took("fleet", "r1", Reason.FALLBACK, now)
        elif step == "look":
            idle = book.idle_usd(now)["fleet"]
            assert idle >= shown
            shown = idle
        attributed, whole = usd_of(book, "fleet"), hourly * facts.replicas * (now - T0) / 3600
        assert attributed <= whole * (1 + 1e-9)
        if not oversubscribed and step == "look":
            assert attributed + shown + book.in_progress_usd(now)["fleet"] == pytest.approx(whole, abs=1e-9)
    assert not running
    assert usd_of(book, "fleet") + book.idle_usd(now)["fleet"] == pytest.approx(
        whole if steps else 0.0, abs=1e-9
    )


# --- configuration ------------------------------------------------------------------------------------


def test_a_reload_keeps_sums_and_takes_new_prices_from_now_on() -> None:
    book = ledger()
    answered(book, seconds=1.0)
    dearer = FLEET._replace(usd_per_replica_hour=7.2)
    book.reload(
        routes=[EMBED, RouteFacts("rank", backends=("fleet",))], backends=[dearer, BURST], now=T0 + 10
    )
    answered(book, T0 + 10, seconds=1.0)
    answered(book, T0 + 10, seconds=1.0, route="rank")
    assert lane_usd(book, "fleet", "fleet") == pytest.approx(3 * SLOT_USD)
    whole = 10 * 0.002 + 10 * 0.004
    assert usd_of(book, "fleet") + book.idle_usd(T0 + 20)["fleet"] == pytest.approx(whole)


def test_a_backend_that_left_stops_costing_and_its_counters_stay() -> None:
    book = ledger()
    answered(book, seconds=1.0)
    book.reload(routes=[EMBED._replace(backends=("burst",))], backends=[BURST], now=T0 + 10)
    idle = book.idle_usd(T0 + 10)["fleet"]
    assert book.idle_usd(T0 + 1000)["fleet"] == idle == pytest.approx(0.02 - SLOT_USD)
    assert lane_usd(book, "fleet", "fleet") == pytest.approx(SLOT_USD)


def test_a_call_in_flight_across_a_reload_is_booked() -> None:
    book = ledger()
    record = opened(book)
    book.reload(routes=[EMBED._replace(within=1.0)], backends=[FLEET, BURST], now=T0 + 1)
    record.outcome = Outcome.OK
    book.close(record, T0 + 2)
    histogram = book.lanes["embed", "fleet"].duration
    assert 1.0 in histogram.edges
    assert histogram.count == 1
    assert book.routes["embed"].missed == 1


OURS = {"embed", "fleet", "burst"}
outside = st.text(max_size=5).filter(lambda name: name not in OURS)


@settings(deadline=None)
@given(st.lists(st.tuples(outside, outside, st.sampled_from(Outcome)), max_size=50))
def test_names_from_outside_never_become_labels(calls: list[tuple[str, str, Outcome]]) -> None:
    book = ledger()
    for route, backend, outcome in calls:
        record = book.open("a", "", T0)
        record.route, record.backend, record.outcome = route, backend, outcome
        book.close(record, T0 + 1)
    assert {labels[:2] for labels in book.tallies} <= {("other", "none")}
    assert len(book.tallies) <= len(Outcome)
    assert sum(tally.count for tally in book.tallies.values()) == len(calls)


def test_what_was_closed_is_booked_for_whoever_looks_and_soon_for_nobody() -> None:
    book = ledger()
    looks: list[Callable[[], object]] = [
        lambda: sum(tally.count for tally in book.tallies.values()),
        lambda: book.lanes["embed", "fleet"].duration.count,
        lambda: book.routes["embed"].budget_calls,
        lambda: len(book.ended),
    ]
    for count, look in enumerate(looks, 1):
        book.close(opened(book), T0 + 1)
        assert look() == count
    for look in (lambda: book.idle_usd(T0 + 9), lambda: book.cost_per_thousand(T0 + 9)):
        record = opened(book)
        book.close(record, T0 + 2)
        look()
        assert record.usd is not None
    records = [opened(book) for _ in range(3 * BATCH)]
    for record in records:
        book.close(record, T0 + 3)
    assert sum(record.usd is None for record in records) < BATCH


def test_a_price_that_changes_is_not_that_of_calls_that_ended_before() -> None:
    book = ledger()
    record = opened(book)
    book.close(record, T0 + 10)
    dearer = FLEET._replace(usd_per_replica_hour=100 * (FLEET.usd_per_replica_hour or 0.0))
    book.reload(routes=(EMBED,), backends=(dearer, BURST), now=T0 + 10)
    assert record.usd == pytest.approx(10 * SLOT_USD)


def test_a_record_that_cannot_be_booked_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    book = ledger()
    good, bad, behind = (opened(book) for _ in range(3))
    bad.arrived = cast("float", "yesterday")
    for record in (good, bad, behind):
        book.close(record, T0 + 1)
    assert sum(tally.count for tally in book.tallies.values()) >= 2
    assert good.usd is not None
    assert behind.usd is not None
    assert "could not be booked" in caplog.text
    assert book.opened == book.closed == 3
