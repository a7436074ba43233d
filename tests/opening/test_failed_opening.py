"""What waits for an instance that cannot be opened is looked at again, and not in a loop."""

from random import Random

from gateway.pool import AFTER_FAILED_OPENING_S, Opened
from gateway.slot import Slot
from gateway.vocab import Verdict
from policies.base import Action, Hold, Open, Policy, PolicyOptions, PoolView, RequestView, Take
from tests.pool.parts import FIRST, Rig, call


class _OpensAndWaits(Policy):
    """Holds every call for ever and has an instance opened for it."""

    def __init__(self) -> None:
        super().__init__(PolicyOptions())
        self.asked: list[float] = []

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        self.asked.append(now)
        return Hold(request.deadline, (Open("burst", 1),))

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        return None


class _Refusing:
    """An opener whose instances never come up."""

    def __init__(self) -> None:
        self.done: list[Opened] = []

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        self.done.append(done)


def test_after_a_failed_opening_the_first_call_is_looked_at_again_a_second_later() -> None:
    rule, opener = _OpensAndWaits(), _Refusing()
    rig = Rig(rule=rule)
    rig.pool._opener = opener
    rig.pool.slot(call(), FIRST).ask()
    assert len(opener.done) == 1
    opener.done[0](Verdict.NEUTRAL, None)
    assert rig.pool.opening == 0
    rig.manual.advance(AFTER_FAILED_OPENING_S / 2)
    assert len(rule.asked) == 1, "not at once"
    rig.manual.advance(AFTER_FAILED_OPENING_S)
    assert len(rule.asked) == 2
    assert len(opener.done) == 2, "and it is tried again"
