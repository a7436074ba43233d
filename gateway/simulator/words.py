"""What the page says about a simulation in words: the verdict, the parameters, and what to be careful of.

Reads a study and returns plain text, which is escaped by whoever puts it into a page.
"""

from collections.abc import Callable, Iterator, Mapping
from math import ceil, log10
from typing import Any

from gateway.simulator.main import Study, Wanted
from gateway.simulator.plots import Format, duration
from gateway.simulator.report import Unit, money, share
from gateway.simulator.scenario import Endpoint
from gateway.simulator.series import quantile
from gateway.simulator.world import UNLIMITED

Entry = Mapping[str, Any]

TIMES = "\N{MULTIPLICATION SIGN}"

PART_WORDS: Mapping[str, str] = {
    "fleet": "fleet, used or not",
    "exec": "exec: rented, serving",
    "cold": "cold: rented, opening",
    "idle": "idle: rented, idle",
    "fee": "fee for each call",
    "prewarm": "prewarm: opened ahead",
}


def ranked(study: Study) -> list[tuple[str, Entry]]:
    """The policies of the result, the cheapest first."""
    policies: Mapping[str, Entry] = study.result["policies"]
    return sorted(policies.items(), key=lambda item: float(item[1]["cost"]))


def target(study: Study) -> float:
    """The objective, or what the services allow where that is less."""
    scenario = study.scenario
    return min(scenario.objective, study.workload.possible(scenario.budget_s))


def attains(study: Study, entry: Entry) -> bool:
    """Did it answer enough requests in time? With the slack of rounding that the search has."""
    return bool(entry["attained"] * entry["requests"] >= target(study) * entry["requests"] - 1e-5)


def enough(study: Study, entry: Entry, row: Mapping[str, Any]) -> bool:
    """The same in a row of `sensitivity`, whose budget may be another."""
    scenario = study.scenario
    budget_s = row["value"] if row["parameter"] == "budget_s" else scenario.budget_s
    wanted = min(scenario.objective, study.workload.possible(budget_s))
    return bool(entry["attained"] * entry["requests"] >= wanted * entry["requests"] - 1e-5)


def best(study: Study) -> str | None:
    """The cheapest policy that attains the objective."""
    return next((name for name, entry in ranked(study) if attains(study, entry)), None)


def verdict(study: Study, unit: Unit) -> str:
    """The result in two or three sentences."""
    name = best(study)
    if name is None:
        return (
            f"No policy answers {share(target(study))} of the requests in time; "
            "their costs cannot be compared."
        )
    result = study.result
    entry = result["policies"][name]
    said = [
        f"The cheapest way to answer {share(target(study))} of the requests within "
        f"{duration(study.scenario.budget_s)} is {name} with {replicas(entry['replicas'])}: "
        f"{money(entry['cost'], unit)}, {share(entry['attained'])} attained."
    ]
    for other in ("fleet_only", "serverless_only"):
        its = result["policies"].get(other)
        if its is None or other == name or its["cost"] <= 0:
            continue
        if attains(study, its):
            said.append(f"That is {1 - entry['cost'] / its['cost']:.1%} less than {other}.")
        else:
            said.append(f"{other} does not attain the objective.")
    if name == "fleet_only" and len(result["policies"]) > 1:
        said.append("No policy that rents is cheaper.")
    if name == "serverless_only" and len(result["policies"]) > 1:
        said.append("No policy with a fleet is cheaper.")
    ratio = result["ratio_to_bound"].get(name)
    if ratio is not None:
        said.append(f"{name} costs {ratio:.2f} times a lower bound that knows every request ahead.")
    return " ".join(said)


