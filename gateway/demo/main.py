"""`overspill demo`: set the stage, run the load, tell what it showed.

Must never know how each of these is done.
"""

import asyncio
import importlib.util
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvloop
from rich.console import Console

from gateway.clock import SystemClock

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


PLAIN_WIDTH = 110
"""Columns of the tables where nobody says how wide the paper is."""


def run(seconds: int = 60, json_path: Path | None = None, *, quiet: bool = False) -> int:
    """Run the demo; the load lasts `seconds`. Exit status 0 when it showed everything it is meant to.

    That is: no request lost, no answer wrong, every backend served some, cold starts were seen, and it
    cost something. Otherwise 1, with a sentence that says what is missing. Nothing keeps running.
    """
    console = Console(quiet=quiet)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    lacking = [name for name in ("numpy", "sklearn") if importlib.util.find_spec(name) is None]
    if lacking:
        Console(stderr=True).print(
            f"the demo needs {' and '.join(lacking)}: pip install 'overspill[demo]'", markup=False
        )
        return 1
    try:
        with _terminable():
            return _run(seconds, json_path, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return INTERRUPTED


def _run(seconds: int, json_path: Path | None, console: Console) -> int:
    # Only now: they need the packages that were looked for above.
    from gateway.demo.closing import closing  # noqa: PLC0415
    from gateway.demo.performance import perform  # noqa: PLC0415
    from gateway.demo.plan import Plan  # noqa: PLC0415
    from gateway.demo.processes import CannotStart  # noqa: PLC0415
    from gateway.demo.stage import stage  # noqa: PLC0415
    from gateway.demo.summary import missing  # noqa: PLC0415

    plan = Plan(seconds=seconds)
    errors = Console(stderr=True)
    try:
        with stage(plan, lambda what: console.print(f"· {what}", highlight=False, soft_wrap=True)) as set_up:
            console.print(
                f"· driving {plan.calm_rps:g} requests/s, a burst of {plan.burst_rps:g}, and calm again:"
                f" {seconds} s\n",
                highlight=False,
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(perform(set_up, plan, clock=SystemClock(), console=console))
    except CannotStart as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    closing(console, plan, result)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    clauses = missing(result)
    if clauses:
        told = f"the demo did not show what it should: {'; '.join(clauses)}"
        errors.print(told, markup=False, highlight=False, soft_wrap=True)
    return 1 if clauses else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """While inside, SIGTERM ends the demo as Ctrl-C does: with every process stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
