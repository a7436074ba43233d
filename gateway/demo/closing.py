"""The last page of the demo: where requests went, what they cost, and what other ways would have.

Draws a report and decides nothing.
"""

from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.demo.plan import FLEET, RENTED, USD_PER_GPU_HOUR, Plan
from gateway.demo.screen import dollars, share
from gateway.demo.summary import Report


def closing(console: Console, plan: Plan, result: Report) -> None:
    """Print everything a reader wants to know about the run."""
    console.print()
    console.print(_where(result))
    console.print(_money(plan, result))
    latency, attained = result["latency_ms"], result["budget_attained"]
    reasons = "  ".join(f"{reason} {count}" for reason, count in result["reasons"].items())
    console.print(f"reasons          {reasons or '-'}", highlight=False)
    quantiles = ", ".join(f"{name} {value:.0f} ms" for name, value in latency.items())
    console.print(
        f"latency          {quantiles}; {100 * attained:.1f} % within {result['budget_ms']:.0f} ms"
        f" (objective {100 * plan.objective:g} %)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"requests         {result['requests']} sent, {result['lost']} lost, {result['wrong']} wrong,"
        f" {result['shed']} shed",
        highlight=False,
    )
    console.print(_elsewhere(plan, result))
    console.print(
        "The last two rows are modelled from this run's own arrivals and measured service times: the fewest"
        f" GPUs behind one first-come-first-served queue that keep {100 * plan.objective:g} % within the"
        f" budget; and the cheapest limit of {RENTED[0].name} instances that does, each priced from its"
        " boot to the end of its idle time.",
        style="dim",
        soft_wrap=True,
    )


def _where(result: Report) -> Table:
    table = Table(title="where requests went", title_justify="left")
    for column in ("backend", "requests", "share", "warm", "cold", "unknown", "cost", "$ per 1,000"):
        table.add_column(column, justify="left" if column == "backend" else "right")
    total = sum(seen["requests"] for seen in result["backends"].values())
    for name, seen in result["backends"].items():
        usd = result["cost_by_backend_usd"].get(name)
        each = 1000 * usd / seen["requests"] if usd is not None and seen["requests"] else None
        starts = (str(seen["start"][start]) for start in ("warm", "cold", "unknown"))
        part = share(seen["requests"], total)
        table.add_row(name, str(seen["requests"]), part, *starts, dollars(usd), dollars(each))
    return table


def _money(plan: Plan, result: Report) -> Table:
    table = Table(title="what it cost", title_justify="left")
    table.add_column("kind")
    table.add_column("cost", justify="right")
    table.add_column("", style="dim")
    notes = {
        "fleet": f"its slots in use; {plan.slots} L4 at ${USD_PER_GPU_HOUR} per hour",
        "fleet_idle": "the same while its slots were empty",
        "spill": "rented seconds: boots, work and idle tails",
        "retry": "attempts that failed and ran elsewhere",
    }
    kinds: dict[str, Any] = result["cost_by_kind_usd"]
    for kind, usd in sorted(
        kinds.items(), key=lambda item: list(notes).index(item[0]) if item[0] in notes else 9
    ):
        table.add_row(kind.replace("_", " "), dollars(usd), notes.get(kind, ""))
    table.add_section()
    table.add_row(
        "total", dollars(result["cost_usd"]), f"{dollars(result['cost_per_1k_usd'])} per 1,000 requests"
    )
    return table


def _elsewhere(plan: Plan, result: Report) -> Table:
    other = result["counterfactual"]
    table = Table(title="the same load, three ways", title_justify="left")
    for column in ("way", "cost", "$ per 1,000", f"within {result['budget_ms']:.0f} ms", ""):
        table.add_column(column, justify="left" if column in ("way", "") else "right")
    rows = (
        ("this run", result["cost_usd"], result["budget_attained"], f"{FLEET} first, burst spilled"),
        ("all warm", other["all_warm_usd"], other["all_warm_attained"], _gpus(other)),
        ("all serverless", other["all_serverless_usd"], other["all_serverless_attained"], _boots(other)),
    )
    for way, usd, attained, note in rows:
        each = 1000 * usd / result["requests"] if usd is not None and result["requests"] else None
        kept = "-" if attained is None else f"{100 * attained:.1f} %"
        table.add_row(way, dollars(usd), dollars(each), kept, note)
    return table


def _gpus(other: dict[str, Any]) -> str:
    count = other["all_warm_gpus"]
    if count is None:
        return "no fleet of any size meets the objective"
    return f"{count} GPUs all the time (modelled)"


def _boots(other: dict[str, Any]) -> str:
    if other["all_serverless_usd"] is None:
        return "not modelled"
    most, cold = other["all_serverless_instances"], other["all_serverless_cold_starts"]
    return f"up to {most} instances, {cold} cold starts (modelled)"
