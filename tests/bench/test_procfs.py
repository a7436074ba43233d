"""Reading /proc: the parsers on text, the readers on ourselves."""

import os

import pytest

from loadtests.bench import procfs
from loadtests.bench.procfs import ProcessStat

# pid (comm) state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime cutime cstime …
STAT = (
    "4242 (nginx: a) (b) S 17 4242 4241 0 -1 4194304 99 0 0 0 250 130 7 3 20 0 1 0 145914 "
    "3133440 379 18446744073709551615 0 0 0 0"
)


def process(pid: int, parent: int, ticks: int = 1) -> ProcessStat:
    return ProcessStat(pid=pid, parent=parent, session=1, alive=True, ticks=ticks)


def test_a_command_name_with_spaces_and_brackets_moves_no_field() -> None:
    assert procfs.parse_stat(STAT) == ProcessStat(
        pid=4242, parent=17, session=4241, alive=True, ticks=390, ended=10
    )


def test_a_zombie_is_not_alive() -> None:
    assert not procfs.parse_stat(STAT.replace(") S 17", ") Z 17")).alive


def test_resident_memory_is_in_mib() -> None:
    assert procfs.parse_rss_mib("Name:\tx\nVmHWM:\t  9999 kB\nVmRSS:\t   81920 kB\n") == 80


def test_a_zombie_has_no_memory() -> None:
    assert procfs.parse_rss_mib("Name:\tx\nState:\tZ (zombie)\n") == 0


def test_stolen_time_is_work_and_waiting_is_not() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 1000 500 40 50 7 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n"
    assert procfs.parse_core(text, 0) == procfs.CoreTimes(work=13, interrupts=90)


def test_a_core_that_is_not_there() -> None:
    with pytest.raises(LookupError, match="core 64"):
        procfs.parse_core("cpu  1 1 1 1 1 1 1 1\ncpu6 1 1 1 1 1 1 1 1\n", 64)


def test_a_family_has_grandchildren_and_no_strangers() -> None:
    processes = [process(5, 3), process(1, 0), process(3, 2), process(2, 1), process(9, 1)]
    assert [p.pid for p in procfs.family(2, processes)] == [2, 3, 5]


def test_a_family_without_its_head_is_empty() -> None:
    assert procfs.family(2, [process(3, 2)]) == []


def test_our_own_process_has_used_time_and_memory() -> None:
    assert os.getpid() in [p.pid for p in procfs.read_tree(os.getpid())]
    assert procfs.tree_cpu_seconds(os.getpid()) > 0
    assert procfs.tree_rss_mib(os.getpid()) > 5
    work, interrupts = procfs.core_seconds(min(os.sched_getaffinity(0)))
    assert work > 0
    assert interrupts >= 0
