"""The page of the backends: their slots, starts, refusals, breakers and billed time. Pure."""

from gateway.dashboards.pages import (
    RATE,
    Page,
    Panel,
    Query,
    Row,
    Step,
    increase,
    of_backend,
    or_none,
    rate,
    total,
)

_BREAKERS = (("0", "closed", "green"), ("1", "half open", "yellow"), ("2", "open", "red"))
_READY = (("0", "down", "red"), ("1", "ready", "green"))


def _quantile(share: float) -> str:
    buckets = rate(of_backend("cold_start_seconds_bucket"), "$__range")
    return f"histogram_quantile({share}, sum by (le, backend) ({buckets}))"


_TAKEN = total(of_backend("in_flight"), "backend")

_SLOTS = Row(
    "Slots",
    (
        Panel(
            "Slots by state",
            "Busy, idle; rented: opening (it boots), closed (none there); owned: gone (down).",
            "area",
            (Query(total(of_backend("slots"), "backend", "state"), "{{backend}} {{state}}"),),
            width=12,
        ),
        Panel(
            "Slots taken",
            "Of all that a backend has.",
            "lines",
            (
                Query(
                    f"{_TAKEN} / {total(of_backend('capacity'), 'backend')}",
                    "{{backend}}",
                ),
            ),
            "percentunit",
            width=12,
        ),
        Panel(
            "Ready",
            "Is some replica ready, or is nothing else known?",
            "states",
            (Query(f"min by (backend) ({of_backend('backend_ready')})", "{{backend}}"),),
            width=12,
            words=_READY,
        ),
        Panel(
            "Breakers",
            "The worst of a backend's replicas.",
            "states",
            (Query(f"max by (backend) ({of_backend('breaker_state')})", "{{backend}}"),),
            width=12,
            words=_BREAKERS,
        ),
    ),
)

_STARTS = Row(
    "Starts",
    (
        Panel(
            "How long cold starts take",
            "All starts of the backends that are chosen, where it is known.",
            "heat",
            (Query(total(increase(of_backend("cold_start_seconds_bucket"), RATE), "le"), "{{le}}"),),
            "s",
        ),
        Panel(
            "Cold starts, p50 and p95",
            "In the time that is shown.",
            "number",
            (Query(_quantile(0.5), "{{backend}} p50"), Query(_quantile(0.95), "{{backend}} p95")),
            "s",
            decimals=2,
        ),
        Panel(
            "Answers by start",
            "Warm, cold, or unknown where nobody can tell.",
            "area",
            (Query(total(rate(of_backend("starts_total")), "backend", "start"), "{{backend}} {{start}}"),),
            "reqps",
        ),
        Panel(
            "Instances started",
            "Rented instances whose start was seen, a minute.",
            "lines",
            (Query("60 * " + total(rate(of_backend("instances_started_total")), "backend"), "{{backend}}"),),
        ),
        Panel(
            "Billed seconds",
            "Seconds billed for attempts a second: how many instances are paid for at once.",
            "lines",
            (Query(total(rate(of_backend("billed_seconds_total")), "backend"), "{{backend}}"),),
        ),
        Panel(
            "Pushed back",
            "Calls refused as one too many (429, or 503 because it is full), a second.",
            "lines",
            (Query(total(rate(of_backend("pushbacks_total")), "backend"), "{{backend}}"),),
            "reqps",
            steps=(Step(None, "green"),),
        ),
    ),
)

_LOADS = Row(
    "Load that replicas tell of themselves",
    (
        Panel(
            "Calls on a replica",
            "The gateway's own, and those that other clients have there, where replicas tell.",
            "lines",
            (
                Query(
                    or_none(total(of_backend("replica_load"), "backend", "replica"), "replica", "none tells"),
                    "{{backend}} {{replica}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "How old that is",
            "Old figures count for less when the next call is placed.",
            "lines",
            (
                Query(
                    or_none(
                        f"max by (backend, replica) ({of_backend('replica_load_age_seconds')})",
                        "replica",
                        "none tells",
                    ),
                    "{{backend}} {{replica}}",
                ),
            ),
            "s",
            width=12,
        ),
    ),
)

BACKENDS = Page(
    "overspill-backends",
    "Overspill / Backends",
    "Who has room, who is down, who starts cold and how long that takes.",
    ("backend",),
    (_SLOTS, _STARTS, _LOADS),
)
