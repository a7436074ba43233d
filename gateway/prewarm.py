"""When to open rented instances before they are needed, and which idle ones to keep: one rule per pool.

Pure and on passed-in time: the live loop and the simulator call the same `tick`, once a second. It never
opens anything itself and knows no backend: a `Plan` is data, and every cent of it is `prewarm` money of the
route it names. Without a `prewarm` section in the file a plan is always empty.

The n-th instance ahead pays when (newsvendor)

    P(demand reaches the fleet's slots + n)  >  A / (V * misses avoided + A)

with A the price of an activation (boot and idle time-out), which a needed instance would have cost anyway,
and V what it is worth to spare one call a late answer. The probability is the greater of two: what the
forecast says of the horizon of a cold start, and how often demand overflowed the fleet again after as many
seconds as have passed since it last did. A burst that has begun bypasses both, for two instances.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from math import ceil, erfc, log, sqrt
from typing import NamedTuple

from gateway.config.schema import Prewarm
from gateway.forecast import Arrivals, BurstDetector, Forecast, Season
from gateway.keep_warm import KeepWarm, Terms, ping_age
from gateway.overflows import Overflows
from gateway.vocab import Rent
from gateway.warmth import Idle

KIND = "prewarm"
"""What all of it is booked as (`overspill_cost_usd_total{kind}`)."""

OPENS_PER_TICK = 8
"""More are opened in the next tick, if they still pay then."""
BURST_INSTANCES = 2
"""What one burst may open on its word alone."""
BURST_STAYS = 0.5
"""The chance given to a burst that it outlasts a cold start: nothing is known of it yet."""
TAIL_Z = 2.326
"""`cold_tail_s` and `service_tail_s` are 99 % quantiles: so many standard deviations of a normal."""
HOUR_S = 3600.0


class State(NamedTuple):
    """A pool and the rented backend that is warmed for it, at one moment. Seconds and dollars.

    fleet_slots, fleet_busy:  owned slots that can be used, and those taken
    opening, serving, idle:   instances of the backend by state, however they were opened
    queued:                   calls waiting
    room:                     instances that could still be opened (the provider's and the file's limits)
    rent:                     what an instance costs; None or a price of None: nothing is opened
    cold_mean_s, cold_tail_s, service_mean_s, service_tail_s:  estimates for the backend; tails are p99
    budget_s:                 the route's latency budget; None: no call can be late, nothing is opened ahead
    spill_usd:                what is left of the spill budget; None: no limit
    miss_usd:                 what a spared late answer is worth now; None: as the file says
    """

    backend: str
    fleet_slots: int
    fleet_busy: int
    opening: int
    serving: int
    idle: Sequence[Idle]
    queued: int
    room: int
    rent: Rent | None
    cold_mean_s: float
    cold_tail_s: float
    service_mean_s: float
    service_tail_s: float
    budget_s: float | None
    spill_usd: float | None = None
    miss_usd: float | None = None

    @property
    def slack_s(self) -> float:
        """How long a call may wait and still be answered in time; 0.0 where there is no budget."""
        return 0.0 if self.budget_s is None else max(0.0, self.budget_s - self.service_tail_s)


class Cause(StrEnum):
    """Why a plan is what it is. A closed list."""

    OFF = "off"  # the file does not ask for it
    NO_PRICE = "no_price"  # what it would cost is not known
    NOT_WORTH = "not_worth"  # nothing would pay
    FORECAST = "forecast"
    RHYTHM = "rhythm"  # demand overflowed at such intervals before
    BURST = "burst"
    KEEP_WARM = "keep_warm"
    NO_MONEY = "no_money"  # it would pay, but the hour's or the route's money is spent
    FULL = "full"  # it would pay, but no more instances may be up


class Plan(NamedTuple):
    """What to do now: open so many instances, ping so many idle ones (the oldest that are due).

    usd:  reserved for it, an upper estimate; the bill itself is booked on `route` as `kind`
    """

    route: str
    backend: str
    open: int
    ping: int
    reason: Cause
    usd: float = 0.0
    kind: str = KIND


class HourlyCap:
    """Dollars within any hour: what was reserved, or what was charged if that is more."""

    def __init__(self, usd_per_hour: float) -> None:
        self._cap = usd_per_hour
        self._reserved = _Hour()
        self._charged = _Hour()

    def limit(self, usd_per_hour: float) -> None:
        """Another limit from now on; what was spent counts."""
        self._cap = usd_per_hour

    def remaining(self, now: float) -> float:
        """What may still be reserved."""
        return max(0.0, self._cap - max(self._reserved.total(now), self._charged.total(now)))

    def reserve(self, usd: float, now: float) -> None:
        """Set `usd` aside; ValueError beyond what remains: the caller has to ask first."""
        if usd > self.remaining(now):
            raise ValueError(f"${usd:g} is more than the ${self.remaining(now):g} left of this hour")
        self._reserved.add(usd, now)

    def charged(self, usd: float, now: float) -> None:
        """A bill has come."""
        self._charged.add(usd, now)


class _Hour:
    """A sum over the last hour."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float]] = deque()
        self._total = 0.0

    def add(self, usd: float, now: float) -> None:
        self._entries.append((now, usd))
        self._total += usd

    def total(self, now: float) -> float:
        entries = self._entries
        if entries and entries[0][0] <= now - HOUR_S:
            while entries and entries[0][0] <= now - HOUR_S:
                entries.popleft()
            self._total = sum(usd for _, usd in entries)  # anew: what is subtracted leaves a residue
        return self._total


