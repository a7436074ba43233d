"""How providers count that do not bill an instance's life: each request by itself, or for standing by.

Knows the base of the rented backends. It must never know a provider or a wire format.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from backends.elastic import ColdStart, Elastic, ElasticOptions
from gateway.options import Options, Usd
from gateway.vocab import Charge, Rent


def billed(seconds: float, *, step: float, least: float = 0.0) -> float:
    """The seconds of one request as they are billed: whole multiples of `step`, and `least` at the least."""
    if step > 0.0:
        # A hair above a whole multiple is that multiple: the seconds are a difference of floats.
        seconds = math.ceil(seconds / step - 1e-9) * step
    return max(least, seconds)


class StandingPrice(Options):
    """Instances that are paid for whether they are used or not."""

    usd_per_replica_hour: Usd
    """Price of one instance for one hour."""


class ToZeroOptions(ElasticOptions):
    """An endpoint whose instances are paid by the hour, and are scaled to zero when nobody calls."""

    price: StandingPrice | None = None
    """What an instance costs while it is there. Without it every cost figure of its routes is absent."""


def rent_by_hour(price: StandingPrice | None, cold: ColdStart, *, round_up_s: float = 0.0) -> Rent:
    """What the file says of instances whose life is paid by the hour."""
    usd = None if price is None else price.usd_per_replica_hour / 3600
    return Rent(usd, idle_s=cold.idle_after, boot_s=cold.expect, round_up_s=round_up_s)


class StandingOptions(ElasticOptions):
    """An endpoint whose instances stand by."""

    instances: int = Field(default=1, ge=1)
    """How many instances stand by, as it is paid for. `max_in_flight` is for all of them together."""
    price: StandingPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""


class Standing(Elastic):
    """An endpoint of a provider whose instances stand by: owned, whoever runs them.

    A call there costs nothing more, so it is never called spilled; the hours are counted instead. How
    the instances come and go is the provider's affair: none is inferred, and none is opened.
    """

    owned: ClassVar[bool] = True
    options: StandingOptions

    @property
    def rent(self) -> None:
        """Nothing is rented by the call."""
        return

    @property
    def can_open(self) -> bool:
        """An instance that stands by need not boot."""
        return False

    @property
    def usd_per_replica_hour(self) -> float | None:
        """Price of all instances for an hour: for the gateway they are one place. None if not said."""
        price = self.options.price
        return None if price is None else price.usd_per_replica_hour * self.options.instances

    @property
    def price_known(self) -> bool:
        """False when the file does not say."""
        return self.options.price is not None

    def settle(self, now: float) -> list[Charge]:
        """Nothing falls due by itself."""
        self.table.settle(now)
        return []

    def instances(self, now: float) -> Mapping[str, int]:
        """None is inferred."""
        return {}

    @property
    def instances_started(self) -> None:
        """Nor is its start."""
        return

    @property
    def instances_presumed(self) -> None:
        """Nor presumed."""
        return
