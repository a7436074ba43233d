"""The page about money: what is spent now, what it would be otherwise, and what may still be spent. Pure.

What no price is known of is in no sum here, and the last row says so.
"""

from collections.abc import Callable

from gateway.dashboards.pages import (
    RANGE,
    Page,
    Panel,
    Query,
    Row,
    Step,
    increase,
    of,
    of_route,
    or_none,
    owned,
    rate,
    rented,
    total,
    total_or_none,
)

_HOURLY = "3600 * "

_BURN = Row(
    "Dollars an hour, now",
    (
        Panel(
            "By kind",
            "What calls cost by what it was spent for, and the fleet's idle time.",
            "area",
            (
                Query(_HOURLY + total(rate(of_route("cost_usd_total")), "kind"), "{{kind}}"),
                Query(_HOURLY + total(rate(of("fleet_idle_usd_total"))), "fleet idle"),
            ),
            "currencyUSD",
            width=12,
        ),
        Panel(
            "By backend",
            "The same by who is paid; an owned backend with its idle time.",
            "area",
            (
                Query(_HOURLY + total(rate(of_route("cost_usd_total")), "backend"), "{{backend}}"),
                Query(_HOURLY + total(rate(of("fleet_idle_usd_total")), "backend"), "{{backend}} idle"),
            ),
            "currencyUSD",
            width=12,
        ),
        Panel(
            "Idle",
            "Owned slots that nobody used, and what rented backends cost outside of any call: instances "
            "that idle before they end, pings, starts that were given up.",
            "lines",
            (
                Query(
                    _HOURLY + total(rate(of("fleet_idle_usd_total")), "backend"), "{{backend}}, slots free"
                ),
                Query(
                    _HOURLY + total(rate(of_route("cost_outside_calls_usd_total")), "backend"),
                    "{{backend}}, outside calls",
                ),
            ),
            "currencyUSD",
        ),
        Panel(
            "Prewarming",
            "What opening and keeping instances ahead of need costs.",
            "lines",
            (
                Query(
                    _HOURLY + total(rate(of_route("cost_usd_total", 'kind="prewarm"')), "backend"),
                    "{{backend}}",
                ),
            ),
            "currencyUSD",
        ),
        Panel(
            "Retries",
            "What was paid for attempts that came to nothing.",
            "lines",
            (
                Query(
                    _HOURLY + total(rate(of_route("cost_usd_total", 'kind="retry"')), "backend"),
                    "{{backend}}",
                ),
            ),
            "currencyUSD",
        ),
    ),
)

_SLOTS_AT_ONCE = f"max_over_time({total(of('in_flight'))}[{RANGE}:])"
_SLOTS_OF_REPLICA = f"({total(owned(of('capacity')))} / {total(of('replicas'))})"
_FLEET_USD = (
    f"({total(owned(increase(of('cost_usd_total'))))} + {total(increase(of('fleet_idle_usd_total')))})"
)
_ALL_SPENT = (
    f"{total(increase(of('cost_usd_total')))} + {total_or_none(increase(of('fleet_idle_usd_total')))}"
)
_RENTED_USD, _RENTED_SERVED = (
    total(rented(increase(of(metric)))) for metric in ("cost_usd_total", "served_total")
)

_OTHERWISE = Row(
    "What it would have cost otherwise",
    (
        Panel(
            "In the time that is shown",
            "As it was. All rented: every answered call at what the rented ones cost on average. All warm: "
            "the fleet, with as many replicas as the most slots taken at once need. Both are estimates; "
            "`overspill simulate` replays the calls themselves.",
            "number",
            (
                Query(_ALL_SPENT, "as it was"),
                Query(
                    f"{total(increase(of('served_total')))} * {_RENTED_USD} / {_RENTED_SERVED}", "all rented"
                ),
                Query(
                    f"{_FLEET_USD} * ceil({_SLOTS_AT_ONCE} / {_SLOTS_OF_REPLICA}) / {total(of('replicas'))}",
                    "all warm",
                ),
            ),
            "currencyUSD",
            width=12,
            height=6,
            decimals=4,
        ),
        Panel(
            "Replicas",
            "How many there are, and how many would have met the objective for the last calls at the "
            "least cost: where that is more, one more would have paid for itself.",
            "lines",
            (
                Query(f"max by (backend) ({of('replicas')})", "{{backend}}"),
                Query(
                    f"max by (backend) ({of('recommended_replicas')})", "{{backend}} recommended", limit=True
                ),
            ),
            width=12,
            height=6,
        ),
    ),
)


