"""What decided, and what was decided: the events that reach pools and slots, in order, with every answer.

A recorder hands out the very `Pool` and `Capacity` that a gateway runs with, and stands at each of their
seams: the clock, chance, the timers, the opener, the policy, and the few methods that others call. While an
event is dealt with the clock stands still, and chance comes from a seed of the recorder's own, so that the
lines say all there is to know: whoever feeds the events to another pool gets the same decisions, to the last
digit (`gateway.simulator.replay`).

    setup      a backend; a route with its tiers and what is expected of them
    event      arrive, release, leave, open, opened, ring, ready, learned, refresh, beyond
    decision   what the policy answered to that event

A line is a dict of JSON values. Neither bodies nor headers are noted: of a header that a policy asked for,
only which backend it names. What no replay could do again (a slot taken by no event, as a hedge does) is
noted as `beyond`, and there a replay ends. It knows no concrete policy or backend, and changes no decision.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from backends.base import Backend
from gateway.capacity import Capacity
from gateway.clock import Clock, Timer, TimerHost
from gateway.lease import Lease
from gateway.memory import Remembered
from gateway.pool import Opened, Opener, Pool
from gateway.recorded import VERSION, Line, Still, action_line, decisions, estimates_line
from gateway.replica_set import Replicas
from gateway.slot import Slot
from gateway.tier import PursedTier, Tier
from gateway.vocab import Reason, Verdict
from policies.base import Action, Policy, PoolView, RequestView, Take

LIMIT = 200_000
"""Lines that are kept; nothing is noted after them."""


class Recorder:
    """Makes capacities and pools whose events and decisions are noted in `lines`.

    seed:   of the chance that they draw from
    limit:  most lines; `full` once an event was left out for it
    """

    def __init__(self, *, clock: Clock, timers: TimerHost, seed: int = 0, limit: int = LIMIT) -> None:
        self.lines: list[Line] = [{"recording": VERSION, "seed": seed}]
        self.full = False
        self._limit = limit
        self._clock = clock
        self._still = Still(clock)
        self._timers = _Timers(self, timers)
        self._chance = Random(seed)  # noqa: S311 - it spreads load, and has to be repeatable
        self._numbers: dict[Lease, tuple[int, Line]] = {}
        self._arrived = 0
        self._openings = 0
        self._noting = False
        self._backends: set[str] = set()
        self._tiers: list[tuple[str, Sequence[Tier]]] = []

    # -- what a gateway is built from ----------------------------------------------------------

    def capacity(self, backend: Backend) -> Capacity:
        """The slots of a backend."""
        rent, most = backend.rent, backend.options.max_in_flight
        self._backends.add(backend.name)
        self.lines.append(
            {
                "setup": "backend",
                "name": backend.name,
                "owned": backend.owned,
                "replicas": len(backend.replicas),
                "slots": int(most),
                "fixed": type(most) is int and not getattr(backend, "moves", False),
                "can_open": backend.can_open,
                "binds_late": backend.binds_late,
                "rent": None if rent is None else list(rent),
                "carries_all": backend.carries_all and backend.speaks_grpc,
            }
        )
        return _Capacity(self, backend, clock=self._still, chance=self._chance, timers=self._timers)

    def pool(
        self,
        route: str,
        policy: Policy,
        tiers: Sequence[Tier],
        *,
        opener: Opener | None = None,
        within: float | None = None,
        first_byte: float | None = None,
        objective: float = 0.99,
        best_effort_limit: int | None = None,
    ) -> Pool:
        """The queue of a route."""
        self._tiers.append((route, tiers))
        with self._still.at(self._clock.now()) as now:
            self.lines.append(
                {
                    "setup": "route",
                    "at": now,
                    "name": route,
                    "within": within,
                    "first_byte": first_byte,
                    "objective": objective,
                    "best_effort_limit": best_effort_limit,
                    "opens": opener is not None,
                    "tiers": [
                        {
                            "options": tier.options.model_dump(),
                            "budgeted": isinstance(tier, PursedTier),
                            "estimates": estimates_line(tier.estimates, now),
                            "answers": estimates_line(tier.answers, now),
                        }
                        for tier in tiers
                    ],
                }
            )
            return _Pool(
                self, route, _Noted(policy, self, route), tiers, clock=self._still, chance=self._chance,
                timers=self._timers, opener=None if opener is None else _Openings(self, opener),
                within=within, first_byte=first_byte, objective=objective,
                best_effort_limit=best_effort_limit,
            )  # fmt: skip

    def remembering(self, estimates: Remembered) -> Remembered:
        """The estimates of those pools, as they are to be loaded and refreshed."""
        return _Remembering(self, estimates)

    # -- what happens --------------------------------------------------------------------------

    @contextmanager
    def event(self, at: float | None = None, /, **line: Any) -> Iterator[Line]:
        """Everything in here happens at one moment, and because of this."""
        with self._still.at(self._clock.now() if at is None else at) as now:
            noted: Line = {"at": now, **line}
            self.full = self.full or len(self.lines) >= self._limit
            if not self.full:
                self.lines.append(noted)
                self._noting = True
            try:
                yield noted
            finally:
                self._noting = False

    @property
    def inside(self) -> bool:
        """An event is being dealt with."""
        return self._still.stands

    def arrival(self, lease: Lease, supplies: Mapping[str, Capacity]) -> Line:
        """The facts of a call that has come, with a number for it."""
        call = lease.call
        self._arrived += 1
        backends = supplies.items()
        return {
            "event": "arrive",
            "call": self._arrived,
            "arrived": call.arrived,
            "deadline": None if call.deadline == inf else call.deadline,
            "size": call.size,
            "priority": call.priority,
            "stream": call.stream,
            "inference": call.inference,
            "attempt": lease.attempt,
            "tried": sorted(map(list, lease.tried)),
            "unfit": [name for name, each in backends if each.backend.unfit(call) is not None],
            "headers": {},
        }

    def number(self, lease: Lease, line: Line) -> None:
        """Remember a call by its line."""
        self._numbers[lease] = (line["call"], line)

    def number_of(self, lease: Lease, *, last: bool = False) -> int:
        """Which call that is; `last` when it will not be heard of again."""
        found = self._numbers.pop(lease, None) if last else self._numbers.get(lease)
        return 0 if found is None else found[0]

    def learned(self) -> None:
        """Estimates were loaded: what is known from here on."""
        with self.event(event="learned") as line:
            at = line["at"]
            line["routes"] = {
                route: [
                    [estimates_line(tier.estimates, at), estimates_line(tier.answers, at)] for tier in tiers
                ]
                for route, tiers in self._tiers
            }

    def beyond(self, what: str) -> None:
        """Something happens that no replay could do again."""
        with self.event(event="beyond", what=what):
            pass

    def opening(self) -> int:
        """The number of one more instance that boots."""
        self._openings += 1
        return self._openings

    def decided(self, moment: str, route: str, request: RequestView | None, answer: Line | None) -> None:
        """The policy has answered."""
        if not self._noting:
            return  # asked by somebody who wants to know, not by the pool
        line: Line = {"decision": moment, "route": route}
        if isinstance(request, Lease) and request in self._numbers:
            number, arrival = self._numbers[request]
            line["call"] = number
            for name, value in request.asked.items():
                arrival["headers"][name.decode("latin-1")] = self._meant(value)
        self.lines.append({**line, **(answer or {"answer": None})})

    def _meant(self, value: bytes | None) -> str | None:
        """The name of a backend; what else a client said is nobody's business."""
        text = None if value is None else value.decode("latin-1")
        return text if text is None or text in self._backends else ""

    # -- for good ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """As JSON lines. Raises OSError."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in self.lines
            )


