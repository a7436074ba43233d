"""How busy the replicas of an OpenAI-compatible fleet are: what they say, joined with the calls sent there.

Knows reports and counts; it must never know a connection, a call's content or another kind of server.
"""

from backends.base import Load
from backends.load_report import LoadReport

MISSED = 3
"""Periods in a row without a word after which what was said before is forgotten: it is of the past."""


class ReplicaReports:
    """One replica. `running`: calls of the gateway's own that are there now."""

    __slots__ = ("_silent", "running")

    def __init__(self) -> None:
        self.running = 0
        self._silent = 0

    def said(self, report: LoadReport, own: int, now: float) -> Load:
        """What a report means. `own`: the most calls of the gateway's own that it may have counted."""
        self._silent = 0
        waiting = report.waiting or 0
        # A lower bound: what was not said is taken for nothing, and nobody else's, unless it must be.
        elsewhere = max(0, waiting + (report.running or 0) - own)
        return Load(waiting, elsewhere, now, report.kv_cache)

    def silent(self) -> bool:
        """A period has passed without a word. True when it is one too many."""
        self._silent += 1
        return self._silent >= MISSED
