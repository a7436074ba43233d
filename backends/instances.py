"""The elastic instances of one endpoint, as far as a caller can know them, and what they cost idle.

Providers do not say how many workers run. This table infers it from the calls: a call that finds no
idle instance makes one open, the most recently used idle one is taken first, and one that was idle
for `idle_after` is gone. Ids that come back with an answer correct the guess afterwards (`instance_roll.py`).

Pure: the clock is an argument. It must never know a provider, a wire format or a call's content.

    event      closed     opening    busy       idle
    begin      opening    -          -          busy
    running    -          busy       busy       -
    end        -          idle       idle       -
    undo       -          gone       idle       -        (the call did not run there after all)
    left       -          opening    idle       -        (the same, but the start-up goes on without it)
    died       -          gone       gone       -        (the provider says so)
    up         -          idle       -          -        (by now, as far as can be expected)
    expire     -          -          -          gone
    return     -          -          -          -           (a gone one answers after all: idle)

Billed seconds of one instance are boot + time in use + time idle, until it was reused or until
`idle_after` had passed, rounded up as the provider rounds (RunPod bills a worker's life in whole
seconds). Where a start-up is not called off because the call that caused it was answered by another
instance, or has left, it comes up, is there for the next call, and is paid for. There the life of an
instance is one span, from the start that was asked for to the last end that was heard of: whichever calls
were where, their records together are what the provider bills. What never answers is booked as what it costs
on average, given for how long it was known not to be up.

Boot and use belong to the call's own usage; everything else becomes a Charge, exactly once,
on the route that used the instance last. A ping is nobody's call: its seconds become charges too, and until
a call has used the instance, so do those in which it idles, of the kind that the ping was of.
"""

from backends.boot import BOOT_AGE, BOOT_ID, Boot, take_boot
from backends.instance import CALLS_KIND, Instance, State, Ticket
from backends.instance_roll import Roll
from backends.lifetime import Span, rounded_up, tail_s, use_s
from backends.start_ups import StartUps
from gateway.vocab import Charge

__all__ = ["BOOT_AGE", "BOOT_ID", "HEDGE_KIND", "Boot", "Instances", "Span", "State", "Ticket", "take_boot"]

_OVERTAKEN_S = 0.25
"""A call that has ended so much before an older one on the same instance ran beside it."""

_NOTHING_S = 1e-9
"""What sums of floats differ by."""

_CALLS = 50.0
"""Calls over which the average of their use is taken."""

HEDGE_KIND = "hedge"
"""The same for an attempt that lost against another one of the same call."""


