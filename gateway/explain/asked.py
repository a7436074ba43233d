"""A call that nobody made, as a policy sees it, and what a reader wants to know beside what a policy sees.

It looks at a pool and changes nothing there: it takes no slot, joins no queue, draws from no chance that
decides anything, and teaches no estimate. Knows the pool; never HTTP, a file or a terminal.
"""

from collections.abc import Mapping
from copy import copy
from math import inf

from gateway.estimates import BackendEstimates
from gateway.pool import Pool
from gateway.spending import Spending, reservation_usd
from gateway.tier import Tier
from gateway.vocab import Call, WholeBody
from policies.amounts import dollars
from policies.base import TierView
from policies.explanation import Beside

NO_SPENDING = Spending(routes={}, backends={})

_USUAL = {"kserve": "infer", "grpc": "infer", "openai": "chat"}
_TARGETS = {
    "infer": b"/v2/models/model/infer",
    "chat": b"/v1/chat/completions",
    "completions": b"/v1/completions",
    "embeddings": b"/v1/embeddings",
    "responses": b"/v1/responses",
}
_QUESTIONS = frozenset(("metadata", "config", "stats", "ready"))
"""What is asked about a model, and is no work."""


class Wanted:
    """What is asked about.

    size:      how much there is to do, in the route's own unit; None: not known
    priority:  `critical`, `default` or `best_effort`
    timeout:   seconds until the call would be given up
    protocol:  what it would come in
    operation: what it would ask for, in the protocol's own word; None: what that protocol is mostly used for
    stream:    whether its answer would be a stream
    body:      bytes of its body
    version:   the model's version that it would ask for; "" for whichever is current
    """

    __slots__ = ("body", "operation", "priority", "protocol", "size", "stream", "timeout", "version")

    def __init__(
        self,
        *,
        size: float | None = None,
        priority: str = "default",
        timeout: float = inf,
        protocol: str | None = None,
        operation: str | None = None,
        stream: bool = False,
        body: int = 0,
        version: str = "",
    ) -> None:
        self.size = size
        self.priority = priority
        self.timeout = timeout
        self.protocol = protocol or "kserve"
        self.operation = operation
        self.stream = stream
        self.body = body
        self.version = version


class _Declared(WholeBody):
    """A body of which only the length matters."""

    __slots__ = ("_length",)

    def __init__(self, length: int) -> None:
        super().__init__(b"")
        self._length = length

    @property
    def length(self) -> int:
        """As declared."""
        return self._length


def make_call(wanted: Wanted, now: float) -> Call:
    """A call of that kind that comes now; of its body only the length is there."""
    operation = wanted.operation or _USUAL.get(wanted.protocol, "invoke")
    call = Call(
        protocol=wanted.protocol,
        operation=operation,
        method=b"GET" if operation in _QUESTIONS else b"POST",
        target=_TARGETS.get(operation, b"/"),
        headers=[(b"content-type", b"application/json")],
        body=_Declared(wanted.body),
        version=wanted.version,
        inference=operation not in _QUESTIONS,
        stream=wanted.stream,
        arrived=now,
    )
    call.size = wanted.size
    call.priority = wanted.priority
    call.deadline = now + wanted.timeout
    return call


class Asked:
    """That call as a policy sees it when it comes (`policies.base.RequestView`)."""

    work = 0.0
    late = False
    attempt = 0

    def __init__(self, pool: Pool, call: Call, *, lot: float) -> None:
        self._pool = pool
        self.call = call
        self.since = call.arrived
        self.deadline = call.deadline
        # Not through a lease: to make one teaches what an ordinary size is.
        within_s = pool.first_byte_s if call.stream else pool.within_s
        self.due = min(call.arrived + within_s, call.deadline)
        self.bucket = _bucket(pool, call.size)
        self.stream = call.stream
        self.priority = call.priority
        self.lot = lot

    def may_use(self, backend: str) -> bool:
        """Could the backend carry it?"""
        return self._pool.supplies[backend].backend.unfit(self.call) is None

    def free_on(self, tier: TierView) -> bool:
        """Has the tier a free slot?"""
        return tier.free > 0

    def header(self, name: bytes) -> bytes | None:
        """It has none."""
        return None


def _bucket(pool: Pool, size: float | None) -> int:
    reference = pool.reference
    if size is None or reference.estimates is None:
        return 0
    # A copy: the first size that is ever asked for settles the range, and this one is no call's.
    return copy(reference.estimates).bucket_of(size)


def beside(
    pool: Pool, asked: Asked, now: float, *, objective: float | None, spending: Spending = NO_SPENDING
) -> Beside:
    """What the policy is not shown."""
    idle_s, survival, cannot, spent = {}, {}, {}, {}
    for tier in pool.tiers:
        ages = tier.supply.warmth.ages(now) if tier.supply.warmth is not None else []
        if ages:
            idle_s[tier.name] = ages[-1]
            survival[tier.name] = (
                tier.estimates.warm_chance(ages[-1]) if isinstance(tier.estimates, BackendEstimates) else 1.0
            )
        if (why := tier.supply.backend.unfit(asked.call)) is not None:
            cannot[tier.name] = why
        if word := _spent(pool.route, tier, asked, now, spending):
            spent[tier.name] = word
    return Beside(0.99 if objective is None else objective, idle_s, survival, cannot, spent)


def _spent(route: str, tier: Tier, asked: Asked, now: float, spending: Spending) -> str:
    """Which budget would not pay for the call there; nothing is reserved."""
    purse = None if tier.owned else spending.purse(route, tier.name)
    if purse is None:
        return ""
    usd = None
    if tier.rent is not None:
        boot_s = 0.0 if tier.warm else tier.cold.tail
        usd = reservation_usd(tier.rent, service_s=tier.service(asked).tail, boot_s=boot_s)
    budget = purse.refusing(usd, now)
    if budget is None:
        return ""
    left = budget.remaining_usd(now)
    return f"{budget.name} has " + ("used its share of calls" if left is None else f"{dollars(left)} left")


def learned(pool: Pool, asked: Asked) -> dict[str, Mapping[str, float | None]]:
    """What is expected of each backend, in seconds, and from how many calls that was learned."""
    found: dict[str, Mapping[str, float | None]] = {}
    for tier in pool.tiers:
        service, cold = tier.service(asked), tier.cold
        if tier.estimates is None:
            continue
        entry: dict[str, float | None] = {
            "service_mean_s": service.mean,
            "service_tail_s": service.tail,
            "calls": getattr(service, "samples", None),
        }
        if not tier.owned:
            entry |= {
                "cold_mean_s": cold.mean,
                "cold_tail_s": cold.tail,
                "boots": getattr(cold, "samples", None),
            }
            if isinstance(tier.estimates, BackendEstimates):
                entry |= _boots(tier.estimates)
        found[tier.name] = entry
    return found


def _boots(estimates: BackendEstimates) -> dict[str, float | None]:
    """Boots more closely: by how long ago an instance was last used, and apart where there are two kinds."""
    found: dict[str, float | None] = {
        "cold_mean_within_1m_s": estimates.cold_at(0.0).mean,
        "cold_mean_within_10m_s": estimates.cold_at(60.0).mean,
        "cold_mean_later_s": estimates.cold_at(600.0).mean,
    }
    if (modes := estimates.cold_modes()) is not None:
        found |= {
            "cold_fast_share": modes.share_fast,
            "cold_fast_mean_s": modes.fast_mean,
            "cold_slow_mean_s": modes.slow_mean,
        }
    return found
