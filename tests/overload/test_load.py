"""The figures of a load, and a load of a few seconds against a real gateway."""

from pathlib import Path
from random import Random

from gateway.clock import SystemClock
from loadtests.overload.calls import Kinds, Mix, Seen
from loadtests.overload.figures import Figures, Memory, costs, figures, problems
from loadtests.overload.scenarios import FLEET
from loadtests.overload.trial import tried

FLAT = Memory(60.0, 61.0, 61.0, 62.0)


def made(factor: float, *, good: int, shed: int = 0, critical: float = 1.0, memory: Memory = FLAT) -> Figures:
    kinds = Kinds(Mix())
    seen = []
    for number in range(good + shed):
        kind = kinds.draw(Random(number))
        important = kind.priority == "critical"
        fails = number % 10 >= 10 * critical if important else number >= good
        seen.append(Seen(kind, 429 if fails else 200, "contended" if fails else "", 0.01))
    return figures(
        seen, factor=factor, seconds=1.0, budget_s=0.4,
        cpu_s=sum(2e-4 if each.status == 200 else 5e-5 for each in seen), memory=memory,
    )  # fmt: skip


def test_calls_are_drawn_by_their_shares() -> None:
    chance, kinds = Random(1), Kinds(Mix(large=0.1))
    drawn = [kinds.draw(chance) for _ in range(4000)]
    assert 300 < sum(kind.priority == "critical" for kind in drawn) < 500
    assert 700 < sum(kind.priority == "best_effort" for kind in drawn) < 900
    assert 300 < sum(kind.large for kind in drawn) < 500
    assert all((b"x-overspill-deadline-ms: 400" in kind.head) is kind.told for kind in drawn)


def test_an_answer_after_the_budget_is_late_and_a_refusal_neither() -> None:
    kind = Kinds(Mix()).draw(Random(1))
    ends = [(200, 0.39), (200, 0.41), (429, 0.001), (0, 1.0)]
    load = figures(
        [Seen(kind, status, "x", after) for status, after in ends],
        factor=1, seconds=2.0, budget_s=0.4, cpu_s=0.1, memory=FLAT,
    )  # fmt: skip
    assert (load.everybody.in_budget, load.everybody.late) == (1, 1)
    assert load.everybody.shed == {"429 x": 1}
    assert load.everybody.lost == {"x": 1}
    assert load.goodput_per_s == 0.5


def test_what_an_answer_and_a_refusal_cost_is_told_apart() -> None:
    found = costs([made(1, good=200, shed=10), made(5, good=200, shed=800)])
    assert found is not None
    assert abs(found[0] - 2e-4) < 1e-5
    assert abs(found[1] - 5e-5) < 1e-5
    assert costs([made(1, good=100)]) is None


def test_lost_goodput_suffering_critical_calls_and_growing_memory_are_problems() -> None:
    one = made(1, good=1000)
    assert not problems([one, made(5, good=950, shed=3000)], 0.9)
    assert "less than 0.9" in problems([one, made(5, good=700, shed=100)], 0.9)[0]
    assert "critical" in problems([one, made(5, good=1000, critical=0.5)], 0.9)[0]
    assert "memory grows" in problems([made(5, good=1, memory=Memory(60, 70, 100, 100))], 0.9)[0]


async def test_a_real_gateway_sheds_the_least_important_and_loses_nobody(tmp_path: Path) -> None:
    _, loads = await tried(
        FLEET, [4.0], seconds=1.0, folder=tmp_path, chance=Random(1), clock=SystemClock(), tell=lambda _: None
    )
    (load,) = loads
    shares = {name: ends.in_budget / ends.offered for name, ends in load.by_priority.items()}
    assert shares["critical"] > shares["default"] > 0.0
    assert shares["critical"] > 0.5
    assert load.refusals > load.everybody.offered / 4
    assert not {"reset", "closed"} & set(load.everybody.lost)
    assert load.shed_p50_s < FLEET.mix.budget_s
