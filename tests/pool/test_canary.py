from collections import Counter
from random import Random
from typing import Any

import pytest

from gateway import app
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.vocab import Reason
from policies.base import Action, Hold, Run, Shed, Take
from policies.canary import Canary
from tests.support.views import NOW, Pool, Request, enqueue, queue, tier

CHANCE = Random(0)
DRAWS = 4000
FILE = """\
version: 1
backends:
  fleet: {type: triton, replicas: [http://a:1], max_in_flight: 4, price: {usd_per_replica_hour: 1}}
  new: {type: triton, replicas: [http://b:1], max_in_flight: 4, price: {usd_per_replica_hour: 1}}
routes:
  embed:
    policy: POLICY
    tiers: [{backend: fleet}, {backend: new}]
"""


def rule(share: str = "10%", otherwise: Any = "spill_when_full") -> Canary:
    return Canary(Canary.Options.model_validate({"backend": "new", "share": share, "otherwise": otherwise}))


def drawn(policy: Canary, **facts: Any) -> Request:
    """A call that is."""
    return next(call for call in calls(**facts) if policy.arrive(call, free(), NOW, CHANCE) == to_canary())


def undrawn(policy: Canary, **facts: Any) -> Request:
    return next(call for call in calls(**facts) if policy.arrive(call, free(), NOW, CHANCE) != to_canary())


def calls(**facts: Any) -> list[Request]:
    """Calls with numbers spread evenly."""
    return [Request(lot=(n + 0.5) / DRAWS, **facts) for n in range(DRAWS)]


def free() -> Pool:
    return Pool([tier("fleet", free=4), tier("new", free=4)])


def to_canary() -> Run:
    return Run("new", Reason.CANARY)


def shares(policy: Canary, pool: Pool, **facts: Any) -> dict[Action, float]:
    counts = Counter(policy.arrive(call, pool, NOW, CHANCE) for call in calls(**facts))
    return {action: count / DRAWS for action, count in counts.items()}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_the_share_goes_there_and_the_rest_as_the_other_policy_says(share: float) -> None:
    found = shares(rule(f"{100 * share}%"), free())
    assert found.get(to_canary(), 0.0) == pytest.approx(share, abs=0.003)
    assert found.get(Run("fleet", Reason.WARM), 0.0) == pytest.approx(1 - share, abs=0.003)


def test_without_a_word_it_is_a_twentieth_beside_cheapest_in_budget() -> None:
    options = Canary.Options.model_validate({"backend": "new"})
    assert options.model_dump() == {"backend": "new", "share": 0.05, "otherwise": "cheapest_in_budget"}
    assert shares(Canary(options), free())[to_canary()] == pytest.approx(0.05, abs=0.003)


def test_who_is_drawn_has_nothing_to_do_with_what_the_other_policy_draws() -> None:
    """Both draw by the call's own number."""
    pool = Pool([tier("a", weight=1, free=4), tier("b", weight=3, free=4), tier("new", weight=0, free=4)])
    found = shares(rule("20%", "weighted"), pool)
    assert found[to_canary()] == pytest.approx(0.2, abs=0.01)
    assert found[Run("a", Reason.WARM)] == pytest.approx(0.8 / 4, abs=0.01)
    inner = {"type": "canary", "backend": "b", "share": "30%", "otherwise": "spill_when_full"}
    found = shares(rule("20%", inner), pool)
    assert found[Run("b", Reason.CANARY)] == pytest.approx(0.8 * 0.3, abs=0.02)


def test_a_drawn_call_stays_drawn_while_it_waits() -> None:
    policy = rule(otherwise="fleet_only")
    call = drawn(policy)
    busy = Pool([tier("fleet"), tier("new")])
    assert policy.arrive(call, busy, NOW, CHANCE) == Hold(NOW + 60), "as the other policy says"
    enqueue(busy, call)
    busy.tiers[1].free = 1
    assert policy.recheck(call, busy, NOW, CHANCE) == to_canary()


@pytest.mark.parametrize("state", [{"free": 0}, {"blocked": Reason.SPILL_BREAKER}])
def test_a_drawn_call_that_the_canary_cannot_take_is_decided_like_any_other(state: dict[str, Any]) -> None:
    policy = rule()
    pool = Pool([tier("fleet", free=1), tier("new", **{"free": 1, **state})])
    assert policy.arrive(drawn(policy), pool, NOW, CHANCE) == Run("fleet", Reason.WARM)
    refused = drawn(policy)
    refused.refused = frozenset(["new"])
    assert policy.arrive(refused, free(), NOW, CHANCE) == Run("fleet", Reason.WARM)


def test_after_a_failed_attempt_no_call_is_experimented_with() -> None:
    policy = rule("100%")
    call = drawn(policy)
    assert policy.arrive(call, free(), NOW, CHANCE) == to_canary()
    call.attempt = 1
    assert policy.arrive(call, free(), NOW, CHANCE) == Run("fleet", Reason.FALLBACK)


