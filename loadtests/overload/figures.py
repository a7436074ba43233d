"""From what became of each call to figures, and from figures to a verdict. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loadtests.overload.calls import PRIORITIES, Seen

CRITICAL_KEPT = 0.9
"""Share of the critical calls that must be answered in budget while a best-effort call is."""
RSS_SHARE, RSS_MIB = 0.10, 8.0
"""What memory may vary by between the middle and the end of a load."""
RELEVANT = 20
"""Fewer calls than these of a class say nothing about it."""


class Memory(NamedTuple):
    """Resident MiB of the gateway: before a load, at its half, at its end, and at most."""

    before: float
    half: float
    end: float
    most: float

    @property
    def grows(self) -> bool:
        """More at the end than at the half, by more than noise."""
        return self.end > self.half * (1 + RSS_SHARE) + RSS_MIB


class Ends(NamedTuple):
    """How the calls of one class ended."""

    offered: int
    in_budget: int
    late: int
    shed: Mapping[str, int]
    lost: Mapping[str, int]

    @classmethod
    def of(cls, seen: Sequence[Seen], budget_s: float) -> "Ends":
        """Counted."""
        shed: dict[str, int] = {}
        lost: dict[str, int] = {}
        in_budget = late = 0
        for each in seen:
            if each.status == 200:
                in_time = each.after_s <= budget_s
                in_budget += in_time
                late += not in_time
            elif each.status:
                word = f"{each.status} {each.why}"
                shed[word] = shed.get(word, 0) + 1
            else:
                lost[each.why] = lost.get(each.why, 0) + 1
        return cls(len(seen), in_budget, late, shed, lost)


class Figures(NamedTuple):
    """One load. Times in seconds; `cpu_s` is the gateway's."""

    factor: float
    seconds: float
    offered_per_s: float
    goodput_per_s: float
    everybody: Ends
    by_priority: Mapping[str, Ends]
    shed_p50_s: float
    shed_p99_s: float
    answered_p50_s: float
    answered_p99_s: float
    cpu_s: float
    memory: Memory
    client_lag_p99_s: float

    @property
    def answers(self) -> int:
        """Calls that were carried out."""
        return self.everybody.in_budget + self.everybody.late

    @property
    def refusals(self) -> int:
        """Calls that were answered with a refusal."""
        return sum(self.everybody.shed.values())

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        values = self._asdict()
        values["everybody"] = self.everybody._asdict()
        values["by_priority"] = {name: ends._asdict() for name, ends in self.by_priority.items()}
        values["memory"] = self.memory._asdict()
        return values


def figures(
    seen: Sequence[Seen],
    *,
    factor: float,
    seconds: float,
    budget_s: float,
    cpu_s: float,
    memory: Memory,
    lags: Sequence[float] = (),
) -> Figures:
    """Of one load. `lags`: how long the turns of the client took."""
    everybody = Ends.of(seen, budget_s)
    sheds = sorted(each.after_s for each in seen if each.status not in {0, 200})
    answers = sorted(each.after_s for each in seen if each.status == 200)
    return Figures(
        factor=factor,
        seconds=seconds,
        offered_per_s=len(seen) / seconds,
        goodput_per_s=everybody.in_budget / seconds,
        everybody=everybody,
        by_priority={
            name: Ends.of([each for each in seen if each.kind.priority == name], budget_s)
            for name in PRIORITIES
        },
        shed_p50_s=quantile(sheds, 0.5),
        shed_p99_s=quantile(sheds, 0.99),
        answered_p50_s=quantile(answers, 0.5),
        answered_p99_s=quantile(answers, 0.99),
        cpu_s=cpu_s,
        memory=memory,
        client_lag_p99_s=quantile(sorted(lags), 0.99),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def costs(loads: Sequence[Figures]) -> tuple[float, float] | None:
    """Gateway CPU seconds of an answer and of a refusal: least squares over the loads. None where they do not
    tell the two apart.
    """
    aa = sum(load.answers**2 for load in loads)
    rr = sum(load.refusals**2 for load in loads)
    ar = sum(load.answers * load.refusals for load in loads)
    ac = sum(load.answers * load.cpu_s for load in loads)
    rc = sum(load.refusals * load.cpu_s for load in loads)
    determinant = aa * rr - ar * ar
    if determinant <= 1e-6 * max(aa * rr, 1.0):
        return None
    return (ac * rr - rc * ar) / determinant, (aa * rc - ar * ac) / determinant


def problems(loads: Sequence[Figures], kept_share: float) -> list[str]:
    """What is not as it must be, in words; empty where all is.

    kept_share:  of the goodput at 1 x that must be left at higher factors
    """
    found = []
    one = next((load for load in loads if load.factor == 1), None)
    for load in loads:
        if one is not None and load.factor > 1 and load.goodput_per_s < kept_share * one.goodput_per_s:
            found.append(
                f"at {load.factor:g} x {load.goodput_per_s:.0f} answers a second come in budget, "
                f"less than {kept_share:g} of the {one.goodput_per_s:.0f} at 1 x"
            )
        critical, best_effort = load.by_priority["critical"], load.by_priority["best_effort"]
        kept = critical.in_budget / critical.offered if critical.offered >= RELEVANT else 1.0
        rest = best_effort.in_budget / best_effort.offered if best_effort.offered >= RELEVANT else 0.0
        if kept < CRITICAL_KEPT and rest > 0.05:
            found.append(
                f"at {load.factor:g} x only {kept:.0%} of the critical calls are answered in budget, "
                f"and {rest:.0%} of the best-effort ones"
            )
        if load.memory.grows:
            memory = load.memory
            found.append(
                f"at {load.factor:g} x memory grows: {memory.half:.0f} MiB, then {memory.end:.0f} MiB"
            )
    return found
