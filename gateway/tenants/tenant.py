"""One tenant: what it may use, what it has used, and the stay of each of its calls.

A stay begins after the route step and ends when the ledger books the call, whatever way that ended: it holds
a place, tokens and money meanwhile, and says on the answer what is left. Knows meters and budgets, calls and
records; never a header of a request, and never how a caller was recognised.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil, inf

from backends.base import SpillBudget
from gateway.config.tenants import DEFAULT, OTHER, TenantOptions
from gateway.errors import RateLimited, TenantBudgetSpent
from gateway.identity import lower_priority
from gateway.record import Record
from gateway.spending import DAY_S, Budget, Purse, Reservation, SpendSource
from gateway.tenants.meter import Meter, Rates, TooMuch, interval
from gateway.tenants.price import LEAST_USD, Prices
from gateway.tier import Tier
from gateway.vocab import Call, Outcome, Usage

BYTES_PER_TOKEN = 4
"""Of a request's JSON, for want of the model's own tokenizer; common advice for English text."""
_GENERATING = frozenset(("generate", "generate_stream"))
_NEWEST = 0.1
_ROUNDING_USD = 2e-12
"""Budgets count in trillionths; limits are rounded down, and what is set aside up."""


class Tenant:
    """One tenant of the file, or all callers that have none there.

    label:     what metrics call it
    outcomes:  its calls by how they ended; `limited`: those that were refused, by the limit that did
    usd:       what they cost, as far as it is known
    """

    def __init__(
        self, name: str, meter: Meter, prices: Prices, source: Callable[[], SpendSource | None]
    ) -> None:
        self.label = OTHER if name == DEFAULT else name
        self.who = "callers without a tenant" if name == DEFAULT else f"tenant {name}"
        self.outcomes: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.usd = 0.0
        self.meter = meter
        self.rates = Rates()
        self.purse: Purse | None = None
        self._prices = prices
        self._source = source
        self._budget: Budget | None = None
        self._priority: str | None = None
        self._held_s = 1.0
        self._policy = b""

    def configure(self, options: TenantOptions) -> None:
        """Hold it to these limits from now on; what was used under others counts.

        A rate remembers when all of it will be back: that moment stays where it is. Calls inside and dollars
        stay as they are.
        """
        self._priority = options.priority
        per_minute = options.requests_per_minute
        rate = options.requests_per_second or (per_minute or 0.0) / 60.0
        usual = options.requests_per_second or per_minute or 0.0
        tokens = options.tokens_per_minute or 0
        self.rates = Rates(
            request_ns=interval(rate) if rate else 0,
            burst=(options.burst or max(1, int(usual))) if rate else 0,
            token_ns=interval(tokens / 60.0) if tokens else 0,
            token_burst=tokens,
            most=options.max_concurrent or 0,
        )
        self._policy = _policy(self.rates, rate)
        self.purse = None
        if options.usd_per_hour is not None or options.usd_per_day is not None:
            limits = SpillBudget(
                usd_per_hour=options.usd_per_hour,
                usd_per_day=options.usd_per_day,
                on_exhausted=options.on_exhausted,
            )
            if self._budget is None:
                self._budget = Budget(self.who, limits, source=self._source())
            else:
                self._budget.change(limits, None, None)
            self.purse = Purse([self._budget])

    def enter(self, call: Call, record: Record, tiers: Iterable[Tier], now: float) -> None:
        """Let a call in that one of these tiers will serve. Raises RateLimited or TenantBudgetSpent.

        Either way the record has its stay.
        """
        if (most := self._priority) is not None:
            lower_priority(call, most)
        stay = record.stay = Stay(self)
        if self.purse is not None and call.inference:
            usd = self._affordable(self._prices.expected(record.route, tiers))
            stay.reservation = self.purse.reserve(usd, now)
            if stay.reservation is None:
                self.limited["budget"] += 1
                raise self._spent(self.purse, usd, now)
        tokens = expected_tokens(call, self.rates)
        too_much = self.meter.admit(self.rates, tokens, now)
        if too_much is not None:
            self.limited[too_much.limit] += 1
            raise self._limited(too_much)
        stay.since, stay.tokens = now, tokens

    def lines(self, now: float) -> bytes:
        """What is left, as header lines of an answer; b"" where nothing is limited but money.

        The fields of draft-ietf-httpapi-ratelimit-headers, version 10: lists of structured fields, whose
        `q` and `r` are whole numbers and whose `w` and `t` are whole seconds. `r` is what would be let in
        now, `t` when all of it will be back.
        """
        if not self._policy:
            return b""
        rates, left = self.rates, self.meter.left(self.rates, now)
        parts = []
        if rates.request_ns:
            parts.append(b'"requests";r=%d;t=%d' % (left.requests, left.requests_full_s))
        if rates.token_ns:
            parts.append(b'"tokens";r=%d;t=%d' % (left.tokens, left.tokens_full_s))
        if rates.most:
            parts.append(b'"concurrency";r=%d' % left.places)
        return b"%bratelimit: %b\r\n" % (self._policy, b", ".join(parts))

    def left(self, record: Record, held_s: float | None) -> None:
        """Count a call that has ended, and how long it was inside, if it was let in."""
        self.outcomes[record.outcome] += 1
        if record.usd is not None:
            self.usd += record.usd
            if record.attempts:
                self._prices.learn(record.route, record.usd)
        if held_s is not None:
            self._held_s += _NEWEST * (held_s - self._held_s)

    def _affordable(self, usd: float | None) -> float | None:
        """Never more than there ever is, or a call that looks dear could never be let in."""
        limit = None if self._budget is None else self._budget.limit_usd
        if usd is None or limit is None or limit < LEAST_USD:
            return usd
        return min(usd, limit - _ROUNDING_USD)

    def _limited(self, too_much: TooMuch) -> RateLimited:
        rates = self.rates
        if too_much.wait_s is None:
            # One of so many calls ends every so often.
            wait, said = self._held_s / rates.most, f"{rates.most} calls inside at once"
        elif too_much.limit == "tokens":
            wait, said = too_much.wait_s, f"{rates.token_burst} tokens per minute"
        else:
            wait, said = too_much.wait_s, "its rate of requests"
        seconds = float(max(1, ceil(wait)))
        return RateLimited(
            f"{self.who} may not use more than {said}; try again in {seconds:.0f} s", retry_after=seconds
        )

    def _spent(self, purse: Purse, usd: float | None, now: float) -> TenantBudgetSpent:
        if usd is None:
            return TenantBudgetSpent(
                f"the dollars of {self.who} are limited, and nobody knows what a call of this route costs",
                retry_after=DAY_S,
            )
        wait = purse.available_at(usd, now) - now
        seconds = DAY_S if wait == inf else float(max(1, ceil(wait)))
        return TenantBudgetSpent(
            f"the budget of {self.who} is used up; try again in {seconds:.0f} s", retry_after=seconds
        )


class Stay:
    """One call of a tenant (`gateway.record.Stay`).

    since:        when it was let in; None for one that was refused
    tokens:       set aside for it
    reservation:  its money, if dollars are limited
    """

    __slots__ = ("_tenant", "reservation", "since", "tokens")

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.since: float | None = None
        self.tokens = 0
        self.reservation: Reservation | None = None

    def lines(self, now: float) -> bytes:
        """What is left to its tenant."""
        return self._tenant.lines(now)

    def leave(self, record: Record, now: float) -> None:
        """The call has ended and is booked: give everything back, and count what it has used."""
        tenant, held_s = self._tenant, None
        if self.since is not None:
            held_s = now - self.since
            tenant.meter.leave(self.tokens, used_tokens(record, self.tokens), now)
        if (reservation := self.reservation) is not None:
            if record.attempts == 0:
                reservation.cancel()
            else:
                reservation.settle(record.usd, now)
        tenant.left(record, held_s)


def expected_tokens(call: Call, rates: Rates) -> int:
    """Tokens to set aside for a call: what it may write, and what its body may be; 0 where it has none.

    Never more than ever come back at once, or it could never be let in.
    """
    if not rates.token_ns or not call.inference:
        return 0
    if call.protocol != "openai" and call.max_tokens is None and call.operation not in _GENERATING:
        return 0
    expected = (call.body.length or 0) // BYTES_PER_TOKEN + (call.max_tokens or 0)
    return min(max(1, expected), rates.token_burst)


def used_tokens(record: Record, reserved: int) -> int:
    """Tokens that a call has used: as its backends told; where one that worked did not, what was set aside.

    A call for which none were expected uses none.
    """
    if not reserved or not record.attempts:
        return 0
    told, unknown = 0, False
    for tried in record.failed:
        tokens = _told(tried.usage)
        told += tokens or 0
        unknown = unknown or (tokens is None and not tried.refused)
    if record.slot_at is not None:
        tokens = _told(record.usage)
        told += tokens or 0
        worked = not record.refused and record.outcome is not Outcome.BACKEND_REJECTED
        unknown = unknown or (tokens is None and worked)
    return max(told, reserved) if unknown else told


def _told(usage: Usage | None) -> int | None:
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return max(0, usage.input_tokens or 0) + max(0, usage.output_tokens or 0)


def _policy(rates: Rates, rate: float) -> bytes:
    """The line that says the limits. A window lasts as long as an empty bucket takes to fill, in seconds."""
    parts = []
    if rates.request_ns:
        window = max(1, ceil(round(rates.burst / rate, 6)))
        parts.append(b'"requests";q=%d;w=%d' % (int(round(rate * window, 6)), window))
    if rates.token_ns:
        parts.append(b'"tokens";q=%d;w=60;qu="tokens"' % rates.token_burst)
    if rates.most:
        parts.append(b'"concurrency";q=%d;qu="concurrent-requests"' % rates.most)
    return b"ratelimit-policy: %b\r\n" % b", ".join(parts) if parts else b""
