"""The report of a run: its shape, its arithmetic, and what it says is missing."""

import io
import json
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from gateway.demo.closing import closing
from gateway.demo.figures import NOTHING, Figures, read
from gateway.demo.load import Sample
from gateway.demo.plan import BACKENDS, Plan
from gateway.demo.summary import missing, report
from tests.demo.schema import REPORT

PLAN = Plan(seconds=10, within=0.6, objective=0.95)

MONEY = read(
    """\
# TYPE overspill_cost_usd_total counter
overspill_cost_usd_total{route="digits",backend="fleet",kind="fleet"} 0.5
overspill_cost_usd_total{route="digits",backend="runpod",kind="spill"} 0.25
# TYPE overspill_fleet_idle_usd_total counter
overspill_fleet_idle_usd_total{backend="fleet"} 0.25
"""
)


def sample(
    at: float = 0.0,
    latency: float = 0.05,
    *,
    status: int = 200,
    backend: str = "fleet",
    reason: str = "warm",
    start: str = "warm",
    wrong: bool = False,
) -> Sample:
    return Sample(at, at + latency, status, backend, reason, start, wrong)


def whole() -> list[Sample]:
    """One request per backend, one of them cold."""
    rented = [
        sample(1.0 + place, backend=name, reason="spill_full", start="cold" if name == "modal" else "warm")
        for place, name in enumerate(BACKENDS[1:])
    ]
    return [sample(), *rented]


def made(samples: list[Sample], money: Figures = MONEY) -> dict[str, Any]:
    return report(PLAN, samples, money, seconds=10.0, triton="real")


def test_the_report_has_the_promised_shape() -> None:
    jsonschema.validate(json.loads(json.dumps(made(whole()))), REPORT)
    jsonschema.validate(json.loads(json.dumps(made([]))), REPORT)


def test_counts_come_by_backend_and_start() -> None:
    result = made([*whole(), sample(5.0, backend="modal", reason="spill_full", start="unknown")])
    assert result["requests"] == 5
    assert result["backends"]["modal"] == {"requests": 2, "start": {"warm": 0, "cold": 1, "unknown": 1}}
    assert result["reasons"] == {"spill_full": 4, "warm": 1}


def test_cost_is_everything_spent_over_what_was_answered() -> None:
    result = made([*whole(), sample(status=0, backend="", reason="")])
    assert result["cost_usd"] == 1.0
    assert result["cost_per_1k_usd"] == 250.0
    assert result["cost_by_kind_usd"] == {"fleet": 0.5, "spill": 0.25, "fleet_idle": 0.25}


def test_the_budget_is_missed_by_late_lost_wrong_and_shed_requests() -> None:
    samples = [
        sample(latency=0.6),
        sample(latency=0.601),
        sample(status=0),
        sample(status=503),
        sample(wrong=True),
    ]
    assert made(samples)["budget_attained"] == 0.2


def test_the_other_ways_are_priced_for_the_same_time() -> None:
    other = made([sample(float(at), latency=0.1) for at in range(10)])["counterfactual"]
    assert other["all_warm_gpus"] == 1
    assert other["all_warm_usd"] == pytest.approx(0.79 * 10 / 3600)
    assert other["all_serverless_usd"] > 0


def test_without_a_warm_answer_the_other_ways_are_not_guessed() -> None:
    other = made([sample(status=0, backend="", reason="")])["counterfactual"]
    assert other["all_warm_usd"] is None
    assert other["all_serverless_usd"] is None


def test_a_complete_run_misses_nothing() -> None:
    assert missing(made(whole())) == []


@pytest.mark.parametrize(
    ("result", "clause"),
    [
        (made([*whole(), sample(status=0)]), "1 request was never answered"),
        (made([*whole(), sample(wrong=True), sample(wrong=True)]), "2 requests were not answered as"),
        (made(whole()[:-1]), "no request was served by aws_lambda"),
        (made([each._replace(start="warm") for each in whole()]), "no cold start was seen"),
        (made(whole(), NOTHING), "the run cost nothing"),
    ],
    ids=["lost", "wrong", "backend", "cold", "cost"],
)
def test_what_is_missing_is_said_in_a_clause(result: dict[str, Any], clause: str) -> None:
    (said,) = missing(result)
    assert clause in said


def test_the_commonest_problem_is_told_with_what_is_missing() -> None:
    refused = sample(status=0)._replace(problem="connection refused")
    told = missing(made([*whole(), refused, refused, refused._replace(problem="timeout")]))
    assert told == ["3 requests were never answered", "most often: connection refused"]


@pytest.mark.parametrize("samples", [whole(), [], [sample(status=0, backend="", reason="")]])
def test_the_last_page_can_be_drawn_for_any_run(samples: list[Sample]) -> None:
    page = io.StringIO()
    closing(Console(file=page, width=110), PLAN, made(samples))
    text = page.getvalue()
    assert "fleet idle" in text
    assert "modelled" in text
    assert f"{len(samples)} sent" in text
