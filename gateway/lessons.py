"""What one ended attempt teaches: how long calls take, how long instances boot, whether they are still there.

Only successes teach. Back-pressure, a client that left and a failure say nothing about how long the work
takes. A start that nobody can tell is neither warm nor cold, so that nothing is learned from it.
Knows leases, slots and estimates; no queue and no policy.
"""

from gateway.attainment import Attainment
from gateway.lease import Lease
from gateway.slot import Slot
from gateway.vocab import Start

ROUNDING_S = 1e-9
"""Sums of times round: an answer that is later by less is in time."""


def learn(lease: Lease, slot: Slot, attainment: Attainment, now: float) -> None:
    """The attempt of `lease` on `slot` has succeeded."""
    head = slot.answered_at
    answered = now if head is None else head
    if answered <= lease.due + ROUNDING_S:
        attainment.note(now, in_time=True)
    elif answered - slot.taken_at <= lease.due - lease.call.arrived:
        # A service that is longer than the budget by itself is nobody's mistake: no caution prevents it.
        attainment.note(now, in_time=False)
    tier = lease.tier
    estimates = tier.estimates
    if estimates is None:
        return
    boot = 0.0
    if not tier.owned:
        if slot.start is Start.COLD:
            if slot.boot_s is None:
                return  # how much of it was the boot is not known
            boot = slot.boot_s
            if not slot.behind:  # else it may have waited for less than all of a boot
                estimates.learn_cold(slot.age, boot, now)
        elif slot.start is not Start.WARM:
            return
        if slot.age:  # one that has not idled at all says nothing
            estimates.learn_start(slot.age, slot.start is Start.COLD)
        if slot.behind is not None and slot.waited_s is None and slot.start is Start.WARM:
            return  # nor is how much of it was the wait for an instance that others had made boot, or used
    held = now - slot.taken_at - boot - (slot.waited_s or 0.0)
    if held < 0.0:
        held = 0.0
    estimates.learn_served(lease.bucket, held, now)
    if tier.answers is not None and lease.call.stream and head is not None:
        tier.answers.learn_service(lease.bucket, max(0.0, head - slot.taken_at - boot), now)
