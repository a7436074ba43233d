"""What somebody should look at, the worst first: tiers that are down, budgets that are used up, losses.

Counters are told of while they grow, and for a minute after. Pure; knows no HTTP and no page.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric

from gateway.console.figures import Figures
from gateway.console.lately import Lately
from gateway.glance import Glance

CLOSED = {
    "spill_unhealthy": "no replica passes its probes",
    "spill_breaker": "breaker open: its last calls failed",
}
"""Why a backend takes no calls, in words."""
SOON_S = 14 * 86400.0
"""How long before its end a certificate is told of."""
AT_ONCE_S = 86400.0

_COUNTED = {
    "overspill_turned_away": (
        "bad", "{} calls turned away at the door: the gateway has more to do than its CPU can",
    ),
    "overspill_worker_restarts": ("warn", "{} workers ended and were started again"),
    "overspill_access_log_lost": ("warn", "{} lines of the access log could not be written"),
}  # fmt: skip
_BUDGETS = {
    "spill_budget_overrun": "more is spent than the spill budget of {} allows: {} attempts beyond it",
    "spill_budget_refused": "the spill budget of {} holds calls back: {} attempts not granted",
}
_OF_BUDGETS = {
    f"overspill_{prefix}{word}": (label, says)
    for prefix, label in (("", "route"), ("backend_", "backend"))
    for word, says in _BUDGETS.items()
}
_TRACES = "overspill_traced_calls"
_LOST_TRACES = ("dropped", "failed")


def counters(metrics: Iterable[Metric]) -> dict[str, float]:
    """What is told of when it has grown, by a name of its own."""
    found: dict[str, float] = {}
    for family in metrics:
        label = _OF_BUDGETS.get(family.name, ("", ""))[0]
        lost_traces = family.name == _TRACES
        if not label and not lost_traces and family.name not in _COUNTED:
            continue
        for sample in family.samples:
            if lost_traces and sample.labels.get("result") not in _LOST_TRACES:
                continue
            key = f"{family.name} {sample.labels[label]}" if label else family.name
            found[key] = found.get(key, 0.0) + sample.value
    return found


def attention(
    glance: Glance,
    figures: Figures,
    lately: Lately,
    backends: Iterable[Mapping[str, Any]],
    rejected: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    """Each with its `level` (bad, warn or note) and what it `says`."""
    found = [*_down(glance, backends), *_certificates(figures), *_grown(lately)]
    if rejected is not None:
        found.append(("warn", "the last configuration file was rejected and changed nothing"))
    if glance.status == "draining":
        found.append(("warn", "the gateway is draining: it takes no more calls"))
    found += [
        ("note", f"what {each['name']} costs is not known; it is in no sum")
        for each in backends
        if not each["price_known"]
    ]
    found.sort(key=lambda each: ("bad", "warn", "note").index(each[0]))
    return [{"level": level, "says": says} for level, says in found]


def _down(glance: Glance, backends: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for each in backends:
        if each["closed"] is not None:
            found.append(("bad", f"{each['name']} is down: {each['closed']}"))
        elif (out := sum(replica["ready"] is False or replica["breaker"] == "open"
                         for replica in each["replicas"])):  # fmt: skip
            found.append(("warn", f"{each['name']}: {out} of {len(each['replicas'])} replicas are out"))
    found += [
        ("bad", f"route {name} cannot be served: {_why(reasons)}") for name, reasons in glance.reasons.items()
    ]
    return found


def _why(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {CLOSED.get(why, why)}" for name, why in reasons.items())


def _certificates(figures: Figures) -> list[tuple[str, str]]:
    found = []
    for said, left in figures.of("certificate_expires_seconds"):
        if left < SOON_S:
            when = "has expired" if left < 0 else f"expires in {_span(left)}"
            level = "bad" if left < AT_ONCE_S else "warn"
            found.append((level, f"the certificate of the {said['port']} port {when}"))
    found += [
        ("warn", f"the new certificate of the {said['port']} port cannot be used: the one before is shown")
        for said, good in figures.of("certificate_last_renewal_successful")
        if not good
    ]
    return found


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} h"


def _grown(lately: Lately) -> list[tuple[str, str]]:
    found = []
    for name, (level, says) in _COUNTED.items():
        if more := lately.grown(name):
            found.append((level, f"{says.format(f'{more:,.0f}')}, in the last minute"))
    for name, (label, says) in _OF_BUDGETS.items():
        for owner, more in lately.grown_of(name):
            found.append(("warn", f"{says.format(f'{label} {owner}', f'{more:,.0f}')} in the last minute"))
    if more := lately.grown(_TRACES):
        found.append(("note", f"the spans of {more:,.0f} calls were not delivered in the last minute"))
    return found