class Instances:
    """The table of one endpoint.

    idle_after:       seconds after which an unused instance is stopped
    usd_per_second:   price of a second of life, idle or not; None when unknown or idling is free: then
                      there are no charges
    round_up_to:      the provider rounds an instance's life up to whole multiples of this; 0 for none
    boot_s:           seconds that a start-up is expected to take, where one goes on and is paid for though
                      its call was answered elsewhere; None where none does
    runs_on:          a call that has left keeps its place at the provider, and runs to its end
    """

    def __init__(
        self,
        *,
        idle_after: float,
        usd_per_second: float | None,
        round_up_to: float = 0.0,
        boot_s: float | None = None,
        runs_on: bool = False,
    ) -> None:
        self.presumed = 0
        """Instances that are gone and were billed, though nobody ever heard of them: they are taken to have
        come up for calls that left, failed, or were answered by others."""
        self.presumed_usd = 0.0
        """What was booked for those, in US dollars."""
        self._starts = None if boot_s is None else StartUps(boot_s)
        self._roll = Roll(self._starts)
        self._idle_after = idle_after
        self._price = usd_per_second
        self._round_up_to = round_up_to
        self._charges: list[Charge] = []
        self._runs_on = runs_on
        self._ghosts: list[tuple[Ticket, float]] = []
        self._use_s = 0.0  # of one call, the average

    @property
    def started(self) -> int:
        """Instances whose start was seen: by a call or a ping that waited for it, or that met a new one."""
        return self._roll.started

    def begin(self, now: float, route: str, kind: str = CALLS_KIND, *, fresh: bool = False) -> Ticket:
        """A call starts: on the most recently used idle instance, or it makes one open.

        `fresh`: it is a ping, to make one open whatever idles.
        """
        self._expire(now)
        alive = self._roll.alive
        idle = [] if fresh else [instance for instance in alive if instance.state is State.IDLE]
        unclaimed: list[Instance] = []
        if not fresh or self._starts is not None:
            # As many start as calls wait: one that comes up for a call which no longer does is there for it.
            unclaimed = [one for one in alive if one.state is State.OPENING and not one.users]
        if idle:
            instance = max(idle, key=lambda one: one.last_end or 0.0)
            instance.move("begin")
        elif unclaimed:
            instance = unclaimed[0]
        else:
            instance = self._roll.open(now)
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
        return self._roll.get(instance_id) is not None

    def meet(
        self,
        ticket: Ticket,
        now: float,
        instance_id: str,
        *,
        cold: bool,
        counted: bool = True,
        age_s: float | None = None,
    ) -> None:
        """Before the call has ended it is known which instance serves it; `cold`: it waited for its start.

        counted:  False where the start of an unknown instance was, by what the provider tells, another's
        age_s:    seconds for which the instance had been up when the call reached it, where it said so
        """
        if not ticket.closed:
            self._roll.served_by(ticket, instance_id, now, cold=cold, counted=counted, age_s=age_s)
            ticket.met = True

    def saw_start(self, ticket: Ticket, now: float, instance_id: str) -> None:
        """An instance has started for the call, says the provider, though nothing else is known of it."""
        if instance_id or ticket.instance.last_end is not None:
            self.meet(ticket, now, instance_id, cold=True)
        self._roll.count(ticket.instance, ticket, now)

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
        cold = bool(boot_s)
        instance = self._roll.served_by(ticket, instance_id, now, cold=cold, counted=counted, age_s=age_s)
        boot = (boot_s or 0.0) if instance.last_end is None else 0.0
        if boot and counted:
            self._roll.count(instance, ticket, now)
        busy = use_s(instance, ticket, now, boot, busy_s)
        if self._starts is not None:
            # One span from its start to here: what of it was not this call's is nobody's use. Where it was
            # billed beyond that before, nothing falls due until its life has caught up.
            if busy_s is not None and instance.last_end is None:
                instance.began = min(instance.began, now - boot - busy)
            due = max(0.0, now - instance.began - instance.billed_s)
            if busy_s is not None:
                due = max(due, boot + busy)  # the provider's own clock is the one by which it bills
            boot, busy = min(boot, max(0.0, due - busy)), min(busy, due)
            self._bill(instance, due - boot - busy, to_call=False)
        elif instance.last_end is not None:
            gap = max(0.0, now - busy - instance.last_end)
            self._bill(instance, min(gap, self._idle_after), to_call=False)
        self._bill(instance, boot + busy, to_call=True)
        if instance_id:
            if ticket.began < instance.newest - _OVERTAKEN_S:
                # Calls overtake each other there: an instance serves several, and none waits.
                self._starts = self._roll.starts = None
            instance.newest = max(instance.newest, ticket.began)
        if instance_id:
            self._use_s += (busy - self._use_s) / (_CALLS if self._use_s else 1.0)
        instance.route = ticket.route
        instance.kind = ticket.kind
        instance.last_end = now
        self._roll.leave(instance, "end")
        return Span(boot, busy)

    def fail(self, ticket: Ticket, now: float, *, boot_s: float | None = None) -> Span:
        """The call has failed, and nobody said where it ran, if it did. What it made start comes up."""
        guess = ticket.instance
        anywhere = guess.id or (guess.unheard and guess.state is State.OPENING)
        if self._starts is None or not anywhere or ticket.met or boot_s:
            return self.end(ticket, now, boot_s=boot_s)
        self.leave(ticket, now)
        return Span(0.0, 0.0)

    def died(self, ticket: Ticket, now: float) -> Span:
        """The instance has died under the call. Which one that was is a guess, if nobody named it."""
        if self._starts is None or ticket.closed or ticket.instance.users > 1:
            return self.end(ticket, now)
        ticket.closed = True
        instance = ticket.instance
        instance.users = 0
        lived = rounded_up(max(0.0, now - instance.began), self._round_up_to)
        self._bill(instance, max(0.0, lived - instance.billed_s), to_call=False)
        instance.last_end = now
        instance.move("died")
        self._bury(instance)
        return Span(0.0, 0.0)

    def presume(self, ticket: Ticket, now: float) -> None:
        """The instance that a ping made boot should be up by now, though another answered the ping: it idles,
        without a name until a call meets it.
        """
        if ticket.instance.unheard and not ticket.instance.spare:
            self.leave(ticket, now)
        else:
            self.undo(ticket)

    def undo(self, ticket: Ticket) -> None:
        """The call did not run: the instance is as if it had never been asked for."""
        if not ticket.closed:
            ticket.closed = True
            self._roll.leave(ticket.instance, "undo")

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
            self._leave(ticket)

    def lose(self, ticket: Ticket, now: float, *, busy_s: float | None = None) -> Span | None:
        """The call ran, but nobody is left to be told what it used: its seconds become a charge.

        None where the call had ended already, or its instance had not come up yet.
        """
        self._roll.let_go(ticket)
        if not ticket.closed and self._runs_on and self._starts is not None:
            self._haunt(ticket, now)
        if not ticket.closed and self._still_opening(ticket.instance, now):
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
        self._roll.answered_elsewhere(ticket)
        instance = self._roll.get(instance_id)
        if instance is None or instance.state is not State.IDLE or instance.last_end is None:
            return
        room = max(0.0, now - instance.last_end)
        busy = min(busy_s, room)
        self._bill(instance, min(room - busy, self._idle_after), to_call=False)
        self._bill(instance, busy, to_call=True)
        self._charge(ticket.route, ticket.kind, busy)
        instance.last_end = now

    def drop(self, ticket: Ticket, now: float) -> None:
        """A ping has failed after it may have run: its seconds are charged, and no instance is left of it."""
        self._roll.let_go(ticket, none_came=True)
        if ticket.closed:
            return
        ticket.closed = True
        new = ticket.instance.last_end is None
        if new:
            self._charge(ticket.route, ticket.kind, max(0.0, now - ticket.began))
        self._roll.leave(ticket.instance, "undo")
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
        states = [instance.state for instance in self._roll.alive if not instance.spare]
        return {each.value: states.count(each) for each in (State.OPENING, State.BUSY, State.IDLE)}

    def _leave(self, ticket: Ticket) -> None:
        if ticket.instance.users == 1:  # whoever made it start last pays for what comes of it
            ticket.instance.route, ticket.instance.kind = ticket.route, ticket.kind
        self._roll.leave(ticket.instance, "left")

    def _haunt(self, ticket: Ticket, now: float) -> None:
        """The call has left, and holds its place until it should have run."""
        assert self._starts is not None
        ticket.closed = True
        instance = ticket.instance
        ghost = Ticket(instance, ticket.began, ticket.route, ticket.kind, fresh=False)
        ghost.met = ticket.met
        instance.holder = ghost
        starts_at = ticket.began
        if instance.unheard and instance.state is State.OPENING:
            starts_at = max(starts_at, instance.began + self._starts.mean_beyond(instance.outlasted_s))
        self._ghosts.append((ghost, max(now, starts_at + self._use_s)))

    def _lay(self, now: float) -> None:
        """Calls that had left have run by now."""
        due = [each for each in self._ghosts if each[1] <= now]
        self._ghosts = [each for each in self._ghosts if each[1] > now]
        for ghost, at in due:
            until = at
            if (free_since := ghost.instance.last_end) is not None:
                until = max(free_since, min(until, max(free_since, ghost.began) + self._use_s))
            span = self.end(ghost, until)
            self._charge(ghost.route, ghost.kind, span.billed_s)

    def _still_opening(self, instance: Instance, now: float) -> bool:
        if self._starts is None or not instance.unheard or instance.state is not State.OPENING:
            return False
        return now < instance.began + self._starts.expected

    def _expire(self, now: float) -> None:
        self._lay(now)
        for instance in list(self._roll.alive):
            if instance.state is State.OPENING and not instance.users and self._starts is not None:
                if now < instance.up_at:
                    continue
                instance.move("up")
                instance.last_end = instance.up_at
            since = instance.last_end
            if instance.state is State.IDLE and since is not None and now >= since + self._idle_after:
                instance.move("expire")
                tail = tail_s(instance, self._starts, self._idle_after, self._round_up_to)
                self._bill(instance, tail, to_call=False)
                instance.last_end = since + self._idle_after
                self._bury(instance)
        self._give_up(now)

    def _bury(self, instance: Instance) -> None:
        self._roll.forget(instance)
        if not instance.counted:
            self._roll.late.append(instance)

    def _give_up(self, now: float) -> None:
        """Those that have been gone for so long that none of them will answer after all."""
        patience = self._idle_after + (0.0 if self._starts is None else self._starts.expected)
        for instance in list(self._roll.late):
            if now >= (instance.last_end or 0.0) + patience:
                self._roll.late.remove(instance)
                if self._price is not None:
                    self.presumed += 1
                    self.presumed_usd += instance.billed_s * self._price

    def _bill(self, instance: Instance, seconds: float, *, to_call: bool) -> None:
        instance.billed_s += seconds
        if not to_call:
            self._charge(instance.route, instance.kind, seconds)

    def _charge(self, route: str, kind: str, seconds: float) -> None:
        if self._price is not None and seconds > _NOTHING_S:
            self._charges.append(Charge(route, kind, seconds * self._price))
