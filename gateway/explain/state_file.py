"""The state of a fleet as a file: what `overspill explain --state` reads, checked like the configuration.

Every problem is told in one run, with its place and what would be right. It knows the shape of the file and
of the route; how a pool is put into that state is `scene.py`'s part.
"""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Literal

from pydantic import Field

from backends.base import Backend
from gateway.config.explain import validate
from gateway.config.load import read_text
from gateway.config.problems import FILE, ConfigProblems, Path, Problem, printable, quoted, suggestion
from gateway.config.schema import Name, Period
from gateway.config.tree import NotYaml, Place, Tree, read_tree
from gateway.options import Duration, Options, Share

MOST_CALLS = 100_000


class Expected(Options):
    """What is expected of a duration."""

    mean: Period
    """On average."""
    tail: Period | None = None
    """The quantile at the route's objective; twice the mean when left out."""


class BackendState(Options):
    """One backend at that moment. What is left out is idle, up, and as the configuration says."""

    in_flight: int = Field(default=0, ge=0)
    """Calls that hold a slot, on replicas that are up."""
    replicas_down: int = Field(default=0, ge=0)
    """Replicas that fail their readiness checks."""
    breaker_open: int = Field(default=0, ge=0)
    """Further replicas whose breaker is open."""
    warm: int | list[Duration] = Field(default=0)
    """Idle instances of a rented backend: how many, or for how long each has idled."""
    opening: list[Duration] = []
    """Instances that boot for nobody in particular: for each, how long until it is up."""
    service: Expected | None = None
    """How long a call holds a slot, start-up excluded."""
    cold: Expected | None = None
    """How long an instance of a rented backend boots."""

    @property
    def idle_for(self) -> list[float]:
        """For how long each idle instance has idled, in seconds."""
        return [0.0] * self.warm if isinstance(self.warm, int) else self.warm


class Waiting(Options):
    """Calls in the queue that are alike."""

    calls: int = Field(default=1, ge=1, le=MOST_CALLS)
    """How many."""
    age: Duration = 0.0
    """For how long they have waited."""
    budget_left: Duration | None = None
    """What is left of their latency budget; follows from `age` when left out."""
    priority: Literal["critical", "default", "best_effort"] = "default"
    """Their class."""


class State(Options):
    """A route's backends and queue at one moment."""

    backends: dict[Name, BackendState] = {}
    """By name; those left out are idle and up."""
    queue: list[Waiting] = []
    """Calls that wait, in any order."""
    attained: Share | None = None
    """Share of the last 1,000 answers that were in time; as the objective asks when left out."""


IDLE = State()


def read_state(file: FilePath, backends: Mapping[str, Backend], within: float | None) -> State:
    """Read and check a file. `backends`: the route's; `within`: its latency budget. Raises ConfigProblems."""
    name = printable(str(file))
    try:
        text = read_text(file)
    except NotYaml as error:
        raise _refused(name, error) from None
    return parse_state(text, name, backends, within)


def parse_state(text: str, name: str, backends: Mapping[str, Backend], within: float | None) -> State:
    """The same for a text, called `name` in what is said of it."""
    try:
        tree = read_tree(text, name)
    except NotYaml as error:
        raise _refused(name, error) from None
    if not isinstance(tree.data, dict):
        tree.problem(Place(1, 1), (), "is not a mapping; a state has `backends`, `queue` and `attained`")
        raise ConfigProblems(tree.problems)
    state = validate(State, tree.data, tree, ())
    if state is not None:
        for backend, entry in state.backends.items():
            _check_backend(tree, backend, entry, backends)
        _check_queue(tree, state, within)
    if tree.problems or state is None:
        raise ConfigProblems(tree.problems)
    return state


def _refused(name: str, error: NotYaml) -> ConfigProblems:
    what = str(error).partition("; a configuration")[0]
    return ConfigProblems([Problem(name, *error.place, FILE, what)])


def _check_backend(tree: Tree, name: str, state: BackendState, known: Mapping[str, Backend]) -> None:
    path: Path = ("backends", name)
    backend = known.get(name)
    if backend is None:
        hint = suggestion(name, known, "backends of this route")
        tree.problem(tree.at_key(path), path, f"{quoted(name)} is no backend of this route; {hint}")
        return

    def wrong(key: str, message: str) -> None:
        tree.problem(tree.at_value((*path, key)), (*path, key), message)

    if backend.owned:
        for key in ("warm", "opening", "cold"):
            if (*path, key) in tree.keys:
                wrong(key, f"is for rented backends; {quoted(name)} is owned: all its slots are warm")
    for key in ("service", "cold"):
        expected: Expected | None = getattr(state, key)
        if expected is not None and expected.tail is not None and expected.tail < expected.mean:
            wrong(key, "has a tail below its mean; a tail is what few calls exceed")
    replicas, slots = len(backend.replicas), backend.options.max_in_flight
    up = replicas - state.replicas_down - state.breaker_open
    if up < 0:
        count = state.replicas_down + state.breaker_open
        key = "breaker_open" if state.breaker_open else "replicas_down"
        wrong(key, f"makes {count} replicas that are down or cut off; {quoted(name)} has {replicas}")
        return
    if isinstance(state.warm, int) and state.warm < 0:
        wrong("warm", "must be at least 0")
        return
    used = state.in_flight + len(state.idle_for) + len(state.opening)
    if used > up * slots:
        key = next(key for key in ("in_flight", "warm", "opening") if (*path, key) in tree.keys)
        what = f"{used} slots are used" if backend.owned else f"{used} slots are used or have an instance"
        wrong(key, f"does not fit: {what}, and the replicas that are up ({up}) have {up * slots}")
    idle_s = backend.rent.idle_s if backend.rent is not None else 0.0
    if any(age >= idle_s for age in state.idle_for) and not backend.owned:
        wrong("warm", f"has an instance that would be gone: an idle one of {quoted(name)} stays {idle_s:g}s")


def _check_queue(tree: Tree, state: State, within: float | None) -> None:
    total = sum(each.calls for each in state.queue)
    if total > MOST_CALLS:
        path: Path = ("queue",)
        tree.problem(tree.at_value(path), path, f"holds {total:,} calls; at most {MOST_CALLS:,} fit")
    for place, each in enumerate(state.queue):
        path = ("queue", place, "budget_left")
        if each.budget_left is not None and within is not None and each.budget_left > within:
            tree.problem(
                tree.at_value(path), path, f"is more than the whole latency budget of the route, {within:g}s"
            )
