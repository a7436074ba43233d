"""Which instances an endpoint has, by the starts that were asked for and the ids that came back.

One record for each start. Calls are taken to be where the table guesses until an id says otherwise; then the
call changes places with whoever was taken to be there, so that there are never more records than starts.
Knows states and tickets. It must never know what a second costs.
"""

import math

from backends.instance import Instance, State, Ticket
from backends.nameless import Nameless
from backends.start_ups import StartUps

REMEMBERED = 256
"""Instances that are gone by this table's clock and would be known again if they answered."""

ROUND_TRIP_S = 0.02
"""What happens so close together at the provider may be heard of here in another order."""


class Roll:
    """The records of one endpoint.

    starts:  where the provider starts an instance for each call that waits, and goes on starting it though
             that call was answered by another, or has left: how long that takes; None elsewhere
    """

    def __init__(self, starts: StartUps | None) -> None:
        self.starts = starts
        self.alive: list[Instance] = []
        self.late: list[Instance] = []
        """Nameless ones that are gone, for as long as one of them may yet answer."""
        self.started = 0
        self._nameless_starts = Nameless()
        self._by_id: dict[str, Instance] = {}
        self._gone: dict[str, Instance] = {}

    def open(self, now: float) -> Instance:
        """A start that nobody has heard of yet."""
        instance = Instance(now)
        self.alive.append(instance)
        return instance

    def get(self, instance_id: str) -> Instance | None:
        """The one of this name, if it is not gone."""
        return self._by_id.get(instance_id)

    def count(self, instance: Instance, ticket: Ticket, now: float) -> None:
        """It is among those that are known to have started. Where it has no name, it did so for this call."""
        if not instance.counted:
            instance.counted = True
            self.started += 1
            if not instance.id and not ticket.died:
                self._nameless_starts.add(instance, ticket.began, now)

    def served_by(
        self,
        ticket: Ticket,
        instance_id: str,
        now: float,
        *,
        cold: bool,
        counted: bool = True,
        age_s: float | None = None,
    ) -> Instance:
        """The instance that served the call: the guess, unless what came back contradicts it.

        age_s: seconds for which it had been up when the call reached it, where that was said
        """
        known = self._by_id.get(instance_id) or self._returned(instance_id)
        if known is None:
            return self._met(ticket, instance_id, now, cold=cold, counted=counted, age_s=age_s)
        guess = ticket.instance
        if known is guess:
            return guess
        if self.starts is not None and guess.unheard and self._waited(ticket, known):
            guess.outlasted_s = max(guess.outlasted_s, (known.last_end or 0.0) - guess.began)
        return self._take(ticket, known)

    def answered_elsewhere(self, ping: Ticket) -> None:
        """A ping was answered by an instance that was up: the start that it caused waits for nobody now."""
        instance = ping.instance
        if self.starts is None or instance.spare or not instance.unheard:
            return
        if instance.state is State.OPENING:
            self._set_apart(ping, instance)
            ping.origin = instance

    def let_go(self, ping: Ticket, *, none_came: bool = False) -> None:
        """A ping whose start waits for nobody is over: that start comes up, or is known not to have."""
        origin, ping.origin = ping.origin, None
        if origin is None or origin.users or not origin.unheard or self.starts is None:
            return
        if none_came:
            origin.move("undo")
            self.forget(origin)
        else:
            origin.up_at = origin.began + self.starts.mean_beyond(origin.outlasted_s)

    def leave(self, instance: Instance, event: str) -> None:
        """One user less, who was not served there (`undo`, `left`) or was (`end`)."""
        instance.users -= 1
        if instance.users > 0:
            return
        if event == "left" and (self.starts is None or instance.counted):
            event = "undo"
        if instance.last_end is not None and instance.state is State.OPENING:
            instance.state = State.BUSY  # another has been served there meanwhile
        elif instance.last_end is None and instance.state is State.BUSY and event in ("undo", "left"):
            # It was seen running but no call ever ended there: there is nothing to keep or to bill.
            instance.state = State.OPENING
        instance.move(event)
        if instance.state is State.OPENING and self.starts is not None:
            instance.up_at = instance.began + self.starts.mean_beyond(instance.outlasted_s)
        if instance.state is State.GONE:
            self.forget(instance)

    def forget(self, instance: Instance) -> None:
        """It is gone, as far as can be told."""
        self.alive.remove(instance)
        if instance.id:
            del self._by_id[instance.id]
            self._gone[instance.id] = instance
            if len(self._gone) > REMEMBERED:
                del self._gone[next(iter(self._gone))]

    def _met(
        self,
        ticket: Ticket,
        instance_id: str,
        now: float,
        *,
        cold: bool,
        counted: bool,
        age_s: float | None,
    ) -> Instance:
        """One that has no name yet, or that nobody knew of."""
        guess = ticket.instance
        actual: Instance | None
        if self.starts is not None and instance_id and age_s is not None:
            actual = self._of_age(ticket, now, age_s, cold=cold)
        elif not cold and instance_id and not guess.counted and (met := self._nameless(counted=True)):
            # Its start was told of by a call that failed there, after this one was taken to start another.
            actual = self._instead(ticket, met)
        elif (not guess.id or not instance_id) and not (cold and guess.last_end is not None):
            actual = guess
        else:
            # Another id: one that was presumed to be up, or a new one, as where a start-up was seen.
            met = None if cold else self._nameless()
            actual = self._swapped(ticket) if cold else None
            actual = actual or self._instead(ticket, met or self.open(ticket.began if cold else now))
        if instance_id:
            actual.id = instance_id
            self._by_id[instance_id] = actual
            if self.starts is not None:
                self._learn(self.starts, actual, age_s if cold else None)
            if cold or self.starts is not None:
                self._nameless_starts.drop(actual)
            else:
                actual.counted = self._was_counted(ticket, now, age_s)
            if counted:
                self.count(actual, ticket, now)
        return actual

    def _was_counted(self, ticket: Ticket, now: float, age_s: float | None) -> bool:
        """Whether the start of one that was up when the call came is one that was told of without its name.

        Whether the record on which it is met was counted says nothing: it may be that of one that has died.
        """
        if age_s is None:
            return self._nameless_starts.take(-math.inf, now)
        earliest, latest = ticket.began - age_s, now - age_s
        return self._nameless_starts.take(earliest - ROUND_TRIP_S, latest + ROUND_TRIP_S)

    @staticmethod
    def _learn(starts: StartUps, instance: Instance, age_s: float | None) -> None:
        if age_s is not None:
            starts.took(age_s)  # somebody waited for it, and had it as soon as it was up
        elif instance.outlasted_s > 0.0:
            starts.outlasted(instance.outlasted_s)

    def _of_age(self, ticket: Ticket, now: float, age_s: float, *, cold: bool) -> Instance:
        """The record of a start that was so long ago when the call reached the instance.

        Which of those of about that age it is does not matter to what they cost together. A record that is
        too old, of a start that the call itself was taken to wait for, is of one that failed: what has come
        up in its place is paid for from the same moment on.
        """
        assert self.starts is not None
        guess = ticket.instance
        earliest, latest = ticket.began - age_s, now - age_s

        expected = self.starts.expected

        def fits(one: Instance) -> bool:
            # The worker's process may be younger than its instance; of one that is gone there is no doubt.
            reach = ROUND_TRIP_S + (0.0 if one.state is State.GONE else expected)
            in_time = earliest - reach <= one.began <= latest + ROUND_TRIP_S
            return in_time and not one.id and not one.spare

        if fits(guess) or (guess.unheard and guess.began <= latest and not guess.spare):
            return guess
        found = [one for one in (*self.alive, *self.late) if fits(one)]
        if guess.spare and not found:
            return guess
        if not found:
            if cold:
                return self._instead(ticket, self.open(ticket.began))
            # It was up before anything was known of it.
            return self._instead(ticket, self.open(earliest), event="undo")
        one = min(found, key=lambda each: (each.state is State.GONE, abs(each.began - earliest)))
        if one.state is State.GONE:
            self.late.remove(one)
            one.move("return")
            self.alive.append(one)
        return self._take(ticket, one)

    def _take(self, ticket: Ticket, actual: Instance) -> Instance:
        """The ticket is there. Whoever was taken to be there is where the ticket was taken to be."""
        other = self._holder(actual) if self.starts is not None else None
        if other is not None and other.fresh and actual.unheard:
            self._set_apart(other, actual)
        elif other is not None and ticket.instance.users == 1:
            return self._exchange(ticket, other)
        return self._instead(ticket, actual)

    def _set_apart(self, ping: Ticket, met: Instance) -> None:
        """What the ping has made start was met by another: it goes on without."""
        spare = self.open(ping.began)
        spare.move("begin")
        spare.spare, spare.users, spare.holder = True, 1, ping
        spare.route, spare.kind = met.route, met.kind
        ping.instance = spare
        met.users -= 1

    def _swapped(self, ticket: Ticket) -> Instance | None:
        """The instance whose start this call has seen, where one was taken to start for another call."""
        for instance in self.alive:
            if instance.state is State.OPENING and not instance.id and instance is not ticket.instance:
                if instance.began < ticket.began - ROUND_TRIP_S:
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

    @staticmethod
    def _exchange(ticket: Ticket, other: Ticket) -> Instance:
        if ticket.instance.unheard:
            ticket.instance.state = State.OPENING  # whoever was seen running was not there
        ticket.instance, other.instance = other.instance, ticket.instance
        ticket.instance.holder, other.instance.holder = ticket, other
        return ticket.instance

    def _nameless(self, *, counted: bool = False) -> Instance | None:
        """One that idles, or comes up, whom nobody has met yet. `counted`: it is known to have started."""
        unmet = [one for one in self.alive if not one.id and not one.users and one.counted >= counted]
        idle = [one for one in unmet if one.state is State.IDLE]
        return next(iter(idle or unmet), None)

    def _returned(self, instance_id: str) -> Instance | None:
        """An instance that should have been stopped by now and was not: its idling is paid up to here."""
        instance = self._gone.pop(instance_id, None)
        if instance is not None:
            instance.move("return")
            self.alive.append(instance)
            self._by_id[instance_id] = instance
        return instance

    @staticmethod
    def _waited(ticket: Ticket, actual: Instance) -> bool:
        """Nothing starts for a call that was answered at once, by one that had just become free."""
        return actual.last_end is None or actual.last_end > ticket.began + ROUND_TRIP_S

    def _instead(self, ticket: Ticket, actual: Instance, event: str = "") -> Instance:
        waited = self._waited(ticket, actual) and not ticket.fresh
        self.leave(ticket.instance, event or ("left" if waited else "undo"))
        ticket.instance = actual
        actual.holder = ticket
        if actual.users == 0 and actual.state is not State.OPENING:
            actual.move("begin")
        actual.users += 1
        return actual
