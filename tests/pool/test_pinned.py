from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.protocols.base import HeaderReader
from gateway.vocab import Call, Reason, WholeBody
from policies.base import Action, Hold, Run, Shed, Take
from policies.pinned import Pinned, PinnedOptions
from tests.pool.parts import FIRST, Rig, call
from tests.pool.test_canary import problems
from tests.support.views import NOW, Pool, Request, any_pool, enqueue, queue, tier

CHANCE = Random(0)


def rule(**options: Any) -> Pinned:
    return Pinned(Pinned.Options.model_validate(options))


def asks_for(name: str, **facts: Any) -> Request:
    return Request(fields={b"x-backend": name.encode("latin-1")}, **facts)


by_route = rule(backend="b")
by_header = rule(header="X-Backend", otherwise="spill_when_full")


def both(pool: Pool, **facts: Any) -> Action:
    """The same answer to a call that the route or its header pins to `b`."""
    answer = by_route.arrive(Request(**facts), pool, NOW, CHANCE)
    assert by_header.arrive(asks_for("b", **facts), pool, NOW, CHANCE) == answer
    assert by_header.recheck(asks_for("b", **facts), pool, NOW, CHANCE) == answer
    return answer


def test_the_call_goes_to_its_backend_whatever_stands_before_it() -> None:
    for owned in (True, False):
        pool = Pool([tier("a", free=4), tier("b", free=1, owned=owned)])
        assert both(pool) == Run("b", Reason.PINNED)
        assert both(pool, attempt=1) == Run("b", Reason.FALLBACK)


def test_a_full_backend_is_waited_for_until_the_deadline() -> None:
    for when_full in ("spill", queue(0.04, "spill")):
        pool = Pool([tier("a", free=4), tier("b", when_full)])
        assert both(pool, deadline=NOW + 9) == Hold(NOW + 9)


def test_a_tier_that_sheds_when_it_is_full_sheds_pinned_calls_too() -> None:
    shed = Shed(Reason.SHED_FULL, contended=True)
    assert both(Pool([tier("a", free=4), tier("b", "shed")])) == shed
    patient = Pool([tier("a", free=4), tier("b", queue(0.5, "shed"))])
    assert both(patient) == Hold(NOW + 0.5)
    assert both(patient, deadline=NOW + 0.2) == Hold(NOW + 0.2)
    assert both(patient, since=NOW - 0.5) == shed


def test_no_other_backend_stands_in_for_one_that_cannot_take_calls() -> None:
    other = tier("a", free=4)
    assert both(Pool([other, tier("b", blocked=Reason.SPILL_UNHEALTHY)])) == Shed(
        Reason.SHED_FULL, contended=True
    )
    assert both(Pool([other, tier("b", free=1)]), refused=frozenset("b")) == Shed(
        Reason.SHED_FULL, contended=True
    )
    lost = Pool([tier("b", blocked=Reason.SPILL_UNHEALTHY)])
    assert both(lost) == Shed(Reason.SHED_FULL, contended=False)


@pytest.mark.parametrize("fields", [{}, {b"x-backend": b"c"}, {b"x-backend": b""}, {b"x-backend": b"\xff"}])
def test_without_a_name_of_a_tier_the_other_policy_decides(fields: dict[bytes, bytes]) -> None:
    pool = Pool([tier("a", free=4), tier("b", free=4)])
    assert by_header.arrive(Request(fields=fields), pool, NOW, CHANCE) == Run("a", Reason.WARM)
    pool.tiers[0].free = pool.tiers[1].free = 0
    assert by_header.recheck(Request(fields=fields), pool, NOW, CHANCE) == Shed(
        Reason.SHED_FULL, contended=True
    )


def test_space_around_a_name_does_not_matter() -> None:
    pool = Pool([tier("a", free=4), tier("b", free=4)])
    assert by_header.arrive(asks_for(" b\t"), pool, NOW, CHANCE) == Run("b", Reason.PINNED)


def test_a_freed_slot_goes_to_the_first_call_that_is_pinned_to_it_or_to_none() -> None:
    pool = Pool([tier("a", queue(9.0), free=1), tier("b", queue(9.0), free=1)])
    to_b, free, to_a = (
        asks_for("b", deadline=NOW + 1),
        Request(deadline=NOW + 2),
        asks_for("a", deadline=NOW + 3),
    )
    for each in (to_b, free, to_a):
        enqueue(pool, each)
    policy = by_header
    assert policy.slot_freed("a", pool, NOW, CHANCE) == Take(free, Reason.WARM_QUEUED)
    assert policy.slot_freed("b", pool, NOW, CHANCE) == Take(to_b, Reason.PINNED)
    pool.waiting.remove(free)
    assert policy.slot_freed("a", pool, NOW, CHANCE) == Take(to_a, Reason.PINNED)
    pool.waiting.remove(to_b)
    assert policy.slot_freed("b", pool, NOW, CHANCE) is None


