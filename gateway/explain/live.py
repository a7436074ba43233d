"""Explains what the running gateway would decide now, or what it has decided: the answers of /admin/explain.

It reads and never changes: no slot is taken, no estimate learns, and its chance is its own, so that no
decision is another because somebody asked. Takes and gives plain values; knows no HTTP framework, no request
body and no secret.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from gateway.clock import Clock
from gateway.config.problems import ConfigProblems
from gateway.explain.asked import Asked, Wanted, beside, learned, make_call
from gateway.explain.recent import account, recent
from gateway.explain.record import explain_noted
from gateway.explain.ring import Noted, Ring
from gateway.explain.suppose import Suppose
from gateway.explain.words import plain
from gateway.pool import Pool
from gateway.protocols.depth import MOST, deeper_than
from gateway.record import Record
from gateway.routes import Route, RouteTable
from gateway.spending import Spending
from policies.explanation import explain

USAGE: Mapping[str, Any] = {
    "usage": "POST a JSON object: {\"route\": NAME} explains what would be decided about a call now; "
    "{\"request_id\": ID} explains what was decided about a recent one",
    "keys": {
        "route": "name of a route",
        "size": "optional: how much there is to do, in the route's unit",
        "priority": "optional: critical, default or best_effort",
        "protocol": "optional: kserve, grpc, openai or raw; the route's own unless given",
        "operation": "optional: what is asked for, as in the access log: infer, chat, stream_infer, …",
        "stream": "optional: true for a call whose answer is a stream",
        "body": "optional: bytes of the request's body",
        "version": "optional: the version of the model that it asks for",
        "state": "optional: the state to suppose in place of the present one, as in a file for "
        "`overspill explain --state`",
        "request_id": "the x-request-id of an answer; instead of the other keys",
    },
}  # fmt: skip


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    route: str | None = None
    size: float | None = None
    priority: Literal["critical", "default", "best_effort"] | None = None
    request_id: str | None = None
    protocol: Literal["kserve", "grpc", "openai", "raw"] | None = None
    operation: str | None = None
    stream: bool = False
    body: Annotated[int, msgspec.Meta(ge=0)] = 0
    version: str = ""
    state: dict[str, Any] | None = None


class Answer(NamedTuple):
    """An HTTP status and what to say with it."""

    status: int
    body: Mapping[str, Any]


class Explaining:
    """Answers questions about decisions."""

    def __init__(
        self,
        routes: RouteTable,
        pools: Mapping[str, Pool],
        *,
        ring: Ring,
        clock: Clock,
        spending: Spending,
        ended: Callable[[], Iterable[Record]] = tuple,
        suppose: Suppose | None = None,
    ) -> None:
        self._ended = ended
        self._suppose = suppose
        self._routes = routes
        self._pools = pools
        self._ring = ring
        self._clock = clock
        self._spending = spending

    def follow(self, routes: RouteTable, pools: Mapping[str, Pool], spending: Spending) -> None:
        """From now on answer about these."""
        self._routes, self._pools, self._spending = routes, pools, spending

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The last calls that were decided about, the newest first (`recent.recent`)."""
        return recent(self._ring, self._ended(), self._clock, count)

    def answer(self, body: bytes) -> Answer:
        """To one question. 400: it is none; 404: there is no such route or request."""
        if deeper_than(body, MOST):
            return _bad("the body is not a question: it is nested too deeply")
        try:
            question = msgspec.json.decode(body, type=_Question)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is the former, too
            return _bad(f"the body is not a question: {error}")
        except RecursionError:
            return _bad("the body is not a question: it is nested too deeply")
        if question.request_id is not None:
            if question != _Question(request_id=question.request_id):
                return _bad("give either request_id or route (with size, priority and so on), not both")
            return self._was(question.request_id)
        if question.route is None:
            return _bad("give route, or request_id")
        if question.size is not None and question.size < 0:
            return _bad("size must be at least 0")
        route = self._routes.get(question.route)
        if route is None:
            names = ", ".join(each.name for each in self._routes)
            return Answer(404, {"error": f"there is no route {question.route!r}; there are {names}"})
        if question.state is not None:
            return self._supposed(route, question, question.state)
        return self._would(route, question)

    def _supposed(self, route: Route, question: _Question, state: Mapping[str, Any]) -> Answer:
        if self._suppose is None:
            return _bad("a state cannot be supposed here; `overspill explain --state` takes one")
        pool, wanted = self._pools[route.name], _wanted(route, question)
        known = learned(pool, Asked(pool, make_call(wanted, self._clock.now()), lot=0.0))
        try:
            found = self._suppose(route.name, state, wanted, known)
        except (ConfigProblems, ValueError) as error:
            return _bad(f"the state cannot be: {error}")
        return Answer(200, {**_about(route), "size": wanted.size, "priority": wanted.priority, **found})

    def _would(self, route: Route, question: _Question) -> Answer:
        pool, now = self._pools[route.name], self._clock.now()
        chance = Random()  # noqa: S311 - never the one that decides
        wanted = _wanted(route, question)
        asked = Asked(pool, make_call(wanted, now), lot=chance.random())
        more = beside(pool, asked, now, objective=route.objective, spending=self._spending)
        explanation = explain(pool.policy, asked, pool, now, chance=chance, beside=more)
        return Answer(
            200,
            {
                **_about(route),
                "size": question.size,
                "priority": wanted.priority,
                "waiting": pool.queue_depth,
                **plain(explanation, now),
                "estimates": learned(pool, asked),
            },
        )

    def _was(self, request_id: str) -> Answer:
        found = [noted for noted in self._ring.find(request_id) if noted.route in self._pools]
        if not found:
            what = "it was not decided about, or is no longer among the last decisions"
            return Answer(404, {"error": f"nothing is known of request {request_id!r}: {what}"})
        ended = next((account(each) for each in self._ended() if each.request_id == request_id), None)
        told = [self._told(noted) for noted in found]
        return Answer(200, {"request_id": request_id, "decisions": told, "ended": ended})

    def _told(self, noted: Noted) -> dict[str, Any]:
        route, pool = self._routes.get(noted.route), self._pools[noted.route]
        now = self._clock.now()
        return {
            **({} if route is None else _about(route)),
            "ago_s": now - noted.at,
            "attempt": noted.attempt,
            **({} if noted.hedged is None else {"hedged": noted.hedged.result}),
            "waited_s": 0.0 if noted.waiting is None else noted.at - noted.since,
            "waiting": 0 if noted.waiting is None else noted.waiting[0],
            **plain(explain_noted(noted, pool, None if route is None else route.objective), noted.at),
        }


def _wanted(route: Route, question: _Question) -> Wanted:
    return Wanted(
        size=question.size,
        priority=question.priority or "default",
        timeout=route.timeout_s,
        protocol=question.protocol or route.protocol or ("kserve" if route.models else "raw"),
        operation=question.operation,
        stream=question.stream,
        body=question.body,
        version=question.version,
    )


def _about(route: Route) -> dict[str, Any]:
    return {"route": route.name, "within_s": route.within_s, "objective": route.objective}


def _bad(why: str) -> Answer:
    return Answer(400, {"error": why, **USAGE})
