"""What the console calls to somebody's attention: counters that grow, certificates that end, budgets used up."""

import asyncio

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.console.attention import attention, counters
from gateway.console.figures import Figures
from gateway.console.lately import WINDOW_S, Lately
from gateway.glance import Glance
from tests.console.support import CONFIG, Clients, read_event, watched

WARNS = CONFIG.replace(
    "spill_budget: {usd_per_hour: 1}", "spill_budget: {usd_per_hour: 1.0e-9, on_exhausted: warn}"
)
SHEDS = CONFIG.replace(
    "spill_budget: {usd_per_hour: 1}", "spill_budget: {usd_per_hour: 1.0e-9, on_exhausted: shed}"
)
SHARED = CONFIG.replace(
    "spill_budget: {usd_per_hour: 1}", "spill_budget: {share_of_requests: 1%, on_exhausted: shed}"
)


def counter(name: str, value: float, **labels: str) -> Metric:
    family = CounterMetricFamily(f"overspill_{name}", "", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def gauge(name: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"overspill_{name}", "", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def said(*looks: Metric, apart_s: float = 1.0) -> list[tuple[str, str]]:
    """Of looks at one metric."""
    lately = Lately()
    for at, family in enumerate(looks):
        lately.note(at * apart_s, counters([family]))
    glance = Glance([looks[-1]], [], {}, [], "ready", {}, [])
    found = attention(glance, Figures(glance.metrics), lately, [], None)
    return [(each["level"], each["says"]) for each in found]


@pytest.mark.parametrize(
    ("name", "labels", "level", "words"),
    [
        ("turned_away", {"priority": "default"}, "bad", "1,200 calls turned away at the door"),
        ("worker_restarts", {}, "warn", "1,200 workers ended"),
        ("access_log_lost", {}, "warn", "1,200 lines of the access log"),
        ("traced_calls", {"result": "failed"}, "note", "the spans of 1,200 calls"),
        (
            "spill_budget_refused",
            {"route": "embed"},
            "warn",
            "spill budget of route embed holds calls back: 1,200",
        ),
        ("spill_budget_overrun", {"route": "embed"}, "warn", "spill budget of route embed allows: 1,200"),
        ("backend_spill_budget_refused", {"backend": "burst"}, "warn", "spill budget of backend burst holds"),
        (
            "backend_spill_budget_overrun",
            {"backend": "burst"},
            "warn",
            "spill budget of backend burst allows",
        ),
    ],
)
def test_a_counter_is_told_of_while_it_grows_and_a_minute_after(
    name: str, labels: dict[str, str], level: str, words: str
) -> None:
    before, after = counter(name, 5.0, **labels), counter(name, 1205.0, **labels)
    ((told, says),) = said(before, after)
    assert told == level
    assert words in says
    assert says.endswith("in the last minute")
    assert said(after) == [], "what was before the first look is no news"
    assert said(before, after, after, apart_s=WINDOW_S) == []
    assert said(after, before) == [], "it began anew"


def test_spans_that_arrived_are_no_news() -> None:
    assert (
        said(counter("traced_calls", 1.0, result="exported"), counter("traced_calls", 9.0, result="exported"))
        == []
    )


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (20.0, []),
        (13.0, [("warn", "the certificate of the data port expires in 13 days")]),
        (0.5, [("bad", "the certificate of the data port expires in 12 h")]),
        (-1.0, [("bad", "the certificate of the data port has expired")]),
    ],
)
def test_a_certificate_is_told_of_before_it_ends(days: float, expected: list[tuple[str, str]]) -> None:
    assert said(gauge("certificate_expires_seconds", 86400.0 * days, port="data")) == expected


def test_a_certificate_that_cannot_be_used_is_told_of() -> None:
    assert said(gauge("certificate_last_renewal_successful", 1.0, port="admin")) == []
    ((level, says),) = said(gauge("certificate_last_renewal_successful", 0.0, port="admin"))
    assert (level, says.split(":")[0]) == ("warn", "the new certificate of the admin port cannot be used")


async def spill(clients: Clients) -> None:
    """More at once than the owned slots, of a fleet that has two."""
    await asyncio.gather(*(clients.call() for _ in range(4)))


@pytest.mark.parametrize(
    ("config", "word", "limited"),
    [(WARNS, "overrun", True), (SHEDS, "refused", True), (SHARED, "refused", False)],
    ids=["warns", "sheds", "a share of the calls"],
)
async def test_a_budget_that_is_used_up_is_told_with_its_counts(
    config: str, word: str, limited: bool
) -> None:
    async with watched(config) as clients, clients.events() as stream:
        while (await read_event(stream))[1]["attention"][0]["level"] != "note":
            pass
        await spill(clients)
        while True:
            _, told = await read_event(stream)
            budget = told["routes"][0]["spill_budget"]
            if budget[word]:
                break
        assert budget[word] == await clients.metric(f"overspill_spill_budget_{word}_total", route="embed")
        assert (budget["limit_usd"] is not None) is limited
        assert (budget["spent_usd"] is not None) is limited
        assert told["attention"][0]["level"] == "warn"
        assert "spill budget" in told["attention"][0]["says"]
        assert "route embed" in told["attention"][0]["says"]
        assert told["routes"][1]["spill_budget"] is None
