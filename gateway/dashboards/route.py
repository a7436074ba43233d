"""The page of one route: its latency budget, where its calls went and why, and what waits. Pure."""

from gateway.dashboards.pages import (
    RANGE,
    RATE,
    Page,
    Panel,
    Query,
    Row,
    Step,
    of_route,
    or_none,
    rate,
    total,
)

_BURNS = (Step(None, "green"), Step(1.0, "yellow"), Step(6.0, "orange"), Step(14.4, "red"))
"""The burn rates at which the alert rules in config/prometheus/ speak up."""


def _burn(window: str) -> str:
    missed = total(rate(of_route("latency_budget_missed_total"), window), "route")
    asked = total(rate(of_route("latency_budget_requests_total"), window), "route")
    allowed = f"(1 - max by (route) ({of_route('latency_budget_objective')}))"
    return f"({missed} / {asked}) / on (route) {allowed}"


def _quantile(share: float, metric: str, *labels: str) -> str:
    by = ", ".join(("le", *labels))
    return f"histogram_quantile({share}, sum by ({by}) ({rate(of_route(f'{metric}_bucket'))}))"


_BUDGET = Query(f"max by (route) ({of_route('latency_budget_seconds')})", "budget {{route}}", limit=True)

_OBJECTIVE = Row(
    "The latency budget",
    (
        Panel(
            "Burn rate",
            "How many times faster than allowed the error budget is used; there are alerts at 14.4, 6 and 1.",
            "lines",
            (Query(_burn("5m"), "{{route}} 5 min"), Query(_burn("1h"), "{{route}} 1 h")),
            steps=_BURNS,
            width=12,
        ),
        Panel(
            "Error budget left",
            "Of what may miss the latency budget in the time that is shown.",
            "number",
            (Query(f"1 - {_burn(RANGE)}", "{{route}}"),),
            "percentunit",
            width=4,
            steps=(Step(None, "red"), Step(0.0, "orange"), Step(0.25, "green")),
            decimals=1,
        ),
        Panel(
            "Missed",
            "Calls a second that were too late or not answered.",
            "lines",
            (Query(total(rate(of_route("latency_budget_missed_total")), "route"), "{{route}}"),),
            "reqps",
        ),
    ),
)

_LATENCY = Row(
    "Latency by backend, beside the budget",
    (
        *(
            Panel(
                f"p{round(100 * share)} to the last byte",
                "From arrival to the last byte, by backend; dashed: the budget. Dots are traces.",
                "lines",
                (
                    Query(
                        _quantile(share, "request_duration_seconds", "backend"), "{{backend}}", exemplars=True
                    ),
                    _BUDGET,
                ),
                "s",
            )
            for share in (0.5, 0.95, 0.99)
        ),
        Panel(
            "p95 to the first byte",
            "What counts where answers are streamed.",
            "lines",
            (
                Query(
                    _quantile(0.95, "time_to_first_byte_seconds", "backend"), "{{backend}}", exemplars=True
                ),
                _BUDGET,
            ),
            "s",
        ),
        Panel(
            "How long calls take",
            "All calls of the route, by duration.",
            "heat",
            (
                Query(
                    total(f"increase({of_route('request_duration_seconds_bucket')}[{RATE}])", "le"), "{{le}}"
                ),
            ),
            "s",
        ),
        Panel(
            "The gateway's own time",
            "Without waiting for slots and backends.",
            "lines",
            (
                Query(_quantile(0.5, "overhead_seconds"), "p50"),
                Query(_quantile(0.99, "overhead_seconds"), "p99"),
            ),
            "s",
        ),
    ),
)

_DECISIONS = Row(
    "Decisions",
    (
        Panel(
            "Decisions by reason",
            "Why calls went where they went, or were not served.",
            "area",
            (Query(total(rate(of_route("decisions_total")), "reason"), "{{reason}}"),),
            "reqps",
            width=12,
        ),
        Panel(
            "Queue",
            "Calls that wait in the gateway for a slot.",
            "lines",
            (Query(total(of_route("queue_depth"), "route"), "{{route}}"),),
            width=6,
        ),
        Panel(
            "How calls ended",
            "By what their client saw.",
            "area",
            (Query(total(rate(of_route("requests_total")), "outcome"), "{{outcome}}"),),
            "reqps",
            width=6,
        ),
        Panel(
            "Calls by backend",
            "Where they ran; `none` were not served.",
            "area",
            (Query(total(rate(of_route("requests_total")), "backend"), "{{backend}}"),),
            "reqps",
        ),
        Panel(
            "Retry budget",
            "Extra attempts that would be made now, and those refused for want of a token.",
            "lines",
            (
                Query(total(of_route("retry_budget_tokens"), "route"), "{{route}} left"),
                Query(
                    total(rate(of_route("retry_budget_refused_total")), "route"), "{{route}} refused a second"
                ),
            ),
        ),
        Panel(
            "Hedges",
            "Second attempts beside a slow first one, a second, by whether their answer was used.",
            "area",
            (
                Query(
                    or_none(total(rate(of_route("hedges_total")), "result"), "result", "none"), "{{result}}"
                ),
            ),
            "reqps",
        ),
    ),
)

ROUTE = Page(
    "overspill-route",
    "Overspill / Route",
    "Does this route keep its latency budget, and where do its calls go?",
    ("route",),
    (_OBJECTIVE, _LATENCY, _DECISIONS),
)
