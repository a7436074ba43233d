"""What an endpoint costs whose provider the gateway knows nothing about: by the second and by the request.

Pure values. A price that the file does not say is unknown, never zero; who says it in one unit only is
taken to charge nothing in the other.
"""

from typing import Self

from pydantic import model_validator

from gateway.options import Duration, Options, Usd
from gateway.vocab import Rent


class Rates(Options):
    """What an endpoint costs."""

    usd_per_second: Usd | None = None
    """Price of one second of one instance, start-up and work."""
    usd_per_request: Usd | None = None
    """Price of one request, on top of its seconds."""
    bills_idle: bool = True
    """Whether an instance's idling costs as much as its work. Only with `usd_per_second`."""
    round_up: Duration = 0.0
    """The provider rounds an instance's seconds up to multiples of this. Only with `usd_per_second`."""

    @model_validator(mode="after")
    def _some_price(self) -> Self:
        prices = [name for name in type(self).model_fields if name.startswith("usd_per_")]
        if all(getattr(self, name) is None for name in prices):
            raise ValueError(f"says no price; give at least one of {', '.join(prices)}")
        return self


def rent_of(rates: Rates | None, *, idle_s: float, boot_s: float, tokens_usd: float | None = 0.0) -> Rent:
    """The same in the gateway's own words.

    tokens_usd:  what a call's tokens usually cost; None where that cannot be told ahead
    """
    if rates is None or tokens_usd is None:
        return Rent(None, idle_s=idle_s, boot_s=boot_s)
    return Rent(
        rates.usd_per_second or 0.0,
        usd_per_call=(rates.usd_per_request or 0.0) + tokens_usd,
        idle_s=idle_s,
        boot_s=boot_s,
        bills_idle=rates.bills_idle and bool(rates.usd_per_second),
        round_up_s=rates.round_up,
    )
