"""Open files are never all for clients."""

import resource
import subprocess
import sys

import pytest

from gateway.descriptors import most_clients


def test_a_large_limit_changes_nothing() -> None:
    assert most_clients(10_000, files=65_536) == 10_000
    assert most_clients(10_000, files=resource.RLIM_INFINITY) == 10_000


@pytest.mark.parametrize(("files", "most"), [(1024, 768), (256, 192), (128, 64), (64, 32), (2, 1), (1, 1)])
def test_a_part_of_a_small_limit_is_kept_for_backends(files: int, most: int) -> None:
    assert most_clients(10_000, files=files) == most


def test_who_wants_few_gets_them() -> None:
    assert most_clients(10, files=1024) == 10


def test_the_soft_limit_is_raised_and_what_is_still_too_low_is_said() -> None:
    program = "from gateway import descriptors; descriptors.raise_limit(10_000); print(descriptors.limit())"
    shell = 'ulimit -S -n 200 && ulimit -H -n 300 && exec "$@"'
    ended = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "300"
    assert (
        "limits.connections is 10000, but this process may open 300 files: at most 225 clients"
        in ended.stderr
    )
