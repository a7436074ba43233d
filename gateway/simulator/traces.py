"""Reads recorded arrivals into arrays. It knows file formats and nothing of policies, prices or clocks.

A file is plain or gzip text; its first line says what it is:

    t_s, SIZES…                       seconds from the start, and any columns of numbers
    TIMESTAMP,ContextTokens,…         Azure LLM inference 2023 and 2024
    Timestamp,Model,Request tokens,…  BurstGPT; rows without an answer (0 response tokens) are left out
    app,func,end_timestamp,duration   Azure Functions 2021
    HashOwner,HashApp,…,1,2,…,1440    Azure Functions 2019: calls per minute, all functions together
    second,count or minute,count      that many arrivals, spread evenly over the second or minute

One object per line:

    {"timestamp":…,"input_length":…}  Mooncake, whose milliseconds are rounded to 3 s: spread over them
    {"ts":…,"duration_ms":…}          the gateway's own access log

Where a table has only whole seconds, 3 s or minutes, and at least two rows per stamp, arrivals are spread
likewise: real requests do not come in volleys.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

RENAMED: Final = {
    "tokens_in": "input_tokens",
    "tokens_out": "output_tokens",
    "input_length": "input_tokens",
    "output_length": "output_tokens",
    "ContextTokens": "input_tokens",
    "GeneratedTokens": "output_tokens",
    "Request tokens": "input_tokens",
    "Response tokens": "output_tokens",
}
"""What the columns of published traces are called here."""

_MOONCAKE_STEP = 3.0
_COARSE_STEPS = (60.0, 3.0, 1.0)
_COARSE_ROWS = 100
_JITTER = 0.005
_MOST_ARRIVALS = 50_000_000


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals in seconds, ascending, the first at 0; per request, the sizes that the file tells.

    name:   of the file, without its endings
    sizes:  column name to one number per request, in the order of the arrivals
    """

    name: str
    arrivals: array[float]
    sizes: dict[str, array[float]]

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def span(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.arrivals[-1]


def load(path: Path, *, spread_seed: int = 0) -> Trace:
    """The trace in a file, its format told by the first line.

    spread_seed:  places arrivals of which the file tells only the second, the minute, or less

    Raises ValueError, with file and line, for what cannot be read, and OSError.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    name = path.name.split(".")[0]
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if zipped
        else path.open(encoding="utf-8-sig", newline="") as lines
    ):
        try:
            return _read(path, name, lines, Random(spread_seed))  # noqa: S311 - a seed, no secret
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from None


def from_rows(name: str, arrivals: array[float], sizes: dict[str, array[float]]) -> Trace:
    """Sort by arrival, keeping ties in their order, and let the first arrive at 0. ValueError if empty."""
    if not arrivals:
        raise ValueError(f"{name}: a trace without arrivals")
    order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
    first = arrivals[order[0]]
    return Trace(
        name,
        array("d", (arrivals[row] - first for row in order)),
        {column: array("d", (values[row] for row in order)) for column, values in sizes.items()},
    )


def thin(trace: Trace, share: float, *, seed: int) -> Trace:
    """Keep each request with probability `share`: the rate falls, the bursts stay bursts.

    Raises ValueError for a share outside 0 to 1, and when nothing is left.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1")
    chance = Random(seed)  # noqa: S311
    kept = [row for row in range(len(trace)) if chance.random() < share]
    return from_rows(
        trace.name,
        array("d", (trace.arrivals[row] for row in kept)),
        {column: array("d", (values[row] for row in kept)) for column, values in trace.sizes.items()},
    )


class _Format(Protocol):
    """A reader of rows: `add` takes one, `arrivals` and `sizes` are what has come together."""

    arrivals: array[float]
    sizes: dict[str, array[float]]

    def add(self, row: Any) -> None:
        """Raises ValueError, KeyError or TypeError for a row that makes no sense."""


class _Table:
    """A CSV with a time column and columns of numbers.

    columns: those to keep; None keeps each that has a number in the first row
    moment:  the text of the time column to seconds
    skip:    is this row to be left out?
    lead:    column that is taken off the time (an end and a duration make an arrival)
    """

    def __init__(
        self,
        header: Sequence[str],
        time: str,
        *,
        columns: Iterable[str] | None = None,
        moment: Callable[[str], float] = float,
        skip: Callable[[dict[str, float]], bool] = lambda sizes: False,
        lead: str = "",
    ) -> None:
        self.arrivals = array("d")
        others = [name for name in header if name != time] if columns is None else columns
        named = {name: RENAMED.get(name, name) for name in others}
        self.sizes: dict[str, array[float]] = {column: array("d") for column in named.values()}
        self._width = len(header)
        self._time = header.index(time)
        self._places = [(header.index(name), column) for name, column in named.items()]
        self._moment, self._skip, self._lead = moment, skip, lead
        self._unsure = columns is None

    def add(self, row: Sequence[str]) -> None:
        _check_width(row, self._width)
        if self._unsure:
            self._drop_words(row)
        sizes = {column: _number(row[place]) for place, column in self._places}
        if self._skip(sizes):
            return
        moment = self._moment(row[self._time]) - (sizes[self._lead] if self._lead else 0.0)
        self.arrivals.append(_finite(moment))
        for column, value in sizes.items():
            self.sizes[column].append(value)

    def _drop_words(self, row: Sequence[str]) -> None:
        self._unsure = False
        self._places = [(place, column) for place, column in self._places if _is_number(row[place])]
        self.sizes = {column: self.sizes[column] for _, column in self._places}


class _Counts:
    """Counts per bin of time: that many arrivals, uniform inside the bin.

    time:   column with the number of the bin, "" where the header of a count is that number
    width:  of a bin in seconds
    """

    def __init__(
        self, header: Sequence[str], time: str, counts: Sequence[str], *, width: float, chance: Random
    ) -> None:
        self.arrivals = array("d")
        self.sizes: dict[str, array[float]] = {}
        self._header = header
        self._time = header.index(time) if time else None
        self._counts = [header.index(name) for name in counts]
        self._width, self._chance = width, chance

    def add(self, row: Sequence[str]) -> None:
        _check_width(row, len(self._header))
        for place in self._counts:
            count = _number(row[place])
            if count < 0 or count != int(count):
                raise ValueError(f"a count of {row[place]}")
            if len(self.arrivals) + count > _MOST_ARRIVALS:
                raise ValueError(f"more than {_MOST_ARRIVALS:,} arrivals")
            start = _number(self._header[place] if self._time is None else row[self._time])
            self.arrivals.extend((start + self._chance.random()) * self._width for _ in range(int(count)))


class _Mooncake:
    """One object per line. Stamps are multiples of 3 s give or take a millisecond."""

    def __init__(self, chance: Random) -> None:
        self.arrivals = array("d")
        self.sizes = {"input_tokens": array("d"), "output_tokens": array("d")}
        self._chance = chance

    def add(self, row: str) -> None:
        told = _object(row)
        sizes = _number(told["input_length"]), _number(told["output_length"])
        stamp = _number(told["timestamp"]) / 1e3
        self.arrivals.append(stamp + self._chance.random() * _MOONCAKE_STEP)
        for column, value in zip(self.sizes.values(), sizes, strict=True):
            column.append(value)


class _AccessLog:
    """Lines of `gateway.access_log`. Calls that never got to a route are left out."""

    def __init__(self) -> None:
        self.arrivals = array("d")
        self.sizes = {
            column: array("d")
            for column in ("duration", "queued", "upstream", "bytes_in", "bytes_out")
        }  # fmt: skip

    def add(self, row: str) -> None:
        told = _object(row)
        moment = _iso(told["ts"])
        if told["route"] is None:
            return
        sizes = [_number(told[f"{word}_ms"]) / 1e3 for word in ("duration", "queued", "upstream")]
        sizes += [_number(told["bytes_in"]), _number(told["bytes_out"])]
        self.arrivals.append(moment)
        for column, value in zip(self.sizes.values(), sizes, strict=True):
            column.append(value)


def _read(path: Path, name: str, lines: Iterable[str], chance: Random) -> Trace:
    stream = iter(lines)
    first = next(stream, "")
    if not first.strip():
        raise ValueError(f"{path}: the file is empty, or its first line is")
    numbered: Iterable[tuple[int, Any]]
    if first.lstrip().startswith("{"):
        numbered = ((at, text) for at, text in enumerate(chain([first], stream), 1) if text.strip())
        reader = _of_object(path, first, chance)
    else:
        header = [word.strip() for word in next(csv.reader([first]))]
        rows = csv.reader(stream)
        numbered = ((rows.line_num + 1, row) for row in rows if row)
        reader = _of_header(path, header, chance)
    line = 1
    try:
        for line, row in numbered:  # noqa: B007 - the line is for the message
            reader.add(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {line + 1}: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path}, line {line}: {error} is missing") from None
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}, line {line}: {error}") from None
    if not reader.arrivals:
        raise ValueError(f"{path}: a trace without arrivals")
    arrivals = _spread(reader.arrivals, chance) if isinstance(reader, _Table) else reader.arrivals
    return from_rows(name, arrivals, reader.sizes)


