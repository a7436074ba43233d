"""The `tenants` section of the file: how much each may use. Knows its shape, never what is made of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.config.auth import NAME, Priority
from gateway.config.problems import Path, quoted
from gateway.options import Options, Usd

DEFAULT = "default"
"""Stands for the callers without a tenant, and for tenants that are not in the file."""
OTHER = "other"
"""What metrics call them."""


class TenantOptions(Options):
    """What the calls of one tenant may use, all together. Each limit may be left out: then there is none."""

    requests_per_second: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """Requests that come back every second; within any time no more are let in than this rate allows and
    `burst` on top."""
    requests_per_minute: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """The same in a minute. One of the two."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most requests at one moment, after a while without any; absent: those of a second, or of a minute."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Tokens of language models, read and written, that come back every minute; a minute's may be used at one
    moment. What a call uses beyond what it was expected to is worked off before the next is let in."""
    max_concurrent: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most calls inside the gateway at once, each until the last byte of its answer."""
    usd_per_hour: Usd | None = None
    """Most dollars that calls may cost in any 3,600 seconds, on the fleet and on rented backends."""
    usd_per_day: Usd | None = None
    """Most dollars in any 24 hours."""
    on_exhausted: Literal["shed", "warn"] = "shed"
    """What happens to calls when the dollars are used up. `shed`: refused; `warn`: let in, and said in the
    log."""
    priority: Priority | None = None
    """Highest `x-overspill-priority` of its calls, which is lowered to it; absent: any."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rates = [self.requests_per_second, self.requests_per_minute]
        if None not in rates:
            raise ValueError("give one of requests_per_second and requests_per_minute, not both")
        if self.burst is not None and rates == [None, None]:
            raise ValueError(
                "burst is for a rate of requests; give requests_per_second or requests_per_minute"
            )
        return self


def _without_other(tenants: dict[str, TenantOptions]) -> dict[str, TenantOptions]:
    if OTHER in tenants:
        raise ValueError(f"{OTHER!r} is what metrics call callers without a tenant; `{DEFAULT}` limits these")
    return tenants


Tenants = Annotated[dict[Annotated[str, Field(pattern=NAME)], TenantOptions], AfterValidator(_without_other)]
"""By name."""


def doubts(
    tenants: Mapping[str, TenantOptions], *, asks_callers: bool, unpriced: Sequence[str]
) -> Iterator[tuple[Path, str]]:
    """What is doubtful about the section: where, and why.

    asks_callers:  is anybody asked who calls?
    unpriced:      backends in use of which nobody knows what a call costs
    """
    for name, limits in tenants.items():
        path: Path = ("tenants", name)
        if name != DEFAULT and not asks_callers:
            yield path, "limits nobody: without `auth` no call has a tenant, and all are `default`"
        hour, day = limits.usd_per_hour, limits.usd_per_day
        if hour is not None and day is not None and day < hour:
            yield (*path, "usd_per_hour"), "is more than `usd_per_day` and will never be reached"
        if unpriced and (hour is not None or day is not None):
            backend = unpriced[0]
            yield (
                (*path, "usd_per_day" if hour is None else "usd_per_hour"),
                f"limits dollars, but backend {quoted(backend)} has no price: a call there counts as what "
                "was set aside for it, and on a route without any price calls are refused; give `price` in "
                f"backends.{backend}",
            )
