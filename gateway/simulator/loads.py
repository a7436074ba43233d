"""The same traffic with more or fewer requests, its bursts where they were. It knows arrivals only.

Gaps between arrivals are never drawn anew: what makes a fleet large or small is how calls come in
bursts, and that is in the recording, in no formula.
"""

from array import array
from contextlib import suppress
from itertools import chain
from random import Random

from gateway.simulator.traces import Trace, from_rows, thin

_SHIFT_SHARE = 0.01
_SHIFT_MOST_S = 60.0


def scaled(trace: Trace, factor: float, *, seed: int) -> Trace:
    """`factor` times the requests over the same time.

    Fewer: each request is kept with that probability. More: whole copies of the trace on top of it, and a
    thinned one for the rest. A copy is shifted by up to a hundredth of the trace, at most a minute, and
    what falls off its end comes in at the beginning: bursts add up, but no two requests come together.
    Raises ValueError for a factor that is not above 0, and when nothing is left.
    """
    if factor <= 1:
        return trace if factor == 1 else thin(trace, factor, seed=seed)
    chance = Random(seed)  # noqa: S311
    period = trace.span * (1 + 1 / len(trace))  # the last request is followed by a gap, too
    most = min(_SHIFT_SHARE * period, _SHIFT_MOST_S)
    whole = int(factor)
    copies = [trace]
    copies += [_shifted(trace, chance.uniform(0, most), period) for _ in range(whole - 1)]
    if factor > whole:
        rest = _shifted(trace, chance.uniform(0, most), period)
        with suppress(ValueError):  # so small a part may come to no request at all
            copies.append(thin(rest, factor - whole, seed=seed))
    return from_rows(
        trace.name,
        array("d", chain.from_iterable(copy.arrivals for copy in copies)),
        {
            column: array("d", chain.from_iterable(copy.sizes[column] for copy in copies))
            for column in trace.sizes
        },
    )


def _shifted(trace: Trace, by: float, period: float) -> Trace:
    """Every request later by that many seconds, the last ones at the beginning; in no order."""
    moments = array("d", ((at + by) % period if period else at for at in trace.arrivals))
    return Trace(trace.name, moments, trace.sizes)
