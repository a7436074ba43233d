"""Reads the file of a recording (`overspill serve --record`), every line of it checked for its shape.

Knows the lines that `gateway.recorder` writes and what their values may be; not whether they make sense
together, which only a replay can tell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.recorded import VERSION, Line

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Few = Annotated[int, Meta(ge=0, le=100_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Moment = Annotated[float, Meta(ge=-1e12, le=1e12)]
Verdict = Literal["success", "failure", "neutral"]
Pair = tuple[Seconds, Seconds]


class _Estimates(Struct):
    objective: Annotated[float, Meta(gt=0, lt=1)]
    service: Pair
    cold: Pair
    idle_s: Seconds
    known: dict[str, Any] | None


class _Tier(Struct):
    options: "_Options"
    budgeted: bool
    estimates: _Estimates | None
    answers: _Estimates | None


class _Queue(Struct):
    queue: Seconds
    then: Literal["spill", "shed"]


class _Options(Struct):
    backend: str
    when_full: Literal["spill", "shed"] | _Queue
    weight: Annotated[float, Meta(ge=0)]


class _Setup(Struct, tag_field="setup"):
    pass


class _Backend(_Setup, tag="backend"):
    name: str
    owned: bool
    replicas: Few
    slots: Count
    can_open: bool
    rent: list[Any] | None
    carries_all: bool
    fixed: bool = True
    binds_late: bool = False


class _Route(_Setup, tag="route"):
    at: Moment
    name: str
    within: Seconds | None
    first_byte: Seconds | None
    objective: Annotated[float, Meta(gt=0, le=1)]
    best_effort_limit: Few | None
    opens: bool
    tiers: Annotated[list[_Tier], Meta(min_length=1, max_length=1000)]


class _Event(Struct, tag_field="event"):
    at: Moment


class _Arrive(_Event, tag="arrive"):
    route: str
    call: Count
    arrived: Moment
    deadline: Moment | None
    size: Annotated[float, Meta(ge=0)] | None
    priority: Literal["critical", "default", "best_effort"]
    stream: bool
    inference: bool
    attempt: Few
    tried: list[tuple[str, Few]]
    unfit: list[str]
    headers: dict[str, str | None]


class _Release(_Event, tag="release"):
    route: str
    call: Few
    verdict: Verdict
    used: bool
    start: Literal["warm", "cold", "unknown"] | None
    boot_s: Seconds | None
    answered_at: Moment | None
    waited_s: Seconds | None = None


class _Leave(_Event, tag="leave"):
    route: str
    call: Few


class _Open(_Event, tag="open"):
    route: str
    backend: str
    count: Few
    kind: str
    fresh: bool = True


class _Opened(_Event, tag="opened"):
    opening: Count
    verdict: Verdict
    boot_s: Seconds | None


class _Ring(_Event, tag="ring"):
    timer: Count


class _Ready(_Event, tag="ready"):
    backend: str
    replica: Few
    answer: bool


class _Learned(_Event, tag="learned"):
    routes: dict[str, list[tuple[_Estimates | None, _Estimates | None]]]


class _Refresh(_Event, tag="refresh"):
    pass


class _Beyond(_Event, tag="beyond"):
    what: str


class _Decision(Struct):
    decision: Literal["arrive", "recheck", "slot_freed"]
    route: str
    call: Count | None = None
    run: str | None = None
    take: str | None = None
    shed: str | None = None
    reason: str | None = None
    contended: bool = False
    hold: Moment | None = None
    opens: list[tuple[str, Few]] = []
    late: bool = False


_KINDS: Mapping[str, Any] = {
    "setup": _Backend | _Route,
    "event": (_Arrive | _Release | _Leave | _Open | _Opened | _Ring | _Ready | _Learned | _Refresh | _Beyond),
    "decision": _Decision,
}
"""What a line is, by the key that it has and the others have not."""


class BadLine(ValueError):
    """A line that cannot be part of a recording: which, and why."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number
        self.why = why


def read(path: Path) -> list[Line]:
    """The lines of a recording. Raises OSError, and BadLine for a file that is not one."""
    lines: list[Line] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            line = _decoded(number, text)
            if number == 1:
                _check_first(line)
            else:
                _check(number, line)
            lines.append(line)
    if not lines:
        raise BadLine(1, "the file is empty; a recording begins with its version")
    return lines


def _decoded(number: int, text: bytes) -> Line:
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        line = None
    if not isinstance(line, dict):
        raise BadLine(number, "not a JSON object; a recording has one on every line")
    return line


def _check_first(line: Line) -> None:
    if line.get("recording") != VERSION:
        raise BadLine(1, f"not a recording of version {VERSION}, which `overspill serve --record` writes")
    if type(line.get("seed")) is not int:
        raise BadLine(1, "its seed is not a whole number")


def _check(number: int, line: Line) -> None:
    key = next((key for key in _KINDS if key in line), None)
    if key is None:
        raise BadLine(number, f"neither {', '.join(_KINDS)}; every line but the first is one of them")
    try:
        msgspec.convert(line, _KINDS[key])
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadLine(number, f"{key} {line[key]!r:.40}: {error}") from None
