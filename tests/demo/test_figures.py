"""Reading the gateway's /metrics: money by kind, what was added between two looks, tails that come late."""

import pytest

from gateway.demo.figures import NOTHING, read

PAGE = """\
# TYPE overspill_cost_usd_total counter
overspill_cost_usd_total{route="digits",backend="fleet",kind="fleet"} 0.5
overspill_cost_usd_total{route="other",backend="fleet",kind="fleet"} 0.25
overspill_cost_usd_total{route="digits",backend="runpod",kind="spill"} 0.125
# TYPE overspill_fleet_idle_usd_total counter
overspill_fleet_idle_usd_total{backend="fleet"} 2.0
# TYPE overspill_in_flight gauge
overspill_in_flight{backend="fleet"} 3
# TYPE overspill_unheard_of_total counter
overspill_unheard_of_total 7
"""


def test_money_is_summed_over_routes_with_idle_as_its_own_kind() -> None:
    figures = read(PAGE)
    assert figures.usd_by_kind() == {"fleet": 0.75, "spill": 0.125, "fleet_idle": 2.0}
    assert figures.usd_by_backend() == {"fleet": 2.75, "runpod": 0.125}
    assert figures.spent_usd == 2.875
    assert figures.get("in_flight") == {("fleet",): 3.0}


def test_counters_are_what_was_added_and_gauges_are_what_is() -> None:
    later = read(PAGE.replace("0.125", "0.5").replace('backend="fleet"} 3', 'backend="fleet"} 1'))
    added = later.since(read(PAGE))
    assert added.spent_usd == pytest.approx(0.375)
    assert added.get("in_flight") == {("fleet",): 1.0}
    assert read(PAGE).since(NOTHING) == read(PAGE)


def test_tails_of_rented_backends_come_from_the_later_look_only() -> None:
    later = read(PAGE.replace("0.125", "0.5").replace("} 0.5", "} 0.75").replace("} 2.0", "} 3.0"))
    whole = read(PAGE).with_tails(later, "fleet")
    assert whole.usd_by_backend()["fleet"] == 2.75
    assert whole.usd_by_backend()["runpod"] == later.usd_by_backend()["runpod"]


def test_a_page_without_figures_costs_nothing() -> None:
    assert read("").spent_usd == 0.0
