"""What the run showed, as one document, and whether it showed what it was meant to. Pure.

Counts and latencies are the client's own; money is the gateway's. What other ways would have cost
is modelled from the run's own arrivals and service times.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from gateway.demo.figures import Figures
from gateway.demo.load import Sample
from gateway.demo.plan import BACKENDS, FLEET, RENTED, USD_PER_GPU_HOUR, Plan
from gateway.demo.replay import (
    AllServerless,
    AllWarm,
    all_serverless,
    all_warm,
    cheapest_serverless,
    percentile,
)
from gateway.vocab import Reason, Start

Report = dict[str, Any]
"""What `--json` writes."""


def report(plan: Plan, samples: Sequence[Sample], money: Figures, *, seconds: float, triton: str) -> Report:
    """All figures of a run. `seconds`: how long the fleet stood by; `money`: what was added meanwhile."""
    latencies = [sample.latency for sample in samples if not sample.lost]
    kept = [
        sample
        for sample in samples
        if sample.status == 200 and not sample.wrong and sample.latency <= plan.within
    ]
    answered = len(latencies)
    usd = money.spent_usd
    warm, rented = _elsewhere(plan, samples, seconds)
    return {
        "requests": len(samples),
        "lost": sum(sample.lost for sample in samples),
        "wrong": sum(sample.wrong for sample in samples),
        "shed": sum(sample.shed for sample in samples),
        "problems": dict(Counter(each.problem for each in samples if each.problem).most_common(5)),
        "backends": backends(samples),
        "reasons": dict(Counter(sample.reason for sample in samples if sample.reason).most_common()),
        "cost_usd": usd,
        "cost_per_1k_usd": 1000 * usd / answered if answered else 0.0,
        "cost_by_kind_usd": money.usd_by_kind(),
        "cost_by_backend_usd": money.usd_by_backend(),
        "latency_ms": {
            f"p{share:g}": round(1000 * percentile(latencies, share / 100), 3) for share in (50, 95, 99)
        },
        "budget_ms": round(1000 * plan.within, 3),
        "budget_objective": plan.objective,
        "budget_attained": len(kept) / len(samples) if samples else 0.0,
        "counterfactual": {
            "all_warm_usd": warm.usd if warm else None,
            "all_warm_gpus": warm.replicas if warm else None,
            "all_warm_attained": warm.attained if warm else None,
            "all_serverless_usd": rented.usd if rented else None,
            "all_serverless_attained": rented.attained if rented else None,
            "all_serverless_cold_starts": rented.cold if rented else None,
            "all_serverless_instances": rented.cap if rented else None,
        },
        "seconds": round(seconds, 3),
        "triton": triton,
    }


def backends(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Answers by backend, in the order of the tiers, and whether each one's instance had to boot."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in BACKENDS}
    for sample in samples:
        if sample.backend and sample.status == 200:
            counts.setdefault(sample.backend, Counter())[sample.start] += 1
    return {
        name: {"requests": sum(seen.values()), "start": {start.value: seen[start.value] for start in Start}}
        for name, seen in counts.items()
    }


def missing(result: Mapping[str, Any]) -> list[str]:
    """What the run was meant to show and did not, each as a clause; empty when all is well."""
    clauses = [
        f"{result[what]} {'request was' if result[what] == 1 else 'requests were'} {words}"
        for what, words in (("lost", "never answered"), ("wrong", "not answered as the model itself would"))
        if result[what]
    ]
    clauses += [
        f"no request was served by {name}"
        for name, seen in result["backends"].items()
        if not seen["requests"]
    ]
    if not any(seen["start"]["cold"] for seen in result["backends"].values()):
        clauses.append("no cold start was seen")
    if not result["cost_usd"] > 0:
        clauses.append("the run cost nothing")
    if clauses and result["problems"]:
        clauses.append(f"most often: {next(iter(result['problems']))}")
    return clauses


def _elsewhere(
    plan: Plan, samples: Sequence[Sample], seconds: float
) -> tuple[AllWarm | None, AllServerless | None]:
    arrivals = sorted(sample.intended for sample in samples)
    straight = [
        sample.latency
        for sample in samples
        if sample.status == 200 and sample.backend == FLEET and sample.reason == Reason.WARM
    ]
    cheapest = RENTED[0]
    rented = [
        sample.latency
        for sample in samples
        if sample.status == 200 and sample.backend == cheapest.name and sample.start == Start.WARM
    ]

    def replay(cap: int) -> AllServerless | None:
        chance = Random(plan.seed)  # noqa: S311 - a seeded model, not a secret
        return all_serverless(
            arrivals,
            rented or straight,
            boot=lambda: plan.boot(chance),
            idle_after=cheapest.idle_after,
            usd_per_second=cheapest.usd_per_second,
            within=plan.within,
            cap=cap,
            billed_in=cheapest.billed_in,
        )

    return (
        all_warm(
            arrivals,
            straight,
            slots=1,  # sized by the GPU, so that no machine's size favours one way
            within=plan.within,
            objective=plan.objective,
            seconds=seconds,
            usd_per_replica_hour=USD_PER_GPU_HOUR,
        ),
        cheapest_serverless(replay, plan.objective),
    )