def _of_budgets(event: str, add: Callable[[str], str]) -> tuple[Query, Query]:
    """What was counted of the budgets of the routes, and of those of the backends."""
    of_routes = total(add(of_route(f"spill_budget_{event}_total")), "route")
    of_backends = total(add(of(f"backend_spill_budget_{event}_total")), "backend")
    return (
        Query(or_none(of_routes, "route", "no budget of a"), "{{route}} route"),
        Query(or_none(of_backends, "backend", "no budget of a"), "{{backend}} backend"),
    )


_BUDGETS = Row(
    "Spill budgets",
    (
        Panel(
            "Left, by route",
            "Dollars that the calls of a route may still spend on rented backends; dashed: all of it.",
            "lines",
            (
                Query(f"min by (route) ({of_route('spill_budget_remaining_usd')})", "{{route}}"),
                Query(
                    f"max by (route) ({of_route('spill_budget_limit_usd')})", "{{route}} limit", limit=True
                ),
            ),
            "currencyUSD",
        ),
        Panel(
            "Left, by backend",
            "Dollars that may still be spent on a rented backend by whatever route; dashed: all of it.",
            "lines",
            (
                Query(f"min by (backend) ({of('backend_spill_budget_remaining_usd')})", "{{backend}}"),
                Query(
                    f"max by (backend) ({of('backend_spill_budget_limit_usd')})",
                    "{{backend}} limit",
                    limit=True,
                ),
            ),
            "currencyUSD",
        ),
        Panel(
            "Used up",
            "How often, in the time that is shown. One time lasts until a minute has passed in which every "
            "attempt was granted.",
            "number",
            _of_budgets("exhaustions", increase),
            decimals=0,
        ),
        Panel(
            "Not granted",
            "Attempts a second on rented backends that a budget in dollars or in shares did not grant: their "
            "calls waited for the fleet, went elsewhere or were refused.",
            "lines",
            _of_budgets("refused", rate),
            "reqps",
            width=12,
        ),
        Panel(
            "Granted beyond the budget",
            "Attempts a second that were paid for although the budget was used up, as the policy file says "
            "`warn`.",
            "lines",
            _of_budgets("overrun", rate),
            "reqps",
            width=12,
        ),
    ),
)

_KNOWN = Row(
    "Since the start, and what is not known",
    (
        Panel(
            "Since the gateway started",
            "Every dollar that was booked: what the access log says, and what is outside of any call.",
            "bars",
            (
                Query(total(of_route("cost_usd_total"), "backend", "kind"), "{{backend}} {{kind}}"),
                Query(total(of("fleet_idle_usd_total"), "backend"), "{{backend}} idle"),
            ),
            "currencyUSD",
            decimals=4,
        ),
        Panel(
            "Cost per 1,000 calls",
            "Since the start, with each route's share of idle replicas.",
            "number",
            (Query(f"max by (route) ({of_route('cost_per_1k_requests_usd')})", "{{route}}"),),
            "currencyUSD",
            width=4,
            decimals=4,
        ),
        Panel(
            "Price known",
            "1 where the price of a backend is known. Where it is not, no sum has its costs.",
            "number",
            (Query(f"min by (backend) ({of('price_known')})", "{{backend}}"),),
            width=4,
            steps=(Step(None, "red"), Step(1.0, "green")),
            words=(("0", "unknown", "red"), ("1", "known", "green")),
        ),
        Panel(
            "Not told",
            "Attempts that broke off without telling what they cost, and instances that were booked and "
            "never heard of; in the time that is shown.",
            "number",
            (
                Query(
                    or_none(total(increase(of_route("unpriced_attempts_total"))), "backend", "none"),
                    "attempts",
                ),
                Query(
                    or_none(total(increase(of("instances_presumed_total"))), "backend", "none"), "instances"
                ),
            ),
            width=4,
            decimals=0,
        ),
        Panel(
            "Presumed",
            "Dollars booked for instances that were never heard of, in the time that is shown. They are in "
            "every sum.",
            "number",
            (
                Query(
                    or_none(total(increase(of("presumed_usd_total")), "backend"), "backend", "none"),
                    "{{backend}}",
                ),
            ),
            "currencyUSD",
            width=4,
            decimals=4,
        ),
    ),
)

MONEY = Page(
    "overspill-money",
    "Overspill / Money",
    "What is spent, on what, what it would be otherwise, and what is left.",
    ("route",),
    (_BURN, _OTHERWISE, _BUDGETS, _KNOWN),
)
