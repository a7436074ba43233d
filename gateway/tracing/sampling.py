"""Which calls are traced: those whose caller keeps its spans, and a share of those that come without a trace.

Pure. A share is taken by the trace id's last 56 bits, which are random (W3C Trace Context Level 2, "Random
trace-id flag"), so that gateways with the same share choose the same traces.
"""

from random import Random

from gateway.record import Record
from gateway.tracing.trace import SAMPLED, Trace, flags_of

_RANDOM_BITS = 56
_RANDOM_DIGITS = _RANDOM_BITS // 4
_NOT_ZERO = (1 << 64) | 1
"""W3C Trace Context forbids a trace id or a span id of zeros only."""


class Sampler:
    """Names the trace of a call and decides whether it is kept.

    share:  of the calls without a caller's trace
    """

    def __init__(self, share: float, chance: Random) -> None:
        # As text of the same length, so that the digits of an id are compared and not turned into a number.
        self._below = f"{round(share * (1 << _RANDOM_BITS)):0{_RANDOM_DIGITS}x}" if share < 1.0 else "g"
        self._chance = chance

    def begin(self, record: Record, method: bytes, target: bytes) -> None:
        """Give the record its traceparent if it has none, and its `trace` if that is kept."""
        traceparent = record.traceparent
        if traceparent:
            if flags_of(traceparent) & SAMPLED:
                own = self._chance.getrandbits(64)
                record.trace = Trace(traceparent, int(traceparent[36:52], 16), own, method, _path(target))
            return
        ids = "%048x" % (self._chance.getrandbits(192) | _NOT_ZERO)
        if ids[32 - _RANDOM_DIGITS : 32] >= self._below:
            record.traceparent = f"00-{ids[:32]}-{ids[32:]}-00"
            return
        record.traceparent = traceparent = f"00-{ids[:32]}-{ids[32:]}-01"
        record.trace = Trace(traceparent, 0, int(ids[32:], 16), method, _path(target))


def _path(target: bytes) -> bytes:
    return target.partition(b"?")[0]  # a query may hold a key
