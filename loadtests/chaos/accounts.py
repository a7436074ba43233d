"""From what was sent, executed, logged and billed to the figures that a fault is judged by.

Pure. Must never know how a fault was made.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from loadtests.chaos.load import Asked

WINDOW_S = 0.5
PROMPT_S = 1.0
"""Healthy is: everything that is sent within `WINDOW_S` is answered rightly, and within `PROMPT_S`."""


class Seen(NamedTuple):
    """The figures of one fault.

    lost           requests that were taken and never answered; `unreached`: nobody took the connection
    twice          answers that nobody had asked for; `wrong`: complete answers that are not the right one
    cut            answers that broke off visibly; `refused`: error answers
    billed_twice   requests that rented backends executed more than once
    books_usd      what the provider asks for, `ledger_usd` what the gateway booked for it
    repeated       requests executed more than once anywhere; `tokens`: the retry budget over that time
    retry_usd      dollars spent by repeats, `retry_limit_usd` what the retry budget allows
    gap_s          longest time without a right answer; `healthy_s`: from healing until healthy
    left_over      slots and places in queues that are still taken at the end
    unlogged       requests without a line in the access log, less the lines it says that it lost
    logged_twice   requests with more than one line
    cpu            share of one core that the gateway used while the fault was on
    """

    calls: int
    lost: int
    unreached: int
    twice: int
    wrong: int
    cut: int
    refused: int
    billed_twice: int
    books_usd: float
    ledger_usd: float
    repeated: int
    tokens: float
    retry_usd: float
    retry_limit_usd: float
    gap_s: float
    healthy_s: float
    left_over: float
    unlogged: int
    logged_twice: int
    cpu: float


def healthy_from(asked: Sequence[Asked], since: float, now: float) -> float | None:
    """The first moment from `since` on after which everything went well for `WINDOW_S`; None: not yet."""
    start = since
    sent = 0
    for each in asked:
        if each.sent_at < since or each.sent_at < start:
            continue
        if each.sent_at - start > WINDOW_S and sent:
            return start
        if not each.ending and now - each.sent_at < PROMPT_S:
            return None  # cannot be told yet
        sent += 1
        if not each.right or each.done_at is None or each.done_at - each.sent_at > PROMPT_S:
            start, sent = each.sent_at + 1e-9, 0
    return None


def longest_gap(asked: Sequence[Asked]) -> float:
    """Seconds between two right answers in a row, at most; all of the time where there are none."""
    moments = sorted(each.done_at for each in asked if each.right and each.done_at is not None)
    if not moments:
        return asked[-1].sent_at - asked[0].sent_at if asked else 0.0
    edges = [asked[0].sent_at, *moments]
    return max(later - earlier for earlier, later in pairwise(edges))


def lines_of(path: Path, prefix: str) -> Counter[str]:
    """Access log lines by request; a line that a full disk cut off is none."""
    lines: Counter[str] = Counter()
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            name = json.loads(line)["request_id"]
        except (ValueError, KeyError, TypeError):
            continue
        if name.startswith(prefix):
            lines[name] += 1
    return lines


def count(asked: Sequence[Asked]) -> Mapping[str, int]:
    """Requests by how they ended for whoever sent them."""
    return {
        "calls": len(asked),
        "lost": sum(each.ending == "lost" for each in asked),
        "unreached": sum(each.ending == "unreached" for each in asked),
        "wrong": sum(each.wrong for each in asked),
        "cut": sum(each.ending == "cut" for each in asked),
        "refused": sum(each.ending == "answered" and not each.right and not each.wrong for each in asked),
    }


def repeated(executions: Mapping[str, int]) -> int:
    """Requests that ran more than once."""
    return sum(times > 1 for times in executions.values())
