"""Step 3: which route a call takes, from an immutable table. A reload builds a new table.

Knows the leaves; what a route's options look like it says itself (`RouteOptions`), and of its pool it
knows nothing at all. It never looks at the state of a backend: the table says what is served, not
whether it can be served now.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.errors import ConfigError, UnknownRoute
from gateway.sizes import measure
from gateway.vocab import Call

if TYPE_CHECKING:
    from gateway.pool import Pool

PROTOCOLS = ("kserve", "openai", "raw")
_BY_MODEL = PROTOCOLS[:2]
_SAME_AS = {"grpc": "kserve"}
"""KServe calls take the same routes over gRPC as over HTTP."""

# Comparing names costs about 10 us each, and anybody may ask for models that do not exist.
_MOST_COMPARED = 200
_LONGEST_COMPARED = 100


class MatchOptions(Protocol):
    """`match` of one route."""

    @property
    def models(self) -> Sequence[str]: ...
    @property
    def protocol(self) -> str | None: ...


class BudgetOptions(Protocol):
    """`latency_budget` of one route."""

    @property
    def within(self) -> float: ...
    @property
    def objective(self) -> float: ...


class SizeOptions(Protocol):
    """`size` of one route."""

    @property
    def weights(self) -> Mapping[str, float]: ...


class RouteOptions(Protocol):
    """One entry of the `routes` section, as far as this step needs it."""

    @property
    def match(self) -> MatchOptions: ...
    @property
    def latency_budget(self) -> BudgetOptions | None: ...
    @property
    def timeout(self) -> float: ...
    @property
    def stall_timeout(self) -> float: ...
    @property
    def idempotent(self) -> bool: ...
    @property
    def size(self) -> SizeOptions: ...


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One route, with what is asked of it per call worked out once.

    within_s, objective:  the latency budget; None without one
    timeout_s:            from arrival to the first byte of the answer
    stall_timeout_s:      longest silence inside a streamed answer
    size_of:              how much a call asks for; None where the route declares no feature
    """

    name: str
    options: RouteOptions
    pool: "Pool"
    models: tuple[str, ...]
    protocol: str | None
    within_s: float | None
    objective: float | None
    timeout_s: float
    stall_timeout_s: float
    idempotent: bool
    size_of: Callable[[Call], float | None] | None = None

    @classmethod
    def of(cls, name: str, options: RouteOptions, pool: "Pool") -> "Route":
        """The route that this entry of the file describes."""
        budget = options.latency_budget
        return cls(
            name=name,
            options=options,
            pool=pool,
            models=tuple(options.match.models),
            protocol=options.match.protocol,
            within_s=budget.within if budget else None,
            objective=budget.objective if budget else None,
            timeout_s=options.timeout,
            stall_timeout_s=options.stall_timeout,
            idempotent=options.idempotent,
            size_of=measure(options.size.weights),
        )

    def serves(self, protocol: str) -> bool:
        """May calls of this protocol take the route?"""
        return self.protocol in {None, _SAME_AS.get(protocol, protocol)}


class RouteTable:
    """All routes. Raises ConfigError where two would claim the same calls.

    A model's exact name goes before patterns. Among equals a route that is for one protocol goes before
    one that is for any, and patterns are tried in the order of the file.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._named: dict[str, Route] = {}
        _check_ambiguity(self._routes)
        for route in self._routes:
            self._named[route.name] = route
        specific_first = sorted(self._routes, key=lambda route: route.protocol is None)
        self._exact = {protocol: _exact(specific_first, protocol) for protocol in _BY_MODEL}
        self._globs = {protocol: _globs(specific_first, protocol) for protocol in _BY_MODEL}
        for protocol, other in _SAME_AS.items():
            self._exact[protocol], self._globs[protocol] = self._exact[other], self._globs[other]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def get(self, name: str) -> Route | None:
        """The route of that name."""
        return self._named.get(name)

    def find(self, protocol: str, model: str) -> Route | None:
        """The route that serves a model in a protocol."""
        route = self._exact[protocol].get(model)
        if route is None:
            for matches, candidate in self._globs[protocol]:
                if matches(model):
                    return candidate
        return route

    def lookup(self, call: Call, among: Collection[str] | None = None) -> Route:
        """Find the call's route and set what follows from it on the call. Raises UnknownRoute.

        among:  the routes that its caller may use, and so may be told of; None: all
        """
        if call.route_hint or call.protocol == "raw":
            route = self._named.get(call.route_hint)
            if route is None or not route.serves(call.protocol):
                names = self._names(call.protocol, among)
                raise UnknownRoute(_unknown("route", call.route_hint, names), field="route")
        else:
            found = self._exact[call.protocol].get(call.model) or self.find(call.protocol, call.model)
            if found is None:
                names = self.models(call.protocol, among)
                raise UnknownRoute(_unknown("model", call.model, names), field="model")
            route = found
        call.route = route.name
        call.idempotent = route.idempotent
        limit = call.arrived + route.timeout_s
        if limit < call.deadline:
            call.deadline = limit
            call.deadline_is_clients = False
        return route

    def models(self, protocol: str, among: Collection[str] | None = None) -> list[str]:
        """Names served in a protocol, in the order of the file; models behind a pattern have no list."""
        served = self._exact[protocol]
        return [
            model
            for route in self._routes
            if among is None or route.name in among
            for model in route.models
            if served.get(model) is route
        ]

    def route_of(self, protocol: str, model: str) -> str | None:
        """Name of the route that serves a model."""
        route = self.find(protocol, model)
        return None if route is None else route.name

    def sole(self, protocol: str) -> str:
        """Name of the only route that serves models in a protocol; "" if there are none or several."""
        names = [route.name for route in self._routes if route.models and route.serves(protocol)]
        return names[0] if len(names) == 1 else ""

    def _names(self, protocol: str, among: Collection[str] | None) -> list[str]:
        return [
            route.name
            for route in self._routes
            if route.serves(protocol) and (among is None or route.name in among)
        ]


def _is_pattern(model: str) -> bool:
    return any(sign in model for sign in "*?[")


def _exact(routes: Sequence[Route], protocol: str) -> dict[str, Route]:
    table: dict[str, Route] = {}
    for route in routes:
        if route.serves(protocol):
            for model in route.models:
                if not _is_pattern(model):
                    table.setdefault(model, route)
    return table


def _globs(routes: Sequence[Route], protocol: str) -> list[tuple[Callable[[str], object], Route]]:
    return [
        (re.compile(fnmatch.translate(model)).match, route)
        for route in routes
        if route.serves(protocol)
        for model in route.models
        if _is_pattern(model)
    ]


def _check_ambiguity(routes: Sequence[Route]) -> None:
    named: set[str] = set()
    claimed: dict[tuple[str, str | None], str] = {}
    for route in routes:
        if route.name in named:
            raise ConfigError(f"route {route.name!r} is there twice")
        named.add(route.name)
        for model in route.models:
            other = claimed.setdefault((model, route.protocol), route.name)
            if other != route.name:
                raise ConfigError(f"routes {other!r} and {route.name!r} both match the model {model!r}")


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    shown = name if len(name) <= _LONGEST_COMPARED else name[:_LONGEST_COMPARED] + "…"
    message = f"no {kind} {shown!r} is served here"
    comparable = len(name) <= _LONGEST_COMPARED and len(known) <= _MOST_COMPARED
    if comparable and (close := difflib.get_close_matches(name, known, n=5)):
        message += f"; close to it: {', '.join(close)}"
    return message
