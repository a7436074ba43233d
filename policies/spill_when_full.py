"""`spill_when_full`: the tiers in order, the next one when the ones before it are full.

The order of the file is the order of preference. What happens at a full tier is said by its
`when_full`: go on (`spill`), give up (`shed`), or wait a while first (`{queue: 40ms, then: spill}`).

A call that waits has been waiting for some time; the tiers it may use follow from that time alone:

    tiers       fleet  when_full: {queue: 40ms}     standby  when_full: {queue: 1s}     burst
    waited      0 ms ──────────────────────────────►40 ms ─────────────────────────────►1040 ms
    may use     fleet                               fleet, standby                      all three

The first slot that comes free on any tier it may use is taken, so a slot that is paid for is never
idle while a call waits for it. A tier that is blocked (not ready, breaker open) or that cannot take
this call costs no waiting and stops nothing: `when_full: shed` speaks of full tiers.
"""

from random import Random

from policies.base import Action, Policy, PoolView, RequestView, Take, policies
from policies.choice import allowed, reason, walk


@policies.add("spill_when_full")
class SpillWhenFull(Policy):
    """Fill the tiers in the order of the file."""

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The first allowed tier with a free slot, else wait as long as `when_full` says."""
        return walk(pool.tiers, request, now, queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, for a call that has been waiting."""
        return walk(pool.tiers, request, now, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """The earliest deadline among the calls that may use this tier by now."""
        tiers = pool.tiers
        place = next(i for i, tier in enumerate(tiers) if tier.options.backend == backend)
        if tiers[place].blocked is None and tiers[place].free:
            for request in pool.waiting:
                if request.free_on(tiers[place]) and allowed(tiers, place, request, now):
                    return Take(request, reason(tiers, place, request, queued=True))
        return None