class _Pool(Pool):
    """A pool, and everything that others do to it. What it does to itself follows."""

    def __init__(self, recorder: Recorder, *arguments: Any, **options: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments, **options)

    def arrive(self, lease: Lease, now: float) -> Slot | None:
        recorder = self._recorder
        with recorder.event(now, route=self.route, **recorder.arrival(lease, self.supplies)) as line:
            recorder.number(lease, line)
            try:
                return super().arrive(lease, now)
            except BaseException:
                recorder.number_of(lease, last=True)
                raise

    def release(self, lease: Lease, slot: Slot, verdict: Verdict) -> None:
        call = self._recorder.number_of(lease, last=True)
        facts: Line = {
            "event": "release",
            "call": call,
            "backend": slot.backend.name,
            "replica": slot.replica,
            "reason": str(slot.reason),
            "verdict": str(verdict),
            "used": slot.used,
            "start": None if slot.start is None else str(slot.start),
            "boot_s": slot.boot_s,
            "waited_s": slot.waited_s,
            "answered_at": slot.answered_at,
        }
        with self._recorder.event(route=self.route, **facts):
            super().release(lease, slot, verdict)

    def leave(self, lease: Lease) -> None:
        call = self._recorder.number_of(lease, last=True)
        with self._recorder.event(route=self.route, event="leave", call=call):
            super().leave(lease)

    def open(self, backend: str, count: int, *, kind: str = "spill", fresh: bool = True) -> int:
        if self._recorder.inside:  # the pool's own: a policy said so
            return super().open(backend, count, kind=kind, fresh=fresh)
        facts = {"event": "open", "backend": backend, "count": count, "kind": kind, "fresh": fresh}
        with self._recorder.event(route=self.route, **facts):
            return super().open(backend, count, kind=kind, fresh=fresh)