def test_a_freed_slot_of_the_canary_goes_to_whom_the_other_policy_names_or_else_to_a_drawn_call() -> None:
    policy = rule(otherwise="spill_when_full")
    first, second = undrawn(policy, deadline=NOW + 5), drawn(policy, deadline=NOW + 9)
    pool = Pool([tier("fleet", queue(1.0)), tier("new", free=1)])
    enqueue(pool, second)
    enqueue(pool, first)
    take = policy.slot_freed("new", pool, NOW, CHANCE)
    assert take == Take(second, Reason.CANARY), "the first one is to wait for the fleet for a second"
    pool.tiers[0].options = tier("fleet").options
    take = policy.slot_freed("new", pool, NOW, CHANCE)
    assert take is not None
    assert take.request is first, "an earlier deadline goes first where the other policy lets it"
    assert take.reason is Reason.WARM_QUEUED


def test_a_drawn_call_that_the_other_policy_sends_there_is_a_canary_all_the_same() -> None:
    policy = rule()
    pool = Pool([tier("fleet"), tier("new", free=1)])
    call = drawn(policy)
    enqueue(pool, call)
    assert policy.slot_freed("new", pool, NOW, CHANCE) == Take(call, Reason.CANARY)


def test_a_freed_slot_elsewhere_is_the_other_policys() -> None:
    policy = rule()
    call = drawn(policy)
    pool = Pool([tier("fleet", free=1), tier("new")])
    enqueue(pool, call)
    assert policy.slot_freed("fleet", pool, NOW, CHANCE) == Take(call, Reason.WARM_QUEUED)


def test_nothing_left_is_shed_as_the_other_policy_sheds() -> None:
    policy = rule()
    assert policy.arrive(drawn(policy), Pool([tier("fleet"), tier("new")]), NOW, CHANCE) == Shed(
        Reason.SHED_FULL, contended=True
    )


def test_it_says_whether_a_call_was_drawn() -> None:
    policy = rule(otherwise="fleet_only")
    other = "Wait for what is paid for, however long."
    for call, pool, told in (
        (drawn(policy), free(), "drawn as one of the 0.1 of all calls that go to new"),
        (undrawn(policy), free(), f"not drawn for new; decided otherwise: {other}"),
        (
            drawn(policy),
            Pool([tier("fleet"), tier("new")]),
            f"drawn for new, which could not take it; decided otherwise: {other}",
        ),
    ):
        action = policy.arrive(call, pool, NOW, CHANCE)
        assert policy.explain(action, call, pool, NOW) == told


def problems(policy: str) -> list[str]:
    try:
        load(FILE.replace("POLICY", policy), *app.registries(), name="f.yaml")
    except ConfigProblems as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("{type: canary, backend: new}", None),
        ("{type: canary, backend: new, otherwise: {type: queue_threshold, threshold: 1.5}}", None),
        (
            "{type: canary, backend: old}",
            "f.yaml:7:37: routes.embed.policy.backend: `old` is not a tier of this route; "
            "its tiers are fleet, new",
        ),
        (
            "{type: canary, backend: new, otherwise: {type: canary, backend: old}}",
            "f.yaml:7:77: routes.embed.policy.otherwise.backend: `old` is not a tier of this route; "
            "its tiers are fleet, new",
        ),
        ("canary", "f.yaml:7:5: routes.embed.policy.backend: is missing: The tier that gets the share; "),
        (
            "{type: canary, backend: new, otherwise: cheap}",
            "f.yaml:7:53: routes.embed.policy.otherwise: there is no policy 'cheap'; known policies: canary,",
        ),
        (
            "{type: canary, backend: new, otherwise: {threshold: 1}}",
            "f.yaml:7:53: routes.embed.policy.otherwise: is without a `type`; write a policy's name, or "
            "{type: NAME, …its options}",
        ),
        (
            "{type: canary, backend: new, otherwise: {type: queue_threshold, treshold: 1}}",
            "f.yaml:7:53: routes.embed.policy.otherwise: queue_threshold cannot be used so: "
            "treshold: is not a key here; known keys: threshold",
        ),
        (
            "{type: canary, backend: new, otherwise: {type: canary}}",
            "f.yaml:7:53: routes.embed.policy.otherwise: canary cannot be used so: backend: is missing",
        ),
        (
            "{type: canary, backend: new, otherwise: {type: latency_threshold, threshold: 5}}",
            "f.yaml:7:53: routes.embed.policy.otherwise: latency_threshold cannot be used so: "
            "threshold: 5 is not a duration; write it with its unit, like 250ms, 8s, 2m or 1h",
        ),
        (
            "{type: canary, backend: new, share: 2}",
            "f.yaml:7:49: routes.embed.policy.share: 2 is not a share",
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
