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
    expire     -          -          -          gone
    return     -          -          -          -           (a gone one answers after all: idle)

Billed seconds of one instance are boot + time in use + time idle, until it was reused or until
`idle_after` had passed, rounded up as the provider rounds (RunPod bills a worker's life in whole
seconds). Boot and use belong to the call's own usage; everything else becomes a Charge, exactly once,
on the route that used the instance last. A ping is nobody's call: its seconds become charges too, and until
a call has used the instance, so do those in which it idles, of the kind that the ping was of.
"""

import math
from enum import StrEnum
from typing import NamedTuple

from gateway.vocab import Charge, Headers

BOOT_ID = b"x-overspill-boot-id"
BOOT_AGE = b"x-overspill-boot-age"

REMEMBERED = 256
"""Instances that are gone by this table's clock and would be known again if they answered."""

CALLS_KIND = "spill"
"""Kind of charge of what a call leaves behind."""
HEDGE_KIND = "hedge"
"""The same for an attempt that lost against another one of the same call."""


class State(StrEnum):
    """Where an instance is in its life. `closed` has no entry in the table: it does not exist yet."""

    CLOSED = "closed"
    OPENING = "opening"
    BUSY = "busy"
    IDLE = "idle"
    GONE = "gone"


_NEXT: dict[tuple[State, str], State] = {
    (State.CLOSED, "begin"): State.OPENING,
    (State.IDLE, "begin"): State.BUSY,
    (State.OPENING, "running"): State.BUSY,
    (State.BUSY, "running"): State.BUSY,
    (State.OPENING, "end"): State.IDLE,
    (State.BUSY, "end"): State.IDLE,
    (State.OPENING, "undo"): State.GONE,
    (State.BUSY, "undo"): State.IDLE,
    (State.IDLE, "expire"): State.GONE,
    (State.GONE, "return"): State.IDLE,
}


class Boot(NamedTuple):
    """What a worker said about itself: the id of its process and the process's age in seconds."""

    id: str
    age: float | None


def take_boot(headers: Headers) -> tuple[Headers, Boot | None]:
    """The fields without the worker kit's two, and what those two said; None if they were not there."""
    found = {name: value for name, value in headers if name in (BOOT_ID, BOOT_AGE)}
    rest = [field for field in headers if field[0] not in (BOOT_ID, BOOT_AGE)] if found else headers
    if BOOT_ID not in found:
        return rest, None
    try:
        age: float | None = float(found.get(BOOT_AGE, b""))
    except ValueError:
        age = None
    if age is not None and not 0 <= age < math.inf:
        age = None
    return rest, Boot(found[BOOT_ID].decode("latin-1"), age)


class Instance:
    """One inferred instance."""

    __slots__ = ("billed_s", "id", "kind", "last_end", "route", "state", "users")

    def __init__(self) -> None:
        self.id = ""
        self.state = State.CLOSED
        self.users = 0
        self.route = ""
        self.kind = CALLS_KIND
        self.last_end: float | None = None  # None until a first call has ended there
        self.billed_s = 0.0

    def move(self, event: str) -> None:
        """Follow the table; an event that the state does not allow is a programming error."""
        self.state = _NEXT[self.state, event]


