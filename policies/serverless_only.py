"""`serverless_only`: only tiers that are rented; a call waits for one until its deadline.

A baseline: what the serverless backends cost without any fleet. At a low rate that is the cheapest
there is. `when_full` is not looked at.
"""

from random import Random

from policies.base import Action, Policy, PoolView, RequestView, Take, policies
from policies.waiting import first_in_queue, run_or_wait


@policies.add("serverless_only")
class ServerlessOnly(Policy):
    """Rent every second."""

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The first rented tier with a free slot, else the queue."""
        return run_or_wait(request, pool, owned=False, queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, for a call that has been waiting."""
        return run_or_wait(request, pool, owned=False, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """The earliest deadline."""
        return first_in_queue(backend, pool, owned=False)
