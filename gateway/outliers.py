"""Which replica stands out from its siblings: it works, but much slower, or it fails much more often.

What fails by itself is the breaker's part; here one is held against the others, so that what is slow or
broken for all of them is nobody's fault. Whom it finds is left out for a while, and never so many that
the others could not carry the load.

Looked at when a probe has answered, not for each call. Pure: time is an argument. Knows no backend.
"""

from collections.abc import Sequence
from statistics import median

from gateway.replica import ReplicaState

SAMPLES = 20
"""Fewer answers say nothing about one replica."""
TIMES_SLOWER = 3.0
"""Slower than the median of the others by this factor, and"""
SLOWER_S = 0.05
"""by so many seconds: what nobody would notice is no reason."""
FAILED_SHARE = 0.1
"""Share of failed attempts in the breaker's window, and"""
TIMES_WORSE = 5.0
"""the factor by which that is above the share of all others together."""
LOOKS = 3
"""Times in a row that it must be found so."""
MOST_OUT = 0.5
"""Share of the replicas that may be missing, for whatever reason, with this one: beyond it nobody is left
out, for then it is not one replica that is wrong (Envoy's panic threshold, 50 %)."""


def stands_out(replica: ReplicaState, among: Sequence[ReplicaState], now: float) -> bool:
    """Judge one replica, which has just been found ready. True when it was left out now."""
    if not replica.breaker.closed or replica.retired:
        return False
    others = [
        each
        for each in among
        if each is not replica and each.breaker.closed and each.ready is not False and not each.retired
    ]
    if not others:
        return False
    slow, failing = _slow(replica, others, now), _failing(replica, others, now)
    if slow is False and failing is False:
        replica.breaker.fits_in()
    if not slow and not failing:
        replica.looks = 0
        return False
    replica.looks += 1
    present = sum(not each.retired for each in among)
    room = sum(each.room for each in others)
    if replica.looks < LOOKS or len(others) < (1.0 - MOST_OUT) * present or room < replica.in_flight:
        return False
    replica.looks = 0
    replica.forget()
    replica.breaker.eject(now)
    return True


def _slow(replica: ReplicaState, others: Sequence[ReplicaState], now: float) -> bool | None:
    """None: too little is known."""
    own = replica.known_latency(SAMPLES, now)
    known = [each for other in others if (each := other.known_latency(SAMPLES, now)) is not None]
    if own is None or 2 * len(known) < len(others):
        return None
    usual = median(known)
    return own > TIMES_SLOWER * usual and own > usual + SLOWER_S


def _failing(replica: ReplicaState, others: Sequence[ReplicaState], now: float) -> bool | None:
    """None: too little is known."""
    attempts, failures = replica.breaker.totals(now)
    counts = [other.breaker.totals(now) for other in others]
    all_attempts, all_failures = sum(count[0] for count in counts), sum(count[1] for count in counts)
    if attempts < SAMPLES or all_attempts < SAMPLES:
        return None
    share = failures / attempts
    return share >= FAILED_SHARE and share > TIMES_WORSE * all_failures / all_attempts
