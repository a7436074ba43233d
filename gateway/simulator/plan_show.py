"""Makes the plans a person asked for, and shows them as tables or JSON on standard output.

What happens meanwhile is told on standard error. It adds nothing to the numbers of `plan.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.base import Backend
from gateway.config.schema import Settings
from gateway.registry import Registry
from gateway.simulator.main import Wanted
from gateway.simulator.plan import LOADS, planning
from gateway.simulator.plan_words import answer
from gateway.simulator.report import money, share
from gateway.simulator.show import PLAIN_WIDTH
from policies.base import Policy

CURVES = 3
"""So many policies have their cost shown for each number of replicas."""


def show(
    traces: Sequence[str],
    wanted: Wanted,
    registries: tuple[Registry[Backend], Registry[Policy]],
    settings: Settings | None,
    *,
    loads: Sequence[float] | None,
    repeats: int,
    as_json: bool,
) -> None:
    """One plan for each trace. Raises ValueError or OSError for what cannot be planned."""
    said = Console(stderr=True)
    with said.status("") as status:
        plan = planning(
            wanted, *registries, settings, loads=loads or LOADS, repeats=repeats, tell=status.update
        )
        results = [plan(trace) for trace in traces]
    for result in results:
        result["answer"] = answer(result)
    if as_json:
        typer.echo(json.dumps(results if len(results) > 1 else results[0], indent=2, allow_nan=False))
        return
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for result in results:
        console.print(tables(result))


def tables(plan: Mapping[str, Any]) -> RenderableType:
    """The answer, the policies, their costs by replicas, the break-even curve, and the rule behind it."""
    parts: list[RenderableType] = [Text("\n".join(plan["answer"]) + "\n"), _policies(plan)]
    if plan["fleet"]:
        parts += [_by_replicas(plan), _break_even(plan)]
        if plan["marginal"]:
            parts += [_marginal(plan), Text(_RULE)]
    return Group(*parts)


_RULE = (
    "A replica is worth owning once its slots are busier than its price over what renting them costs, "
    "start-ups and idle tails included. Busy is what it would be if nobody waited: a first guess, which "
    "knows no queue and no budget. The policies above were simulated."
)


def _policies(plan: Mapping[str, Any]) -> Table:
    rows = Table(title=Text(f"{plan['trace']}: each policy with its cheapest number of replicas"))
    rows.add_column("policy", no_wrap=True)
    for word in ("replicas", "attained", "objective", "USD/hour", "USD/month", "spilled", "activations"):
        rows.add_column(word, justify="right")
    for name, entry in plan["policies"].items():
        rows.add_row(
            name,
            str(entry["replicas"]),
            share(entry["attained"]),
            "attained" if entry["attains"] else "missed",
            money(entry["usd_per_hour"], "usd"),
            money(entry["usd_per_month"], "usd"),
            share(entry["spill_ratio"]),
            f"{entry['activations']:,}",
        )
    return rows


def _by_replicas(plan: Mapping[str, Any]) -> Table:
    shown = dict(list(plan["policies"].items())[:CURVES])
    costs = {name: {row["replicas"]: row for row in entry["by_replicas"]} for name, entry in shown.items()}
    rows = Table(title=Text("USD/hour by warm replicas (missed: the objective is; -: not tried)"))
    rows.add_column("replicas", justify="right")
    for name in shown:
        rows.add_column(name, justify="right")
    for replicas in sorted({replicas for row in costs.values() for replicas in row}):
        rows.add_row(str(replicas), *(_cell(row.get(replicas)) for row in costs.values()))
    return rows


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return money(row["usd_per_hour"], "usd") if row["attains"] else "missed"


def _break_even(plan: Mapping[str, Any]) -> Table:
    rows = Table(title=Text("The cheapest by load: the same arrivals thinned, or laid over each other"))
    for word in ("load", "requests/s", "replicas", "policy", "USD/hour", "USD/1,000"):
        rows.add_column(word, justify="left" if word == "policy" else "right")
    for point in plan["break_even"]:
        rows.add_row(
            f"x {point['load']:.3g}",
            f"{point['requests_per_second']:.3g}",
            str(point["replicas"]),
            point["policy"],
            money(point["usd_per_hour"], "usd"),
            money(point["usd_per_1k"], "usd"),
        )
    return rows


def _marginal(plan: Mapping[str, Any]) -> Table:
    rows = Table(title=Text("Does the n-th warm replica pay for itself?"))
    for word in ("replica", "would be busy", "must be busy", "pays"):
        rows.add_column(word, justify="right")
    for row in plan["marginal"]:
        pays = "yes" if row["pays"] else "no"
        needs = share(row["needs"]) if row["needs"] <= 1 else ">100%"
        rows.add_row(str(row["replica"]), share(row["busy"]), needs, pays)
    return rows
