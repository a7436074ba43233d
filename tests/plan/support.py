"""Traces with a known best arrangement, and plans for them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gateway.app import registries
from gateway.simulator.main import BASELINES, Wanted
from gateway.simulator.plan import planning
from gateway.simulator.plan_words import answer


def trace(folder: Path, arrivals: Iterable[float], name: str = "made_up") -> str:
    path = folder / f"{name}.csv"
    path.write_text("t_s\n" + "".join(f"{at:.4f}\n" for at in arrivals))
    return str(path)


def every(gap: float, count: int) -> list[float]:
    return [gap * number for number in range(count)]


def wanted(**changed: Any) -> Wanted:
    usual = {
        "service": "constant:1s", "budget": "15s", "cold": "constant:2s", "idle": "3s", "premium": 1.5,
        "fleet_price": 3.6, "policies": BASELINES,
    }  # fmt: skip
    return Wanted(**{**usual, **changed})


def plan(
    text: str, *, loads: Sequence[float] = (), repeats: int = 1, told: list[str] | None = None, **changed: Any
) -> dict[str, Any]:
    """The plan of the trace `text`, the answer in words with it."""
    tell = (lambda line: None) if told is None else told.append
    result = planning(wanted(**changed), *registries(), loads=loads, repeats=repeats, tell=tell)(text)
    return {**result, "answer": answer(result)}
