"""The page that tells in one look whether the gateway does what it is for. Pure."""

from gateway.dashboards.pages import (
    RANGE,
    RATE,
    Page,
    Panel,
    Query,
    Row,
    Step,
    increase,
    of,
    owned,
    rate,
    rented,
    total,
    total_or_none,
)

GOOD_BAD = (Step(None, "red"), Step(1.0, "green"))


def _spilled(window: str, *labels: str) -> str:
    placed = rate(of("requests_total", 'backend!="none"'), window)
    return f"{total(rented(placed), *labels)} / {total(placed, *labels)}"


def _kept(window: str, *labels: str) -> str:
    missed, asked = of("latency_budget_missed_total"), of("latency_budget_requests_total")
    return f"1 - {total(rate(missed, window), *labels)} / {total(rate(asked, window), *labels)}"


def per_thousand(window: str) -> tuple[Query, Query, Query]:
    """Dollars for 1,000 answered calls: on the fleet, on rented backends, and all together."""
    usd, idle, served = of("cost_usd_total"), of("fleet_idle_usd_total"), of("served_total")
    each, lost, answered = rate(usd, window), rate(idle, window), rate(served, window)
    return (
        Query(f"1000 * ({total(owned(each))} + {total(lost)}) / {total(owned(answered))}", "warm"),
        Query(f"1000 * {total(rented(each))} / {total(rented(answered))}", "spill"),
        Query(f"1000 * ({total(each)} + {total_or_none(lost)}) / {total(answered)}", "blended"),
    )


def starts(window: str) -> Query:
    """Answers by whether an instance had to boot for them."""
    return Query(total(increase(of("starts_total"), window), "start"), "{{start}}")


_NOW = Row(
    "In the time that is shown",
    (
        Panel(
            "Calls",
            "Calls that ended, however they ended.",
            "number",
            (Query(total(increase(of("requests_total"))), "calls"),),
            decimals=0,
            width=4,
            height=5,
        ),
        Panel(
            "Spilled",
            "Share of the calls that ran anywhere which ran on rented backends.",
            "number",
            (Query(_spilled(RANGE), "spilled"),),
            "percentunit",
            width=4,
            height=5,
            decimals=1,
        ),
        Panel(
            "Kept beside objective",
            "Calls inside their latency budget, beside how many should be: 1 and more is good.",
            "number",
            (
                Query(
                    f"({_kept(RANGE, 'job', 'route')}) / on (job, route) "
                    f"max by (job, route) ({of('latency_budget_objective')})",
                    "{{route}}",
                ),
            ),
            width=4,
            height=5,
            decimals=3,
            steps=GOOD_BAD,
        ),
        Panel(
            "$ per 1,000 calls",
            "Warm: the fleet with its idle time, over the calls it answered. Spill: the same of what is "
            "rented. Blended: all of it over all of them.",
            "number",
            per_thousand(RANGE),
            "currencyUSD",
            width=8,
            height=5,
            decimals=4,
        ),
        Panel(
            "Fleet utilisation",
            "Slots of owned backends that are taken, of all they have.",
            "number",
            (Query(f"{total(owned(of('in_flight')))} / {total(owned(of('capacity')))}", "taken"),),
            "percentunit",
            width=4,
            height=5,
            decimals=0,
        ),
    ),
)

_COURSE = Row(
    "Over time",
    (
        Panel(
            "Where calls run",
            "Calls a second by backend; `none` were not served.",
            "area",
            (Query(total(rate(of("requests_total")), "backend"), "{{backend}}"),),
            "reqps",
        ),
        Panel(
            "Spilled by route",
            "Share of a route's calls that ran on rented backends.",
            "lines",
            (Query(_spilled(RATE, "route"), "{{route}}"),),
            "percentunit",
        ),
        Panel(
            "Latency budget kept",
            "Share of calls answered inside their budget; dashed: the objective.",
            "lines",
            (
                Query(_kept(RATE, "route"), "{{route}}"),
                Query(
                    f"max by (route) ({of('latency_budget_objective')})", "{{route}} objective", limit=True
                ),
            ),
            "percentunit",
        ),
        Panel(
            "$ per 1,000 calls",
            "Warm includes the fleet's idle time: it falls as the fleet fills.",
            "lines",
            per_thousand(RATE),
            "currencyUSD",
        ),
        Panel(
            "Warm and cold starts",
            "Answers by whether an instance had to boot; unknown is never called warm.",
            "shares",
            (starts(RATE),),
        ),
        Panel(
            "Fleet utilisation",
            "Slots taken of each owned backend, of all it has.",
            "lines",
            (
                Query(
                    f"{total(owned(of('in_flight')), 'backend')} / {total(owned(of('capacity')), 'backend')}",
                    "{{backend}}",
                ),
            ),
            "percentunit",
        ),
    ),
)

OVERVIEW = Page(
    "overspill-overview",
    "Overspill / Overview",
    "Is the fleet full, what is spilled, is the latency budget kept, and what does it cost?",
    (),
    (_NOW, _COURSE),
)
