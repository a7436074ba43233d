"""Shows the result of a simulation to a person. It adds nothing to the numbers of the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Unit = Literal["usd", "slot_seconds"]

PARTS = ("fleet", "exec", "cold", "idle", "fee", "prewarm")
"""What a cost is made of, in the order of the columns."""

REFERENCE = (
    "The bound is a lower bound that knows the future, has no start-up delay and splits requests freely: "
    "nobody can be below it, and it is not known whether anybody can reach it. "
    "It is taken at the share of requests that the policy itself answered in time."
)


def table(result: Mapping[str, Any], *, unit: Unit = "usd") -> RenderableType:
    """The policies of a result as rows, the cheapest first, and what the ratio is a ratio to.

    result:  what `simulate --json` prints; without `bound` (null or absent) there is no ratio
    unit:    that of the costs in it
    """
    policies: Mapping[str, Mapping[str, Any]] = result["policies"]
    ratios: Mapping[str, float | None] = result.get("ratio_to_bound") or {}
    bound: Mapping[str, Any] | None = result.get("bound")
    parts = [part for part in PARTS if any(entry["cost_split"].get(part) for entry in policies.values())]
    rows = Table(title=Text(f"{result['trace']}, costs in {UNIT_WORDS[unit]}, seed {result['seed']}"))
    rows.add_column("policy", no_wrap=True)
    for word in ("replicas", "attained", "cost", *parts, "spilled", "cold starts", "activations", "lost"):
        rows.add_column(word, justify="right")
    if bound:
        rows.add_column("x bound", justify="right")
    for name, entry in sorted(policies.items(), key=lambda item: float(item[1]["cost"])):
        cells = [
            f"{entry['replicas']:g}",
            share(entry["attained"]),
            money(entry["cost"], unit),
            *(money(entry["cost_split"].get(part, 0.0), unit) for part in parts),
            share(entry["spill_ratio"]),
            share(entry["cold_ratio"]),
            f"{entry['activations']:,}",
            f"{entry['lost']:,}",
        ]
        if bound:
            ratio = ratios.get(name)
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        rows.add_row(name, *cells)
    if not bound:
        return Group(rows, Text("No lower bound was asked for, or numpy and scipy are not installed."))
    word = f" {UNIT_WORDS[unit]}" if unit == "slot_seconds" else ""  # dollars carry their sign
    foot = f"Bound: {money(bound['cost'], unit)}{word} with {bound['replicas']:g} replicas. "
    return Group(rows, Text(foot + REFERENCE))


UNIT_WORDS: Mapping[str, str] = {"usd": "USD", "slot_seconds": "fleet slot-seconds"}


def money(value: float, unit: Unit) -> str:
    """Dollars to the cent, small ones to four significant digits; slot-seconds whole."""
    if unit == "slot_seconds":
        return f"{value:,.0f}" if abs(value) >= 100 or not value else f"{value:.3g}"
    if abs(value) >= 1 or not value:
        return f"${value:,.2f}"
    return f"${value:.4g}" if abs(value) >= 1e-4 else f"${value:.1e}"


def share(value: float | None) -> str:
    """As a percentage that never rounds a miss away: 99.996 % is not shown as 100 %."""
    if value is None:
        return "-"
    percent = value * 100
    text = f"{percent:.2f}"
    if text == "100.00" and value < 1:
        return ">99.99%"
    return "<0.01%" if text == "0.00" and value > 0 else f"{text}%"