class _Worth(NamedTuple):
    """The money side of one tick. `critical` is the probability above which a new instance pays."""

    open_usd: float  # expected price of an activation that nobody uses
    open_reserve_usd: float
    ping_reserve_usd: float
    gain_usd: float  # of an instance that is there when it is needed
    burst_gain_usd: float  # the same where demand outlasts the boot
    cold_usd: float

    @property
    def critical(self) -> float:
        return self.open_usd / self.gain_usd if self.gain_usd > 0.0 else 1.0


class Controller:
    """The rule of one pool. `arrived` for every call, `tick` every second."""

    def __init__(
        self, route: str, options: Prewarm | None, *, now: float, season: Season | None = None
    ) -> None:
        self.route = route
        self.options = options
        self.forecast = Forecast(season=season)
        self.detector = BurstDetector()
        self.overflows = Overflows()
        self.keep_warm = KeepWarm()
        self.cap = HourlyCap(options.usd_per_hour if options is not None else 0.0)
        self._arrivals = Arrivals(now)
        self.arrived: Callable[[float], None] = self._arrivals.arrived
        """A call has come, at this time on the clock."""
        self._burst_at = float("-inf")
        self._burst_opened = 0

    def gap(self, gap_s: float, now: float) -> None:
        """A call used an instance `gap_s` after its last use, or would have, had it still been up."""
        self.keep_warm.gap(gap_s, now)

    def charged(self, usd: float, now: float) -> None:
        """A charge of kind `prewarm` was booked on this route."""
        self.cap.charged(usd, now)

    def tick(self, now: float, state: State) -> Plan:
        """What to do in this second. Reserves the money of what it returns."""
        self._learn(now, state)
        nothing = Plan(self.route, state.backend, 0, 0, Cause.OFF)
        if self.options is None:
            return nothing
        rent = state.rent
        if rent is None or rent.usd_per_second is None:
            return nothing._replace(reason=Cause.NO_PRICE)
        worth = self._worth(state, rent, rent.usd_per_second, self.options)
        usd_left = self.cap.remaining(now)
        if state.spill_usd is not None:
            usd_left = min(usd_left, max(0.0, state.spill_usd))
        pings, dying, why_ping = self._pings(now, state, rent, worth)
        afforded = min(pings, _times(worth.ping_reserve_usd, usd_left))
        usd = afforded * worth.ping_reserve_usd
        short = afforded < pings
        supply = state.opening + state.serving + len(state.idle) - (dying - afforded)
        opens, why, blocked = self._opens(now, state, worth, supply, usd_left - usd)
        usd += opens * worth.open_reserve_usd
        if usd > 0.0:
            self.cap.reserve(min(usd, usd_left), now)
        if opens == 0:
            why = why_ping if afforded else Cause.NO_MONEY if short else (blocked or Cause.NOT_WORTH)
        return Plan(self.route, state.backend, opens, afforded, why, usd)

    def advice(self, now: float, state: State) -> str | None:
        """What to tell the operator about the backend's idle time-out; None when there is nothing."""
        if state.rent is None or state.rent.usd_per_second is None or self.options is None:
            return None
        worth = self._worth(state, state.rent, state.rent.usd_per_second, self.options)
        return self.keep_warm.advice(now, _terms(state.rent, worth))

    # -- what it knows ---------------------------------------------------------------------------

    def _learn(self, now: float, state: State) -> None:
        # What a queue carries within the slack needs no instance; what is opened ahead waits for `idle_s`.
        self.forecast.aim(
            max(1.0, state.service_mean_s, state.slack_s),
            state.rent.idle_s if state.rent is not None else 0.0,
        )
        for index, count in self._arrivals.drain(now):
            self.forecast.second(index, count)
            self.detector.second(index, count)
            self.overflows.second(index, self.forecast.windowed * state.service_mean_s - state.fleet_slots)

    def _worth(self, state: State, rent: Rent, price: float, options: Prewarm) -> _Worth:
        boot, boot_tail = (state.cold_mean_s, state.cold_tail_s) if rent.bills_boot else (0.0, 0.0)
        boot_usd = price * boot + rent.usd_per_call
        open_usd = boot_usd + _idle_price(rent) * rent.idle_s
        value = next((usd for usd in (state.miss_usd, options.miss_usd) if usd is not None), open_usd)
        spared, spared_by_burst = self._misses_avoided(state)
        spared_usd = value * spared
        spare_s = (rent.idle_s if rent.bills_idle else 0.0) + rent.round_up_s
        return _Worth(
            open_usd=open_usd,
            open_reserve_usd=price * (max(boot, boot_tail) + spare_s) + rent.usd_per_call,
            ping_reserve_usd=price * spare_s + rent.usd_per_call,
            gain_usd=spared_usd + open_usd,
            burst_gain_usd=value * spared_by_burst + open_usd,
            cold_usd=spared_usd + boot_usd,
        )

    def _misses_avoided(self, state: State) -> tuple[float, float]:
        """Calls that would be late if this instance only began to boot when they come.

        The first of them, and those that one slot would have served while calls are late: for as long as the
        boot exceeds the slack, but (first figure) no longer than demand usually stays above the fleet.
        """
        if state.budget_s is None:
            return 0.0, 0.0
        chance, late_s = lateness(state.cold_mean_s, state.cold_tail_s, state.budget_s - state.service_tail_s)
        lasts = self.overflows.duration_s
        lasts = float(self.forecast.window_s) if lasts is None else lasts
        service = max(state.service_mean_s, 1e-6)
        return chance + min(late_s, lasts * chance) / service, chance + late_s / service

    # -- what follows ----------------------------------------------------------------------------

    def _chance(self, now: float, state: State, instances: int, ahead_s: float) -> tuple[float, Cause]:
        """P(demand reaches the fleet's slots and `instances` more), and which of the two says so."""
        rate = (state.fleet_slots + instances) / max(state.service_mean_s, 1e-6)
        forecast = self.forecast.chance(ahead_s, rate, now)
        rhythm = self.overflows.chance(instances, ahead_s + 1.0, now)
        return (rhythm, Cause.RHYTHM) if rhythm > forecast else (forecast, Cause.FORECAST)

    def _pings(self, now: float, state: State, rent: Rent, worth: _Worth) -> tuple[int, int, Cause]:
        """Idle instances worth a ping now, idle instances that are due for one, and why."""
        if not state.idle or rent.idle_s <= 0.0 or self.options is None:
            return 0, 0, Cause.NOT_WORTH
        due_at = ping_age(rent.idle_s)
        price = _idle_price(rent)
        up = state.opening + state.serving
        keep: float | None = None
        pings = due = 0
        why = Cause.NOT_WORTH
        for place, idle in enumerate(sorted(state.idle, key=_age), start=1):
            if idle.age_s < due_at:
                continue
            due += 1
            if up + place > self.options.max_instances:
                continue
            if keep is None:
                keep = self.keep_warm.keep(now, _terms(rent, worth))
            if idle.unused_s - idle.age_s < keep:
                pings, why = pings + 1, Cause.KEEP_WARM
            else:
                chance, cause = self._chance(now, state, up + place, rent.idle_s)
                if chance * worth.gain_usd > price * idle.age_s + rent.usd_per_call:
                    pings, why = pings + 1, cause
        return pings, due, why

    def _opens(
        self, now: float, state: State, worth: _Worth, supply: int, usd_left: float
    ) -> tuple[int, Cause, Cause | None]:
        """How many to open, why, and what stands in the way of one that would pay."""
        assert self.options is not None
        up = state.opening + state.serving + len(state.idle)
        places = max(0, min(self.options.max_instances - up, state.room))
        wanted, why = self._burst(now, state, worth, supply)
        if wanted == 0 and worth.critical < 1.0:
            while wanted < OPENS_PER_TICK:
                chance, cause = self._chance(now, state, supply + wanted + 1, state.cold_tail_s)
                if chance <= worth.critical:
                    break
                wanted, why = wanted + 1, cause
        payable = _times(worth.open_reserve_usd, usd_left)
        opens = min(wanted, places, payable)
        if why is Cause.BURST:
            self._burst_opened += opens
        blocked = None
        if wanted:
            blocked = Cause.FULL if places <= payable else Cause.NO_MONEY
        return opens, why, blocked

    def _burst(self, now: float, state: State, worth: _Worth, supply: int) -> tuple[int, Cause]:
        """A burst is on: up to two instances at once, if the calls there are do not fit what is up."""
        if not self.detector.burst(now):
            return 0, Cause.NOT_WORTH
        if now - self._burst_at > state.cold_tail_s + 1.0:
            self._burst_opened = 0  # not the same burst any more
        self._burst_at = now
        if BURST_STAYS * worth.burst_gain_usd <= worth.open_usd:
            return 0, Cause.NOT_WORTH
        service = state.service_mean_s
        held = state.fleet_busy + state.serving + state.queued * service / max(state.slack_s, service, 1e-6)
        short = max(self.detector.rate() * service, held) - state.fleet_slots - supply
        wanted = min(BURST_INSTANCES - self._burst_opened, ceil(short))
        return (wanted, Cause.BURST) if wanted > 0 else (0, Cause.NOT_WORTH)


