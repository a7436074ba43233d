"""`overspill explain`: what would be decided in a given state, and why. Nothing is sent and nothing is spent.

Knows the configuration and the contracts; the registries of backends and policies are arguments.
"""

import json
from pathlib import Path
from typing import Any

import typer

from backends.base import Backend
from gateway.clock import FakeClock
from gateway.config.schema import RouteOptions, Settings
from gateway.explain.asked import Wanted
from gateway.explain.scene import build_backends, build_scene
from gateway.explain.show import show
from gateway.explain.state_file import IDLE, State, read_state
from gateway.explain.suppose import decided
from gateway.registry import Registry
from policies.base import Policy


def explain(
    settings: Settings,
    registries: tuple[Registry[Backend], Registry[Policy]],
    *,
    route: str | None,
    state: Path | None,
    wanted: Wanted,
    protocol: str | None = None,
    as_json: bool,
) -> None:
    """Print it. Raises ValueError for a wrong route and ConfigProblems for a wrong state."""
    found = explained(settings, registries, route=route, state=state, wanted=wanted, protocol=protocol)
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        show(found)


def explained(
    settings: Settings,
    registries: tuple[Registry[Backend], Registry[Policy]],
    *,
    route: str | None,
    state: Path | None,
    wanted: Wanted,
    protocol: str | None = None,
) -> dict[str, Any]:
    """The explanation as plain values, with what was asked. `protocol`: the route's own unless given."""
    name, options = _route(settings, route)
    clock = FakeClock()
    backends = build_backends(settings, options, registries[0], clock)
    budget = options.latency_budget
    given = IDLE if state is None else read_state(state, backends, None if budget is None else budget.within)
    policy = registries[1].get(options.policy.type)(options.policy.options)
    scene = build_scene(name, options, policy, backends=backends, clock=clock, state=given)
    wanted.timeout = options.timeout
    if protocol is None:
        protocol = options.match.protocol or ("kserve" if options.match.models else "raw")
    wanted.protocol = protocol
    return {
        "route": name,
        "policy": options.policy.type,
        "within_s": None if budget is None else budget.within,
        "objective": 0.99 if budget is None else budget.objective,
        "timeout_s": options.timeout,
        "size": wanted.size,
        "priority": wanted.priority,
        "state": "everything is up and idle" if state is None else _state_in_words(given),
        **decided(scene, wanted),
    }


def _route(settings: Settings, name: str | None) -> tuple[str, RouteOptions]:
    routes = settings.routes
    if name is None and len(routes) == 1:
        return next(iter(routes.items()))
    if name is None:
        raise ValueError(f"the file has {len(routes)} routes; choose one with --route: {', '.join(routes)}")
    if name not in routes:
        raise ValueError(f"the file has no route {name!r}; it has {', '.join(routes)}")
    return name, routes[name]


def _state_in_words(state: State) -> str:
    parts = []
    for name, entry in state.backends.items():
        words = [
            f"{count} {word}"
            for count, word in (
                (entry.in_flight, "in flight"),
                (len(entry.idle_for), "idle"),
                (len(entry.opening), "booting"),
                (entry.replicas_down, "down"),
                (entry.breaker_open, "behind an open breaker"),
            )
            if count
        ]
        parts.append(f"{name} {', '.join(words) or 'idle'}")
    waiting = sum(each.calls for each in state.queue)
    parts.append(f"{waiting} waiting" if waiting else "nobody waits")
    if state.attained is not None:
        parts.append(f"{state.attained * 100:.4g}% of the last answers in time")
    return "; ".join(parts)
