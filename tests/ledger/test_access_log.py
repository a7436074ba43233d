import asyncio
import json
import os
import resource
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.access_log import BACKLOG_BYTES, FLUSH_BYTES, FLUSH_SECONDS, AccessLog, Line
from gateway.clock import FakeClock
from gateway.errors import Contended
from gateway.ledger import Ledger
from gateway.vocab import Outcome, Usage
from tests.ledger.support import T0, answered, ledger, opened
from tests.support.virtual_time import LoopClock

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines_of(data: bytes) -> list[Line]:
    """Strictly one object per line with every field of the schema."""
    assert data == b"" or data.endswith(b"\n")
    return [msgspec.json.decode(line, type=Line, strict=True) for line in data.split(b"\n")[:-1]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            assert end == reader  # a test may have hung up as the reader


def wordy(book: Ledger, count: int) -> None:
    for number in range(count):
        record = opened(book)
        record.model = f"{number:06d}" + "m" * 200
        book.close(record, T0)


def test_a_line_says_what_happened(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock(now=T0, wall=1_800_000_000.25))
    book = ledger(log=log)
    record = opened(book, T0, held_from=T0 + 0.04)
    record.traceparent = TRACE
    record.outcome, record.status, record.bytes_in, record.bytes_out = Outcome.OK, 200, 10, 20
    record.queued_s, record.upstream_s, record.first_byte_at = 0.04, 0.05, T0 + 0.095
    book.close(record, T0 + 0.1)
    log.close()
    line = json.loads(path.read_text())
    assert list(line) == list(Line.__struct_fields__)
    usd = line.pop("usd")
    assert usd == pytest.approx(0.06 * 0.00025)
    for name, milliseconds in {"queued_ms": 40, "upstream_ms": 50, "ttfb_ms": 95, "duration_ms": 100}.items():
        assert line.pop(name) == pytest.approx(milliseconds, abs=0.0011)
    assert line == {
        "ts": "2027-01-15T08:00:00.250Z", "request_id": "req-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "protocol": "kserve", "operation": "infer", "model": "minilm", "route": "embed", "backend": "fleet",
        "replica": "fleet-0", "reason": "warm", "start": None, "outcome": "ok", "status": 200, "attempts": 1,
        "bytes_in": 10, "bytes_out": 20, "error": None, "hedged": None,
        "caller": None, "tenant": None,
    }  # fmt: skip


def test_what_is_not_known_is_null(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock())
    book = ledger(log=log)
    record = book.open("req-2", "", T0)
    record.route = "never configured"
    record.fail(Contended("full"))
    book.close(record, T0)
    log.close()
    line = json.loads(path.read_text())
    unknown = {name for name, value in line.items() if value is None}
    assert unknown == {
        "trace_id", "protocol", "operation", "model", "route", "backend", "replica", "start", "ttfb_ms", "usd",
        "hedged", "caller", "tenant",
    }  # fmt: skip
    assert (line["status"], line["error"], line["reason"]) == (429, "contended", "shed_full")


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), max_size=300), st.text(max_size=300), st.text(max_size=60)
)
@example("half \ud800 a pair", "infer\udfff", "")
@example('"quoted",\n{"model":"forged"}\u2028', "\x00", TRACE)
def test_no_name_breaks_a_line(model: str, operation: str, trace: str) -> None:
    reader, writer = os.pipe()
    try:
        log = AccessLog(writer, clock=FakeClock())
        book = ledger(log=log)
        record = opened(book)
        record.model, record.operation, record.traceparent = model, operation, trace
        book.close(record, T0)
        answered(book)
        log.close()
        data = os.read(reader, 65536)
    finally:
        os.close(reader)
        os.close(writer)
    first, second = lines_of(data)
    kept = model[:256].encode("utf-8", "replace").decode()
    assert first.model == (kept or None)
    assert second.model == "minilm"
    assert all(len(line) < 4096 for line in data.split(b"\n"))
    assert log.lost == 0


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=2e9), st.floats(min_value=0, max_value=1e5))
def test_time_stamps_are_the_arrival(wall: float, ago: float) -> None:
    reader, writer = os.pipe()
    try:
        log = AccessLog(writer, clock=FakeClock(now=T0 + ago, wall=wall + ago))
        book = ledger(log=log)
        answered(book, T0)
        log.close()
        (line,) = lines_of(os.read(reader, 65536))
    finally:
        os.close(reader)
        os.close(writer)
    assert line.ts.endswith("Z")
    assert datetime.fromisoformat(line.ts).timestamp() == pytest.approx(wall, abs=0.0011)


@pytest.mark.virtual_time
async def test_lines_are_written_within_half_a_second(path: Path) -> None:
    log = AccessLog(path, clock=LoopClock())
    book = ledger(log=log)
    answered(book)
    await asyncio.sleep(FLUSH_SECONDS - 0.01)
    answered(book)
    assert path.read_bytes() == b""
    await asyncio.sleep(0.02)
    assert len(lines_of(path.read_bytes())) == 2
    await asyncio.sleep(60)
    answered(book)
    await asyncio.sleep(FLUSH_SECONDS + 0.01)
    assert len(lines_of(path.read_bytes())) == 3
    log.close()