class Ticket:
    """One call's place in the table, from `begin` until exactly one of `end`, `undo` or `lose`.

    kind:     of charge: `spill`, `hedge`, or what a ping was made for
    fresh:    it is to make an instance open, whatever idles
    adopted:  True when a background task will close it, not the call's own
    """

    __slots__ = ("adopted", "began", "closed", "fresh", "instance", "kind", "route")

    def __init__(self, instance: Instance, began: float, route: str, kind: str, *, fresh: bool) -> None:
        self.instance = instance
        self.began = began
        self.route = route
        self.kind = kind
        self.fresh = fresh
        self.closed = False
        self.adopted = False


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
    """

    def __init__(self, *, idle_after: float, usd_per_second: float | None, round_up_to: float = 0.0) -> None:
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
        instance = max(idle, key=lambda one: one.last_end or 0.0) if idle else self._open()
        instance.move("begin")
        instance.users = 1
        return Ticket(instance, now, route, kind, fresh=fresh)

    def running(self, ticket: Ticket) -> None:
        """The provider says that the call has left its queue: its instance is up."""
        if not ticket.closed:
            ticket.instance.move("running")

    def knows(self, instance_id: str, now: float) -> bool:
        """True if that instance has served before and cannot have been stopped since."""
        self._expire(now)
        return instance_id in self._by_id

    def end(
        self,
        ticket: Ticket,
        now: float,
        *,
        instance_id: str = "",
        boot_s: float | None = None,
        busy_s: float | None = None,
    ) -> Span:
        """The call has ended after running.

        instance_id:  which instance served it, where that was said
        boot_s:       seconds of start-up that it waited for; 0 or None for none
        busy_s:       seconds it ran, where the provider says so; else measured from the ticket

        Returns what this call adds to the bill. Calls that shared an instance, or its start-up, share
        the seconds: each second is on one call only.
        """
        ticket.closed = True
        instance = self._served_by(ticket, instance_id, cold=bool(boot_s))
        first = instance.last_end is None
        boot = (boot_s or 0.0) if first else 0.0
        if instance.last_end is None:
            busy = max(0.0, now - ticket.began - boot) if busy_s is None else busy_s
        else:
            free_since = instance.last_end
            room = max(0.0, now - max(ticket.began, free_since))
            # Seconds that an overlapping call has been billed for are not billed again.
            cap = room if busy_s is None or free_since > ticket.began else busy_s
            busy = room if busy_s is None else min(busy_s, cap)
            gap = max(0.0, now - busy - free_since)
            self._bill(instance, min(gap, self._idle_after), to_call=False)
        self._bill(instance, boot + busy, to_call=True)
        instance.route = ticket.route
        instance.kind = ticket.kind
        instance.last_end = now
        self._leave(instance, "end")
        return Span(boot, busy)

    def presume(self, ticket: Ticket, now: float) -> Span:
        """The instance that a ping made boot should be up by now, though another answered the ping: from here
        on it idles, without a name until a call meets it.
        """
        return self.end(ticket, now, boot_s=now - ticket.began, busy_s=0.0)

    def undo(self, ticket: Ticket) -> None:
        """The call did not run: the instance is as if it had never been asked for."""
        if not ticket.closed:
            ticket.closed = True
            self._leave(ticket.instance, "undo")

    def lose(self, ticket: Ticket, now: float, *, busy_s: float | None = None) -> None:
        """The call ran, but nobody is left to be told what it used: its seconds become a charge."""
        if not ticket.closed:
            span = self.end(ticket, now, busy_s=busy_s)
            self._charge(ticket.route, ticket.kind, span.billed_s)

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
        if ticket.instance.last_end is None:
            self._charge(ticket.route, ticket.kind, max(0.0, now - ticket.began))
        self._leave(ticket.instance, "undo")

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

    def _open(self) -> Instance:
        instance = Instance()
        self._alive.append(instance)
        return instance

    def _served_by(self, ticket: Ticket, instance_id: str, *, cold: bool) -> Instance:
        """The instance that served the call: the guess, unless what came back contradicts it."""
        guess = ticket.instance
        known = self._by_id.get(instance_id) or self._returned(instance_id)
        if known is None:
            nameless = not guess.id or not instance_id
            if nameless and not (cold and guess.last_end is not None):
                actual = guess
            else:
                # Another id: one that was presumed to be up, or a new one, as where a start-up was seen.
                met = None if cold else self._nameless()
                actual = self._instead(ticket, met or self._open())
            if instance_id:
                actual.id = instance_id
                self._by_id[instance_id] = actual
            return actual
        return guess if known is guess else self._instead(ticket, known)

    def _nameless(self) -> Instance | None:
        """One that idles and that nobody has met yet."""
        for instance in self._alive:
            if instance.state is State.IDLE and not instance.id:
                return instance
        return None

    def _returned(self, instance_id: str) -> Instance | None:
        """An instance that should have been stopped by now and was not: its idling is paid up to here."""
        instance = self._gone.pop(instance_id, None)
        if instance is not None:
            instance.move("return")
            self._alive.append(instance)
            self._by_id[instance_id] = instance
        return instance

    def _instead(self, ticket: Ticket, actual: Instance) -> Instance:
        self._leave(ticket.instance, "undo")
        ticket.instance = actual
        if actual.users == 0:
            actual.move("begin")
        actual.users += 1
        return actual

    def _leave(self, instance: Instance, event: str) -> None:
        instance.users -= 1
        if instance.users > 0:
            return
        if instance.state is State.BUSY and event == "undo" and instance.last_end is None:
            # It was seen running but no call ever ended there: there is nothing to keep or to bill.
            instance.state = State.OPENING
        instance.move(event)
        if instance.state is State.GONE:
            self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        self._alive.remove(instance)
        if instance.id:
            del self._by_id[instance.id]

    def _expire(self, now: float) -> None:
        for instance in list(self._alive):
            since = instance.last_end
            if instance.state is State.IDLE and since is not None and now >= since + self._idle_after:
                instance.move("expire")
                tail = self._idle_after
                if self._round_up_to > 0:
                    # A hair below a whole multiple is that multiple: the sum is of floats.
                    multiples = math.ceil((instance.billed_s + tail) / self._round_up_to - 1e-9)
                    tail = max(0.0, multiples * self._round_up_to - instance.billed_s)
                self._bill(instance, tail, to_call=False)
                self._forget(instance)
                if instance.id:
                    instance.last_end = since + tail
                    self._gone[instance.id] = instance
                    if len(self._gone) > REMEMBERED:
                        del self._gone[next(iter(self._gone))]

    def _bill(self, instance: Instance, seconds: float, *, to_call: bool) -> None:
        instance.billed_s += seconds
        if not to_call:
            self._charge(instance.route, instance.kind, seconds)

    def _charge(self, route: str, kind: str, seconds: float) -> None:
        if self._price is not None and seconds > 0:
            self._charges.append(Charge(route, kind, seconds * self._price))
