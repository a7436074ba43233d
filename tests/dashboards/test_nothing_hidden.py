"""Every metric is on a dashboard, in a rule or on the console, or there is a reason; and they ask for no other.

Two gateways are asked for all that they have: one process that uses what the file offers, and one with workers.
"""

import asyncio
import re
import urllib.request
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop
import yaml
from prometheus_client.core import Metric

from gateway.app import Gateway
from gateway.console.attention import counters
from gateway.console.history import History
from gateway.console.lately import Lately
from gateway.console.snapshot import snapshot
from gateway.dashboards.catalogue import PAGES
from tests.support.gateways import running
from tests.support.upstream import upstream
from tests.tls.authority import Authority
from tests.tls.support import section
from tests.workers_serving.live import serving

RULES = sorted((Path(__file__).parents[2] / "config" / "prometheus").glob("*-rules.yaml"))

NOWHERE = {
    "overspill_certificate_renewals": "the alert CertificateRejected lasts as long as a renewal has failed",
    "process_start_time_seconds": "a restart is seen in every counter",
    "process_virtual_memory_bytes": "says nothing of the memory that is needed",
    "python_info": "the interpreter does not change while a gateway runs",
}
"""What nobody needs to see, and why."""

CONFIG = """
auth: {anonymous: {tenant: acme}}
tenants: {acme: {usd_per_hour: 1}}
backends:
  fleet: {type: triton, replicas: ["URL"], max_in_flight: 1, price: {usd_per_replica_hour: 1}}
  burst: {type: loopback_rented, max_in_flight: 4, price: {usd_per_second: 0.001}, spill_budget: {usd_per_hour: 1}}
routes:
  all:
    latency_budget: {within: 1s, objective: 99%}
    spill_budget: {usd_per_hour: 1}
    tiers: [{backend: fleet}, {backend: burst}]
"""


class Told(NamedTuple):
    """What the two gateways say."""

    families: frozenset[str]
    on_console: frozenset[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run(_told(tmp_path_factory.mktemp("certificates")))


async def _told(folder: Path) -> Told:
    encrypted = section("tls", Authority(folder).issue("a"))
    async with upstream() as replica:
        async with running(CONFIG.replace("URL", replica.url) + encrypted) as gateway:
            alone = await _metrics(f"http://{gateway.admin_address}")
            shown = await _on_console(gateway)
        async with serving(folder, replica) as served:
            workers = await _metrics(f"http://127.0.0.1:{served.admin}")
    return Told(frozenset(alone | workers), frozenset(shown))


async def _metrics(admin: str) -> set[str]:
    def get() -> str:
        with urllib.request.urlopen(f"{admin}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    found = re.findall(r"^# TYPE (\S+)", await asyncio.to_thread(get), re.MULTILINE)
    return {re.sub(r"_(total|info)$", "", name) if name != "python_info" else name for name in found}


async def _on_console(gateway: Gateway) -> set[str]:
    """Those without which its page would be another: each is counted up by itself, and the page compared."""
    glance = await gateway.admin.views.glance(0)

    def page(now: Sequence[Metric]) -> object:
        history, lately = History(), Lately()
        history.note(0.0, glance.sums)
        for at, metrics in ((0.0, glance.metrics), (1.0, now)):
            lately.note(at, counters(metrics))
        return snapshot(glance._replace(metrics=now), gateway.config, history, lately, 1.0)

    usual = page(glance.metrics)
    return {
        family.name
        for at, family in enumerate(glance.metrics)
        if page([*glance.metrics[:at], _counted_up(family), *glance.metrics[at + 1 :]]) != usual
    }


def _counted_up(family: Metric) -> Metric:
    changed = deepcopy(family)
    changed.samples = [sample._replace(value=sample.value + 1.0) for sample in family.samples]
    return changed


def asked() -> dict[str, set[str]]:
    """The metrics of each panel and rule."""
    found = {
        f"{name}/{panel.title}": _metrics_of(" ".join(query.expr for query in panel.queries))
        for name, page in PAGES.items()
        for panel in page.panels
    }
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                found[rule.get("alert") or rule["record"]] = _metrics_of(rule["expr"])
    return found


def _metrics_of(text: str) -> set[str]:
    names = re.findall(r"(?<![a-z:_])((?:overspill|process)_[a-z0-9_]+)", text)
    return {re.sub(r"_(total|info|bucket|count|sum)$", "", name) for name in names}


def test_panels_and_rules_ask_for_metrics_that_there_are(told: Told) -> None:
    for place, names in asked().items():
        assert names <= told.families, place


def test_whatever_there_is_can_be_seen_somewhere(told: Told) -> None:
    seen = set().union(*asked().values()) | told.on_console
    assert told.families - seen - NOWHERE.keys() == set(), (
        "put it on a dashboard, into a rule or on the console"
    )


def test_the_exceptions_are_metrics_that_are_seen_nowhere(told: Told) -> None:
    seen = set().union(*asked().values()) | told.on_console
    assert NOWHERE.keys() <= told.families
    assert not NOWHERE.keys() & seen


def test_the_console_has_what_was_counted_of_spill_budgets(told: Told) -> None:
    budgets = ("remaining_usd", "limit_usd", "exhaustions", "refused", "overrun")
    for word in budgets:
        assert {f"overspill_spill_budget_{word}", f"overspill_backend_spill_budget_{word}"} <= told.on_console