def _spread(arrivals: array[float], chance: Random) -> array[float]:
    """Arrivals that share few coarse stamps, each placed at random before the next stamp could be."""
    if len(arrivals) < _COARSE_ROWS or len(set(arrivals)) > len(arrivals) / 2:
        return arrivals
    first = min(arrivals)
    for step in _COARSE_STEPS:
        if all(abs(at - first - step * round((at - first) / step)) <= _JITTER for at in arrivals):
            return array("d", (at + chance.random() * step for at in arrivals))
    return arrivals


def _of_header(path: Path, header: list[str], chance: Random) -> _Format:
    words = set(header)
    if len(words) < len(header):
        raise ValueError(f"{path}, line 1: two columns have the same name")
    if {"t_s", "rate_rps"} <= words:
        raise ValueError(f"{path}: a table of rates; a trace has one row per request, or counts")
    for time, width in (("second", 1.0), ("minute", 60.0)):
        for count in ("count", "requests", "invocations"):
            if {time, count} <= words:
                return _Counts(header, time, [count], width=width, chance=chance)
    if {"HashFunction", "1", "1440"} <= words:
        minutes = [word for word in header if word.isdecimal()]
        return _Counts(header, "", minutes, width=60.0, chance=chance)
    if "t_s" in words:
        return _Table(header, "t_s")
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= words:
        columns = ["ContextTokens", "GeneratedTokens"]
        return _Table(header, "TIMESTAMP", columns=columns, moment=_iso)
    if {"Timestamp", "Request tokens", "Response tokens"} <= words:
        columns = ["Request tokens", "Response tokens"]
        return _Table(header, "Timestamp", columns=columns, skip=lambda sizes: not sizes["output_tokens"])
    if {"end_timestamp", "duration"} <= words:
        return _Table(header, "end_timestamp", columns=["duration"], lead="duration")
    raise ValueError(
        f"{path}, line 1: no known trace has the columns {', '.join(header[:8])}; "
        "the plain form is t_s (seconds), then any columns of numbers"
    )


def _of_object(path: Path, first: str, chance: Random) -> _Format:
    try:
        words = set(_object(first))
    except ValueError as error:
        raise ValueError(f"{path}, line 1: {error}") from None
    if {"timestamp", "input_length", "output_length"} <= words:
        return _Mooncake(chance)
    if {"ts", "duration_ms", "route"} <= words:
        return _AccessLog()
    raise ValueError(
        f"{path}, line 1: neither a line of the access log nor one with timestamp, input_length "
        "and output_length"
    )


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not a JSON object") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _check_width(row: Sequence[str], width: int) -> None:
    if len(row) != width:
        raise ValueError(f"{len(row)} columns where the header has {width}")


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a number")
    try:
        return _finite(float(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a finite number") from None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def _iso(text: str) -> float:
    """RFC 3339 or the same with a space; 7 decimals as in the Azure traces; UTC unless it says otherwise."""
    head, dot, tail = text.strip().partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    fraction = float(f"0.{tail[:digits]}") if dot and digits else 0.0
    moment = datetime.fromisoformat(head + (tail[digits:] if dot else ""))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() + fraction