class Asked(LoopClock):
    """Counts how often the wall clock is read, which each flush does."""

    times = 0

    def wall(self) -> float:
        self.times += 1
        return super().wall()


@pytest.mark.virtual_time
async def test_an_idle_log_wakes_nobody(path: Path) -> None:
    clock = Asked()
    log = AccessLog(path, clock=clock)
    book = ledger(log=log)
    answered(book)
    answered(book)
    await asyncio.sleep(FLUSH_SECONDS + 0.01)
    flushed = clock.times
    await asyncio.sleep(60)
    assert clock.times == flushed
    log.close()


def test_lines_are_written_when_there_are_many(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock())
    book = ledger(log=log)
    wordy(book, 50)
    assert path.read_bytes() == b""
    wordy(book, 300)
    size = path.stat().st_size
    assert size >= FLUSH_BYTES
    log.close()
    lines = lines_of(path.read_bytes())
    assert len(lines) == 350
    assert log.lost == 0


def test_a_sample_keeps_its_share_and_every_failure(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock(), share=0.25, chance=Random(5))
    book = ledger(log=log)
    for _ in range(1000):
        answered(book)
    for _ in range(10):
        record = opened(book)
        record.fail(Contended("full"))
        book.close(record, T0)
    log.close()
    lines = lines_of(path.read_bytes())
    assert sum(line.outcome == "shed" for line in lines) == 10
    assert sum(line.outcome == "ok" for line in lines) == pytest.approx(250, abs=50)
    with pytest.raises(ValueError, match="Random"):
        AccessLog(path, clock=FakeClock(), share=0.5)


def test_after_a_rotation_lines_go_to_the_new_file(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock())
    book = ledger(log=log)
    answered(book)
    moved = path.rename(path.with_suffix(".1"))
    answered(book)
    log.reopen()
    answered(book, backend="burst", usage=Usage(usd=0.5))
    log.close()
    assert len(lines_of(moved.read_bytes())) == 2
    assert [line.usd for line in lines_of(path.read_bytes())] == [0.5]


def test_a_rotation_that_fails_keeps_the_old_file(path: Path) -> None:
    folder = path.parent / "logs"
    folder.mkdir()
    log = AccessLog(folder / "access.log", clock=FakeClock())
    book = ledger(log=log)
    moved = folder.rename(path.parent / "moved")
    log.reopen()
    answered(book)
    log.close()
    assert len(lines_of((moved / "access.log").read_bytes())) == 1
    assert log.lost == 0


def test_a_file_that_cannot_be_opened_is_told_at_once(path: Path) -> None:
    with pytest.raises(OSError):
        AccessLog(path / "missing" / "access.log", clock=FakeClock())


def test_a_full_disk_costs_lines_and_no_request() -> None:
    log = AccessLog(Path("/dev/full"), clock=FakeClock())
    book = ledger(log=log)
    for _ in range(3):
        answered(book)
    log.flush()
    answered(book)
    log.close()
    assert log.lost == 4
    assert book.closed == 4


def test_a_line_cut_by_a_full_disk_spoils_no_other(path: Path) -> None:
    log = AccessLog(path, clock=FakeClock())
    book = ledger(log=log)
    answered(book)
    log.flush()
    one = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    answered(book)
    answered(book)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (one + one // 2, hard))
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == one + one // 2
    assert log.lost == 2
    answered(book)
    log.close()
    first, torn, last, end = path.read_bytes().split(b"\n")
    assert len(lines_of(first + b"\n" + last + b"\n")) == 2
    assert len(torn) == one // 2
    assert end == b""


def test_a_reader_that_hung_up_costs_lines_and_no_request(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    log = AccessLog(writer, clock=FakeClock())
    book = ledger(log=log)
    answered(book)
    log.close()
    assert log.lost == 1
    os.fstat(writer)  # a descriptor that was handed in stays open


def test_a_reader_that_does_not_read_never_blocks_and_gets_every_line_later(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = AccessLog(writer, clock=FakeClock())
    book = ledger(log=log)
    wordy(book, 1000)  # far more than a pipe holds
    log.flush()
    data = b""
    while len(lines_of(data[: data.rfind(b"\n") + 1])) < 1000:
        data += os.read(reader, 1 << 20)
        log.flush()
    log.close()
    assert [line.model[:6] for line in lines_of(data) if line.model] == [f"{n:06d}" for n in range(1000)]
    assert log.lost == 0


def test_what_a_stuck_reader_costs_is_bounded_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = AccessLog(writer, clock=FakeClock())
    book = ledger(log=log)
    wordy(book, 6000)
    log.flush()
    lost = log.lost
    assert lost > 0
    data = b""
    while True:
        try:
            data += os.read(reader, 1 << 20)
        except BlockingIOError:
            break
        log.flush()
    kept = lines_of(data)
    assert BACKLOG_BYTES * 0.9 < len(data) < BACKLOG_BYTES + 2 * FLUSH_BYTES + 65536
    assert len(kept) + lost == 6000
    log.close()
    assert log.lost == lost
