"""A route of the configuration file as a scenario: its slots, its prices, its idle times.

Prices and what is billed are what the backend itself says (`Backend.rent`); the rest is read by the keys
that backends share (`price`, `cold_start`). So it knows no concrete backend. It never knows a policy.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from backends.base import Backend, BackendOptions, Kit
from gateway.clock import FakeClock
from gateway.config.schema import Prewarm, RouteOptions, Settings
from gateway.options import Auto
from gateway.pricing import per_second
from gateway.probe.calibration import log_normal
from gateway.registry import Registry
from gateway.simulator.distributions import Distribution, Empirical, Lognormal, parse
from gateway.simulator.scenario import Endpoint, Fleet, Scenario
from gateway.simulator.world import no_background
from gateway.vocab import Rent


def route_of(settings: Settings, name: str | None) -> tuple[str, RouteOptions]:
    """The route called `name`, or the only one there is. Raises ValueError."""
    routes = settings.routes
    if name is None:
        if len(routes) > 1:
            raise ValueError(
                f"the file has {len(routes)} routes; choose one with --route: {', '.join(routes)}"
            )
        return next(iter(routes.items()))
    if name not in routes:
        raise ValueError(f"the file has no route {name!r}; it has {', '.join(routes)}")
    return name, routes[name]


def scenario(
    settings: Settings,
    route: str | None,
    backends: Registry[Backend],
    *,
    budget_s: float | None,
    objective: float | None,
    cold: Distribution | None,
    idle_s: float | None,
    premium: float | None,
    seed: int,
    prewarm: Prewarm | None = None,
    fee: float | None = None,
    bills: tuple[bool, bool] | None = None,
    round_up_s: float | None = None,
    late_binding: str | None = None,
) -> Scenario:
    """What the file says, with everything that is not None in its place. Raises ValueError.

    bills:         whether booting and whether idling is billed
    late_binding:  `ping`, `provider` or `none`: how a call comes to an instance that has to boot
    """
    name, options = route_of(settings, route)
    owned: list[tuple[str, BackendOptions]] = []
    rented: list[tuple[str, BackendOptions]] = []
    for tier in options.tiers:
        backend = settings.backends[tier.backend]
        (owned if backends.get(backend.type).owned else rented).append((tier.backend, backend))
    if len(owned) > 1:
        names = ", ".join(each for each, _ in owned)
        raise ValueError(f"route {name} has more than one owned tier ({names}); one can be simulated")
    fleet = _fleet(*owned[0]) if owned else None
    if premium is not None and fleet is None:
        raise ValueError(f"route {name} has no owned tier that --premium could be a multiple of")
    slot_usd = fleet.usd_per_second / fleet.slots if fleet is not None else 0.0
    usd_per_second = None if premium is None else premium * slot_usd
    endpoints = []
    for each in rented:
        built = _built(*each, backends)
        rent = _rent(built, usd_per_second=usd_per_second, fee=fee, bills=bills, round_up_s=round_up_s)
        endpoints.append(_endpoint(built, rent, cold=cold, idle_s=idle_s, late_binding=late_binding))
    within, share = _limits(name, options, budget_s, objective)
    return Scenario(
        fleet=fleet,
        endpoints=tuple(endpoints),
        tiers=tuple(options.tiers),
        budget_s=within,
        objective=share,
        seed=seed,
        prewarm=options.prewarm if prewarm is None else prewarm,
    )


def _limits(
    name: str, options: RouteOptions, budget_s: float | None, objective: float | None
) -> tuple[float, float]:
    """Seconds, and the share of answers that must stay within them."""
    limits = options.latency_budget
    if budget_s is None:
        if limits is None:
            raise ValueError(f"route {name} has no latency_budget; give one with --budget")
        budget_s = limits.within
    if objective is None:
        objective = limits.objective if limits is not None else 0.99
    return budget_s, objective


def _fleet(name: str, options: BackendOptions) -> Fleet:
    price = _part(options, "price", "usd_per_replica_hour")
    if price is None:
        raise ValueError(f"backends.{name} has no price; add price: {{usd_per_replica_hour: …}}")
    if isinstance(options.max_in_flight, Auto):
        raise ValueError(
            f"backends.{name} learns its slots (max_in_flight: auto), so their number is not known here;"
            " write the one that /admin/backends shows into a copy of the file"
        )
    return Fleet(name, options.max_in_flight, per_second(price))


def _endpoint(
    backend: Backend,
    rent: Rent,
    *,
    cold: Distribution | None,
    idle_s: float | None,
    late_binding: str | None,
) -> Endpoint:
    name, options = backend.name, backend.options
    assert rent.usd_per_second is not None
    measured = _measured_cold(options)
    # What is measured is what the gateway goes by; what is declared it goes by until it has seen a boot.
    expect = _part(options, "cold_start", "expect", default=getattr(options, "boot", None))
    if cold is None:
        cold = measured
    if cold is None:
        if expect is None:
            raise ValueError(f"backends.{name} does not say how long a cold start takes; give --cold")
        cold = parse(f"constant:{expect}s")
    if idle_s is None:
        idle_s = _part(options, "cold_start", "idle_after", default=getattr(options, "idle_after", None))
        if idle_s is None:
            raise ValueError(f"backends.{name} does not say how long an instance idles; give --idle")
    expect_s = expect if measured is None else None
    return Endpoint(
        name, rent.usd_per_second, idle_s, cold, rent.usd_per_call, options.max_in_flight, expect_s,
        rent.bills_boot, rent.bills_idle, rent.round_up_s,
        opens=backend.can_open if late_binding is None else late_binding == "ping",
        binds_late=backend.binds_late if late_binding is None else late_binding == "provider",
    )  # fmt: skip


def measured_service(settings: Settings, route: str | None) -> Distribution | None:
    """Service times as an earlier probe found them: of the route's first tier that has been measured."""
    for tier in route_of(settings, route)[1].tiers:
        measured = settings.backends[tier.backend].calibration
        service = measured.service if measured is not None else None
        if service is not None and (fitted := log_normal(service.p50, service.p95)) is not None:
            return Lognormal(*fitted)
    return None