def lateness(mean_s: float, tail_s: float, slack_s: float) -> tuple[float, float]:
    """(P(a cold start outlasts the slack), mean seconds by which it does).

    The cold start is log-normal with that mean and 99 % quantile; the second is its partial expectation.
    """
    if mean_s <= 0.0:
        return 0.0, 0.0
    if slack_s <= 0.0:
        return 1.0, mean_s
    spread = log(max(tail_s, mean_s) / mean_s)
    sigma = TAIL_Z - sqrt(max(0.0, TAIL_Z * TAIL_Z - 2.0 * spread))
    if sigma <= 1e-9:
        return (1.0, mean_s - slack_s) if mean_s > slack_s else (0.0, 0.0)
    distance = (log(mean_s) - sigma * sigma / 2.0 - log(slack_s)) / sigma
    chance = _below(distance)
    return chance, max(0.0, mean_s * _below(distance + sigma) - slack_s * chance)


def _below(deviations: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * erfc(-deviations / sqrt(2.0))


def _idle_price(rent: Rent) -> float:
    """Dollars per idle second of one instance; only asked where the price is known."""
    return (rent.usd_per_second or 0.0) if rent.bills_idle else 0.0


def _terms(rent: Rent, worth: _Worth) -> Terms:
    # Rounded, so that estimates that move by a hair do not have the histogram summed up anew.
    return Terms(_idle_price(rent), float(f"{worth.cold_usd:.2g}"), rent.idle_s, rent.usd_per_call)


def _times(each_usd: float, usd: float) -> int:
    """How many of `each_usd` fit into `usd`."""
    return int(min(usd // each_usd, 1e9)) if each_usd > 0.0 else 1_000_000_000


def _age(idle: Idle) -> float:
    return idle.age_s
