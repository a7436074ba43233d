"""What a probe will do, how long that takes and what it costs, told before it is done. Pure.

It must never start anything. The figures before the measurement are guesses, and say so.
"""

from typing import NamedTuple

from gateway.probe.facts import Facts
from gateway.probe.figures import steps
from gateway.probe.measure import ROUND_CALLS, WARM_UP, Wanted, cold_pause

GUESSED_SERVICE_S = 1.0
"""How long a call takes, where nothing has been measured yet."""


class Forecast(NamedTuple):
    """What is to be expected.

    activations:  most instances that are opened
    calls:        calls that are sent
    seconds, usd: guesses; usd None where no price is known or nothing is rented
    service_s:    how long a call was taken to last
    """

    activations: int
    calls: int
    seconds: float
    usd: float | None
    service_s: float


def forecast(facts: Facts, wanted: Wanted, service_s: float | None) -> Forecast:
    """What a probe of a backend with these facts will take."""
    service = GUESSED_SERVICE_S if service_s is None else service_s
    levels = steps(wanted.most) if wanted.most > 1 else []
    rounds = {level: 1 + max(3, -(-ROUND_CALLS // level)) for level in levels}
    colds = 0 if facts.owned or facts.idle_s is None else wanted.colds
    calls = WARM_UP + wanted.calls + sum(level * times for level, times in rounds.items()) + colds
    activations = 0 if facts.owned else max(1, wanted.most) + colds
    pause = cold_pause(facts.idle_s or 0.0) if colds else 0.0
    serial = WARM_UP + wanted.calls + sum(rounds.values()) + colds
    boots = 0 if facts.owned else 1 + len(levels) + colds
    seconds = serial * service + boots * facts.boot_s + colds * pause
    usd = None
    rent = facts.rent
    if rent is not None and rent.usd_per_second is not None:
        idle_s = rent.idle_s if rent.bills_idle else 0.0
        living = facts.boot_s + idle_s + rent.round_up_s
        usd = rent.usd_per_second * (activations * living + calls * service) + calls * rent.usd_per_call
    return Forecast(activations, calls, seconds, usd, service)


def told(name: str, facts: Facts, wanted: Wanted, ahead: Forecast, *, cap: float) -> str:
    """The forecast in a few lines."""
    lines = [f"probe of {name}: {ahead.calls} calls, up to {max(1, wanted.most)} at once"]
    if not facts.owned:
        waits = wanted.colds if facts.idle_s is not None else 0
        lines[0] += f"; up to {ahead.activations} starts of an instance"
        if waits:
            assert facts.idle_s is not None
            word = "cold start" if waits == 1 else "cold starts"
            lines.append(f"  {waits} {word}, each after {cold_pause(facts.idle_s):.1f} s without a call")
    lines.append(f"  takes about {_minutes(ahead.seconds)}, if a call takes {ahead.service_s:g} s")
    if facts.owned:
        lines.append("  costs nothing beyond what the fleet costs anyway")
    elif ahead.usd is None:
        lines.append("  costs an unknown amount: the file has no price for it, so --max-usd cannot be kept")
    else:
        lines.append(f"  costs about ${ahead.usd:.4f}; stops before it could exceed ${cap:g} (--max-usd)")
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
