"""How busy one Triton replica is, from its own metrics and from the calls that this gateway has there.

What other clients of the replica have there follows in two ways, each a lower bound, and the larger counts:

    pending - own calls in flight                     more waits there than this gateway has there
    (their busy time - own busy time) / interval      Little's law: the mean number of others' calls

Both busy times count a call when it ends, with all of its time, so a call of the gateway's own is in both; it
ends a little later here than there, so the smaller of two intervals in a row is taken.

Pure: text and times in, figures out. Must never know a connection, a slot or another replica.

Wire facts, from Triton's metrics documentation and seen on 2.51: one line per model and version (and GPU);
`nv_inference_pending_request_count` is a gauge, not kept for ensembles; `nv_inference_request_duration_us` is
a counter of requests that succeeded, queue included.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from backends.base import Load

MISSED = 3
"""Polls in a row without an answer after which the figures are forgotten: they are of the past."""

_LINE = re.compile(
    rb"^nv_inference_(pending_request_count|request_duration_us)\{(.*)\} ([-+.0-9eE]+)", re.MULTILINE
)
_MODEL = re.compile(rb'(?:^|,)\s*model="((?:[^"\\]|\\.)*)"')


class ModelFigures(NamedTuple):
    """What the metrics say of one model, over its versions.

    pending:  requests that wait
    busy_s:   seconds that all requests which have succeeded took, since the server began
    """

    pending: float = 0.0
    busy_s: float = 0.0


def read_metrics(text: bytes) -> dict[str, ModelFigures]:
    """The figures of each model. Whatever else the text says, or cannot say properly, is passed over."""
    models: dict[str, ModelFigures] = {}
    for kind, labels, number in _LINE.findall(text):
        named = _MODEL.search(labels)
        try:
            value = float(number)
        except ValueError:
            continue
        if named is None or not 0.0 <= value < 1e15:
            continue
        name = named[1].decode("utf-8", "replace")
        before = models.get(name, ModelFigures())
        if kind == b"pending_request_count":
            models[name] = before._replace(pending=before.pending + value)
        else:
            models[name] = before._replace(busy_s=before.busy_s + value / 1e6)
    return models


class ReplicaLoad:
    """The calls that this gateway has on one replica, and what it makes of the replica's metrics.

    running:   calls of the gateway's own that are there now
    kv_cache:  share of the key-value cache in use, as an answer said last
    """

    __slots__ = ("_before", "_missed", "_own_s", "_polled_at", "_surplus", "kv_cache", "running")

    def __init__(self) -> None:
        self.running = 0
        self.kv_cache: float | None = None
        self._own_s = 0.0  # seconds of own calls that have ended
        self._polled_at: float | None = None
        self._before: tuple[Mapping[str, ModelFigures], float] = ({}, 0.0)
        self._surplus = 0.0
        self._missed = 0

    def began(self) -> None:
        """An own call was sent."""
        self.running += 1

    def ended(self, seconds: float) -> None:
        """It is over, however it ended."""
        self.running -= 1
        self._own_s += seconds

    def polled(self, figures: Mapping[str, ModelFigures], models: Collection[str], now: float) -> Load:
        """The replica has answered. `models`: those whose calls count; none: all of them."""
        counted = {name: each for name, each in figures.items() if not models or name in models}
        pending = round(sum(each.pending for each in counted.values()))
        surplus = self._others(counted, now)
        steady, self._surplus = min(surplus, self._surplus), surplus
        self._before, self._polled_at, self._missed = (counted, self._own_s), now, 0
        # A mean of 2.9 is three calls for most of the time.
        elsewhere = max(0, pending - self.running, int(steady + 0.25))
        return Load(pending, elsewhere, now, self.kv_cache)

    def missed(self) -> bool:
        """The replica has not answered. True when what it said before is worth nothing any more."""
        self._missed += 1
        if self._missed < MISSED:
            return False
        self._polled_at, self._surplus = None, 0.0
        return True

    def _others(self, counted: Mapping[str, ModelFigures], now: float) -> float:
        """Mean number of other clients' calls since the poll before; 0 where that cannot be told."""
        before, own_before = self._before
        if self._polled_at is None or now <= self._polled_at:
            return 0.0
        theirs = 0.0
        for name, each in counted.items():
            known = before.get(name)
            if known is not None:  # a model seen for the first time has all of its past in the counter
                theirs += max(0.0, each.busy_s - known.busy_s)  # below it: the server began anew
        return max(0.0, theirs - (self._own_s - own_before)) / (now - self._polled_at)
