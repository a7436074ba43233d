"""The figures that faults are judged by."""

from pathlib import Path

import pytest

from loadtests.chaos.accounts import count, healthy_from, lines_of, longest_gap, repeated
from loadtests.chaos.load import Asked
from loadtests.chaos.work import Notes, answer_to, executions


def asked(sent_at: float, *, good: bool = True, took: float = 0.05, done: bool = True) -> Asked:
    made = Asked(f"r-{sent_at:g}", b'{"id": "r"}', sent_at)
    if done:
        made.ending, made.status, made.done_at = "answered", 200 if good else 503, sent_at + took
        made.fields = {b"x-request-id": made.name.encode()}
        made.received = answer_to(made.body) if good else b"{}"
    return made


def every(step: float, start: float, end: float, *, good: bool = True) -> list[Asked]:
    return [asked(start + step * n, good=good) for n in range(round((end - start) / step))]


def test_healthy_at_once_where_nothing_goes_wrong_after_healing() -> None:
    calls = every(0.1, 0.0, 1.0, good=False) + every(0.1, 1.0, 3.0)
    assert healthy_from(calls, 1.0, 3.0) == 1.0


def test_healthy_only_after_the_last_failure() -> None:
    calls = [*every(0.1, 1.0, 2.0), asked(1.35, good=False), *every(0.1, 2.0, 3.0)]
    calls.sort(key=lambda each: each.sent_at)
    assert healthy_from(calls, 1.0, 3.0) == pytest.approx(1.35)


def test_slow_answers_are_not_healthy() -> None:
    calls = [*every(0.1, 1.0, 1.2), asked(1.2, took=1.5), *every(0.1, 1.3, 3.0)]
    assert healthy_from(calls, 1.0, 3.0) == pytest.approx(1.2)


def test_not_yet_known_while_calls_are_open_or_too_few_were_sent() -> None:
    assert healthy_from([*every(0.1, 1.0, 1.2), asked(1.3, done=False)], 1.0, 1.5) is None
    assert healthy_from(every(0.1, 1.0, 1.3), 1.0, 1.4) is None
    assert healthy_from([], 1.0, 5.0) is None


def test_the_longest_gap_counts_right_answers_only() -> None:
    calls = every(0.1, 0.0, 1.0) + every(0.1, 1.0, 2.0, good=False) + every(0.1, 2.0, 3.0)
    assert longest_gap(calls) == pytest.approx(1.1)
    assert longest_gap(every(0.1, 0.0, 1.0, good=False)) == pytest.approx(0.9)


def test_every_call_is_counted_by_its_end() -> None:
    lost, cut = asked(0.0, done=False), asked(0.1, done=False)
    lost.ending, cut.ending = "lost", "cut"
    seen = count([lost, cut, asked(0.2), asked(0.3, good=False)])
    assert seen == {"calls": 4, "lost": 1, "unreached": 0, "wrong": 0, "cut": 1, "refused": 1}


def test_lines_are_counted_by_request_and_torn_ones_are_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"request_id": "a-1"}\n{"request_id": "a-1"}\n{"request_id": "b-1"}\n{"request_id": "a-2\n'
    )
    assert lines_of(log, "a-") == {"a-1": 2}
    assert repeated(lines_of(log, "a-")) == 1


def test_executions_are_those_that_began(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    for name in ("a", "b", "a"):
        notes.began(name)
    notes.ended("b")
    notes.close()
    assert executions(tmp_path / "notes") == {"a": 2, "b": 1}
    assert executions(tmp_path / "none") == {}
