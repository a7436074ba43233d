"""The elastic instances of one endpoint, as far as a caller can know them, and what they cost idle.

Providers do not say how many workers run. This table infers it from the calls: a call that finds no
idle instance makes one open, the most recently used idle one is taken first, and one that was idle
for `idle_after` is gone. Ids that come back with an answer correct the guess afterwards.

Pure: the clock is an argument. It must never know a provider, a wire format or a call's content.

    event      closed     opening    busy       idle
    begin      opening    -          -          busy
    running    -          busy       busy       -
    end        -          idle       idle       -
    undo       -          gone       idle       -        (the call did not run there after all)
    left       -          opening    idle       -        (the same, but the start-up goes on without it)
    up         -          idle       -          -        (by now, as far as can be expected)
    expire     -          -          -          gone
    return     -          -          -          -           (a gone one answers after all: idle)

Billed seconds of one instance are boot + time in use + time idle, until it was reused or until
`idle_after` had passed, rounded up as the provider rounds (RunPod bills a worker's life in whole
seconds). Where idling is billed a start-up is not called off because the call that caused it was answered
by another instance, or has left: it comes up, is there for the next call, and is paid for.

Boot and use belong to the call's own usage; everything else becomes a Charge, exactly once,
on the route that used the instance last. A ping is nobody's call: its seconds become charges too, and until
a call has used the instance, so do those in which it idles, of the kind that the ping was of.
"""

import math
from typing import NamedTuple

from backends.boot import BOOT_AGE, BOOT_ID, Boot, take_boot
from backends.instance import CALLS_KIND, Instance, State, Ticket
from gateway.vocab import Charge

__all__ = ["BOOT_AGE", "BOOT_ID", "HEDGE_KIND", "Boot", "Instances", "Span", "State", "Ticket", "take_boot"]

REMEMBERED = 256
"""Instances that are gone by this table's clock and would be known again if they answered."""

_ROUND_TRIP_S = 0.02
"""What happens so close together at the provider may be heard of here in another order."""

_OVERTAKEN_S = 0.25
"""A call that has ended so much before an older one on the same instance ran beside it."""

HEDGE_KIND = "hedge"
"""The same for an attempt that lost against another one of the same call."""


class Span(NamedTuple):
    """What one call added to its instance's bill, in seconds."""

    boot_s: float
    busy_s: float

    @property
    def billed_s(self) -> float:
        """Both together."""
        return self.boot_s + self.busy_s


