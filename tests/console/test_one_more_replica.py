"""What one more replica would have come to, worked out by the process that advises."""

from gateway.advice import Advice, OneMore
from gateway.app import registries
from gateway.config.load import load
from gateway.simulator.advise import one_more, studied

CONFIG = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 1, price: {usd_per_replica_hour: 3.6}}
  burst: {type: modal, url: "http://127.0.0.1:9/", max_in_flight: 50, price: {usd_per_second: 0.0015},
    cold_start: {expect: 2s, idle_after: 3s}}
routes:
  embed:
    match: {model: m}
    latency_budget: {within: 15s, objective: 99%}
    policy: spill_when_full
    tiers: [{backend: fleet}, {backend: burst}]
"""


def worked_out(every_s: float) -> OneMore:
    """400 calls of 0.95 s, one each `every_s`."""
    settings = load(CONFIG, *registries(), resolve_secrets=False).settings
    calls: list[tuple[float, float | None, bool]] = [(every_s * n, 0.95, True) for n in range(400)]
    return one_more(studied("fleet", settings, {"embed": calls}, *registries()), 1)


def test_it_costs_what_it_stands_there_for_where_one_is_enough() -> None:
    found = worked_out(1.0)
    assert (found.replicas, found.calls) == (1, 400)
    assert found.usd_with - found.usd > 0.9 * found.seconds * 3.6 / 3600
    assert found.attained == found.attained_with == 1.0


def test_it_saves_where_what_it_takes_over_was_dearer() -> None:
    found = worked_out(0.5)
    assert found.usd_with < found.usd


async def test_the_running_gateway_takes_it_over_and_drops_it_with_the_advice() -> None:
    found = Advice(
        every_s=600, routes=["embed"], backends=["fleet"], command=("sh", "-c", "cat >/dev/null; exit 1")
    )
    found.one_more = {"fleet": worked_out(1.0)}
    await found.work_out(CONFIG)
    assert found.one_more == {}
