"""Explains what would be decided in a state that is only supposed, from the configuration that runs.

Builds a pool of its own for each question, on a clock that stands still; nothing that serves is touched, and
nothing is sent. Knows the configuration and the contracts; the registries of backends and policies are
arguments. Knows no HTTP.
"""

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from backends.base import Backend
from gateway.clock import FakeClock
from gateway.config.schema import Settings
from gateway.explain.asked import Asked, Wanted, beside, learned, make_call
from gateway.explain.scene import Scene, build_backends, build_scene
from gateway.explain.state_file import BackendState, Expected, State, parse_state
from gateway.explain.words import plain
from gateway.registry import Registry
from policies.base import Policy
from policies.explanation import explain

MOST_WAITING = 1_000
"""Calls in a supposed queue: each is put there one by one, while requests are being served."""

Known = Mapping[str, Mapping[str, float | None]]
"""What has been learned of each backend (`asked.learned`)."""

Suppose = Callable[[str, Mapping[str, Any], Wanted, Known], Mapping[str, Any]]
"""Explains what would be decided about a call of a route in a state. Raises ConfigProblems or ValueError."""


class Supposing:
    """A `Suppose`. What the state leaves open about durations is taken from what has been learned."""

    def __init__(
        self, settings: Callable[[], Settings], registries: tuple[Registry[Backend], Registry[Policy]]
    ) -> None:
        self._settings = settings
        self._backends, self._policies = registries

    def __call__(
        self, route: str, state: Mapping[str, Any], wanted: Wanted, known: Known
    ) -> Mapping[str, Any]:
        """See `Suppose`."""
        settings = self._settings()
        options = settings.routes[route]
        clock = FakeClock()
        backends = build_backends(settings, options, self._backends, clock)
        within = None if options.latency_budget is None else options.latency_budget.within
        given = parse_state(json.dumps(state), "the state", backends, within)
        waiting = sum(each.calls for each in given.queue)
        if waiting > MOST_WAITING:
            raise ValueError(f"{waiting:,} calls wait; at most {MOST_WAITING:,} can be supposed here")
        policy = self._policies.get(options.policy.type)(options.policy.options)
        filled = _with_learned(given, backends, known)
        scene = build_scene(route, options, policy, backends=backends, clock=clock, state=filled)
        return {"waiting": waiting, "supposed": True, **decided(scene, wanted)}


def decided(scene: Scene, wanted: Wanted) -> dict[str, Any]:
    """The explanation of what is decided there, as plain values."""
    pool, now = scene.pool, scene.now
    chance = Random(0)  # noqa: S311 - the same question has the same answer
    asked = Asked(pool, make_call(wanted, now), lot=chance.random())
    explanation = explain(
        pool.policy,
        asked,
        pool,
        now,
        chance=chance,
        beside=beside(pool, asked, now, objective=scene.objective),
    )
    # Nothing was learned here: the figures are the files'.
    estimates = {
        name: {**entry, "calls": None} | ({"boots": None} if "boots" in entry else {})
        for name, entry in learned(pool, asked).items()
    }
    return {**plain(explanation, now), "estimates": estimates}


def _with_learned(state: State, backends: Mapping[str, Backend], known: Known) -> State:
    entries = dict(state.backends)
    for name, figures in known.items():
        if name not in backends:
            continue
        entry = entries.get(name) or BackendState()
        told: dict[str, Expected] = {}
        for key in ("service", "cold"):
            if key == "cold" and backends[name].owned:
                continue
            mean, tail = figures.get(f"{key}_mean_s"), figures.get(f"{key}_tail_s")
            if getattr(entry, key) is None and mean and tail:
                told[key] = Expected.model_construct(mean=mean, tail=max(mean, tail))
        entries[name] = entry.model_copy(update=told)
    return state.model_copy(update={"backends": entries})
