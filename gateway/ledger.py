"""Step 8: exactly one record per call, booked once: counts, latencies, budget, warm or cold, money, log line.

Knows the leaves, its records and tallies, and the access log. It never knows how a call was carried
out, and it never asks a backend: what a call used is written in its record. Money is conserved: what
the owned replicas cost by standing there equals what calls were charged for slots, plus what running
calls will be, plus idle.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite

from gateway import pricing
from gateway.access_log import AccessLog
from gateway.advice import Advice
from gateway.booking import book_alike, is_plain
from gateway.record import Record, Tried
from gateway.tallies import (
    KINDS,
    NONE,
    OTHER,
    BackendFacts,
    Labels,
    Lane,
    RouteFacts,
    RouteTally,
    Standing,
    Tally,
)
from gateway.tracing.trace import SAMPLED_ENDS
from gateway.vocab import OK, Charge, Outcome, Reply

log = logging.getLogger("overspill.ledger")

_OUTSIDE_BUDGET = frozenset((Outcome.CLIENT_GONE, Outcome.REJECTED))
"""The client's own doing: neither kept nor missed."""

_ANSWERED = frozenset((Outcome.OK, Outcome.BACKEND_REJECTED))
"""The client had a whole answer, so its latency says whether the budget was kept."""

ENDED = 1_000
"""Records that are kept after their calls, for whoever asks what became of one."""

BATCH = 128
"""Calls that are booked together, in half a millisecond. The code and the counters that it takes are far from
the processor when a call ends; for the second of several they are near, which is worth half of what booking
costs."""


