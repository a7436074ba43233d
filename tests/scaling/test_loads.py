"""Loads of several workers as one."""

from gateway.scaling.loads import Workers, merged
from gateway.scaling.rule import Load

ONE = Load(3, 2, 4, 5, 1, 2, 1.5, 0.8)
TWO = Load(3, 3, 4, 2, 0, 4, 2.0, 0.8)


def test_calls_and_money_are_added_and_replicas_are_not() -> None:
    assert merged([{"fleet": ONE}, {"fleet": TWO}]) == {"fleet": Load(3, 3, 4, 7, 1, 6, 3.5, 0.8)}


def test_money_that_one_does_not_know_is_not_known() -> None:
    unknown = TWO._replace(spill_usd=None)
    assert merged([{"fleet": ONE}, {"fleet": unknown}])["fleet"].spill_usd is None


def told(pid: int, load: Load) -> dict[str, object]:
    return {"pid": pid, "loads": {"fleet": list(load)}}


def test_what_an_ended_worker_spent_counts_on() -> None:
    workers = Workers(2)
    assert workers.told([told(1, ONE), told(2, TWO)])["fleet"].spill_usd == 3.5
    silent = workers.told([told(1, ONE), None])["fleet"]
    assert (silent.spill_usd, silent.in_flight, silent.spilled) == (3.5, 5, 2)
    fresh = TWO._replace(spill_usd=0.25)
    assert workers.told([told(1, ONE), told(3, fresh)])["fleet"].spill_usd == 3.75
    assert workers.told([told(1, ONE), told(3, fresh)])["fleet"].spill_usd == 3.75


def test_replicas_that_went_are_not_remembered() -> None:
    workers = Workers(2)
    workers.told([told(1, ONE), told(2, TWO)])
    fewer = ONE._replace(replicas=1, ready=1)
    assert workers.told([told(1, fewer), None])["fleet"].replicas == 1


def test_when_nobody_answers_nothing_is_known() -> None:
    workers = Workers(1)
    workers.told([told(1, ONE)])
    assert workers.told([None]) == {}
