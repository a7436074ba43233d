"""What the instances of an endpoint cost, by what they did: from their lives to dollars.

Follows `gateway.vocab.Rent`, with the two ways in which providers round up:

    idling is billed      an instance's life is one stretch, and its end is rounded up (RunPod bills a
                          worker in whole seconds): what that adds is paid like idling
    idling is not billed  every call is a bill of its own, the boot it waited for included (Lambda bills
                          an invocation in whole milliseconds): what that adds is paid like the work

A ping to open or to keep an instance is a call: it costs the fee, too. Knows no policy and no request.
"""

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from gateway.simulator.scenario import Endpoint
from gateway.simulator.world import Instance, SimulatedEndpoint, rounding
from gateway.vocab import Rent


class Bill(NamedTuple):
    """Dollars, by the names of `cost_split`."""

    exec: float
    cold: float
    idle: float
    fee: float
    prewarm: float


def bill(endpoint: SimulatedEndpoint) -> Bill:
    """Of all lives there were, once they are over."""
    rent, lives = endpoint.rent, endpoint.lives
    price = rent.usd_per_second or 0.0
    asked = [life for life in lives if not life.cold_ahead]
    cold = fsum(_boot_s(rent, life) for life in asked)
    ahead = fsum(_boot_s(rent, life) for life in lives if life.cold_ahead)
    idle = 0.0
    if rent.bills_idle:
        idle = fsum((endpoint.idle_s, *(_end_s(rent, life) for life in lives if not life.ahead)))
        ahead += fsum(life.idle_ahead_s + (_end_s(rent, life) if life.ahead else 0.0) for life in lives)
    return Bill(
        exec=fsum(life.exec_s + life.rounding_s for life in lives) * price,
        cold=cold * price,
        idle=idle * price,
        fee=(endpoint.served + sum(life.pinged for life in asked)) * rent.usd_per_call,
        prewarm=ahead * price + endpoint.pings * rent.usd_per_call,
    )


def _boot_s(rent: Rent, life: Instance) -> float:
    """Seconds that are billed for a boot."""
    if not rent.bills_boot:
        return 0.0
    if life.pinged and not rent.bills_idle:  # the ping is a bill of its own
        return life.cold_s + rounding(life.cold_s, rent.round_up_s)
    return life.cold_s


def _end_s(rent: Rent, life: Instance) -> float:
    """Seconds that rounding up adds to the life of an instance whose idling is billed."""
    return rounding(life.cold_s * rent.bills_boot + life.exec_s + life.idle_s, rent.round_up_s)


class Terms(NamedTuple):
    """What `gateway.simulator.bound.lower_bound` is told of prices, in fleet slot-seconds."""

    premium: float
    cold_mean: float
    idle: float
    bills_idle: bool
    extras: Sequence[float]


def best_terms(endpoints: Sequence[Endpoint], services: Sequence[float], slot_usd: float) -> Terms:
    """Of several endpoints, one that is as good as the best of them in everything: nobody pays less.

    slot_usd:  dollars for a second of a fleet slot
    """
    units = [0.0 if each.bills_idle else each.round_up_s for each in endpoints]
    # A boot and the call that waited for it are rounded up together, by less than a unit more than apart.
    boots = [
        max(0.0, each.cold.mean() - unit) if each.bills_boot else 0.0
        for each, unit in zip(endpoints, units, strict=True)
    ]
    extras: Sequence[float] = ()
    if all(each.usd_per_call or unit for each, unit in zip(endpoints, units, strict=True)):
        every = list(zip(endpoints, units, strict=True))
        extras = [
            min(each.usd_per_call + each.usd_per_second * rounding(seconds, unit) for each, unit in every)
            / slot_usd
            for seconds in services
        ]
    return Terms(
        premium=min(each.usd_per_second for each in endpoints) / slot_usd,
        cold_mean=min(boots),
        idle=min(each.idle_s if each.bills_idle else 0.0 for each in endpoints),
        bills_idle=all(each.bills_idle for each in endpoints),
        extras=extras,
    )
