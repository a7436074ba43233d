"""Calls that are booked together count as they would one after the other."""

from math import isnan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.advice import Advice
from gateway.histogram import GENERAL_EDGES, Histogram
from gateway.ledger import BATCH, Ledger
from gateway.record import Record
from gateway.vocab import Outcome, Reason, Start, Usage
from tests.ledger.support import BURST, EMBED, FLEET, T0, opened

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{}"

CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "seconds": st.floats(min_value=0.0, max_value=3.0),
            "first_byte": st.none() | st.floats(min_value=0.0, max_value=1.0),
            "queued": st.sampled_from((0.0, 0.0, 0.25, 9.0)),
            "backend": st.sampled_from(("fleet", "fleet", "fleet", "burst")),
            "outcome": st.sampled_from((Outcome.OK, Outcome.OK, Outcome.OK, Outcome.BACKEND_ERROR)),
            "reason": st.sampled_from((Reason.WARM, Reason.WARM, Reason.WARM_QUEUED)),
            "stream": st.sampled_from((False, False, True)),
            "inference": st.sampled_from((True, True, False)),
            "failed": st.sampled_from((False, False, False, True)),
            "flags": st.sampled_from(("0", "1")),
        }
    ),
    max_size=2 * BATCH,
)


def book() -> Ledger:
    advice = Advice(every_s=60, routes=["embed"], backends=["fleet"])
    return Ledger(routes=(EMBED,), backends=(FLEET, BURST), now=T0, advice=advice)


def call(book: Ledger, at: float, told: dict[str, Any]) -> tuple[Record, float]:
    """As it is when it ends."""
    record = opened(book, at, backend=told["backend"])
    if told["failed"]:
        record.tried("fleet", None, 0.01)
        record.took(told["backend"], "r-1", Reason.FALLBACK, at + 0.01)
    record.traceparent = TRACE.format(told["flags"])
    record.outcome, record.status, record.start = told["outcome"], 200, Start.WARM
    record.reason, record.stream, record.inference = told["reason"], told["stream"], told["inference"]
    record.queued_s, record.upstream_s = told["queued"], told["seconds"] / 2
    if told["first_byte"] is not None:
        record.first_byte_at = at + told["seconds"] * told["first_byte"]
    if told["backend"] == "burst":
        record.usage = Usage(usd=0.001, billed_s=told["seconds"])
    return record, at + told["seconds"]


def histogram(of: Histogram) -> dict[str, Any]:
    return {"counts": of.counts, "total": round(of.total, 6)}


def sums(book: Ledger) -> dict[str, Any]:
    """All that a scrape would read, but for examples."""
    recent = book.advice._recent["embed"] if book.advice is not None else None
    return {
        "tallies": {labels: tally.count for labels, tally in book.tallies.items() if tally.count},
        "lanes": {
            name: (
                histogram(lane.duration), histogram(lane.ttfb), lane.served,
                round(lane.slot_seconds, 6), {kind: round(usd, 9) for kind, usd in lane.usd.items()},
                lane.unpriced, lane.unknown,
            )
            for name, lane in book.lanes.items()
        },
        "routes": {
            name: (route.served, route.budget_calls, route.missed, histogram(route.overhead))
            for name, route in book.routes.items()
        },
        "fleet": round(book.standing["fleet"].attributed, 9),
        "advice": recent is not None and sorted((at, None if isnan(held) else round(held, 6), owned) for at, held, owned in recent.rows(0, 1000)),
    }  # fmt: skip


@settings(max_examples=200)
@given(CALLS)
def test_together_they_come_to_what_they_come_to_one_by_one(calls: list[dict[str, Any]]) -> None:
    each, together = book(), book()
    usd: list[list[Any]] = [[], []]
    records: list[Record] = []
    for number, told in enumerate(calls):
        record, end = call(each, T0 + 10 * number, told)
        each.close(record, end)
        each.settle()
        usd[0].append(record.usd)
        record, end = call(together, T0 + 10 * number, told)
        together.close(record, end)
        records.append(record)
    assert sums(together) == sums(each)
    usd[1] = [record.usd for record in records]
    assert usd[1] == [None if value is None else pytest.approx(value) for value in usd[0]]


def test_more_than_the_fleet_costs_is_charged_to_nobody_however_many_end_at_once() -> None:
    book = Ledger(routes=(EMBED,), backends=(FLEET._replace(replicas=1, slots_per_replica=1), BURST), now=T0)
    records = [opened(book) for _ in range(BATCH - 1)]
    for record in records:
        record.outcome, record.first_byte_at = Outcome.OK, T0 + 10
        book.close(record, T0 + 10)
    book.settle()
    assert sum(record.usd or 0.0 for record in records) == pytest.approx(10 * 3.6 / 3600)
    assert book.idle_usd(T0 + 10)["fleet"] == pytest.approx(0.0)


def test_of_calls_that_end_together_the_slowest_and_the_last_are_examples() -> None:
    ledger = book()
    told = {
        "first_byte": 1.0, "queued": 0.0, "backend": "fleet", "failed": False, "outcome": Outcome.OK,
        "reason": Reason.WARM, "stream": False, "inference": True,
    }  # fmt: skip
    ledger.close(*call(ledger, T0 + 1000, {**told, "seconds": 0.2, "flags": "0"}))
    for number, seconds in enumerate((0.001, 2.0, 0.04)):
        record, end = call(ledger, T0 + 1000 + number, {**told, "seconds": seconds, "flags": "1"})
        record.traceparent = TRACE.format("1").replace("0af7", f"000{number}")
        ledger.close(record, end)
    shown = {
        round(value, 6): trace[3:7]
        for value, trace, _ in ledger.lanes["embed", "fleet"].duration.examples.values()
    }
    assert shown == {2.0: "0001", 0.04: "0002"}


@given(st.lists(st.sampled_from((*GENERAL_EDGES, 0.0, 0.0007, 0.3, 1.00001, 500.0)), max_size=60))
def test_a_histogram_counts_ordered_values_as_it_counts_each(values: list[float]) -> None:
    one, many = Histogram(GENERAL_EDGES), Histogram(GENERAL_EDGES)
    for value in values:
        one.observe(value)
    many.observe_all(sorted(values))
    assert many.counts == one.counts
    assert many.total == pytest.approx(one.total)
