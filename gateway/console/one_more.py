"""Would one more replica have been cheaper? One sentence with its dollars, from what is known by now.

Two sources: the advice, which simulates the last calls with one replica more (`gateway.advice`); and before
there is any, a bound that needs no simulation, for one more replica can save at most what all spilling cost.
Pure; knows no HTTP.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from policies.amounts import dollars

FEW_S = 10.0
"""With less time behind it nothing is said."""
WORTH_TELLING = 0.001
"""Share of the calls: when so many more would have been in time, dearer is not all there is to say."""


class Spilled(NamedTuple):
    """Seconds since the start, and what rented backends cost in them; None where that is not known."""

    seconds: float | None
    usd: float | None


def one_more(
    backend: Mapping[str, Any], usd_per_hour: float | None, spilled: Spilled
) -> dict[str, Any] | None:
    """`says` is the sentence, `usd` what it saves, and `verdict` the word for it.

    verdict:       `saves`; `costs`; `buys`: costs, and more calls are in time; `may_save`; `equal`; `unknown`

    backend:       as `reports.report_backends` tells it; None for one that is not owned
    usd_per_hour:  of one of its replicas
    """
    if not backend["owned"]:
        return None
    advised = backend.get("one_more_replica")
    if advised is not None and advised["seconds"] > 0:
        return _simulated(advised)
    if usd_per_hour is None:
        return _said("unknown", "Not known: the file gives no usd_per_replica_hour for it.")
    if spilled.usd is None:
        return _said("unknown", "Not known: calls were answered at a price that is not known.")
    if spilled.seconds is None or spilled.seconds < FEW_S:
        return _said("unknown", "Not known yet.")
    return _bounded(usd_per_hour * spilled.seconds / 3600.0, spilled.seconds, spilled.usd)


def _simulated(advised: Mapping[str, Any]) -> dict[str, Any]:
    saved, count = advised["usd"] - advised["usd_with"], advised["replicas"]
    what = f"In the last {span(advised['seconds'])} ({advised['calls']:,} calls, simulated)"
    times = f"in time {_share(advised['attained'])} → {_share(advised['attained_with'])}"
    cost = f"{dollars(advised['usd'])} with {count}, {dollars(advised['usd_with'])} with {count + 1}; {times}"
    hourly = dollars(abs(saved) / advised["seconds"] * 3600.0)
    if saved == 0.0:
        return _said("equal", f"{what} one more would have cost as much as it saved: {cost}.", saved)
    word, verdict = ("saved", "saves") if saved > 0 else ("cost", "costs")
    if saved < 0 and advised["attained_with"] - advised["attained"] >= WORTH_TELLING:
        verdict = "buys"
    return _said(
        verdict, f"{what} one more would have {word} {dollars(abs(saved))}, {hourly}/h: {cost}.", saved
    )


def _bounded(replica: float, seconds: float, spill: float) -> dict[str, Any]:
    what = f"In the {span(seconds)} since the start one more would have"
    cost = f"cost {dollars(replica)}"
    if spill == 0.0:
        return _said("costs", f"{what} {cost} and saved nothing: nothing was spilled.", -replica)
    if spill <= replica:
        words = (
            f"and saved at most the {dollars(spill)} that all spilling cost: {dollars(replica - spill)} more"
        )
        return _said("costs", f"{what} {cost} {words}, at least.", spill - replica)
    words = f"and saved up to the {dollars(spill)} that all spilling cost: {dollars(spill - replica)} less"
    return _said("may_save", f"{what} {cost} {words}, at best. Advice will simulate it.", spill - replica)


def span(seconds: float) -> str:
    """A stretch of time in two figures at most: `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    whole = round(seconds)
    for unit, size, part, piece in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // piece
            return f"{whole // size} {unit} {rest} {part}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def _share(value: float) -> str:
    return f"{100 * value:.4g}%"


def _said(verdict: str, says: str, usd: float | None = None) -> dict[str, Any]:
    return {"verdict": verdict, "says": says, "usd": usd}
