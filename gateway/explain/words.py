"""An explanation as plain values and as sentences. Knows no pool, no HTTP and no terminal."""

from collections.abc import Mapping
from typing import Any

from policies.amounts import seconds
from policies.base import Action, Hold, Run
from policies.explanation import Explanation


def plain(explanation: Explanation, now: float) -> dict[str, Any]:
    """For JSON; moments are seconds from the decision."""
    return {
        "action": action_of(explanation.action, now),
        "says": says(explanation.action, now),
        "rule": explanation.rule,
        "candidates": [line._asdict() for line in explanation.candidates],
    }


def action_of(action: Action, now: float) -> dict[str, Any]:
    """What the policy answered, as a mapping whose `do` is `run`, `hold` or `shed`."""
    if isinstance(action, Run):
        return {"do": "run", "backend": action.backend, "reason": str(action.reason)}
    if isinstance(action, Hold):
        wait = action.until - now
        return {
            "do": "hold",
            "again_in_s": wait if wait < float("inf") else None,
            "open": {each.backend: each.instances for each in action.opens},
            "late": action.late,
        }
    return {"do": "shed", "reason": str(action.reason), "contended": action.contended}


def says(action: Action, now: float) -> str:
    """The same as one sentence."""
    if isinstance(action, Run):
        return f"run on {action.backend} now ({action.reason})"
    if isinstance(action, Hold):
        words = "hold, behind the calls that can still be in time" if action.late else "hold"
        opens = ", ".join(f"{each.instances} on {each.backend}" for each in action.opens)
        wait = action.until - now
        again = f"look again in {seconds(wait)}" if wait < float("inf") else "until a slot is free"
        return f"{words}, {again}" + (f", opening {opens}" if opens else "")
    if action.contended:
        return f"shed ({action.reason}): slots exist, and all of them are taken; the client is told 429"
    return f"shed ({action.reason}): no backend can take calls now; the client is told 503"


def expected(entry: Mapping[str, float | None]) -> str:
    """What is known of one backend: `service 400 ms, tail 1.2 s (learned from 12 calls)`, boots alike."""
    text = _known(entry, "service", "calls")
    if "cold_mean_s" not in entry:
        return text
    text = f"{text}; {_known(entry, 'cold', 'boots')}"
    share, fast, slow = (entry.get(f"cold_{what}") for what in ("fast_share", "fast_mean_s", "slow_mean_s"))
    if share is None or fast is None or slow is None:
        return text
    return f"{text}, of two kinds: {share:.0%} take {seconds(fast)}, the others {seconds(slow)}"


def _known(entry: Mapping[str, float | None], what: str, counted: str) -> str:
    mean, tail, samples = entry[f"{what}_mean_s"], entry[f"{what}_tail_s"], entry[counted]
    noun = "boot" if what == "cold" else what
    source = ""
    if samples is not None:
        source = f" (learned from {samples:,.0f} {counted})" if samples >= 1 else " (nothing measured yet)"
    if mean is None or tail is None or mean <= 0.0:
        return f"{noun} not known"
    return f"{noun} {seconds(mean)}, tail {seconds(tail)}{source}"
