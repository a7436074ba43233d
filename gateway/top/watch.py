"""From snapshots to what is shown: rates are differences of two, errors are what has become more.

Pure: the time of everything is in the snapshots. A counter that falls means that the gateway was started
again; there is no rate then until the next snapshot.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gateway.top.snapshot import BackendState, Missing, RouteState, Snapshot

EVENTS = 50
_NO_ERRORS = frozenset(("ok", "client_gone"))


class RouteRow(NamedTuple):
    """One route. Between the last two snapshots: requests per second, and shares spilled and cold of those
    placed and started; None without any. `spent_usd` of `limit_usd`: the spill budget; `refused`,
    `overrun`: attempts between the two that it did not grant, and that were granted beyond it.
    """

    state: RouteState
    per_s: float | None
    spill: float | None
    cold: float | None
    spent_usd: float | None
    refused: int = 0
    overrun: int = 0


class Event(NamedTuple):
    """Something that went wrong, for people."""

    wall: float
    text: str


class View(NamedTuple):
    """What is shown. `missing_since` is wall time: since then nobody answered, and what is shown is old."""

    wall: float
    routes: tuple[RouteRow, ...] = ()
    backends: tuple[BackendState, ...] = ()
    revision: str = ""
    rejected_at: str | None = None
    problems: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    missing_since: float | None = None
    why: str = ""
    seen: bool = False


class Watch:
    """Takes what polls bring, in order."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._view = View(0.0)
        self._events: deque[Event] = deque(maxlen=EVENTS)

    @property
    def view(self) -> View:
        """As of the last poll."""
        return self._view

    def take(self, found: Snapshot | Missing) -> View:
        """The view after one more poll."""
        if isinstance(found, Missing):
            self._view = self._without(found)
            return self._view
        before = self._last
        if before is not None and (_restarted(before, found) or self._view.missing_since is not None):
            before = None
        if before is not None:
            self._events.extend(_went_wrong(before, found))
        if found.rejected_at is not None and (self._last is None or self._last.rejected_at is None):
            self._events.append(Event(found.wall, "a configuration was rejected; the one before goes on"))
        self._last = found
        routes = tuple(_row(state, before, found) for state in found.routes)
        self._events.extend(self._ran_short(found.wall, routes))
        self._view = View(
            wall=found.wall,
            routes=routes,
            backends=found.backends,
            revision=found.revision,
            rejected_at=found.rejected_at,
            problems=found.problems,
            events=tuple(reversed(self._events)),
            seen=True,
        )
        return self._view

    def _ran_short(self, wall: float, rows: tuple[RouteRow, ...]) -> Iterator[Event]:
        """Told once, when it begins: a budget that is used up holds calls back for as long as it is."""
        short = {row.state.name for row in self._view.routes if row.refused or row.overrun}
        for row in rows:
            if row.state.name in short:
                continue
            if row.overrun:
                yield Event(wall, f"{row.state.name}: spends beyond its spill budget")
            elif row.refused:
                yield Event(wall, f"{row.state.name}: its spill budget holds calls back")

    def _without(self, missing: Missing) -> View:
        since = self._view.missing_since
        if since is None:
            since = missing.wall
            if self._view.seen:
                self._events.append(Event(missing.wall, f"not reachable: {missing.why}"))
        return self._view._replace(
            wall=missing.wall, missing_since=since, why=missing.why, events=tuple(reversed(self._events))
        )


def _restarted(before: Snapshot, now: Snapshot) -> bool:
    counts = {state.name: state.requests for state in before.routes}
    return now.at <= before.at or any(state.requests < counts.get(state.name, 0) for state in now.routes)


def _row(state: RouteState, before: Snapshot | None, now: Snapshot) -> RouteRow:
    spent = None
    if state.limit_usd is not None and state.left_usd is not None:
        spent = state.limit_usd - state.left_usd
    old = None if before is None else next((each for each in before.routes if each.name == state.name), None)
    if old is None or before is None:
        return RouteRow(state, None, None, None, spent)
    owned = {each.name for each in now.backends if each.owned}
    placed = {name: count - old.placed.get(name, 0) for name, count in state.placed.items()}
    spilled = sum(count for name, count in placed.items() if name not in owned)
    warm, cold = state.warm - old.warm, state.cold - old.cold
    return RouteRow(
        state,
        (state.requests - old.requests) / (now.at - before.at),
        _share(spilled, sum(placed.values())),
        _share(cold, warm + cold),
        spent,
        max(0, state.refused - old.refused),
        max(0, state.overrun - old.overrun),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole > 0 else None


def _went_wrong(before: Snapshot, now: Snapshot) -> Iterator[Event]:
    routes = {state.name: state for state in before.routes}
    for state in now.routes:
        old = routes.get(state.name)
        for outcome, count in state.outcomes.items():
            more = count - (0 if old is None else old.outcomes.get(outcome, 0))
            if more > 0 and outcome not in _NO_ERRORS:
                yield Event(now.wall, f"{state.name}: {more} {outcome}")
    backends = {state.name: state for state in before.backends}
    for each in now.backends:
        was = backends.get(each.name)
        if was is None:
            continue
        if was.ready and not each.ready:
            yield Event(now.wall, f"{each.name}: not ready")
        if was.breaker != "open" and each.breaker == "open":
            yield Event(now.wall, f"{each.name}: a breaker has opened")
