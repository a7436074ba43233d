"""`overspill simulate --replay FILE`: replays a recorded live run and says where the decisions part.

Knows a file and what to print. It never knows a concrete policy: the registry is handed in.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from gateway.config.schema import Settings
from gateway.registry import Registry
from gateway.simulator.agreement import agreement, figures, told
from gateway.simulator.recording import BadLine, read
from gateway.simulator.replay import replay
from policies.base import Policy


def needed(traces: Sequence[str] | None) -> Sequence[str]:
    """The traces. Raises ValueError where there are none and nothing is replayed either."""
    if not traces:
        raise ValueError("give --trace T, or --replay FILE for the recording of a live run")
    return traces


def checked(settings: Settings | None, *, simulated: bool) -> Settings:
    """The file that goes with a recording. Raises ValueError without one, or with a simulation's options."""
    if settings is None:
        raise ValueError("--replay needs the file that the gateway ran with: give it with -c FILE")
    if simulated:
        raise ValueError("--replay goes with -c and --json only: the recording and the file say all the rest")
    return settings


def show(path: Path, settings: Settings, policies: Registry[Policy], *, as_json: bool) -> bool:
    """Print it; True if all decisions agree. Raises OSError, and ValueError naming the line that is wrong.

    The policies are those that `settings` has for the routes of the recording.
    """
    try:
        lines = read(path)
        rules = {
            name: policies.get(route.policy.type)(route.policy.options)
            for name, route in settings.routes.items()
        }
        replayed = replay(lines, rules)
    except BadLine as error:
        raise ValueError(f"{path}:{error.number}: {error.why}") from None
    found = agreement(lines, replayed.lines, replayed.stopped)
    if as_json:
        typer.echo(json.dumps(figures(found), indent=2))
    else:
        for text in told(found):
            typer.echo(text)
    return found.whole