def _measured_cold(options: BackendOptions) -> Distribution | None:
    """Cold starts as an earlier probe found them: its modes where there are several, else a log-normal."""
    measured = options.calibration
    cold = measured.cold_start if measured is not None else None
    if cold is None:
        return None
    if len(cold.modes) > 1:
        times = (round(100 * mode.share) * (mode.p50,) for mode in cold.modes)
        return Empirical(tuple(sorted(time for part in times for time in part)))
    fitted = log_normal(cold.p50, cold.p95)
    return None if fitted is None else Lognormal(*fitted)


def _built(name: str, options: BackendOptions, backends: Registry[Backend]) -> Backend:
    """The backend, to be asked what it says of itself. No secret is looked at and nothing is sent."""
    kit = Kit(clock=FakeClock(), chance=Random(0), spawn=no_background)  # noqa: S311 - nothing is drawn
    return backends.get(options.type)(name, options.model_copy(update={"headers": {}}), kit)


def _rent(
    backend: Backend,
    *,
    usd_per_second: float | None,
    fee: float | None,
    bills: tuple[bool, bool] | None,
    round_up_s: float | None,
) -> Rent:
    """The price of an instance and of a call, and what of its life is billed."""
    rent = backend.rent or Rent(None)
    if usd_per_second is not None:  # a multiple of a slot's price is all of it
        rent = rent._replace(usd_per_second=usd_per_second, usd_per_call=0.0)
    if backend.rent is None and usd_per_second is None:
        raise ValueError(
            f"backends.{backend.name} does not say what a second of an instance costs; give --premium"
        )
    if rent.usd_per_second is None:
        per_gb = _part(backend.options, "price", "usd_per_gb_second")
        missing = "memory" if per_gb is not None else "price"
        raise ValueError(f"backends.{backend.name} has no {missing}; add it, or give --premium")
    if fee is not None:
        rent = rent._replace(usd_per_call=fee)
    if bills is not None:
        rent = rent._replace(bills_boot=bills[0], bills_idle=bills[1])
    return rent if round_up_s is None else rent._replace(round_up_s=round_up_s)


def _part(options: BackendOptions, section: str, key: str, *, default: Any = None) -> float | None:
    value: Any = getattr(options, section, None)
    found = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return default if found is None else float(found)
