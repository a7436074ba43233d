"""The table says what was measured, in which unit, and what the ratio is a ratio to."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from gateway.simulator.report import Unit, money, share, table


def result(**changed: Any) -> dict[str, Any]:
    def entry(cost: float, **more: float) -> dict[str, Any]:
        split = {"fleet": cost, "exec": 0.0, "cold": 0.0, "idle": 0.0, "fee": 0.0, "prewarm": 0.0} | more
        return {
            "replicas": 3, "attained": 0.9931, "cost": cost, "cost_split": split, "spill_ratio": 0.25,
            "cold_ratio": 0.031, "activations": 1234, "requests": 8819, "lost": 0,
        }  # fmt: skip

    return {
        "trace": "[bold]azure",
        "policies": {"fleet_only": entry(48100.0), "spill_when_full": entry(27800.0, exec=9000.0)},
        "bound": {"cost": 13200.0, "replicas": 0},
        "ratio_to_bound": {"fleet_only": 3.644, "spill_when_full": 2.106},
        "seed": 7,
    } | changed


def shown(value: dict[str, Any], unit: Unit = "slot_seconds") -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table(value, unit=unit))
    return capture.get()


def test_the_cheapest_comes_first_with_its_ratio() -> None:
    text = shown(result())
    assert text.index("spill_when_full") < text.index("fleet_only")
    for word in (
        "[bold]azure",
        "fleet slot-seconds",
        "seed 7",
        "27,800",
        "99.31%",
        "1,234",
        "2.11",
        "13,200",
    ):
        assert word in text


def test_it_says_what_the_ratio_is_to() -> None:
    text = " ".join(shown(result()).split())
    assert (
        "knows the future, has no start-up delay and splits requests freely: nobody can be below it" in text
    )


def test_parts_that_nobody_paid_for_have_no_column() -> None:
    text = shown(result())
    assert "exec" in text
    assert "prewarm" not in text
    assert "fee" not in text


def test_without_a_bound_there_is_no_ratio() -> None:
    text = shown(result(bound=None, ratio_to_bound={}))
    assert "x bound" not in text
    assert "No lower bound" in text


def test_dollars_are_marked() -> None:
    assert "$27,800.00" in shown(result(), "usd")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5, "usd", "$1,234.50"),
        (0.012346, "usd", "$0.01235"),
        (0.0000021, "usd", "$2.1e-06"),
        (0.0, "usd", "$0.00"),
        (13273.9, "slot_seconds", "13,274"),
        (3.14159, "slot_seconds", "3.14"),
        (0.0, "slot_seconds", "0"),
    ],
)
def test_money(value: float, unit: Unit, text: str) -> None:
    assert money(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100.00%"),
        (0.99999, ">99.99%"),
        (0.995, "99.50%"),
        (0.0, "0.00%"),
        (1e-6, "<0.01%"),
        (None, "-"),
    ],
)
def test_a_share_never_rounds_a_miss_away(value: float | None, text: str) -> None:
    assert share(value) == text
