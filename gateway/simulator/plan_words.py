"""A plan in words: what to do, what it saves, how sure that is. It adds nothing to the numbers."""

from collections.abc import Mapping
from typing import Any

from gateway.simulator.report import money, share


def answer(plan: Mapping[str, Any]) -> list[str]:
    """Sentences for a person, the advice first."""
    said = [_ADVICE[plan["verdict"]](plan)]
    if plan["possible"] < plan["objective"]:
        said.append(
            f"Only {share(plan['possible'])} of the requests take no longer than that to serve: no "
            "fleet and no policy answers more of them in time."
        )
    if plan["runner_up"] is not None:
        said += [_saving(plan), _confidence(plan)]
    if plan["verdict"] != "unattainable" and plan["fleet"] and plan["serverless"]:
        said.append(_next(plan))
    return [sentence for sentence in said if sentence]


def _mix(plan: Mapping[str, Any]) -> str:
    return f"Keep {_choice(plan)}, and spill the rest."


def _no_fleet(plan: Mapping[str, Any]) -> str:
    if not plan["fleet"]:
        return f"There is no owned backend to plan with: {_choice(plan)}."
    return f"No fleet: rent everything. {_choice(plan, capital=True)}; no warm replica pays for itself."


def _no_serverless(plan: Mapping[str, Any]) -> str:
    if not plan["serverless"]:
        return f"Keep {_choice(plan)}. There is no rented backend to compare with."
    return f"No serverless: own everything. {_choice(plan, capital=True)}; spilling saves little or nothing."


def _unattainable(plan: Mapping[str, Any]) -> str:
    choice = plan["choice"]
    return (
        f"The objective cannot be attained: {share(plan['objective'])} within {plan['budget_s']:g} s. "
        f"Best possible is {share(choice['attained'])}: {_choice(plan)}."
    )


_ADVICE = {"mix": _mix, "no_fleet": _no_fleet, "no_serverless": _no_serverless, "unattainable": _unattainable}


def _choice(plan: Mapping[str, Any], *, capital: bool = False) -> str:
    choice = plan["choice"]
    count = choice["replicas"]
    replicas = "no warm replica" if not count else f"{count} warm replica{'s' if count > 1 else ''}"
    text = (
        f"{replicas} under {choice['policy']} cost{'' if count > 1 else 's'} "
        f"{money(choice['usd_per_hour'], 'usd')} an hour ({money(choice['usd_per_month'], 'usd')} a month of "
        f"such hours) and answer{'' if count > 1 else 's'} {share(choice['attained'])} in time"
    )
    return text[0].upper() + text[1:] if capital else text


def _saving(plan: Mapping[str, Any]) -> str:
    saving, other = plan["saving"], plan["runner_up"]
    name = f"{other['policy']} with {other['replicas']} replica{'' if other['replicas'] == 1 else 's'}"
    month = f"{money(abs(saving['usd_per_month']), 'usd')} a month"
    hour = f"{money(abs(saving['usd_per_hour']), 'usd')} an hour"
    if saving["usd_per_hour"] < 0:
        return f"It costs {hour} ({month}, {share(-saving['share'])}) more than the cheapest, {name}."
    return f"It saves {hour} ({month}, {share(saving['share'])}) against the next best, {name}."


def _confidence(plan: Mapping[str, Any]) -> str:
    sure = plan["confidence"]
    count, missed = sure["seeds"], sure["seeds"] - sure["attains_in"]
    if sure["within_noise"] is None:
        return "One seed says nothing about noise; give --repeats."
    said = (
        "That difference is within the noise"
        if sure["within_noise"]
        else "That difference is larger than the noise"
    )
    spread = money(sure["standard_error"], "usd")
    said += f" of {count} seeds (mean {money(sure['usd_per_hour'], 'usd')} an hour, standard error {spread})"
    if missed:
        said += f", and in {missed} of them it misses the objective: it has no room to spare"
    return said + ". What another day's traffic would be is not in it."


def _next(plan: Mapping[str, Any]) -> str:
    following = plan["next_replica"]
    if following is None:
        if all(point["load"] <= 1 for point in plan["break_even"]):
            return ""
        return "At no load tried does one more warm replica pay for itself."
    rate = plan["requests_per_second"] * following["from_load"]
    return (
        f"One more warm replica (number {following['replicas']}) pays for itself from "
        f"{following['from_load']:.3g} times this load on, {rate:.3g} requests a second; "
        f"at {following['not_at_load']:.3g} times it does not."
    )
