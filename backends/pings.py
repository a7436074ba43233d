"""Opening an instance that is not there yet, where the provider chooses who answers.

A provider starts an instance when requests wait, and gives each request to whichever is free first, perhaps
to one that was up before: then nothing is known of the one that it may have started. So a ping that met an
old acquaintance is sent again, while pings that stay for a moment keep the others that idle from answering
it. It knows tickets and answers; never a provider, a wire format or a client's call.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from backends.envelope import ping_call
from backends.instances import Instances, Span, Ticket
from gateway.clock import Clock
from gateway.errors import BackendError, BackendFull
from gateway.vocab import Call, Charge, Start, Usage, Work

HOLD_S = 0.5
"""How long a ping stays that is to keep an idle instance from answering another."""
PREWARM = "prewarm"
APART_S = 0.1
"""How long a ping stays where it is answered: those sent together should not all meet the first one."""
PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.25, 1.0, 1.5
"""Between one try and the next."""


class Pinged(NamedTuple):
    """What came back from a ping, as far as it is known.

    start:   whether the instance came up after the ping's ticket began
    boot_s:  seconds of start-up that it waited for, 0.0 for none; `age`: of the worker's process, in seconds
    busy_s:  seconds that it ran there
    usage:   where the provider bills each request by itself
    """

    instance: str = ""
    start: Start = Start.UNKNOWN
    boot_s: float | None = None
    age: float | None = None
    busy_s: float | None = None
    usage: Usage | None = None


class Pings:
    """The pings of one endpoint.

    send:      has a worker answer a `ping_call`; raises BackendError; leaves the ticket open
    usage:     of a span, a boot's seconds and an instance, where the provider does not tell itself
    expected:  seconds that an instance is expected to take to come up
    patience:  seconds after which an instance that has not come up is given up, though others answer
    """

    def __init__(
        self,
        name: str,
        *,
        table: Instances,
        clock: Clock,
        send: Callable[[Call, Ticket], Awaitable[Pinged]],
        usage: Callable[[Span, Pinged], Usage],
        expected: float,
        patience: float,
    ) -> None:
        self.expected = expected
        self.patience = patience
        self._name = name
        self._table = table
        self._clock = clock
        self._send = send
        self._usage = usage
        self._searching = asyncio.Lock()
        self._searchers = 0
        self._spare: list[Usage] = []  # found beyond what was looked for

    async def keep(self, route: str, kind: str) -> Usage:
        """One ping, whoever answers."""
        with self._ticket(route, kind) as ticket:
            return (await self._ping(ticket, 0.0))[0]

    async def open(self, route: str, kind: str) -> Usage:
        """An instance that calls can use. For a prewarm it is one that was not there before: BackendFull when
        none comes up.
        """
        with self._ticket(route, kind, fresh=True) as ticket:
            ahead = kind == PREWARM  # not even an idle one will do: it is wanted for what comes next
            idle = self._table.counts(ticket.began)["idle"]
            if not ahead or not idle:
                usage, new = await self._ping(ticket, APART_S)
                if new:
                    return usage
                waited = self._clock.now() - ticket.began > APART_S + PAUSE_S
                if not ahead and (waited or not idle):
                    # Nothing was free, so the provider was starting one for it when another came up first.
                    # Which of them calls meet is the provider's affair; when it is up, is what is expected.
                    await asyncio.sleep(max(0.0, ticket.began + self.expected - self._clock.now()))
                    return self._presume(ticket)
                if not ahead:
                    self._table.undo(ticket)
                    return usage
                await asyncio.sleep(PAUSE_S)
            self._searchers += 1
            try:
                return await self._search(ticket)
            finally:
                self._searchers -= 1
                if not self._searchers:
                    self._spare.clear()

    def _presume(self, ticket: Ticket) -> Usage:
        """Its instance should be up by now. How long it booted is not known: nobody learns from it."""
        self._table.presume(ticket, self._clock.now())
        return Usage()

    async def _search(self, ticket: Ticket) -> Usage:
        """Try again and again, one search at a time: two would keep each other's instances busy."""
        pause = PAUSE_S
        while True:
            async with self._searching:
                usage = self._spare.pop() if self._spare else await self._round(ticket)
            if usage is not None:
                self._table.undo(ticket)  # if another ping of the round has found it
                return usage
            if self._clock.now() - ticket.began > self.patience:
                raise BackendFull(f"{self._name}: only instances that were up before answered")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, PAUSE_GROWTH * pause)

    async def _round(self, ticket: Ticket) -> Usage | None:
        """As many pings as instances idle, which stay a moment, and one more. None: nobody new answered."""
        idle = self._table.counts(self._clock.now())["idle"]
        own, *others = await asyncio.gather(
            _outcome(self._ping(ticket, HOLD_S)),
            *(_outcome(self._stay(ticket)) for _ in range(idle)),
        )
        found = [usage for usage, new in (one for one in (own, *others) if isinstance(one, tuple)) if new]
        if not found:
            if isinstance(own, BackendError):
                raise own
            return None
        self._spare += found[1:]
        return found[0]

    async def _stay(self, whose: Ticket) -> tuple[Usage, bool]:
        """Keep an instance busy. It may turn out to be the one that is looked for, up since `whose` began."""
        with self._ticket(whose.route, whose.kind) as ticket:
            ticket.began = whose.began
            return await self._ping(ticket, HOLD_S)

    async def _ping(self, ticket: Ticket, hold_s: float) -> tuple[Usage, bool]:
        """One exchange: what it used, and whether the instance that answered is a new one.

        A ticket that is for a new one stays open where none was.
        """
        asked = self._clock.now()
        pinged = await self._send(ping_call(ticket.route, hold_s), ticket)
        now = self._clock.now()
        new = not self._table.knows(pinged.instance, now)
        boot_s: float | None = pinged.boot_s
        busy_s: float | None = pinged.busy_s
        if not new and busy_s is None:
            busy_s = min(hold_s, now - asked)
        if not new and ticket.fresh:
            self._table.visit(ticket, now, pinged.instance, busy_s or 0.0)
            self._owe(ticket, pinged.usage)
            return pinged.usage or Usage(), False
        if new and asked - ticket.began >= PAUSE_S and pinged.start is Start.COLD and pinged.age is not None:
            # It came up while an earlier ping ran elsewhere: only the worker knows how long it is up.
            boot_s = min(pinged.age, now - ticket.began)
            busy_s = min(now - asked, now - ticket.began - boot_s) if busy_s is None else busy_s
        span = self._table.end(
            ticket,
            now,
            instance_id=pinged.instance,
            boot_s=boot_s,
            busy_s=busy_s,
            age_s=pinged.age,
        )
        usage = pinged.usage or self._usage(span, pinged._replace(boot_s=boot_s))
        self._owe(ticket, usage)
        return usage, new

    @contextlib.contextmanager
    def _ticket(self, route: str, kind: str, *, fresh: bool = False) -> Iterator[Ticket]:
        """A ping's ticket, closed on every way out. Of one that failed no instance is left in the table,
        unless one was told of.
        """
        ticket = self._table.begin(self._clock.now(), route, kind, fresh=fresh)
        try:
            yield ticket
        except BackendError as error:
            if error.work is Work.NOT_STARTED:
                self._table.undo(ticket)
            elif error.usage is not None:
                self._owe(ticket, error.usage)
                if error.usage.boot_s:
                    self._table.saw_start(ticket, self._clock.now(), error.usage.instance)
                if error.usage.usd:
                    self._table.undo(ticket)
            elif ticket.met:
                self._table.lose(ticket, self._clock.now())  # which one it was is known: it is up, and idles
            self._table.drop(ticket, self._clock.now())
            raise
        finally:
            self._table.lose(ticket, self._clock.now())  # cancelled: it may be up soon, and idle

    def _owe(self, ticket: Ticket, usage: Usage | None) -> None:
        if usage is not None and usage.usd:
            self._table.owe(Charge(ticket.route, ticket.kind, usage.usd))


async def _outcome(ping: Awaitable[tuple[Usage, bool]]) -> tuple[Usage, bool] | BackendError:
    try:
        return await ping
    except BackendError as error:
        return error
