"""Warnings: what is doubtful in a file that works, so they are given only for one that does.

Each says what will happen and what would be right. Must never know a concrete backend: what one says of its
instances is an argument.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel

from gateway.config.auth import Auth, has_admin_token
from gateway.config.idempotency import doubts as idempotency_doubts
from gateway.config.problems import Path, Problem, quoted
from gateway.config.schema import RouteOptions, Settings
from gateway.config.tenants import doubts as tenant_doubts
from gateway.config.tree import Tree
from gateway.vocab import Rent
from policies.amounts import dollars, seconds
from policies.base import Queue

PLANNING = "cheapest_in_budget"
"""The policy that weighs prices, boots and budgets."""
DEAR_BUDGETS = 50.0
"""Latency budgets that opening an instance may cost in billed seconds before that is worth a warning: so
many calls, each taking its whole budget, would have cost as much as opening it for one."""


class Rented(NamedTuple):
    """What a rented backend says of its instances, whether one can be opened without a call, and whether it
    knows what it costs.
    """

    rent: Rent | None
    can_open: bool
    price_known: bool


def warnings(
    settings: Settings, tree: Tree, owned: Mapping[str, bool], rented: Mapping[str, Rented]
) -> Sequence[Problem]:
    """Doubts about a file that works, in no order. `owned`: which backends are paid for used or not."""
    doubts = Tree(tree.file, tree.data, tree.keys, tree.values)
    _doubt_ports(settings, doubts)
    _doubt_certificates(settings, doubts)
    for path, message in idempotency_doubts(settings.idempotency, tree):
        _doubt(doubts, path, message)
    used = {tier.backend for route in settings.routes.values() for tier in route.tiers}
    unpriced = []
    for name, options in settings.backends.items():
        # A price that the file leaves out may be known from elsewhere: litellm brings a list of them.
        listed = name in rented and rented[name].price_known
        if name in used and getattr(options, "price", "known") is None and not listed:
            unpriced.append(name)
        _doubt_backend(name, options, doubts, used=name in used, listed=listed)
    asks = isinstance(settings.auth, Auth) and settings.auth.asks_callers
    for path, message in tenant_doubts(settings.tenants, asks_callers=asks, unpriced=unpriced):
        _doubt(doubts, path, message)
    for name, route in settings.routes.items():
        _doubt_route(name, route, doubts)
        _doubt_spill_budget(name, route, doubts, owned)
        here = {tier.backend: rented[tier.backend] for tier in route.tiers if tier.backend in rented}
        if route.policy.type == PLANNING:
            _doubt_planning(name, route, doubts, here)
        if route.prewarm is not None:
            _doubt_prewarm(name, route, doubts, here)
        _doubt_hedge(name, settings, doubts, here)
    _doubt_idling(settings, doubts, rented)
    return doubts.problems


def _doubt(doubts: Tree, path: Path, message: str) -> None:
    doubts.problem(doubts.at_key(path), path, message)


def _doubt_ports(settings: Settings, doubts: Tree) -> None:
    if settings.tracing is not None and not _exports(settings.tracing.protocol):
        _doubt(
            doubts,
            ("tracing", "protocol") if settings.tracing.protocol == "grpc" else ("tracing",),
            f"OpenTelemetry's exporter for {settings.tracing.protocol} is not installed, so the gateway will "
            "not start; pip install 'overspill[otel]'",
        )
    certified = settings.admin_tls is not None and settings.admin_tls.client_certificates == "required"
    if not settings.listen.admin.loopback and not has_admin_token(settings.auth) and not certified:
        _doubt(
            doubts,
            ("listen", "admin"),
            "other machines can reach the admin port, and it asks nobody who they are; "
            "use 127.0.0.1 unless the network around it is private",
        )


def _doubt_certificates(settings: Settings, doubts: Tree) -> None:
    """Names in certificates that no client is ever asked for."""
    named = isinstance(settings.auth, Auth) and settings.auth.certificates
    if named and (settings.tls is None or settings.tls.client_ca is None):
        _doubt(
            doubts,
            ("auth", "certificates"),
            "lets nobody in: the data ports ask for no client certificate; give `tls` a client_ca, and "
            "client_certificates: required, or optional where there are other ways in",
        )


def _exports(protocol: str) -> bool:
    try:
        return importlib.util.find_spec(f"opentelemetry.exporter.otlp.proto.{protocol}") is not None
    except ModuleNotFoundError:  # not even the packages above it
        return False


def _doubt_backend(name: str, options: BaseModel, doubts: Tree, *, used: bool, listed: bool) -> None:
    path: Path = ("backends", name)
    if not used:
        _doubt(doubts, path, "no route uses this backend")
    if getattr(options, "price", "known") is None and not listed:
        _doubt(
            doubts,
            (*path, "price"),
            "is not given: its cost will be unknown and cost metrics absent",
        )
    if "cold_start" in type(options).model_fields and (*path, "cold_start", "idle_after") not in doubts.keys:
        assumed = getattr(getattr(options, "cold_start", None), "idle_after", None)
        guess = "cannot be told" if assumed is None else f"is told as if it were {assumed:g}s"
        _doubt(
            doubts,
            (*path, "cold_start", "idle_after"),
            f"is not given: how long an idle instance stays up, and is paid for, {guess}",
        )


def _doubt_route(name: str, route: RouteOptions, doubts: Tree) -> None:
    path: Path = ("routes", name)
    last = route.tiers[-1]
    looked_at = route.policy.type != PLANNING
    spills = looked_at and route.policy.type != "weighted"
    if spills and last.when_full == "spill" and "when_full" in last.model_fields_set:
        _doubt(
            doubts,
            (*path, "tiers", len(route.tiers) - 1, "when_full"),
            "`spill` in the last tier has nowhere to go and means `shed`; write `shed`",
        )
    within = route.latency_budget.within if route.latency_budget is not None else None
    if within is not None and route.timeout < within:
        _doubt(doubts, (*path, "timeout"), "is shorter than the latency budget and cuts it off")
    if "size" in route.model_fields_set and not any(route.size.weights.values()):
        _doubt(doubts, (*path, "size"), "has no weight above 0: all calls count as one size; weigh a feature")
    for index, tier in enumerate(route.tiers):
        waits = tier.when_full.queue if looked_at and isinstance(tier.when_full, Queue) else 0.0
        if within is not None and waits >= within:
            _doubt(
                doubts,
                (*path, "tiers", index, "when_full", "queue"),
                "is not shorter than the latency budget: a call that waits so long has missed it",
            )


def _doubt_spill_budget(name: str, route: RouteOptions, doubts: Tree, owned: Mapping[str, bool]) -> None:
    path: Path = ("routes", name, "spill_budget")
    budget = route.spill_budget
    if budget is None:
        return
    spills = [not owned[tier.backend] for tier in route.tiers]
    if not any(spills):
        _doubt(doubts, path, "limits nothing: no tier of this route is a rented backend")
    elif all(spills) and budget.on_exhausted == "queue":
        _doubt(
            doubts,
            (*path, "on_exhausted"),
            "`queue` waits for the fleet, and this route has none: its calls will wait until they are too "
            "late; write `shed` to refuse them at once",
        )
    hour, day = budget.usd_per_hour, budget.usd_per_day
    if hour is not None and day is not None and day < hour:
        _doubt(doubts, (*path, "usd_per_hour"), "is more than `usd_per_day` and will never be reached")


def _priced(backend: Rented) -> bool:
    return backend.rent is not None and backend.rent.usd_per_second is not None


def _doubt_planning(name: str, route: RouteOptions, doubts: Tree, here: Mapping[str, Rented]) -> None:
    """A route whose policy weighs prices, boots and budgets, and may lack one of them."""
    path: Path = ("routes", name)
    for index, tier in enumerate(route.tiers):
        if "when_full" in tier.model_fields_set:
            _doubt(
                doubts,
                (*path, "tiers", index, "when_full"),
                f"is not looked at by {PLANNING}; take it out, or write `policy: spill_when_full`",
            )
    if here and route.latency_budget is None:
        _doubt(
            doubts,
            (*path, "latency_budget"),
            f"is not given: {PLANNING} counts an answer as in time until the timeout of "
            f"{seconds(route.timeout)}, and lets calls wait so long before it pays for an instance",
        )
    for backend, said in here.items():
        if len(here) > 1 and not _priced(said):
            _doubt(
                doubts,
                (*path, "tiers", _tier(route, backend)),
                f"nobody knows what an instance of {quoted(backend)} costs: it comes after every rented "
                f"backend with a price, whatever it costs; give `price` in backends.{backend}",
            )
        if not said.can_open and (key := ("backends", backend, "late_binding")) in doubts.keys:
            _doubt(
                doubts,
                key,
                f"`none` makes each call of route {quoted(name)} that needs an instance wait for its boot, "
                "though a slot may come free before; `ping` lets it run there",
            )


def _doubt_prewarm(name: str, route: RouteOptions, doubts: Tree, here: Mapping[str, Rented]) -> None:
    path: Path = ("routes", name, "prewarm")
    opened = [backend for backend, said in here.items() if said.can_open]
    if route.latency_budget is None:
        _doubt(doubts, path, "opens nothing: without a latency_budget no call can be late")
    if not opened:
        _doubt(doubts, path, "opens nothing: no tier of this route can boot an instance without a call")
    elif not _priced(here[opened[0]]):
        _doubt(
            doubts,
            path,
            f"opens nothing: nobody knows what an instance of {quoted(opened[0])} costs; give `price` in "
            f"backends.{opened[0]}",
        )


def _doubt_hedge(name: str, settings: Settings, doubts: Tree, here: Mapping[str, Rented]) -> None:
    """A hedge that cannot happen, comes too late, or spends what nobody has bounded."""
    path: Path = ("routes", name, "hedge")
    route = settings.routes[name]
    hedge = route.hedge
    if hedge is None:
        return
    if len(route.tiers) == len(here) == 1:
        _doubt(doubts, path, "never happens: the only tier of this route is one place, and a hedge needs two")
        return
    after, within = hedge.after_s, route.latency_budget.within if route.latency_budget is not None else None
    if after is not None and after >= route.timeout:
        _doubt(doubts, (*path, "after"), "is not shorter than the timeout: no hedge ever starts")
    elif after is not None and within is not None and after >= within:
        _doubt(
            doubts,
            (*path, "after"),
            "is not shorter than the latency budget: whatever a hedge answers comes too late for it",
        )
    unbounded = [backend for backend in here if settings.backends[backend].spill_budget is None]
    if unbounded and route.spill_budget is None:
        _doubt(
            doubts,
            path,
            f"may send second attempts to {quoted(unbounded[0])}, and no spill_budget says how much that may "
            f"cost; give one to the route or to backends.{unbounded[0]}",
        )


def _doubt_idling(settings: Settings, doubts: Tree, rented: Mapping[str, Rented]) -> None:
    """An idle time-out is paid with every instance that is opened, however few calls it serves."""
    tightest: dict[str, tuple[float, str]] = {}
    for name, route in settings.routes.items():
        if route.latency_budget is not None and route.policy.type == PLANNING:
            for tier in route.tiers:
                found = (route.latency_budget.within, name)
                tightest[tier.backend] = min(found, tightest.get(tier.backend, found))
    for backend, (within, name) in tightest.items():
        rent = rented[backend].rent if backend in rented else None
        if rent is None or not rent.bills_idle:
            continue
        boot = rent.boot_s * rent.bills_boot
        opening = boot + rent.idle_s
        # Where the boot is most of it, another time-out would not help much.
        if opening > DEAR_BUDGETS * within and rent.idle_s > boot:
            usd = f", {dollars(opening * rent.usd_per_second)}" if rent.usd_per_second is not None else ""
            _doubt(
                doubts,
                ("backends", backend, "cold_start", "idle_after"),
                f"each instance that is opened costs {seconds(opening)} beside its work{usd}: "
                f"{opening / within:.0f} times the latency budget of route {quoted(name)}, most of it idle. "
                "Set a shorter idle time-out at the provider (5s is common), and here",
            )


def _tier(route: RouteOptions, backend: str) -> int:
    return next(index for index, tier in enumerate(route.tiers) if tier.backend == backend)
