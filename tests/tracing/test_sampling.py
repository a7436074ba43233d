from random import Random

import pytest

from gateway.framing import traceparent_of
from gateway.record import Record
from gateway.tracing.sampling import Sampler
from gateway.tracing.trace import ATTEMPT, HEDGE, QUEUE, Trace

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def begun(traceparent: str, share: float, seed: int = 7) -> Record:
    record = Record("req", traceparent, 0.0)
    Sampler(share, Random(seed)).begin(record, b"POST", b"/v2/models/m/infer?key=1")
    return record


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_caller_decides_for_its_calls(share: float) -> None:
    kept, not_kept = begun(f"00-{IDS}-01", share), begun(f"00-{IDS}-00", share)
    assert kept.trace is not None
    assert kept.trace.parent == 0xB7AD6B7169203331
    assert not_kept.trace is None
    assert (kept.traceparent, not_kept.traceparent) == (f"00-{IDS}-01", f"00-{IDS}-00")


def test_a_share_is_taken_of_calls_without_a_caller() -> None:
    sampler, kept = Sampler(0.1, Random(7)), 0
    for _ in range(5_000):
        record = Record("req", "", 0.0)
        sampler.begin(record, b"GET", b"/")
        kept += record.trace is not None
        assert traceparent_of(record.traceparent.encode()) == record.traceparent
        assert record.traceparent.endswith("-01" if record.trace else "-00")
    assert kept == pytest.approx(500, abs=90)


def test_a_trace_begun_here_has_no_parent_and_no_query() -> None:
    trace = begun("", 1.0).trace
    assert trace is not None
    assert trace.parent == 0
    assert trace.path == b"/v2/models/m/infer"


def test_every_attempt_and_every_step_has_an_id_of_its_own() -> None:
    trace = Trace(f"00-{IDS}-03", 1, 5, b"POST", b"/")
    sent = [trace.attempt(0.0, None), trace.hedged(0.5), trace.attempt(1.0, None), trace.hedged(1.5)]
    assert {each[:36] for each in sent} == {f"00-{IDS[:32]}-"}
    assert {each[52:] for each in sent} == {"-03"}  # flags that are not known go on as they came
    ids = {int(each[36:52], 16) for each in sent} | {trace.span, trace.child(QUEUE, 0), trace.child(QUEUE, 1)}
    assert len(ids) == 7
    assert 0 not in ids
    assert trace.hedges == {0.5: trace.child(HEDGE, 0), 1.5: trace.child(HEDGE, 1)}
    assert int(sent[2][36:52], 16) == trace.child(ATTEMPT, 1)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (f"00-{IDS}-01", f"00-{IDS}-01"),
        (f"cc-{IDS}-09-what-the-future-holds", f"00-{IDS}-01"),
        (f"cc-{IDS}-00", f"00-{IDS}-00"),
        (f"00-{IDS}-01-more", ""),
        (f"ff-{IDS}-01", ""),
        (f"cc-{IDS}-01.more", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{IDS[:33]}{'0' * 16}-01", ""),
        (f"00-{IDS.upper()}-01", ""),
        (f"00-{IDS}-1", ""),
        ("", ""),
    ],
)
def test_a_traceparent_is_taken_over_or_replaced(value: str, taken: str) -> None:
    assert traceparent_of(value.encode()) == taken