class _Capacity(Capacity):
    """The slots of a backend, and what probes say of it."""

    def __init__(self, recorder: Recorder, *arguments: Any, **options: Any) -> None:
        self._recorder = recorder
        super().__init__(*arguments, **options)

    def note_ready(self, index: int, answer: bool | None, now: float) -> None:
        if answer is None:
            return
        facts = {"event": "ready", "backend": self.name, "replica": index, "answer": answer}
        with self._recorder.event(now, **facts):
            super().note_ready(index, answer, now)

    def take(self, excluded: Replicas, now: float, reason: Reason, queued_s: float) -> Slot | None:
        slot = super().take(excluded, now, reason, queued_s)
        if slot is not None and not self._recorder.inside:
            self._recorder.beyond(f"a slot taken beside the queue ({reason})")
        return slot


class _Remembering:
    """Estimates, of which it is noted when they are loaded and refreshed."""

    def __init__(self, recorder: Recorder, estimates: Remembered) -> None:
        self._recorder = recorder
        self._estimates = estimates

    def load(self, path: Path, *, now: float, wall: float) -> str | None:
        problem = self._estimates.load(path, now=now, wall=wall)
        self._recorder.learned()
        return problem

    def save(self, path: Path, *, now: float, wall: float) -> str | None:
        return self._estimates.save(path, now=now, wall=wall)

    def refresh(self) -> None:
        with self._recorder.event(event="refresh"):
            self._estimates.refresh()


class _Timers:
    """Timers with numbers: those that rang are noted."""

    def __init__(self, recorder: Recorder, timers: TimerHost) -> None:
        self._recorder = recorder
        self._timers = timers
        self._set = 0

    def call_at(self, when: float, callback: Any, /) -> Timer:
        self._set += 1
        return self._timers.call_at(when, partial(self._ring, self._set, callback))

    def _ring(self, number: int, callback: Any) -> None:
        with self._recorder.event(event="ring", timer=number):
            callback()


class _Openings:
    """Boots with numbers: how each ended is noted."""

    def __init__(self, recorder: Recorder, opener: Opener) -> None:
        self._recorder = recorder
        self._opener = opener

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        number = self._recorder.opening()
        self._opener.open(slot, route=route, kind=kind, done=partial(self._done, number, done))

    def _done(self, number: int, done: Opened, verdict: Verdict, boot_s: float | None) -> None:
        with self._recorder.event(event="opened", opening=number, verdict=str(verdict), boot_s=boot_s):
            done(verdict, boot_s)


class _Noted(Policy):
    """A policy whose answers are noted."""

    def __init__(self, policy: Policy, recorder: Recorder, route: str) -> None:
        super().__init__(policy.options)
        self.rents = policy.rents
        self._policy = policy
        self._recorder = recorder
        self._route = route

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        action = self._policy.arrive(request, pool, now, chance)
        self._recorder.decided("arrive", self._route, request, action_line(action))
        return action

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        action = self._policy.recheck(request, pool, now, chance)
        self._recorder.decided("recheck", self._route, request, action_line(action))
        return action

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        take = self._policy.slot_freed(backend, pool, now, chance)
        request = None if take is None else take.request
        answer = {"take": backend, "reason": None if take is None else str(take.reason)}
        self._recorder.decided("slot_freed", self._route, request, answer)
        return take

    def problems(self, backends: Sequence[str]) -> Mapping[tuple[str, ...], str]:
        return self._policy.problems(backends)

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        return self._policy.explain(action, request, pool, now)


__all__ = ["Line", "Recorder", "decisions"]
