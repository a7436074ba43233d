"""How the result changes with the price, the idle time-out and the budget: one of them moved at a time.

Every row is a simulation of its own, replicas searched anew where they are to be found. It knows how to
word a wish and how to read a result; it never knows a policy.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isclose
from typing import Any

from gateway.simulator.main import Wanted
from gateway.simulator.scenario import Scenario

PREMIUMS = (1.0, 1.5, 2.0, 3.0)
"""Prices of an instance, as multiples of a fleet slot's."""
IDLES_S = (5.0, 60.0)
BUDGET_FACTORS = (0.5, 1.0, 2.0)

KEPT = ("policies", "bound", "ratio_to_bound")

Result = Mapping[str, Any]


def sensitivity(
    wanted: Wanted, scenario: Scenario, result: Result, run: Callable[[Wanted, str], Result]
) -> list[dict[str, Any]]:
    """Rows of `parameter` (premium, idle_s or budget_s), its `value`, and the figures of `simulate --json`.

    result:  of the setting as it was asked for, which is not run again
    run:     simulates the same trace as another setting wants it; the text says which
    """
    rows = []
    for parameter, value, setting in _settings(wanted, scenario):
        figures = result if setting is None else run(setting, f"{parameter} {value:g}")
        rows.append({"parameter": parameter, "value": value} | {key: figures[key] for key in KEPT})
    return rows


def _settings(wanted: Wanted, scenario: Scenario) -> Iterator[tuple[str, float, Wanted | None]]:
    """None in place of a setting: it is the one that was asked for."""
    fleet, endpoints = scenario.fleet, scenario.endpoints
    if fleet is not None and fleet.usd_per_second and endpoints:
        slot_usd = fleet.usd_per_second / fleet.slots
        for premium in PREMIUMS:
            same = all(
                isclose(each.usd_per_second, premium * slot_usd) and not each.usd_per_call
                for each in endpoints
            )
            yield "premium", premium, None if same else replace(wanted, premium=premium)
    if endpoints:
        for idle_s in IDLES_S:
            same = all(isclose(each.idle_s, idle_s) for each in endpoints)
            yield "idle_s", idle_s, None if same else replace(wanted, idle=_text(idle_s))
    for factor in BUDGET_FACTORS:
        budget_s = factor * scenario.budget_s
        same = factor == 1.0
        yield "budget_s", budget_s, None if same else replace(wanted, budget=_text(budget_s))


def _text(seconds: float) -> str:
    """As a person would write it on the command line."""
    return f"{seconds:.9f}s"
