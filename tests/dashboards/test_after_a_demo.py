"""Every panel of every dashboard, asked of a real Prometheus that has scraped a real demo run.

One run is made for all tests here: the demo's own stage, load and emulators, a gateway, and beside it Debian's
Prometheus with the rules of config/prometheus/.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from rich.console import Console

from gateway.clock import SystemClock
from gateway.dashboards.catalogue import PAGES
from gateway.dashboards.pages import Panel, Query
from gateway.demo import stage
from gateway.demo.performance import perform
from gateway.demo.plan import Plan
from tests.support.prometheus import PROMETHEUS, Prometheus, prometheus

pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="no `prometheus` here (Debian: apt install prometheus)"
)

RULES = sorted((Path(__file__).parents[2] / "config" / "prometheus").glob("*-rules.yaml"))
SECONDS = 12
PATIENCE_S = 90.0

QUERIES = [
    pytest.param(panel, query, id=f"{name}/{panel.title}/{query.legend}")
    for name, page in PAGES.items()
    for panel in page.panels
    for query in panel.queries
]


class Seen(NamedTuple):
    """What is left of the run."""

    prometheus: Prometheus
    report: dict[str, Any]
    lines: list[dict[str, Any]]
    began: float
    ended: float


def eventually(what: str, holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up, f"not after {PATIENCE_S:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    plan, clock = Plan(seconds=SECONDS), SystemClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "why_not", lambda: "the bundled server is enough here")
        with stage.stage(plan, lambda _: None) as set_up:
            target = set_up.admin.removeprefix("http://")
            with prometheus(tmp_path_factory.mktemp("prometheus"), target, RULES) as server:
                began = clock.wall()
                eventually("a first scrape", lambda: bool(server.now("overspill_build_info")))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    report = runner.run(perform(set_up, plan, clock=clock, console=Console(quiet=True)))
                eventually("advice", lambda: bool(server.now("overspill_recommended_replicas")))
                settle(server, set_up.admin)
                lines = [json.loads(line) for line in set_up.access_log.read_text().splitlines()]
                yield Seen(server, report, lines, began, clock.wall())


def settle(server: Prometheus, admin: str) -> None:
    """Wait until Prometheus has what the gateway has, and the log was written."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as page:
        text = page.read().decode()
    booked = [
        line for line in text.splitlines() if line.startswith(("overspill_requests", "overspill_cost_usd"))
    ]
    whole = fsum(float(line.rpartition(" ")[2]) for line in booked)
    asked = "sum(overspill_requests_total) + sum(overspill_cost_usd_total)"
    eventually("the last scrape", lambda: server.number(asked) == pytest.approx(whole, abs=1e-9))


def filled(text: str, run: Seen) -> str:
    """As Grafana fills its variables, with `All` chosen everywhere."""
    for name, value in (
        ("$__rate_interval", "10s"),
        ("$__range", f"{run.ended - run.began:.0f}s"),
        ("$job", ".+"),
        ("$route", ".+"),
        ("$backend", ".+"),
    ):
        text = text.replace(name, value)
    assert "$" not in text
    return text


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_no_panel_is_without_data(seen: Seen, panel: Panel, query: Query) -> None:
    expr = filled(query.expr, seen)
    if panel.kind in ("number", "bars"):
        assert seen.prometheus.now(expr)
    else:
        assert seen.prometheus.over(expr, seen.began, seen.ended + 1.0, 1.0)


@pytest.mark.parametrize(("label", "owner"), [("route", "digits"), ("backend", "runpod")])
def test_every_count_of_spill_budgets_is_one_of_a_budget(seen: Seen, label: str, owner: str) -> None:
    """And not the 0 that stands where there is no budget at all."""
    panels = {panel.title: panel for panel in PAGES["money"].panels}
    for title in ("Left, by " + label, "Used up", "Not granted", "Granted beyond the budget"):
        found = [
            labels[label]
            for query in panels[title].queries
            for labels, _ in seen.prometheus.now(filled(query.expr, seen))
            if label in labels
        ]
        assert set(found) == {owner}, title


