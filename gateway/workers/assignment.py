"""A configuration and what it shares, in the form in which it is told to every worker. Knows nothing."""

from msgspec import Struct

CURRENT = "current"
"""File in the directory of the sockets: what a worker that is started again runs by."""


class Assignment(Struct, frozen=True):
    """A configuration and what it shares, as it is told to every worker.

    text:      the configuration
    rows:      (backend, replica index, row of its slots)
    accounts:  place of each budget's account, and `limits` what it allows
    """

    text: str
    rows: list[tuple[str, int, int]]
    accounts: dict[str, int]
    limits: dict[str, tuple[float | None, float | None, float | None]]
