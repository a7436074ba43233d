"""Seconds of an instance's life: those of one call's use, and those that are left to be billed at its end.

Pure arithmetic. It must never know what a second costs.
"""

import math
from typing import NamedTuple

from backends.instance import Instance, Ticket
from backends.start_ups import StartUps


class Span(NamedTuple):
    """What one call added to its instance's bill, in seconds."""

    boot_s: float
    busy_s: float

    @property
    def billed_s(self) -> float:
        """Both together."""
        return self.boot_s + self.busy_s


def rounded_up(seconds: float, step: float) -> float:
    """Whole multiples of `step`; as it is where that is 0."""
    if step <= 0.0:
        return seconds
    # A hair above a whole multiple is that multiple: the seconds are a sum of floats.
    return math.ceil(seconds / step - 1e-9) * step


def use_s(instance: Instance, ticket: Ticket, now: float, boot_s: float, busy_s: float | None) -> float:
    """Seconds of use: those for which an overlapping call has been billed are not billed again."""
    if instance.last_end is None:
        return max(0.0, now - ticket.began - boot_s) if busy_s is None else busy_s
    free_since = instance.last_end
    room = max(0.0, now - max(ticket.began, free_since))
    if busy_s is None:
        return room
    return min(busy_s, room) if free_since > ticket.began else busy_s


def tail_s(instance: Instance, starts: StartUps | None, idle_after: float, step: float) -> float:
    """Seconds still to be billed of one that is stopped, after it has idled for its time.

    One of which nothing was ever heard costs what is to be expected of it: how long its start-up took is not
    known, only for how long it was not up.
    """
    last_end = instance.last_end
    if starts is not None and last_end == instance.up_at:
        starts.outlasted(instance.outlasted_s)
        chances = starts.beyond(instance.outlasted_s)
        whole = sum(share * rounded_up(boot + idle_after, step) for boot, share in chances)
    elif starts is not None and last_end is not None:
        whole = rounded_up(max(instance.billed_s, last_end - instance.began + idle_after), step)
    else:
        whole = rounded_up(instance.billed_s + idle_after, step)
    return max(0.0, whole - instance.billed_s)