class Ledger:
    """Opens and closes the record of every call, and keeps the sums.

    One event loop owns it; nothing here waits. `opened == closed + open_records` at every moment.
    """

    def __init__(
        self,
        *,
        routes: Iterable[RouteFacts],
        backends: Iterable[BackendFacts],
        now: float,
        access_log: AccessLog | None = None,
        advice: Advice | None = None,
    ) -> None:
        self.access_log = access_log
        self.advice = advice
        self.opened = 0
        self.closed = 0
        self.reloads = {"ok": 0, "rejected": 0}
        self.traced: Callable[[], Mapping[str, int]] | None = None
        self.backends: dict[str, BackendFacts] = {}
        self.standing: dict[str, Standing] = {}
        self._ended: deque[Record] = deque(maxlen=ENDED)
        self._routes: dict[str, RouteTally] = {}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._tallies: dict[Labels, Tally] = {}
        self._open: set[Record] = set()
        self._unbooked: list[Record] = []
        self._configure(routes, backends, now)
        if advice is not None:
            advice.replicas = self.replicas
        if access_log is not None:
            access_log.before_flush = self.settle

    @property
    def open_records(self) -> int:
        """Calls that are in progress."""
        return len(self._open)

    def replicas(self) -> dict[str, int]:
        """How many of each owned backend stand there."""
        return {name: facts.replicas for name, facts in self.backends.items() if facts.owned}

    # What a reader sees has everything booked that was closed before.

    @property
    def ended(self) -> deque[Record]:
        """The last records that were closed."""
        self.settle()
        return self._ended

    @property
    def routes(self) -> dict[str, RouteTally]:
        """Counters by route."""
        self.settle()
        return self._routes

    @property
    def lanes(self) -> dict[tuple[str, str], Lane]:
        """Counters by route and backend."""
        self.settle()
        return self._lanes

    @property
    def tallies(self) -> dict[Labels, Tally]:
        """Calls by labels."""
        self.settle()
        return self._tallies

    # --- one call -----------------------------------------------------------------------------------

    def open(self, request_id: str, traceparent: str, arrived: float) -> Record:
        """The record of a call whose head was complete at `arrived`.

        Both strings go into the access log as they are, so they must have been checked: the id against
        [A-Za-z0-9._:-]{1,128}. Every opened record must be closed.
        """
        record = Record(request_id, traceparent, arrived)
        self._open.add(record)
        self.opened += 1
        return record

    def close(self, record: Record, now: float) -> None:
        """The call is over and will be booked, once: a record that is not open is a RuntimeError."""
        try:
            self._open.remove(record)
        except KeyError:
            raise RuntimeError(f"record {record.request_id!r} is not open: closed twice?") from None
        self.closed += 1
        record.closed_at = now
        self._unbooked.append(record)
        # Whoever asks for its dollars next must find them; an attempt beside it may still be written down.
        if record.failed or record.stay is not None or len(self._unbooked) >= BATCH:
            self.settle()
        elif (access_log := self.access_log) is not None and not access_log.expects:
            access_log.expect()

    def settle(self) -> None:
        """Book what was closed and is not booked yet, in the order in which it was closed."""
        unbooked, self._unbooked = self._unbooked, []
        if not unbooked:
            return
        booked = self._book_all(unbooked)
        if self.access_log is not None:
            self.access_log.write(booked)

    def _book_all(self, records: list[Record]) -> list[tuple[Record, Tally]]:
        """Book them; returns what each was counted under."""
        booked: list[tuple[Record, Tally]] = []
        alike: dict[Tally, list[Record]] = {}
        tallies = self._tallies
        for record in records:
            tally = tallies.get((record.route, record.backend, record.reason, record.start, record.outcome))
            if tally is not None and is_plain(record, tally):
                if (group := alike.get(tally)) is None:
                    group = alike[tally] = []
                group.append(record)
            else:
                tally = self._book_safely(record)
            if tally is not None:
                booked.append((record, tally))
        for tally, group in alike.items():
            if not self._book_alike(group, tally):
                for record in group:
                    self._book_safely(record)
        self._ended += records
        return booked

    def _book_alike(self, group: list[Record], tally: Tally) -> bool:
        try:
            return book_alike(group, tally, self.advice)
        except (TypeError, ValueError):  # one of them cannot be booked, and none is yet
            return False

    def _book_safely(self, record: Record) -> Tally | None:
        try:
            return self._book(record)
        except Exception:
            # It is not the failure of the call that happens to be closed now, nor of those behind it.
            log.exception("request %s could not be booked", record.request_id)
            return None

    def _book(self, record: Record) -> Tally:
        """Count one call; returns what it was counted under."""
        now = record.closed_at or record.arrived
        outcome = record.outcome
        tally = self._tallies.get((record.route, record.backend, record.reason, record.start, outcome))
        if tally is None:
            tally = self._tally(record)
        tally.count += 1
        lane = tally.lane
        route = lane.route
        duration = now - record.arrived
        trace = record.traceparent if record.traceparent[-1:] in SAMPLED_ENDS else ""
        first_byte_at = record.first_byte_at
        if first_byte_at is None:
            lane.duration.observe(duration, trace, now)
        else:
            lane.duration.observe_both(duration, lane.ttfb, first_byte_at - record.arrived, trace, now)
        if record.attempts:
            own = duration - record.queued_s - record.upstream_s
            route.overhead.observe(own if own > 0.0 else 0.0)
        if record.inference:
            slot_at = record.slot_at
            if slot_at is not None and lane.standing is not None and not record.failed:
                # Nearly every call: what `_book_cost` comes to for it.
                record.usd = lane.hold(now - slot_at, now)
            elif slot_at is not None or record.failed:
                self._book_cost(record, lane, now)
            if outcome is OK:
                route.served += 1
                lane.served += 1
            if outcome not in _OUTSIDE_BUDGET:
                if (within := route.within) is not None:
                    route.budget_calls += 1
                    if record.stream:
                        within = route.first_byte or within
                        if first_byte_at is not None:
                            duration = first_byte_at - record.arrived
                    if duration > within or outcome not in _ANSWERED:
                        route.missed += 1
                if (advice := self.advice) is not None:
                    advice.note(record, lane.owned, now)
        if (stay := record.stay) is not None:
            stay.leave(record, now)
        return tally

    def cost_at_head(self, record: Record, reply: Reply, now: float) -> float | None:
        """Dollars that the call has cost, retries included, if they are known when the head goes out.

        They are not for an owned backend's stream: its slot stays held until the last byte.
        """
        if record.slot_at is None or not record.inference:
            return None
        standing = self.standing.get(record.backend)
        if standing is not None:
            usd = None if reply.body is None else (now - record.slot_at) * standing.slot_usd
        else:
            usd = None if reply.usage is None else reply.usage.usd
        for tried in record.failed:
            standing = self.standing.get(tried.backend)
            if usd is None:
                return None
            if standing is not None:
                usd += tried.held_s * standing.slot_usd
            elif not tried.refused:
                if tried.usage is None or tried.usage.usd is None:
                    return None
                usd += tried.usage.usd
        return usd

    def _book_cost(self, record: Record, lane: Lane, now: float) -> None:
        total: float | None = 0.0
        if record.slot_at is not None:
            last = Tried(record.backend, record.replica, record.usage, now - record.slot_at, record.refused)
            total = _book(lane, lane.kind, last, now)
            if total is None and lane.priced:
                # After a whole answer nothing more will be told: the backend's price is not known.
                # A broken attempt only makes the sum a lower bound.
                if record.outcome is Outcome.OK:
                    lane.unknown = True
                else:
                    lane.unpriced += 1
        record.usd = self._book_failed(record, lane, total, now) if record.failed else total

    def _book_failed(self, record: Record, lane: Lane, total: float | None, now: float) -> float | None:
        """Book the attempts that came to nothing; `total` and their dollars, None where not all is known."""
        for tried in record.failed:
            other = self._lane(record.route, tried.backend)
            usd = _book(other, tried.kind, tried, now)
            if usd is None and other.priced:
                other.unpriced += 1
            total = None if total is None or usd is None else total + usd
        if record.hedge is not None:  # one of its two attempts has come to nothing
            lane.route.hedges[record.hedge.result] += 1
        return total

    def _tally(self, record: Record) -> Tally:
        """The counters of a record, under labels from the configuration whatever the record says."""
        lane = self._lane(record.route, record.backend)
        labels = (lane.route.facts.name, lane.backend, record.reason, record.start, record.outcome)
        tally = self._tallies.get(labels)
        if tally is None:
            tally = Tally(lane, record.reason, record.start, record.outcome)
            self._tallies[labels] = tally
        return tally

    def _lane(self, route: str, backend: str) -> Lane:
        if backend not in self.backends:
            backend = NONE
        tally = self._routes.get(route) or self._routes[OTHER]
        key = (tally.facts.name, backend)
        lane = self._lanes.get(key)
        if lane is None:
            facts = self.backends.get(backend)
            lane = self._lanes[key] = Lane(tally, backend, facts, self.standing.get(backend))
        return lane

    # --- money outside calls --------------------------------------------------------------------------

    def charge(self, backend: str, charge: Charge) -> None:
        """Book money that fell due outside any attempt. ValueError for a kind or sum that makes no sense."""
        self.settle()
        if charge.kind not in KINDS:
            raise ValueError(f"unknown kind of cost {charge.kind!r}; known: {', '.join(sorted(KINDS))}")
        if not (isfinite(charge.usd) and charge.usd >= 0):
            raise ValueError(f"a charge of {charge.usd!r} dollars makes no sense")
        lane = self._lane(charge.route, backend)
        lane.usd[charge.kind] = lane.usd.get(charge.kind, 0.0) + charge.usd
        lane.outside_usd += charge.usd

    def idle_usd(self, now: float) -> dict[str, float]:
        """Dollars per owned backend of known price that no call answers for; never falls."""
        self.settle()
        held = self._held(now)
        return {
            name: standing.idle(held.get(name, 0.0), now)
            for name, standing in self.standing.items()
            if name not in self.backends or self.backends[name].priced
        }

    def in_progress_usd(self, now: float) -> dict[str, float]:
        """Dollars per owned backend that running calls will be charged for their slots up to now."""
        self.settle()
        held = self._held(now)
        return {name: held.get(name, 0.0) * standing.slot_usd for name, standing in self.standing.items()}

    def _held(self, now: float) -> dict[str, float]:
        """Slot-seconds of calls that are not booked yet, per backend."""
        held: dict[str, float] = {}
        for record in self._open:
            if not record.inference:  # a question about a model: it has a backend, but no slot
                continue
            for tried in record.failed:
                held[tried.backend] = held.get(tried.backend, 0.0) + tried.held_s
            if record.slot_at is not None:
                held[record.backend] = held.get(record.backend, 0.0) + now - record.slot_at
            hedge = record.hedge
            if hedge is not None and hedge.slot_at is not None:
                held[hedge.backend] = held.get(hedge.backend, 0.0) + now - hedge.slot_at
        return held

    def slots_held(self) -> dict[tuple[str, str], int]:
        """Slots that running calls hold, by route and backend."""
        held: dict[tuple[str, str], int] = {}
        for record in self._open:
            if not record.inference:
                continue
            if record.slot_at is not None:
                key = (record.route, record.backend)
                held[key] = held.get(key, 0) + 1
            hedge = record.hedge
            if hedge is not None and hedge.slot_at is not None:
                key = (record.route, hedge.backend)
                held[key] = held.get(key, 0) + 1
        return held

    def cost_per_thousand(self, now: float) -> dict[str, float]:
        """Dollars per 1,000 served calls of each route, its share of idle replicas included.

        Idle is shared between the routes of a backend by the slot time they held there, evenly while
        none was held. A route is missing while nothing was served or the price of a backend it uses
        is unknown.
        """
        figures = {}
        for name, (usd, served) in self.cost_and_served(now).items():
            figure = None if usd is None else pricing.per_thousand(usd, served)
            if figure is not None:
                figures[name] = figure
        return figures

    def cost_and_served(self, now: float) -> dict[str, tuple[float | None, int]]:
        """For each route its dollars, idle replicas included (None: not known), and served calls."""
        self.settle()
        idle = self.idle_usd(now)
        return {name: (self._route_usd(route, idle), route.served) for name, route in self._routes.items()}

    def _route_usd(self, route: RouteTally, idle: Mapping[str, float]) -> float | None:
        name = route.facts.name
        total = 0.0
        for (of, _), lane in self._lanes.items():
            if of == name and lane.backend != NONE:
                used = lane.duration.count > 0 or any(lane.usd.values())
                if used and not lane.cost_known:
                    return None
                total += sum(lane.usd.values())
        for backend in route.facts.backends:
            facts = self.backends.get(backend)
            if facts is None or not facts.owned:
                continue
            if not facts.priced:
                return None
            total += idle[backend] * self._share(name, backend)
        return total

    def _share(self, route: str, backend: str) -> float:
        """Which part of an owned backend's idle cost the route answers for."""
        users = [name for name, other in self._routes.items() if backend in other.facts.backends]
        seconds = {name: self._lane(name, backend).slot_seconds for name in users}
        whole = sum(seconds.values())
        return seconds[route] / whole if whole > 0 else 1.0 / len(users)

    # --- configuration --------------------------------------------------------------------------------

    def reload(self, *, routes: Iterable[RouteFacts], backends: Iterable[BackendFacts], now: float) -> None:
        """Go on under a new configuration. Sums stay, prices hold from now on.

        What left the configuration keeps its counters. A route whose latency budget changed starts its
        histograms anew: their edges stand around the budget.
        """
        self.settle()
        self._configure(routes, backends, now)

    def resized(self, backend: str, replicas: int, slots: int, *, now: float) -> None:
        """From now on so many replicas stand there, with so many slots each: what that costs follows."""
        self.settle()
        facts, standing = self.backends[backend], self.standing.get(backend)
        facts = facts._replace(replicas=replicas, slots_per_replica=slots)
        if facts != self.backends[backend]:
            self.backends[backend] = facts
            if standing is not None:
                standing.price(facts, now)

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload: taken over, or rejected."""
        self.reloads["ok" if ok else "rejected"] += 1

    def _configure(self, routes: Iterable[RouteFacts], backends: Iterable[BackendFacts], now: float) -> None:
        self.backends = {facts.name: facts for facts in backends}
        for name, standing in self.standing.items():
            standing.price(self.backends.get(name), now)
        for facts in self.backends.values():
            if facts.owned and facts.priced and facts.name not in self.standing:
                self.standing[facts.name] = Standing(facts, now)
        current = {facts.name: facts for facts in (*routes, RouteFacts(OTHER))}
        for name, route in self._routes.items():
            route.configure(current.get(name) or RouteFacts(name))
        for name, route_facts in current.items():
            if name not in self._routes:
                self._routes[name] = RouteTally(route_facts)
        for (_, backend), lane in self._lanes.items():
            backend_facts = self.backends.get(backend)
            priced = backend_facts is not None and backend_facts.priced
            lane.describe(backend_facts, self.standing.get(backend) if priced else None)
        for name, route in self._routes.items():
            for backend in route.facts.backends:
                self._lane(name, backend)  # so that its counters are there, at zero, before its first call


def _book(lane: Lane, kind: str, attempt: Tried, now: float) -> float | None:
    """Book one attempt; its dollars, None when they cannot be known."""
    usd: float | None = None
    usage = attempt.usage
    if lane.standing is not None:
        return lane.hold(attempt.held_s, now, kind)
    if not lane.owned and usage is not None:
        usd = usage.usd
        lane.billed_s += usage.billed_s or 0.0
        if usage.boot_s:
            lane.boots.observe(usage.boot_s)
    elif attempt.refused and not lane.owned:
        return 0.0
    if usd is not None:
        lane.usd[kind] = lane.usd.get(kind, 0.0) + usd
    return usd
