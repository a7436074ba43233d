"""What the locust files share: how many users when, bodies, and a count of where the answers came from.

Pure: no locust, no environment variable, no clock.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

ROUTED_BY = ("x-overspill-backend", "x-overspill-reason", "x-overspill-start")


class Swing(NamedTuple):
    """Between how many users a shape moves, and how fast.

    cycles:  of `spikes` and `day`: how often it happens
    """

    calm: int
    burst: int
    calm_s: float
    burst_s: float
    cycles: int = 3


def _burst(now: float, swing: Swing) -> int | None:
    """Calm, then suddenly many, then calm again."""
    if now >= 2 * swing.calm_s + swing.burst_s:
        return None
    return swing.burst if swing.calm_s <= now < swing.calm_s + swing.burst_s else swing.calm


def _spikes(now: float, swing: Swing) -> int | None:
    """Calm and burst in turn, ending calm: whether what was rented for one burst still serves the next."""
    period = swing.calm_s + swing.burst_s
    if now >= swing.cycles * period + swing.calm_s:
        return None
    return swing.burst if now % period >= swing.calm_s else swing.calm


def _ramp(now: float, swing: Swing) -> int | None:
    """Up evenly for the length of a calm, held for the length of a burst, and down again."""
    top, down = swing.calm_s, swing.calm_s + swing.burst_s
    if now >= down + swing.calm_s:
        return None
    share = min(1.0, now / top, 1.0 - (now - down) / swing.calm_s)
    return round(swing.calm + (swing.burst - swing.calm) * share)


def _day(now: float, swing: Swing) -> int | None:
    """A sine between the two, from its low: one period is a calm and a burst long."""
    period = swing.calm_s + swing.burst_s
    if now >= swing.cycles * period:
        return None
    share = (1 - math.cos(2 * math.pi * now / period)) / 2
    return round(swing.calm + (swing.burst - swing.calm) * share)


SHAPES: Mapping[str, Callable[[float, Swing], int | None]] = {
    "burst": _burst,
    "spikes": _spikes,
    "ramp": _ramp,
    "day": _day,
}
"""Users wanted so many seconds after the start, by the name of the shape; None when it is over."""


def infer_body(described: str) -> bytes:
    """A KServe v2 request for one numeric input, with data that fits its shape and type."""
    tensor: dict[str, Any] = json.loads(described)
    count = math.prod(tensor["shape"])
    number = float if tensor["datatype"].startswith(("FP", "BF")) else int
    data = [number(index % 16) for index in range(count)]
    return json.dumps({"inputs": [{**tensor, "data": data}]}).encode()


def chat_question(
    model: str, *, words_in: int = 3, tokens_out: int = 64, stream: bool = True
) -> dict[str, Any]:
    """An OpenAI chat request of about so many tokens: a short word is about one."""
    return {
        "model": model,
        "stream": stream,
        "max_tokens": max(1, tokens_out),
        "messages": [{"role": "user", "content": " ".join(["word"] * max(1, words_in))}],
    }


class _Fields(Protocol):
    def get(self, name: str, default: str, /) -> str: ...


class Tally:
    """How the gateway says that it answered, counted over one test."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def add(self, headers: _Fields | None) -> None:
        """Count one answer by its headers; None where no answer came."""
        for name in ROUTED_BY:
            self.seen[name, headers.get(name, "(absent)") if headers is not None else "(no answer)"] += 1

    def lines(self) -> list[str]:
        """One line per header and value, with its share of the answers."""
        total = max(1, sum(count for (name, _), count in self.seen.items() if name == ROUTED_BY[0]))
        return [
            f"{name:<22} {value:<20} {count:>8} {count / total:7.1%}"
            for (name, value), count in sorted(self.seen.items())
        ]
