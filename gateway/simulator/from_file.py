"""A route of the configuration file as a scenario: its slots, its prices, its idle times.

Reads checked settings by the keys that backends share (`price`, `cold_start`), and so knows no
concrete backend. It never knows a policy.
"""

from collections.abc import Mapping
from typing import Any

from backends.base import Backend, BackendOptions
from gateway.config.schema import Prewarm, RouteOptions, Settings
from gateway.pricing import per_second
from gateway.probe.calibration import log_normal
from gateway.registry import Registry
from gateway.simulator.distributions import Distribution, Empirical, Lognormal, parse
from gateway.simulator.scenario import Endpoint, Fleet, Scenario

_GIB = 2**30


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
) -> Scenario:
    """What the file says, with everything that is not None in its place. Raises ValueError."""
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
    limits = options.latency_budget
    if budget_s is None:
        if limits is None:
            raise ValueError(f"route {name} has no latency_budget; give one with --budget")
        budget_s = limits.within
    if objective is None:
        objective = limits.objective if limits is not None else 0.99
    return Scenario(
        fleet=fleet,
        endpoints=tuple(
            _endpoint(
                each,
                backend,
                cold=cold,
                idle_s=idle_s,
                usd_per_second=None if premium is None else premium * slot_usd,
            )
            for each, backend in rented
        ),
        tiers=tuple(options.tiers),
        budget_s=budget_s,
        objective=objective,
        seed=seed,
        prewarm=options.prewarm if prewarm is None else prewarm,
    )


def _fleet(name: str, options: BackendOptions) -> Fleet:
    price = _part(options, "price", "usd_per_replica_hour")
    if price is None:
        raise ValueError(f"backends.{name} has no price; add price: {{usd_per_replica_hour: …}}")
    return Fleet(name, options.max_in_flight, per_second(price))


def _endpoint(
    name: str,
    options: BackendOptions,
    *,
    cold: Distribution | None,
    idle_s: float | None,
    usd_per_second: float | None,
) -> Endpoint:
    fee = 0.0
    if usd_per_second is None:
        usd_per_second, fee = _rent(name, options)
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
    return Endpoint(name, usd_per_second, idle_s, cold, fee, options.max_in_flight, expect_s)


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


def _rent(name: str, options: BackendOptions) -> tuple[float, float]:
    """Dollars for one second of one instance, and for one call."""
    price = _part(options, "price", "usd_per_second")
    if price is not None:
        return price, 0.0
    per_gb, memory = _part(options, "price", "usd_per_gb_second"), getattr(options, "memory", None)
    if per_gb is not None and memory is not None:
        return per_gb * memory / _GIB, _part(options, "price", "usd_per_request", default=0.0) or 0.0
    missing = "memory" if per_gb is not None else "price"
    raise ValueError(f"backends.{name} has no {missing}; add it, or give --premium")


def _part(options: BackendOptions, section: str, key: str, *, default: Any = None) -> float | None:
    value: Any = getattr(options, section, None)
    found = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return default if found is None else float(found)
