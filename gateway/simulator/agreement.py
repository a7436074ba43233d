"""Where two runs of the same events decided differently, and how to say it.

Decisions are compared event by event: what a policy answered because a call came is held against what the
other answered because of the same. Knows lines, never a pool or a policy.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from gateway.recorded import Line


class Difference(NamedTuple):
    """One decision that is not the same.

    at_s:       seconds since the first event
    call:       number of the call in the order of their arrival; None: of none in particular
    moment:     arrive, recheck or slot_freed
    live, simulated:  the decision lines; None where nothing was decided
    """

    at_s: float
    route: str
    call: int | None
    moment: str
    live: Line | None
    simulated: Line | None


class Agreement(NamedTuple):
    """How far a replay did what was recorded.

    compared:  decisions
    left:      decisions of the recording after the point at which the replay `stopped`
    start:     when the first event was, on the clock of the recording
    """

    compared: int
    differences: Sequence[Difference]
    left: int
    stopped: str | None
    start: float

    @property
    def agree(self) -> int:
        """Of the decisions compared."""
        return self.compared - len(self.differences)

    @property
    def whole(self) -> bool:
        """All there is was compared, and is the same."""
        return not self.differences and not self.left and self.stopped is None


def agreement(live: Sequence[Line], simulated: Sequence[Line], stopped: str | None) -> Agreement:
    """Of a recording and what was recorded of its replay."""
    compared, left = 0, 0
    differences: list[Difference] = []
    again = _events(simulated)
    start = next((line["at"] for line in live if "event" in line), 0.0)
    for at, before in _events(live):
        _, after = next(again, (None, None))
        if after is None:
            left += len(before)
            continue
        for one, other in zip_longest(before, after):
            compared += 1
            if one != other:
                differences.append(_difference(at - start, one, other))
    return Agreement(compared, differences, left, stopped, start)


def _events(lines: Sequence[Line]) -> Iterator[tuple[float, list[Line]]]:
    """When each event was, and what was decided because of it."""
    at, decided = None, list[Line]()
    for line in lines:
        if "event" in line:
            if at is not None:
                yield at, decided
            at, decided = line["at"], []
        elif "decision" in line:
            decided.append(line)
    if at is not None:
        yield at, decided


def _difference(at_s: float, live: Line | None, simulated: Line | None) -> Difference:
    known = live or simulated
    assert known is not None
    return Difference(at_s, known["route"], known.get("call"), known["decision"], live, simulated)


def figures(found: Agreement) -> dict[str, Any]:
    """For `simulate --replay --json`."""
    return {
        "compared": found.compared,
        "agree": found.agree,
        "differences": [each._asdict() for each in found.differences],
        "stopped": found.stopped,
        "not_compared": found.left,
    }


def told(found: Agreement) -> Iterator[str]:
    """One line for the figures, one for each difference, one for where it ended if that was early."""
    noun = "decision" if found.compared == 1 else "decisions"
    yield f"{found.compared:,} {noun} compared: {found.agree:,} agree, {len(found.differences):,} differ"
    for each in found.differences:
        place = f"{each.at_s:.6f} s, {_call(each.call)}, route {each.route}, {each.moment}"
        yield f"{place}: live {_said(each.live, found.start)}; simulated {_said(each.simulated, found.start)}"
    if found.stopped is not None:
        yield f"stopped early: {found.stopped}; {found.left:,} decisions after that were not compared"


def _said(line: Line | None, start: float) -> str:
    """A decision in words."""
    if line is None:
        return "decided nothing"
    if "run" in line:
        return f"ran it on {line['run']} ({line.get('reason')})"
    if "shed" in line:
        return f"shed it ({line['shed']}, {'contended' if line.get('contended') else 'nothing there'})"
    if "take" in line:
        if "call" not in line:
            return f"left the slot of {line['take']} free"
        return f"gave the slot of {line['take']} to {_call(line['call'])} ({line.get('reason')})"
    if "hold" not in line:
        return "gave no answer"
    until = "until a slot is free" if line["hold"] is None else f"until {line['hold'] - start:.9f} s"
    opens = "".join(f", opening {count} on {backend}" for backend, count in line.get("opens", ()))
    return f"held it {until}{opens}{', late' if line.get('late') else ''}"


def _call(number: int | None) -> str:
    return "no call in particular" if number is None else f"call {number:,}"
