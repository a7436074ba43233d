"""The last calls that were decided about, each in one line: where it went, why, and what it came to.

Takes noted decisions and closed records, gives plain values. No body, no header and no secret; knows no HTTP.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.explain.ring import Noted, Ring
from gateway.record import Record
from gateway.vocab import Reason
from policies.base import Hold, Run, Shed


def recent(ring: Ring, ended: Iterable[Record], clock: Clock, count: int) -> list[dict[str, Any]]:
    """The newest first: the last `count` calls, and the last `count` of those that took no free warm slot.

    One entry for each call, of its last decision. `at` is Unix time; `ended` is None while it runs.
    """
    if count <= 0:
        return []
    closed = {record.request_id: record for record in ended}
    now, wall = clock.now(), clock.wall()
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    taken = unusual = 0
    for noted in ring.newest():
        if noted.request_id in seen:
            continue
        seen.add(noted.request_id)
        action = noted.action
        usual = isinstance(action, Run) and action.reason is Reason.WARM
        if taken >= count and unusual >= count:
            break
        if taken >= count and usual:
            continue
        taken += 1
        unusual += not usual
        record = closed.get(noted.request_id)
        found.append(
            {
                "request_id": noted.request_id,
                "route": noted.route,
                "at": round(wall - (now - noted.at), 3),
                "waited_s": 0.0 if noted.waiting is None else noted.at - noted.since,
                "attempt": noted.attempt,
                **_answer(noted),
                "ended": None if record is None else account(record),
            }
        )
    return found


def account(record: Record) -> dict[str, Any]:
    """What a call came to. `usd` is None where it is not known."""
    closed_at = record.closed_at
    return {
        "model": record.model,
        "operation": record.operation,
        "backend": record.backend,
        "replica": record.replica,
        "reason": _word(record.reason),
        "start": _word(record.start),
        "outcome": str(record.outcome),
        "status": record.status,
        "attempts": record.attempts,
        "queued_s": record.queued_s,
        "duration_s": None if closed_at is None else closed_at - record.arrived,
        "usd": record.usd if record.inference else None,
        "inference": record.inference,
    }


def merge_recent(several: Iterable[Iterable[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """What several processes said, as one; the newest first."""
    return sorted((entry for each in several for entry in each), key=lambda entry: -float(entry["at"]))


def _answer(noted: Noted) -> dict[str, Any]:
    action = noted.action
    if isinstance(action, Run):
        return {"do": "run", "backend": action.backend, "reason": str(action.reason)}
    if isinstance(action, Hold):
        return {"do": "hold", "backend": ", ".join(each.backend for each in action.opens), "reason": ""}
    assert isinstance(action, Shed)
    return {"do": "shed", "backend": "", "reason": str(action.reason)}


def _word(value: object) -> str | None:
    return None if value is None else str(value)
