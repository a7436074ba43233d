"""What can be expected of a pool: slot-time until a moment, and the last moment at which a call may start.

Queueing without a steady state: inside a burst only the queue that one can see says anything. All slots
are busy as long as somebody waits, so a call starts, whoever goes where, by the moment at which the slots
have worked off what stands before it:

    start(call) <= t   if   sum over slots of max(0, t - free_at(slot)) >= work ahead of the call

A slot that serves is taken to be free after the mean residual life of a service, (mean^2 + deviation^2) /
(2 mean), the renewal theorem's, which needs no memory of when each service began. An instance that boots is
free when it is expected to be up. Work and time are in seconds of a slot of the pool's reference tier.

Pure functions over the views of `policies.base`; knows no policy.
"""

from math import sqrt

from policies.base import Estimate, PoolView, RequestView, TierView

FAR_S = 1e9
"""A moment further away than this is as good as never."""


def residual(estimate: Estimate) -> float:
    """Seconds for which a service that is under way is expected to go on."""
    mean = estimate.mean
    if mean <= 0.0:
        return 0.0
    deviation = estimate.deviation
    return (mean * mean + deviation * deviation) / (2.0 * mean)


def speed(tier: TierView, pool: PoolView) -> float:
    """Work that a slot of the tier does in a second: 1 for the reference tier, and where nothing is known."""
    reference = pool.reference
    if tier is reference:
        return 1.0
    mean = tier.overall.mean
    return (reference.overall.mean / mean or 1.0) if mean > 0.0 else 1.0


def owned_work(tier: TierView, pool: PoolView, until: float, now: float) -> float:
    """Slot-seconds that an owned tier can give to this pool's queue until a moment; negative never."""
    window = until - now
    if window <= 0.0:
        return 0.0
    work = tier.free * window
    left = window - residual(tier.overall)
    if left > 0.0:
        work += tier.in_flight * left
    if tier is not pool.reference:
        work *= speed(tier, pool)
    claimants = tier.claimants
    return work if claimants == 1 else work / claimants


def rented_work(tier: TierView, pool: PoolView, until: float, now: float, warm: int | None = None) -> float:
    """The same of the instances of a rented tier that are there or on their way. `warm`: how many idle, where
    that is known already.

    Asked of every rented tier for every call that is at risk: what other functions here say is written out.
    """
    window = until - now
    if window <= 0.0:
        return 0.0
    opening, queue = len(tier.opening), tier.provider_queue
    # What has a slot and is not served: here an instance that boots, there a call that waits.
    serving = tier.in_flight - (opening if queue is None else queue.calls)
    work = (tier.warm if warm is None else warm) * window
    own = tier.overall
    mean = own.mean
    if serving:
        deviation = own.deviation
        left = window - (mean * mean + deviation * deviation) / (2.0 * mean) if mean > 0.0 else window
        if left > 0.0:
            work += serving * left
    if opening:
        work += tier.up_by(until, now)
    if queue is not None:
        work -= queue.calls * mean  # those are served first
    if work <= 0.0:
        return 0.0
    reference = pool.reference
    if tier is not reference and mean > 0.0:
        work *= reference.overall.mean / mean or 1.0
    claimants = tier.claimants
    return work if claimants == 1 else work / claimants


def open_slots(tier: TierView) -> int:
    """Slots of a tier that serve this queue, now or soon."""
    return tier.in_flight + (tier.free if tier.owned else tier.warm)


def latest_start(request: RequestView, tier: TierView, pool: PoolView) -> float:
    """The last moment at which the call may take a slot of the tier and still be in time, with caution.

    What is uncertain is when its turn comes, which many slots even out, and its own service.
    """
    answer = tier.answer(request)
    slots = pool.in_flight + pool.opening
    queue = pool.reference.overall.deviation * sqrt(pool.in_time + 1) / (slots or 1)
    own = answer.deviation * tier.calibration
    start = request.due - answer.mean - pool.caution * sqrt(queue * queue + own * own)
    return start if start - FAR_S < request.since else request.since + FAR_S
