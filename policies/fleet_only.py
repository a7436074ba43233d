"""`fleet_only`: only tiers that are owned; a call waits for one until its deadline.

A baseline: what the fleet does without any serverless backend beside it. Nothing is ever spilled, so
the fleet must be large enough for the peak. `when_full` is not looked at.
"""

from random import Random

from gateway.vocab import Reason
from policies.base import Action, Policy, PoolView, RequestView, Run, Take, policies
from policies.waiting import first_in_queue, run_or_wait


@policies.add("fleet_only")
class FleetOnly(Policy):
    """Wait for what is paid for, however long."""

    rents = False

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The first owned tier with a free slot, else the queue."""
        if not request.attempt:  # the common case, without a detour
            for tier in pool.tiers:
                if tier.owned and tier.free and tier.blocked is None and request.may_use(tier.name):
                    return Run(tier.name, Reason.WARM)
        return run_or_wait(request, pool, owned=True, queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, for a call that has been waiting."""
        return run_or_wait(request, pool, owned=True, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """The earliest deadline."""
        return first_in_queue(backend, pool, owned=True)
