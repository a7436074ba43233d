"""An explanation on a terminal: the answer, the candidates as a table, the rule. Adds nothing to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.explain.words import expected
from policies.amounts import dollars, seconds

PLAIN_WIDTH = 140
"""Columns where nobody says how wide the paper is."""
_UNKNOWN = "unknown"


def show(found: Mapping[str, Any]) -> None:
    """Print what `command.explained` found."""
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(screen(found))


def screen(found: Mapping[str, Any]) -> RenderableType:
    """The whole of it."""
    objective = f"{found['objective'] * 100:g}%"
    lines: list[RenderableType] = [
        Text(f"route {found['route']}, policy {found['policy']}, {_goal(found, objective)}"),
        Text(f"state: {found['state']}", style="dim"),
        Text(""),
        Text.assemble(("answer: ", "bold"), (found["says"], "bold green")),
        Text(f"rule:   {found['rule']}"),
        Text(""),
        candidates(found["candidates"], objective),
        Text(""),
        Text("expected of each backend, by the state and the configuration:", style="dim"),
    ]
    width = max(map(len, found["estimates"]), default=0)
    for name, entry in found["estimates"].items():
        lines.append(Text(f"  {name:<{width}}  {expected(entry)}", style="dim"))
    if any(line["usd"] is None and line["way"] != "closed" for line in found["candidates"]):
        lines.append(Text("A cost is unknown where the file gives no price.", style="dim"))
    return Group(*lines)


def _goal(found: Mapping[str, Any], objective: str) -> str:
    within = found["within_s"]
    if within is None:
        return f"no latency budget: in time is within the timeout of {seconds(found['timeout_s'])}"
    return f"budget {seconds(within)} for {objective} of the calls"


def candidates(lines: Sequence[Mapping[str, Any]], objective: str) -> Table:
    """One row for each way."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("", no_wrap=True)
    rows.add_column("backend", no_wrap=True)
    rows.add_column("how", no_wrap=True)
    rows.add_column("start", no_wrap=True)
    for word in ("waits", "finishes", f"{objective} by", "in time", "costs"):
        rows.add_column(word, justify="right", no_wrap=True)
    rows.add_column("why")
    for line in lines:
        closed = line["way"] == "closed"
        rows.add_row(
            "►" if line["chosen"] else "",
            Text(line["backend"]),
            line["way"],
            "" if closed else line["start"],
            _time(line["waits_s"], closed),
            _time(line["finish_s"], closed),
            _time(line["tail_s"], closed),
            "" if line["chance"] is None else share(line["chance"]),
            "" if closed else _UNKNOWN if line["usd"] is None else dollars(line["usd"]),
            Text(line["why"]),
            style="bold" if line["chosen"] else "dim" if closed else "",
        )
    return rows


def _time(value: float | None, closed: bool) -> str:
    if value is None:
        return "" if closed else _UNKNOWN
    return "0" if value == 0.0 else seconds(value)


def share(value: float) -> str:
    """As a percentage that rounds nothing to certainty."""
    if value <= 0.0 or value >= 1.0:
        return f"{value:.0%}"
    if value < 0.001:
        return "<0.1%"
    return ">99.9%" if value > 0.999 else f"{value * 100:.1f}%"
