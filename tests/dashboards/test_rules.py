"""The alert rules, held against planted troubles with `promtool test rules`, minute by minute.

Each story says what the gateway's metrics did, and which alerts fire when; others must not.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import PROMTOOL

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"
RULES = sorted(CONFIG.glob("*-rules.yaml"))
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="no `promtool` here (Debian: apt install prometheus)"
)


def gauge(*parts: tuple[float, int]) -> str:
    """A value for so many minutes, then the next."""
    return " ".join(f"{value}x{minutes - 1}" for value, minutes in parts)


def counter(*parts: tuple[float, int]) -> str:
    """So much more every minute, for so many minutes, then the next."""
    told, value = [], 0.0
    for more, minutes in parts:
        told.append(f"{value:g}+{more:g}x{minutes - 1}")
        value += more * minutes
    return " ".join(told)


MINUTES = 180
BACKENDS = {
    'backend_info{backend="fleet",type="triton",owned="true"}': f"1x{MINUTES}",
    'backend_info{backend="burst",type="runpod",owned="false"}': f"1x{MINUTES}",
    'backend_ready{backend="fleet"}': f"1x{MINUTES}",
    'backend_ready{backend="burst"}': f"1x{MINUTES}",
    'breaker_state{backend="fleet"}': f"0x{MINUTES}",
    'breaker_state{backend="burst"}': f"0x{MINUTES}",
    'price_known{backend="fleet"}': f"1x{MINUTES}",
    'price_known{backend="burst"}': f"1x{MINUTES}",
    'config_reloads_total{result="rejected"}': f"0x{MINUTES}",
    'latency_budget_objective{route="embed"}': f"0.99x{6000}",
}
"""A gateway that all is well with."""


def told(folder: Path, series: Mapping[str, str], firing: Mapping[str, set[str]], every: str = "1m") -> None:
    """Have promtool play the story, and hold against it which alerts fire at each moment."""
    assert PROMTOOL is not None
    expected = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": moment,
            "exp_samples": [
                {"labels": f'{{alertname="Overspill{name}"}}', "value": 1} for name in sorted(names)
            ],
        }
        for moment, names in firing.items()
    ]
    played: dict[str, Any] = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": every,
        "tests": [
            {
                "interval": every,
                "input_series": [
                    {"series": _full(name), "values": values}
                    for name, values in {**BACKENDS, **series}.items()
                ],
                "promql_expr_test": expected,
            }
        ],
    }
    file = folder / "story.yaml"
    file.write_text(yaml.safe_dump(played))
    run = subprocess.run(
        [PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def _full(name: str) -> str:
    metric, _, labels = name.partition("{")
    prefix = "" if metric == "up" else "overspill_"
    return f'{prefix}{metric}{{job="overspill",instance="gw:8002"' + (f",{labels}" if labels else "}")


@needs_promtool
def test_a_fleet_outage_during_a_burst(tmp_path: Path) -> None:
    """The burst begins at minute 30, the whole fleet fails at minute 35 and is back at minute 50."""
    told(
        tmp_path,
        {
            'backend_ready{backend="fleet"}': gauge((1, 35), (0, 15), (1, 131)),
            'breaker_state{backend="fleet"}': gauge((0, 35), (2, 15), (0, 131)),
            'latency_budget_requests_total{route="embed"}': counter((2400, 30), (10200, 25), (2400, 126)),
            'latency_budget_missed_total{route="embed"}': counter(
                (2, 30), (20, 5), (5100, 15), (20, 5), (2, 126)
            ),
            'spill_budget_limit_usd{route="embed"}': f"5x{MINUTES}",
            'spill_budget_remaining_usd{route="embed"}': gauge((5, 30), (3, 10), (0.3, 20), (5, 121)),
        },
        {
            "34m": set(),  # the burst alone keeps its budget
            "37m": {"FleetDown", "BreakerOpen"},
            "45m": {"FleetDown", "BreakerOpen", "BudgetBurnsFast", "SpillBudgetNearlySpent"},
            "53m": {"BudgetBurnsFast", "BudgetBurns", "SpillBudgetNearlySpent"},
            "58m": {"BudgetBurns", "SpillBudgetNearlySpent"},  # the last five minutes were good
            "75m": {"BudgetBurns"},
            "100m": {"BudgetBurnsSlowly"},  # three days are judged by what there is of them
        },
    )


@needs_promtool
def test_a_slow_leak_is_told_after_days_and_calls_nobody_at_night(tmp_path: Path) -> None:
    told(
        tmp_path,
        {
            'latency_budget_requests_total{route="embed"}': "0+10000x6000",
            'latency_budget_missed_total{route="embed"}': "0+150x6000",  # 1.5 times what may be
        },
        {"30m": set(), "80h": {"BudgetBurnsSlowly"}},
        every="5m",
    )


@needs_promtool
def test_a_route_without_calls_burns_nothing(tmp_path: Path) -> None:
    told(
        tmp_path,
        {
            'latency_budget_requests_total{route="embed"}': f"0x{MINUTES}",
            'latency_budget_missed_total{route="embed"}': f"0x{MINUTES}",
            'served_total{route="embed",backend="fleet"}': f"0x{MINUTES}",
            'cost_usd_total{route="embed",backend="fleet",kind="fleet"}': f"0x{MINUTES}",
            'fleet_idle_usd_total{backend="fleet"}': f"0+0.1x{MINUTES}",
        },
        {"10m": set(), "150m": set()},
    )


STORIES: dict[str, tuple[dict[str, str], dict[str, set[str]]]] = {
    "rented backend down": (
        {'backend_ready{backend="burst"}': gauge((1, 10), (0, 170))},
        {"14m": set(), "16m": {"RentedBackendDown"}},
    ),
    "gateway down": (
        {"up": gauge((1, 10), (0, 170))},
        {"10m": set(), "12m": {"GatewayDown"}},
    ),
    "backend's spill budget": (
        {
            'backend_spill_budget_limit_usd{backend="burst"}': f"10x{MINUTES}",
            'backend_spill_budget_remaining_usd{backend="burst"}': gauge((1.1, 10), (0.9, 170)),
        },
        {"10m": set(), "12m": {"BackendSpillBudgetNearlySpent"}},
    ),
    "a spill budget that only warns": (
        {
            'spill_budget_overrun_total{route="embed"}': counter((0, 30), (2, 10), (0, 140)),
            'spill_budget_refused_total{route="embed"}': f"0x{MINUTES}",
        },
        {"30m": set(), "35m": {"SpillBudgetOverrun"}, "60m": set()},
    ),
    "a backend's spill budget that only warns": (
        {
            'backend_spill_budget_overrun_total{backend="burst"}': counter((0, 30), (2, 10), (0, 140)),
            'spill_budget_overrun_total{route="embed"}': f"0x{MINUTES}",
        },
        {"30m": set(), "35m": {"SpillBudgetOverrun"}, "60m": set()},
    ),
    "a spill budget that holds calls back": (
        {
            'spill_budget_overrun_total{route="embed"}': f"0x{MINUTES}",
            'spill_budget_refused_total{route="embed"}': counter((0, 30), (20, 10), (0, 140)),
        },
        {"30m": set(), "33m": set(), "40m": {"SpillBudgetRefuses"}, "60m": set()},
    ),
    "cold starts": (
        {
            'starts_total{route="embed",backend="burst",start="cold"}': counter((0, 60), (30, 120)),
            'starts_total{route="embed",backend="burst",start="warm"}': f"0+30x{MINUTES}",
        },
        {"60m": set(), "120m": {"ColdStarts"}},
    ),
    "few cold starts": (
        {
            'starts_total{route="embed",backend="burst",start="cold"}': counter((0, 60), (10, 120)),
            'starts_total{route="embed",backend="burst",start="warm"}': f"0+30x{MINUTES}",
        },
        {"120m": set()},
    ),
    "price unknown": (
        {'price_known{backend="burst"}': f"0x{MINUTES}"},
        {"10m": set(), "20m": {"PriceUnknown"}},
    ),
    "unpriced attempts": (
        {'unpriced_attempts_total{route="embed",backend="burst"}': f"0+1x{MINUTES}"},
        {"5m": set(), "60m": {"UnpricedAttempts"}},
    ),
    "config rejected": (
        {'config_reloads_total{result="rejected"}': gauge((0, 10), (1, 170))},
        {"9m": set(), "11m": {"ConfigRejected"}, "30m": set()},
    ),
    "config rejected and not mended": (
        {"config_last_reload_successful": gauge((1, 10), (0, 100), (1, 70))},
        {"60m": set(), "75m": {"ConfigNotTakenOver"}, "115m": set()},
    ),
    "more calls than the CPU can do": (
        {'turned_away_total{priority="default"}': counter((0, 30), (60, 10), (0, 140))},
        {"30m": set(), "36m": {"TurnsCallsAway"}, "60m": set()},
    ),
    "a few calls turned away": (
        {'turned_away_total{priority="default"}': counter((0, 30), (20, 1), (0, 149))},
        {"33m": set(), "60m": set()},
    ),
    "workers that die": (
        {"worker_restarts_total": counter((0, 30), (1, 5), (0, 145))},
        {"31m": set(), "40m": {"WorkersRestart"}, "60m": set()},
    ),
    "a full disk": (
        {"access_log_lost_total": counter((0, 30), (100, 5), (0, 145))},
        {"30m": set(), "33m": {"AccessLogLost"}, "60m": set()},
    ),
    "a collector that is down": (
        {
            'traced_calls_total{result="exported"}': f"0+9x{MINUTES}",
            'traced_calls_total{result="failed"}': counter((0, 30), (9, 30), (0, 120)),
        },
        {"30m": set(), "50m": {"TracesLost"}, "100m": set()},
    ),
    "a certificate that grows old": (
        {'certificate_expires_seconds{port="data"}': f"{14 * 86400 + 600}-60x{MINUTES}"},
        {"5m": set(), "30m": {"CertificateExpires"}},
    ),
    "a certificate that nobody renewed": (
        {'certificate_expires_seconds{port="data"}': f"{86400 + 1800}-60x{MINUTES}"},
        {"25m": {"CertificateExpires"}, "40m": {"CertificateExpires", "CertificateExpired"}},
    ),
    "a certificate that cannot be used": (
        {'certificate_last_renewal_successful{port="admin"}': gauge((1, 10), (0, 170))},
        {"10m": set(), "20m": {"CertificateRejected"}},
    ),
    "cost above the limit, idle included": (
        {
            # $0.20 a minute for calls and $0.30 for idling, over 400 answers: $1.25 for 1,000
            'served_total{route="embed",backend="fleet"}': f"0+400x{MINUTES}",
            'cost_usd_total{route="embed",backend="fleet",kind="fleet"}': f"0+0.2x{MINUTES}",
            'fleet_idle_usd_total{backend="fleet"}': f"0+0.3x{MINUTES}",
        },
        {"10m": set(), "30m": {"CostHigh"}},
    ),
    "cost below the limit": (
        {
            'served_total{route="embed",backend="fleet"}': f"0+400x{MINUTES}",
            'cost_usd_total{route="embed",backend="fleet",kind="fleet"}': f"0+0.2x{MINUTES}",
            'fleet_idle_usd_total{backend="fleet"}': f"0+0.1x{MINUTES}",
        },
        {"60m": set()},
    ),
    "one more replica": (
        {
            'replicas{backend="fleet"}': f"2x{MINUTES}",
            'recommended_replicas{backend="fleet"}': gauge((2, 10), (3, 170)),
        },
        {"30m": set(), "45m": {"ReplicaWouldPay"}},
    ),
}


@needs_promtool
@pytest.mark.parametrize("story", STORIES)
def test_one_trouble_fires_its_own_alert(story: str, tmp_path: Path) -> None:
    series, firing = STORIES[story]
    told(tmp_path, series, firing)


@needs_promtool
def test_the_files_are_what_prometheus_takes() -> None:
    assert PROMTOOL is not None
    config = str(CONFIG / "prometheus.yaml")
    run = subprocess.run(
        [PROMTOOL, "check", "config", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_says_what_it_is_and_is_in_a_story() -> None:
    alerts = [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(alerts) >= 12
    stories = Path(__file__).read_text()
    for alert in alerts:
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["labels"]["severity"] in {"page", "ticket", "info"}
        assert f'"{alert["alert"].removeprefix("Overspill")}"' in stories, alert["alert"]
