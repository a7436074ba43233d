"""What the rented, elastic backends share: one client, the instance table, usage and its price.

Knows the backend contract and the sibling helpers; it must never know a provider's wire format.
"""

import asyncio
import contextlib
import email.utils
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backends.base import Backend, BackendOptions, Kit
from backends.client import HttpClient, unsent
from backends.credentials import AddedFields, Credentials
from backends.envelope import from_result
from backends.instances import HEDGE_KIND, Boot, Instances, Span, Ticket
from backends.pings import Pinged, Pings
from backends.upstream_tls import ClientTls, UpstreamTls
from gateway.errors import BackendBroke, BackendError
from gateway.options import Duration, Options, SecretRef, Usd
from gateway.vocab import Call, Charge, Headers, Rent, Start, Usage, Work

_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")

PATIENCE_S = 5.0
"""Seconds for which a new instance is waited for beyond twice the time that one is said to take."""

BOOT_SLACK_S = 0.05
"""Ages and elapsed times come from two clocks' worth of rounding; smaller differences say nothing."""


HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/?#@]+(/[^?#]*)?$")]
"""An address to which paths are appended: no user, no query."""


class ColdStart(Options):
    """What is known ahead about the endpoint's instances."""

    expect: Duration
    """How long an instance takes from nothing to its first answer."""
    idle_after: Duration
    """How long an unused instance lives on, and is paid for: the provider's idle timeout."""


class PricePerSecond(Options):
    """A provider that bills the seconds of an instance's life."""

    usd_per_second: Usd
    """Price of one second of one instance: start-up, work and idling alike."""


class ElasticOptions(BackendOptions):
    """What every rented backend's section may say."""

    connect_timeout: Duration = 5.0
    """Longest wait for a connection to the provider."""
    tls: UpstreamTls | None = None
    """TLS towards the provider; absent: its certificate must be of those that the system trusts."""
    QUEUES: ClassVar[bool] = False
    """Whether the provider keeps calls in a queue of its own, for whichever instance is up or free first."""

    late_binding: Literal["ping", "provider", "none"] = "ping"
    """`ping`: an instance may be made to boot while calls wait, which then run on whatever is free first.
    `provider`: the same happens in the provider's own queue, which a call joins. `none`: only a call makes
    one boot, and waits for it."""

    @model_validator(mode="after")
    def _has_a_queue(self) -> Self:
        if self.late_binding == "provider" and not self.QUEUES:
            raise ValueError("late_binding: provider is for providers with a queue; here it is ping or none")
        return self