class Instances:
    """The table of one endpoint.

    idle_after:       seconds after which an unused instance is stopped
    usd_per_second:   price of a second of life, idle or not; None when unknown or idling is free: then
                      there are no charges
    round_up_to:      the provider rounds an instance's life up to whole multiples of this; 0 for none
    boot_s:           seconds that a start-up is expected to take, where one goes on and is paid for though
                      its call was answered elsewhere; None where none does
    """

    def __init__(
        self,
        *,
        idle_after: float,
        usd_per_second: float | None,
        round_up_to: float = 0.0,
        boot_s: float | None = None,
    ) -> None:
        self.started = 0
        """Instances whose start was seen: by a call or a ping that waited for it, or that met a new one."""
        self.presumed = 0
        """Instances that are gone and were billed, though nobody ever heard of them: they are taken to have
        come up for calls that left, failed, or were answered by others."""
        self.presumed_usd = 0.0
        """What was booked for those, in US dollars."""
        self._boot_s = boot_s
        self._idle_after = idle_after
        self._price = usd_per_second
        self._round_up_to = round_up_to
        self._alive: list[Instance] = []
        self._by_id: dict[str, Instance] = {}
        self._gone: dict[str, Instance] = {}
        self._charges: list[Charge] = []

    def begin(self, now: float, route: str, kind: str = CALLS_KIND, *, fresh: bool = False) -> Ticket:
        """A call starts: on the most recently used idle instance, or it makes one open.

        `fresh`: it is a ping, to make one open whatever idles.
        """
        self._expire(now)
        idle = [instance for instance in self._alive if instance.state is State.IDLE and not fresh]
        unclaimed = [one for one in self._alive if one.state is State.OPENING and not one.users and not fresh]
        if idle:
            instance = max(idle, key=lambda one: one.last_end or 0.0)
            instance.move("begin")
        elif unclaimed:
            instance = unclaimed[0]
        else:
            instance = self._open(now)
            instance.move("begin")
        instance.users = 1
        if not instance.route:
            instance.route, instance.kind = route, kind
        instance.holder = ticket = Ticket(instance, now, route, kind, fresh=fresh)
        return ticket

    def running(self, ticket: Ticket) -> None:
        """The provider says that the call has left its queue: its instance is up."""
        if not ticket.closed:
            ticket.instance.move("running")

    def knows(self, instance_id: str, now: float) -> bool:
        """True if that instance has served before and cannot have been stopped since."""
        self._expire(now)
        return instance_id in self._by_id

    def meet(self, ticket: Ticket, now: float, instance_id: str, *, cold: bool, counted: bool = True) -> None:
        """Before the call has ended it is known which instance serves it; `cold`: it waited for its start.

        `counted`: False where the start of an unknown instance was, by what the provider tells, another's.
        """
        if not ticket.closed:
            self._served_by(ticket, instance_id, now, cold=cold, counted=counted)
            ticket.met = True

    def saw_start(self, ticket: Ticket, now: float, instance_id: str) -> None:
        """An instance has started for the call, says the provider, though nothing else is known of it."""
        if instance_id:
            self.meet(ticket, now, instance_id, cold=True)
        self._count(ticket.instance)

    def end(
        self,
        ticket: Ticket,
        now: float,
        *,
        instance_id: str = "",
        boot_s: float | None = None,
        busy_s: float | None = None,
        age_s: float | None = None,
        counted: bool = True,
    ) -> Span:
        """The call has ended after running.

        instance_id:  which instance served it, where that was said
        boot_s:       seconds of start-up that it waited for; 0 or None for none
        busy_s:       seconds it ran, where the provider says so; else measured from the ticket
        counted:      False where a start is only presumed, or where the provider says that it was another's
        age_s:        seconds for which the instance had been up when the call reached it, where it said so

        Returns what this call adds to the bill. Calls that shared an instance, or its start-up, share
        the seconds: each second is on one call only.
        """
        ticket.closed = True
        instance = self._served_by(ticket, instance_id, now, cold=bool(boot_s), counted=counted)
        first = instance.last_end is None
        boot = (boot_s or 0.0) if first else 0.0
        if boot and counted:
            self._count(instance)
        if instance.last_end is None:
            busy = max(0.0, now - ticket.began - boot) if busy_s is None else busy_s
            if self._boot_s is not None and not boot:
                # It started for somebody else: what it lived before is nobody's use.
                lived = max(now - instance.began, busy)
                if age_s is not None:
                    # The call may have waited for it: not longer than its age and the call together.
                    known = instance.began < ticket.began
                    lived = max(age_s, min(lived, busy + age_s)) if known else busy + age_s
                self._bill(instance, max(0.0, lived - busy), to_call=False)
        else:
            free_since = instance.last_end
            room = max(0.0, now - max(ticket.began, free_since))
            # Seconds that an overlapping call has been billed for are not billed again.
            cap = room if busy_s is None or free_since > ticket.began else busy_s
            busy = room if busy_s is None else min(busy_s, cap)
            gap = max(0.0, now - busy - free_since)
            self._bill(instance, min(gap, self._idle_after), to_call=False)
        self._bill(instance, boot + busy, to_call=True)
        if instance_id:
            if ticket.began < instance.newest - _OVERTAKEN_S:
                self._boot_s = None  # calls overtake each other there: it serves several, and none waits
            instance.newest = max(instance.newest, ticket.began)
        instance.route = ticket.route
        instance.kind = ticket.kind
        instance.last_end = now
        self._leave(instance, "end")
        return Span(boot, busy)

    def presume(self, ticket: Ticket, now: float) -> Span:
        """The instance that a ping made boot should be up by now, though another answered the ping: from here
        on it idles, without a name until a call meets it.
        """
        return self.end(ticket, now, boot_s=now - ticket.began, busy_s=0.0, counted=False)

    def undo(self, ticket: Ticket) -> None:
        """The call did not run: the instance is as if it had never been asked for."""
        if not ticket.closed:
            ticket.closed = True
            self._leave(ticket.instance, "undo")

    def too_early(self, ticket: Ticket, now: float) -> bool:
        """Whether the call's instance cannot have come up yet."""
        return not ticket.closed and self._still_opening(
            ticket.instance, ticket.began + 4 * (now - ticket.began)
        )

    def leave(self, ticket: Ticket, now: float) -> None:
        """The call was given up before it ran. What it made start may come up all the same."""
        self._expire(now)
        if not ticket.closed:
            ticket.closed = True
            if ticket.instance.users == 1:  # whoever made it start last pays for what comes of it
                ticket.instance.route, ticket.instance.kind = ticket.route, ticket.kind
            self._leave(ticket.instance, "left")

    def lose(self, ticket: Ticket, now: float, *, busy_s: float | None = None) -> Span | None:
        """The call ran, but nobody is left to be told what it used: its seconds become a charge.

        None where the call had ended already, or its instance had not come up yet.
        """
        if not ticket.closed and self._boot_s is not None and self._still_opening(ticket.instance, now):
            self.leave(ticket, now)
        if ticket.closed:
            return None
        span = self.end(ticket, now, busy_s=busy_s)
        self._charge(ticket.route, ticket.kind, span.billed_s)
        return span

    def visit(self, ticket: Ticket, now: float, instance_id: str, busy_s: float) -> None:
        """A ping that is to open an instance ran on one that was there already; the ticket goes on.

        Its few seconds are charged to it. Where a call is running there by this table, they are within
        what that call's end will find between itself and the one before.
        """
        instance = self._by_id[instance_id]
        if instance.state is not State.IDLE or instance.last_end is None:
            return
        room = max(0.0, now - instance.last_end)
        busy = min(busy_s, room)
        self._bill(instance, min(room - busy, self._idle_after), to_call=False)
        self._bill(instance, busy, to_call=True)
        self._charge(ticket.route, ticket.kind, busy)
        instance.last_end = now

    def drop(self, ticket: Ticket, now: float) -> None:
        """A ping has failed after it may have run: its seconds are charged, and no instance is left of it."""
        if ticket.closed:
            return
        ticket.closed = True
        new = ticket.instance.last_end is None
        if new:
            self._charge(ticket.route, ticket.kind, max(0.0, now - ticket.began))
        self._leave(ticket.instance, "undo")
        if new and ticket.instance.state is State.GONE:
            ticket.instance.last_end = now  # should it be heard of again, it is paid for up to here

    def owe(self, charge: Charge) -> None:
        """Money that the provider told of itself, for what was no call."""
        self._charges.append(charge)

    def settle(self, now: float) -> list[Charge]:
        """Charges that fell due since the last call. `math.inf` stops everything that is idle."""
        self._expire(now)
        due, self._charges = self._charges, []
        return due

    def counts(self, now: float) -> dict[str, int]:
        """Instances by state."""
        self._expire(now)
        counts = {State.OPENING.value: 0, State.BUSY.value: 0, State.IDLE.value: 0}
        for instance in self._alive:
            counts[instance.state.value] += 1
        return counts

    def _still_opening(self, instance: Instance, now: float) -> bool:
        opening = instance.state is State.OPENING and not instance.id
        return opening and self._boot_s is not None and now < instance.began + self._boot_s

    def _count(self, instance: Instance) -> None:
        if not instance.counted:
            instance.counted = True
            self.started += 1

    def _open(self, now: float) -> Instance:
        instance = Instance(now)
        self._alive.append(instance)
        return instance

    def _served_by(
        self, ticket: Ticket, instance_id: str, now: float, *, cold: bool, counted: bool = True
    ) -> Instance:
        """The instance that served the call: the guess, unless what came back contradicts it."""
        guess = ticket.instance
        known = self._by_id.get(instance_id) or self._returned(instance_id)
        actual: Instance | None
        if known is None:
            nameless = not guess.id or not instance_id
            if nameless and not (cold and guess.last_end is not None):
                actual = guess
            else:
                # Another id: one that was presumed to be up, or a new one, as where a start-up was seen.
                met = None if cold else self._nameless()
                actual = self._swapped(ticket) if cold else None
                actual = actual or self._instead(ticket, met or self._open(ticket.began if cold else now))
            if instance_id:
                actual.id = instance_id
                self._by_id[instance_id] = actual
                if counted:
                    self._count(actual)
            return actual
        if known is guess:
            return guess
        other = self._holder(known) if self._boot_s is not None else None
        if guess.state is State.OPENING and guess.users == 1 and other is not None:
            # Whoever was taken to run there runs elsewhere, or waits for what this one was taken to wait for.
            return self._exchange(ticket, other)
        return self._instead(ticket, known)

    def _swapped(self, ticket: Ticket) -> Instance | None:
        """The instance whose start this call has seen, where one was taken to start for another call."""
        for instance in self._alive:
            if instance.state is State.OPENING and not instance.id and instance is not ticket.instance:
                if instance.began < ticket.began - _ROUND_TRIP_S:
                    continue
                if not instance.users:
                    return self._instead(ticket, instance)
                other = self._holder(instance)
                if instance.users == 1 and other is not None and not other.fresh:
                    return self._exchange(ticket, other)
        return None

    @staticmethod
    def _holder(instance: Instance) -> Ticket | None:
        """Who is taken to be there, as long as that is a guess."""
        ticket = instance.holder
        if ticket is None or ticket.closed or ticket.met or ticket.instance is not instance:
            return None
        return ticket

    def _exchange(self, ticket: Ticket, other: Ticket) -> Instance:
        ticket.instance, other.instance = other.instance, ticket.instance
        ticket.instance.holder, other.instance.holder = ticket, other
        return ticket.instance

    def _nameless(self) -> Instance | None:
        """One that idles, or comes up, and that nobody has met yet."""
        unmet = [one for one in self._alive if not one.id and not one.users]
        idle = [one for one in unmet if one.state is State.IDLE]
        return next(iter(idle or unmet), None)

    def _returned(self, instance_id: str) -> Instance | None:
        """An instance that should have been stopped by now and was not: its idling is paid up to here."""
        instance = self._gone.pop(instance_id, None)
        if instance is not None:
            instance.move("return")
            self._alive.append(instance)
            self._by_id[instance_id] = instance
        return instance

    def _instead(self, ticket: Ticket, actual: Instance) -> Instance:
        # Nothing starts for a call that was answered at once, by one that had just become free.
        waited = actual.last_end is not None and actual.last_end > ticket.began + _ROUND_TRIP_S
        self._leave(ticket.instance, "left" if waited and not ticket.fresh else "undo")
        ticket.instance = actual
        actual.holder = ticket
        if actual.users == 0 and actual.state is not State.OPENING:
            actual.move("begin")
        actual.users += 1
        return actual

    def _leave(self, instance: Instance, event: str) -> None:
        instance.users -= 1
        if instance.users > 0:
            return
        if event == "left" and (self._boot_s is None or instance.counted):
            event = "undo"
        if instance.state is State.BUSY and event in ("undo", "left") and instance.last_end is None:
            # It was seen running but no call ever ended there: there is nothing to keep or to bill.
            instance.state = State.OPENING
        instance.move(event)
        if instance.state is State.GONE:
            self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        self._alive.remove(instance)
        if instance.id:
            del self._by_id[instance.id]
            self._gone[instance.id] = instance
            if len(self._gone) > REMEMBERED:
                del self._gone[next(iter(self._gone))]

    def _expire(self, now: float) -> None:
        for instance in list(self._alive):
            if instance.state is State.OPENING and not instance.users and self._boot_s is not None:
                if now < instance.began + self._boot_s:
                    continue
                instance.move("up")
                instance.last_end = instance.began + self._boot_s
                self._bill(instance, self._boot_s, to_call=False)
            since = instance.last_end
            if instance.state is State.IDLE and since is not None and now >= since + self._idle_after:
                instance.move("expire")
                tail = self._idle_after
                if self._round_up_to > 0:
                    # A hair below a whole multiple is that multiple: the sum is of floats.
                    multiples = math.ceil((instance.billed_s + tail) / self._round_up_to - 1e-9)
                    tail = max(0.0, multiples * self._round_up_to - instance.billed_s)
                self._bill(instance, tail, to_call=False)
                instance.last_end = since + tail
                self._forget(instance)
                if not instance.counted and self._price is not None:
                    self.presumed += 1
                    self.presumed_usd += instance.billed_s * self._price

    def _bill(self, instance: Instance, seconds: float, *, to_call: bool) -> None:
        instance.billed_s += seconds
        if not to_call:
            self._charge(instance.route, instance.kind, seconds)

    def _charge(self, route: str, kind: str, seconds: float) -> None:
        if self._price is not None and seconds > 0:
            self._charges.append(Charge(route, kind, seconds * self._price))
