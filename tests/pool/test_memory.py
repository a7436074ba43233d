"""What was learned outlives the process; a file that cannot be read or written costs a line in the log."""

import asyncio
import logging
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.clock import FakeClock
from gateway.estimates import Estimates, Expectation
from gateway.memory import Memory
from tests.support.virtual_time import LoopClock

NOW = 1_000.0
PRIOR = Expectation()


class Options(NamedTuple):
    path: str
    every: float = 60.0


def taught(seconds: float = 4.0, calls: int = 200) -> Estimates:
    estimates = Estimates()
    pair = estimates.of("chat", "fleet", PRIOR)
    for number in range(calls):
        pair.learn_service(0, seconds, NOW + number)
    estimates.refresh()
    return estimates


def memory(estimates: Estimates, path: Path, now: float = NOW) -> Memory:
    return Memory(estimates, Options(str(path)), FakeClock(now))


def mean(estimates: Estimates) -> float:
    return estimates.of("chat", "fleet", PRIOR).service.mean


def test_the_next_process_knows_what_this_one_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "made" / "on" / "demand.json"
    memory(taught(), path, NOW + 200).save()
    after = Estimates()
    memory(after, path, 5.0).load()
    assert mean(Estimates()) == pytest.approx(PRIOR.service.mean)
    assert mean(after) == pytest.approx(4.0, rel=0.05)
    assert caplog.records == []


def test_the_first_start_has_no_file_and_nothing_to_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    estimates = Estimates()
    memory(estimates, tmp_path / "none.json").load()
    assert mean(estimates) == pytest.approx(PRIOR.service.mean)
    assert caplog.records == []


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "something else"}', None])
def test_a_damaged_file_is_told_in_the_log_and_changes_nothing(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "estimates.json"
    memory(taught(), path).save()
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    estimates = taught(2.0)
    before = mean(estimates)
    with caplog.at_level(logging.WARNING, "overspill.memory"):
        memory(estimates, path).load()
    assert mean(estimates) == before
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()


def test_a_damaged_file_is_replaced_by_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    path.write_text("{")
    memory(taught(), path).save()
    after = Estimates()
    memory(after, path).load()
    assert mean(after) == pytest.approx(4.0, rel=0.05)


def test_a_place_that_cannot_be_written_is_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "estimates.json"
    with caplog.at_level(logging.WARNING, "overspill.memory"):
        memory(taught(), path).save()
        memory(taught(), path).load()
    assert len(caplog.records) == 2
    assert all(str(path) in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
async def test_it_is_written_again_and_again_with_the_last_samples_too(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    estimates = Estimates()
    clock = LoopClock()
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(Memory(estimates, Options(str(path), 20.0), clock).run())
        await asyncio.sleep(19)
        assert not path.exists()
        await asyncio.sleep(2)
        assert path.exists()
        pair = estimates.of("chat", "fleet", PRIOR)
        for _ in range(200):
            pair.learn_service(0, 4.0, clock.now())
        await asyncio.sleep(20)
        after = Estimates()
        Memory(after, Options(str(path)), clock).load()
        assert mean(after) == pytest.approx(4.0, rel=0.05)
        work.cancel()