def parameters(study: Study, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """What was simulated, as names and values."""
    workload, scenario = study.workload, study.scenario
    services = sorted(workload.services)
    yield "requests", f"{len(workload):,}"
    span = f"{duration(workload.span)} from the first to the last"
    yield "arrivals", f"{span}, {len(workload) / workload.span:.3g} a second" if workload.span else span
    yield (
        "service time",
        f"mean {duration(sum(services) / len(services))}, p99 {duration(quantile(services, 0.99))}, "
        f"{wanted.service or 'as the trace or the file says'}",
    )
    yield "budget", f"{share(scenario.objective)} within {duration(scenario.budget_s)}"
    slot_usd = 0.0
    if scenario.fleet is not None:
        fleet = scenario.fleet
        slot_usd = fleet.usd_per_second / fleet.slots
        slots = f"{fleet.slots:,} slots" if fleet.slots > 1 else "1 slot"
        yield f"fleet: {fleet.name}", f"{_price(fleet.usd_per_second)} for a replica of {slots}"
    for each in scenario.endpoints:
        price = _price(each.usd_per_second)
        if slot_usd:
            price += f" for an instance, {each.usd_per_second / slot_usd:.3g}{TIMES} a fleet slot"
        if each.usd_per_call:
            price += f", {money(each.usd_per_call, 'usd')} a call"
        yield f"rented: {each.name}", price
        yield f"{each.name}: billed", billed(each)
        yield (
            f"{each.name}: cold start",
            f"mean {duration(each.cold.mean())}, p99 {duration(each.cold.quantile(0.99))}",
        )
        yield f"{each.name}: idle time-out", duration(each.idle_s)
        if each.limit < UNLIMITED:
            yield f"{each.name}: limit", f"{each.limit:,} at once"
    yield "replicas", "as many as are cheapest" if wanted.replicas == "auto" else wanted.replicas
    yield "seed", str(wanted.seed)


def caveats(study: Study, wanted: Wanted) -> Iterator[str]:
    """What the figures do not say."""
    scenario = study.scenario
    possible = study.workload.possible(scenario.budget_s)
    if possible < scenario.objective:
        yield (
            f"Only {share(possible)} of the requests take less than the budget even if served at once; that "
            "is the objective here."
        )
    missing = [name for name, entry in ranked(study) if not attains(study, entry)]
    if missing:
        yield (
            f"{', '.join(missing)}: below the objective. Such a cost is not comparable with that of a policy "
            "that attains it."
        )
    if wanted.replicas == "auto":
        yield (
            "Replicas were chosen for each policy by trying numbers on this very trace. A live fleet is "
            "sized ahead and will do worse, fleet_only most of all."
        )
    else:
        yield "The number of replicas was given; another one may be cheaper for some policies."
    yield (
        "A slot serves one request at a time, rented or owned, at the same speed however many others run: "
        "batching and contention are in the service times or not at all. Beyond the parameters above, "
        "backends do not fail, refuse or slow down."
    )
    yield (
        "A late request is served and paid for like any other. Rented instances are paid for what is said "
        "above; the fleet from the first arrival to the last answer."
    )
    yield (
        "Cold starts are drawn independently of each other; activation number N takes equally long under "
        "every policy. One trace and one seed: other seeds give other figures, most of all where instances "
        "are few."
    )


def billed(endpoint: Endpoint) -> str:
    """What of an instance's life is paid for."""
    parts = ["cold starts"] * endpoint.bills_boot + ["serving"] + ["idling"] * endpoint.bills_idle
    text = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    if endpoint.round_up_s:
        what = "each life" if endpoint.bills_idle else "each request"
        text += f", {what} rounded up to multiples of {duration(endpoint.round_up_s)}"
    return text


def replicas(number: float) -> str:
    """With the noun."""
    return "1 replica" if number == 1 else f"{number:g} replicas"


def setting(row: Mapping[str, Any]) -> str:
    """The setting of a row of `sensitivity`."""
    value = row["value"]
    return {
        "premium": f"instance price {value:g}{TIMES} a slot",
        "idle_s": f"idle time-out {duration(value)}",
        "budget_s": f"budget {duration(value)}",
    }[row["parameter"]]


def cost_ticks(unit: Unit) -> Callable[[float], Format]:
    """From the step between costs to the format that tells them apart."""

    def format_of(step: float) -> Format:
        decimals = max(0, ceil(-log10(step) - 1e-9)) if step > 0 else 0
        sign = "$" if unit == "usd" else ""
        return lambda value: f"{sign}{value:,.{decimals}f}"

    return format_of


def _price(usd_per_second: float) -> str:
    return f"{money(usd_per_second * 3600, 'usd')} an hour"
