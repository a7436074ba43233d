"""Every registered policy keeps the promises of `policies.base`, whatever it is shown."""

from random import Random

import pytest

from gateway.vocab import Reason
from policies import policies
from policies.base import Action, Hold, Policy, Run, Shed, Take
from tests.support.views import NOW, Pool, Request, any_pool, any_request, enqueue

CASES = 600
SHED_WORDS = {Reason.SHED_BUDGET, Reason.SHED_FULL, Reason.SHED_DEADLINE}
RUN_WORDS = set(Reason) - SHED_WORDS - {Reason.NO_ROUTE}

every_policy = pytest.mark.parametrize("name", list(policies))


def build(name: str) -> Policy:
    cls = policies.get(name)
    return cls(cls.Options.model_validate(dict(cls.EXAMPLE)))


def scene(case: int, *, waited: bool) -> tuple[Pool, Request]:
    chance = Random(case)
    pool = any_pool(chance)
    request = any_request(chance, [tier.options.backend for tier in pool.tiers], waited=waited)
    if waited:  # it waits in this very pool
        enqueue(pool, request)
    return pool, request


def ask(policy: Policy, case: int, *, waited: bool) -> tuple[Action, Pool, Request]:
    """Ask twice, from equal scenes and with equal chance; nothing but the answer may come of it."""
    answers = []
    untouched = scene(case, waited=waited)
    for _ in range(2):
        pool, request = scene(case, waited=waited)
        question = policy.recheck if waited else policy.arrive
        answers.append(question(request, pool, NOW, Random(case)))
        assert (pool, request) == untouched, "what a policy is shown stays as it is"
    assert answers[0] == answers[1], "equal scenes, equal chance, another answer"
    return answers[0], pool, request


def check_opens(action: Hold, pool: Pool, request: Request, case: int) -> None:
    """What a Hold opens can be opened: on tiers that have the room, each named once."""
    named = [each.backend for each in action.opens]
    assert len(set(named)) == len(named), case
    for each in action.opens:
        backend, instances = each.backend, each.instances
        (chosen,) = (tier for tier in pool.tiers if tier.options.backend == backend)
        assert not chosen.owned, case
        assert chosen.blocked is None, case
        assert request.may_use(backend), "nothing is opened for a call that could not use it"
        assert type(instances) is int, case
        assert 1 <= instances <= chosen.room, case


@every_policy
@pytest.mark.parametrize("waited", [False, True])
def test_answers_are_pure_and_can_be_carried_out(name: str, waited: bool) -> None:
    policy = build(name)
    seen = set()
    for case in range(CASES):
        action, pool, request = ask(policy, case, waited=waited)
        seen.add(type(action))
        if isinstance(action, Run):
            (chosen,) = (tier for tier in pool.tiers if tier.options.backend == action.backend)
            assert chosen.blocked is None, case
            assert request.may_use(action.backend), case
            assert request.free_on(chosen), case
            assert action.reason in RUN_WORDS, case
        elif isinstance(action, Hold):
            assert NOW < action.until <= request.deadline, case
            check_opens(action, pool, request, case)
        else:
            assert isinstance(action, Shed)
            assert action.reason in SHED_WORDS, case
    assert seen == {Run, Hold, Shed}, "the scenes bring out every kind of answer"


@every_policy
def test_a_call_is_shed_as_contended_exactly_when_some_backend_could_take_it(name: str) -> None:
    policy = build(name)
    for case in range(CASES):
        action, pool, request = ask(policy, case, waited=False)
        if isinstance(action, Shed):
            could = [
                tier for tier in pool.tiers if tier.blocked is None and request.may_use(tier.options.backend)
            ]
            assert action.contended is bool(could), case


@every_policy
def test_an_owned_backend_is_never_called_spilled(name: str) -> None:
    policy = build(name)
    for case in range(CASES):
        action, pool, _ = ask(policy, case, waited=False)
        if isinstance(action, Run):
            (chosen,) = (tier for tier in pool.tiers if tier.options.backend == action.backend)
            assert not (chosen.owned and action.reason.startswith("spill_")), case
            assert not (not chosen.owned and action.reason.startswith("warm")), case


@every_policy
def test_a_freed_slot_goes_to_a_waiting_call_that_may_use_it(name: str) -> None:
    policy = build(name)
    given = 0
    for case in range(CASES):
        untouched, _ = scene(case, waited=True)
        for place in range(len(untouched.tiers)):
            takes = []
            for _ in range(2):
                pool, _ = scene(case, waited=True)
                tier = pool.tiers[place]
                takes.append(policy.slot_freed(tier.options.backend, pool, NOW, Random(case)))
                assert pool == untouched
            assert takes[0] == takes[1], case
            take = takes[1]
            if take is None:
                continue
            given += 1
            assert isinstance(take, Take)
            assert any(take.request is request for request in pool.waiting), case
            assert tier.blocked is None, case
            assert take.request.may_use(tier.options.backend), case
            assert take.request.free_on(tier), case
            assert take.reason in RUN_WORDS, case
    assert given > CASES / 10, "the scenes bring out calls that are served"


@every_policy
def test_the_policies_name_is_what_the_file_says(name: str) -> None:
    assert name == name.lower()
    assert (policies.get(name).__doc__ or "").strip()
