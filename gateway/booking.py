"""Many calls of one kind booked at once: what `Ledger` does for one after the other, for half of the work.

Nearly all calls are alike: served whole by an owned replica, at the first attempt, under the same labels.
What they add to the counters is worked out in lists. Knows records and tallies; it must never meet a call
that cost anything but the time on its slot.
"""

from collections.abc import Sequence

from gateway.advice import Advice
from gateway.record import Record
from gateway.tallies import Tally
from gateway.tracing.trace import SAMPLED_ENDS
from gateway.vocab import OK


def is_plain(record: Record, tally: Tally) -> bool:
    """Is it one of nearly all?"""
    return (
        record.outcome is OK
        and record.slot_at is not None
        and record.first_byte_at is not None
        and record.inference
        and not (record.failed or record.stream)
        and record.stay is None
        and tally.lane.standing is not None
    )


def book_alike(records: Sequence[Record], tally: Tally, advice: Advice | None) -> bool:
    """Book plain records that belong to one tally, in the order in which they were closed.

    False, and nothing is booked: their slots might cost more than is left of what the replicas cost, so that
    each has to be looked at by itself.
    """
    lane = tally.lane
    route, standing = lane.route, lane.standing
    assert standing is not None
    arrived = [record.arrived for record in records]
    closed = [record.closed_at or 0.0 for record in records]
    held = [end - (record.slot_at or 0.0) for end, record in zip(closed, records, strict=True)]
    durations = [end - start for end, start in zip(closed, arrived, strict=True)]
    waits = [(record.first_byte_at or 0.0) - record.arrived for record in records]
    own = [
        whole - record.queued_s - record.upstream_s for whole, record in zip(durations, records, strict=True)
    ]
    held_s = sum(held)
    usd = standing.attribute_all(held_s, closed[0])
    if usd is None:
        return False
    slot_usd = standing.slot_usd
    for record, seconds in zip(records, held, strict=True):
        record.usd = seconds * slot_usd
    lane.slot_seconds += held_s
    lane.usd[lane.kind] += usd
    count = len(records)
    tally.count += count
    route.served += count
    lane.served += count
    ordered = sorted(durations)
    lane.duration.observe_all(ordered)
    lane.ttfb.observe_all(sorted(waits))
    route.overhead.observe_all(sorted([seconds if seconds > 0.0 else 0.0 for seconds in own]))
    # Of those that were traced the slowest has most to tell, and the last is the newest.
    for place in {durations.index(ordered[-1]), count - 1}:
        record = records[place]
        if record.traceparent[-1:] in SAMPLED_ENDS:
            lane.duration.exemplify(durations[place], record.traceparent, closed[place])
            lane.ttfb.exemplify(waits[place], record.traceparent, closed[place])
    if route.within is not None:
        route.budget_calls += count
        if ordered[-1] > route.within:
            route.missed += sum(seconds > route.within for seconds in durations)
    if advice is not None:
        advice.note_all(records[0].route, arrived, held)
    return True