def test_a_freed_slot_of_another_backend_is_of_no_use_to_calls_that_the_file_pins() -> None:
    pool = Pool([tier("a", free=1), tier("b", free=1)])
    waits = Request()
    enqueue(pool, waits)
    assert by_route.slot_freed("a", pool, NOW, CHANCE) is None
    assert by_route.slot_freed("b", pool, NOW, CHANCE) == Take(waits, Reason.PINNED)
    waits.attempt = 1
    assert by_route.slot_freed("b", pool, NOW, CHANCE) == Take(waits, Reason.FALLBACK)


@pytest.mark.parametrize("otherwise", ["spill_when_full", "queue_threshold", "cheapest_in_budget"])
def test_no_pinned_call_ever_runs_elsewhere(otherwise: str) -> None:
    policy = rule(header="x-backend", otherwise=otherwise)
    taken = 0
    for case in range(600):
        pool = any_pool(Random(case))
        names = [each.options.backend for each in pool.tiers]
        for name in names:
            take = policy.slot_freed(name, pool, NOW, CHANCE)
            if take is not None:
                asked = (take.request.header(b"x-backend") or b"").decode("latin-1")
                assert asked == name or asked not in names
                taken += asked == name
    assert taken > 20


def test_it_says_who_pinned_a_call() -> None:
    pool = Pool([tier("a", free=4), tier("b", free=4)])

    def told(policy: Pinned, request: Request) -> str:
        return policy.explain(policy.arrive(request, pool, NOW, CHANCE), request, pool, NOW)

    assert told(by_route, Request()) == "pinned to b by the file: no other backend is looked at"
    assert (
        told(by_header, asks_for("b")) == "pinned to b by its header x-backend: no other backend is looked at"
    )
    assert (
        told(by_header, asks_for("c"))
        == "not pinned; decided otherwise: Fill the tiers in the order of the file."
    )


# -- through a real pool


async def test_a_pool_runs_calls_where_their_header_says_and_makes_others_wait() -> None:
    rig = Rig(rule=rule(header="x-tier", otherwise="spill_when_full"))
    asked = call()
    asked.headers = [(b"accept", b"*/*"), (b"x-tier", b"burst"), (b"x-tier", b"fleet")]
    first = rig.pool.slot(asked, FIRST)
    slot = first.ask()
    assert slot is not None
    assert (slot.backend.name, slot.reason) == ("burst", Reason.PINNED), "the first of two headers"
    second = rig.pool.slot(asked, FIRST)
    assert second.ask() is None, "it waits, although the fleet is idle"
    plain = rig.pool.slot(call(), FIRST)
    slot = plain.ask()
    assert slot is not None
    assert slot.backend.name == "fleet"
    first.abandon()
    assert second.result().reason is Reason.PINNED
    second.abandon()
    plain.abandon()


def test_a_header_is_looked_for_once() -> None:
    rig = Rig()
    asked = call()
    asked.headers = [(b"x-tier", b"burst")]
    lease = rig.pool.slot(asked, FIRST)
    assert lease.header(b"x-tier") == b"burst"
    asked.headers = []
    assert (lease.header(b"x-tier"), lease.header(b"x-other")) == (b"burst", None)


# -- its options


@pytest.mark.parametrize(
    "name",
    [
        "x-backend", "X-Backend", "backend", "content-type", "te", "Host", "proxy-x", "x-overspill-backend",
        "x-request-id", "accept-encoding", "keep-alive", "traceparent", "authorization", "connection",
    ],
)  # fmt: skip
def test_only_headers_that_reach_the_policy_can_be_named(name: str) -> None:
    taken = Call(
        protocol="raw", operation="invoke", method=b"POST", target=b"/", headers=[], body=WholeBody(b"")
    )
    HeaderReader().take([(name.lower().encode(), b"1")], taken)
    if taken.headers:
        assert PinnedOptions(header=name).header == name.lower()
    else:
        with pytest.raises(ValidationError, match="is read by the gateway itself"):
            rule(header=name)


@pytest.mark.parametrize("name", ["", "x backend", "x-b:", "é"])
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not the name of a header; write one like x-backend"):
        rule(header=name)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("{type: pinned, backend: new}", None),
        ("{type: pinned, header: x-backend}", None),
        (
            "{type: pinned, backend: old}",
            "f.yaml:7:37: routes.embed.policy.backend: `old` is not a tier of this route; "
            "its tiers are fleet, new",
        ),
        (
            "pinned",
            "f.yaml:7:13: routes.embed.policy: give exactly one of backend and header, like "
            "{type: pinned, header: x-backend}",
        ),
        (
            "{type: pinned, backend: new, header: x-b}",
            "f.yaml:7:13: routes.embed.policy: give exactly one of",
        ),
        (
            "{type: pinned, header: host}",
            "f.yaml:7:36: routes.embed.policy.header: 'host' is read by the gateway itself; take another",
        ),
        (
            "{type: pinned, header: x-b, otherwise: {type: canary, backend: old}}",
            "f.yaml:7:76: routes.embed.policy.otherwise.backend: `old` is not a tier of this route",
        ),
    ],
)
def test_check_tells_what_is_wrong_with_its_options(policy: str, told: str | None) -> None:
    found = problems(policy)
    if told is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(told)