class Elastic(Backend):
    """Base of the rented backends."""

    options: ElasticOptions
    STARTS_FOR_WAITING: ClassVar[bool] = False
    """Whether the provider starts an instance for each call that waits, and goes on starting it though the
    call was answered by another, or has left."""

    RUNS_ON: ClassVar[bool] = False
    """Whether a call whose client has hung up waits on there, and runs to its end."""

    def __init__(
        self,
        name: str,
        options: ElasticOptions,
        kit: Kit,
        *,
        rent: Rent,
        secrets: Mapping[str, SecretRef],
    ) -> None:
        super().__init__(name, options, kit)
        self.tls = None if options.tls is None else ClientTls(name, options.tls)
        self.client = HttpClient(
            name,
            max_in_flight=options.max_in_flight,
            connect_timeout=options.connect_timeout,
            tls=self.tls,
        )
        self._rent = rent
        self.table = Instances(
            idle_after=rent.idle_s,
            usd_per_second=rent.usd_per_second if rent.bills_idle else None,
            round_up_to=rent.round_up_s,
            boot_s=rent.boot_s if self.STARTS_FOR_WAITING else None,
            runs_on=self.RUNS_ON,
        )
        self.pings = Pings(
            name,
            table=self.table,
            clock=kit.clock,
            send=self.send_ping,
            usage=self._pinged,
            expected=rent.boot_s,
            patience=2.0 * rent.boot_s + PATIENCE_S,
        )
        self.added = AddedFields(options.headers)
        added = {f"header {field}": reference for field, reference in self.added.secret.items()}
        self.credentials = Credentials(name, {**secrets, **added})

    @property
    def rent(self) -> Rent | None:
        """What the file says of its instances."""
        return self._rent

    @property
    def price_known(self) -> bool:
        """True when the file says what a second costs."""
        return self._rent.usd_per_second is not None

    @property
    def can_open(self) -> bool:
        """True unless the file says otherwise."""
        return self.options.late_binding == "ping"

    @property
    def binds_late(self) -> bool:
        """Where the file says so, of a kind whose provider has a queue."""
        return self.options.late_binding == "provider"

    async def open(self) -> None:
        """Check that every secret and certificate is there. Raises ConfigError, naming it."""
        self.credentials.check()
        if self.tls is not None:
            self.tls.open()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.close()

    def settle(self, now: float) -> list[Charge]:
        """The idle tails that fell due."""
        return self.table.settle(now)

    def instances(self, now: float) -> Mapping[str, int]:
        """The inferred table, counted."""
        return self.table.counts(now)

    @property
    def instances_started(self) -> int | None:
        """Those that a call or a ping has met or waited for, each once."""
        return self.table.started

    @property
    def instances_presumed(self) -> tuple[int, float] | None:
        """Those that nobody has met, and what was booked for them."""
        return self.table.presumed, self.table.presumed_usd

    @contextlib.contextmanager
    def attempt(self, call: Call) -> Iterator[Ticket]:
        """A ticket of the instance table that is closed on every way out.

        Work that never started leaves no trace; a failure that may have run gets the usage measured
        here, unless the provider's own is known; a call that was cut off becomes a charge.
        """
        ticket = self.table.begin(self.kit.clock.now(), call.route)
        try:
            yield ticket
        except BackendError as error:
            if error.work is Work.NOT_STARTED:
                self.table.undo(ticket)
            elif error.usage is None and self.table.too_early(ticket, self.kit.clock.now()):
                # Refused at the door: nothing can have come up for it by then.
                elapsed = self.kit.clock.now() - ticket.began
                self.table.undo(ticket)
                error.usage = self.usage(Span(0.0, elapsed), None, "", reported=False)
            elif not ticket.closed:
                told = None if error.usage is None else error.usage.boot_s
                span = self.table.fail(ticket, self.kit.clock.now(), boot_s=told)
                error.usage = error.usage or self.usage(span, None, "", reported=False)
            raise
        except asyncio.CancelledError as left:
            if unsent(left) and not ticket.closed:
                self.table.undo(ticket)
            raise
        finally:
            if call.lost:
                ticket.kind = HEDGE_KIND
            # Still open: cancelled, or the answer was given up half way. `lose` ignores a closed one.
            if not ticket.adopted:
                self.lost(ticket)

    def lost(self, ticket: Ticket) -> None:
        """A call that was cut off is charged what was measured of it, as the provider bills."""
        span = self.table.lose(ticket, self.kit.clock.now())
        if span is not None and not self._rent.bills_idle and (usd := self.price(span.billed_s)):
            self.table.owe(Charge(ticket.route, ticket.kind, usd))

    async def ping(self, replica: int, *, route: str, kind: str, fresh: bool = True) -> Usage | None:
        """Have an instance answer the worker kit's no-op; with `fresh` one that was not up before."""
        return await (self.pings.open(route, kind) if fresh else self.pings.keep(route, kind))

    @abstractmethod
    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """Have a worker answer this `ping_call`. Raises BackendError. It leaves the ticket open."""

    def _pinged(self, span: Span, pinged: Pinged) -> Usage:
        return self.usage(span, pinged.boot_s, pinged.instance, reported=pinged.busy_s is not None)

    def price(self, billed_s: float) -> float | None:
        """US dollars of a call's seconds and its fee; None when the file does not say."""
        usd = self._rent.usd_per_second
        return None if usd is None else billed_s * usd + self._rent.usd_per_call

    def usage(self, span: Span, boot_s: float | None, instance: str, *, reported: bool) -> Usage:
        """The usage of a call whose seconds are those of `span`."""
        billed_s = span.billed_s
        return Usage(billed_s, boot_s, self.price(billed_s), instance, reported)

    def unpack(self, result: object) -> tuple[int, Headers, bytes]:
        """Status, fields and body of a worker's result. Raises BackendBroke, naming this backend."""
        try:
            return from_result(result)
        except BackendBroke as error:
            raise BackendBroke(f"{self.name}: {error}") from None


def rent_by_second(price: PricePerSecond | None, cold: ColdStart, *, round_up_s: float = 0.0) -> Rent:
    """What the file says of instances whose life is billed, from start to end, by the second."""
    usd = None if price is None else price.usd_per_second
    return Rent(usd, idle_s=cold.idle_after, boot_s=cold.expect, round_up_s=round_up_s)


def check_envelope(options: ElasticOptions, envelope: str) -> None:
    """Raises ValueError where a ping is asked for that nobody in the worker would understand."""
    if envelope == "raw" and options.late_binding == "ping" and "late_binding" in options.model_fields_set:
        raise ValueError(
            "late_binding: ping needs envelope: event; what a handler of its own makes of a ping is not known"
        )


def start_by_boot(boot: Boot, elapsed: float, *, seen: bool) -> Start:
    """Warm or cold, from what the worker said of itself.

    One boot is one cold start: who meets an instance that has answered before (`seen`) did not make it
    boot, though it may have waited at the provider for that boot. With an age: its process began after
    the call was sent, so the call waited for it to boot. With an id only: a new one is taken for a new
    instance, which is wrong just once after a gateway's restart.
    """
    if boot.age is not None and not seen:
        return Start.COLD if boot.age <= elapsed + BOOT_SLACK_S else Start.WARM
    return Start.WARM if seen else Start.COLD


def retry_after(headers: Headers, wall: float) -> float | None:
    """Seconds named by `retry-after`, as a number or as a date (`wall`: now, Unix time); None if unusable."""
    for name, value in headers:
        if name == b"retry-after":
            text = value.decode("latin-1").strip()
            if _SECONDS.fullmatch(text):
                return float(text)
            with contextlib.suppress(ValueError, OverflowError):
                return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - wall)
    return None