def test_requests_agree_with_the_access_log_to_the_request(seen: Seen) -> None:
    assert seen.prometheus.number("sum(overspill_requests_total)") == len(seen.lines)
    for label in ("backend", "outcome"):
        counted = {
            labels[label]: value
            for labels, value in seen.prometheus.now(f"sum by ({label}) (overspill_requests_total)")
            if value
        }
        logged: dict[str, int] = {}
        for line in seen.lines:
            word = line[label] or "none"
            logged[word] = logged.get(word, 0) + 1
        assert counted == logged
    reasons = {
        labels["reason"]: value
        for labels, value in seen.prometheus.now("sum by (reason) (overspill_decisions_total)")
    }
    assert reasons == {
        reason: sum(line["reason"] == reason for line in seen.lines)
        for reason in {line["reason"] for line in seen.lines}
    }
    assert len(seen.lines) >= seen.report["requests"] > 500


def test_dollars_agree_with_the_access_log_to_the_cent(seen: Seen) -> None:
    counted = seen.prometheus.number("sum(overspill_cost_usd_total)")
    outside = seen.prometheus.number("sum(overspill_cost_outside_calls_usd_total)")
    assert counted is not None
    assert outside is not None
    logged = fsum(line["usd"] for line in seen.lines if line["usd"] is not None)
    assert counted == pytest.approx(logged + outside, abs=1e-9)
    assert outside > 0.0  # instances idled before they ended
    assert logged > 0.0


def test_the_money_page_shows_those_dollars(seen: Seen) -> None:
    panel = next(panel for panel in PAGES["money"].panels if panel.title == "Since the gateway started")
    calls, _ = panel.queries
    shown = fsum(value for _, value in seen.prometheus.now(filled(calls.expr, seen)))
    outside = seen.prometheus.number("sum(overspill_cost_outside_calls_usd_total)") or 0.0
    logged = fsum(line["usd"] or 0.0 for line in seen.lines)
    assert shown == pytest.approx(logged + outside, abs=1e-9)


def test_exemplars_lead_to_calls_of_the_log(seen: Seen) -> None:
    found = seen.prometheus.ask(
        "query_exemplars",
        query="overspill_request_duration_seconds_bucket",
        start=seen.began,
        end=seen.ended,
    )
    durations = {line["trace_id"]: line["duration_ms"] for line in seen.lines}
    exemplars = [each for series in found for each in series["exemplars"]]
    assert len(exemplars) > 10
    for each in exemplars:
        assert float(each["value"]) * 1e3 == pytest.approx(durations[each["labels"]["trace_id"]], abs=0.002)


def test_the_rules_are_evaluated_without_a_complaint(seen: Seen) -> None:
    groups = seen.prometheus.ask("rules")["groups"]
    assert {group["file"].rpartition("/")[2] for group in groups} == {path.name for path in RULES}
    for group in groups:
        for rule in group["rules"]:
            assert (rule["health"], rule.get("lastError")) == ("ok", None), rule["name"]


@pytest.mark.parametrize(
    "recorded",
    [
        "overspill:budget_burn:rate5m",
        "overspill:budget_burn:rate3d",
        "overspill:spilled:ratio_rate5m",
        "overspill:cold_starts:ratio_rate30m",
        "overspill:fleet_taken:ratio",
        "overspill:fleet_idle_usd:rate1h",
        "overspill:cost_per_1k_usd:rate1h",
        "overspill:cost_per_1k_usd:limit",
    ],
)
def test_every_recording_rule_has_data(seen: Seen, recorded: str) -> None:
    assert seen.prometheus.over(recorded, seen.began, seen.ended + 1.0, 1.0)


def test_no_alert_fires_over_a_demo_that_went_well(seen: Seen) -> None:
    assert seen.prometheus.now('ALERTS{alertstate="firing"}') == []
