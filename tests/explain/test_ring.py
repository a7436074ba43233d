"""What was decided about a live call can be told afterwards as it would have been told then."""

from contextlib import suppress
from math import isfinite
from random import Random

import pytest

from gateway.errors import Contended, NoCapacity
from gateway.explain.asked import Wanted, make_call
from gateway.explain.record import explain_noted
from gateway.explain.ring import Noted, Ring
from gateway.explain.scene import Scene
from gateway.lease import Lease
from gateway.vocab import Reason, Verdict
from policies import policies
from policies.base import Candidate, Hold, Run
from tests.explain.support import any_state, scene, settings
from tests.explain.test_explanation import ask
from tests.pool.parts import FIRST


def arriving(made: Scene, name: str) -> Lease:
    call = make_call(Wanted(timeout=60.0), made.now)
    call.request_id = name
    call.route = "embed"
    return Lease(made.pool, call, FIRST)


def only(ring: Ring, name: str) -> Noted:
    (noted,) = ring.find(name)
    return noted


def ways(lines: tuple[Candidate, ...]) -> list[tuple[str, str, bool]]:
    return [(line.backend, line.way, line.chosen) for line in lines]


@pytest.mark.parametrize("name", sorted(policies))
def test_what_is_told_afterwards_is_what_would_have_been_told_then(name: str) -> None:
    if name in {"weighted", "canary"}:
        return  # they draw
    compared = 0
    for case in range(80):
        made = settings(name, within=Random(case).choice(["100ms", "2s", "30s"]), cold="500ms")
        before = ask(scene(made, any_state(Random(case))))
        now = scene(made, any_state(Random(case)))
        ring = Ring()
        now.pool.witness = ring.of(now.pool)
        with suppress(Contended, NoCapacity):
            arriving(now, "a").ask()
        noted = only(ring, "a")
        told = explain_noted(noted, now.pool, now.objective)
        assert told.action == before.action, case
        if noted.waiting is None:
            continue  # only the slots were noted
        compared += 1
        assert ways(told.candidates) == ways(before.candidates), case
        for was, line in zip(before.candidates, told.candidates, strict=True):
            if was.way in {"free slot", "new instance", "busy instance", "after queueing"}:
                assert line.finish_s == pytest.approx(was.finish_s, rel=0.02), (case, was, line)
                assert line.usd == pytest.approx(was.usd), (case, was, line)
    assert compared > 20


def test_a_call_that_waited_has_two_decisions() -> None:
    state = {"backends": {"fleet": {"in_flight": 3}}}
    made = scene(settings("fleet_only"), state)
    ring = Ring()
    made.pool.witness = ring.of(made.pool)
    first, second = arriving(made, "first"), arriving(made, "second")
    assert first.ask() is not None
    assert second.ask() is None
    first.release(Verdict.SUCCESS)
    assert second.slot is not None
    held, ran = list(ring.find("second"))
    assert isinstance(held.action, Hold)
    assert ran.action == Run("fleet", Reason.WARM_QUEUED)
    told = explain_noted(held, made.pool, made.objective)
    fleet = told.candidates[0]
    assert (fleet.backend, fleet.way, fleet.chosen) == ("fleet", "after queueing", True)
    assert fleet.waits_s is not None
    assert isfinite(fleet.waits_s)


def test_the_oldest_is_forgotten_first() -> None:
    made = scene(settings(), {})
    ring = Ring(kept=3)
    made.pool.witness = ring.of(made.pool)
    for number in range(5):
        lease = arriving(made, str(number))
        lease.ask()
        lease.release(Verdict.NEUTRAL)
    assert len(ring) == 3
    assert [bool(list(ring.find(str(number)))) for number in range(5)] == [False, False, True, True, True]


def test_looking_again_without_a_change_is_not_noted_again() -> None:
    made = scene(settings("fleet_only"), {"backends": {"fleet": {"in_flight": 4}}})
    ring = Ring()
    made.pool.witness = ring.of(made.pool)
    arriving(made, "a").ask()
    made.pool.reconsider(made.now)
    assert len(ring) == 1
