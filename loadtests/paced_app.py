"""An app for the emulators that takes as long as it is told: the header `x-service-s` says how many seconds.

Stands for a model whose service times are known, so that a simulation can be given the very same ones. Knows
no gateway.
"""

import time
from collections.abc import Mapping

HEADER = "x-service-s"
LONGEST_S = 3600.0


def app(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """An app of the worker kit. Without the header it answers at once."""
    fields = {name.lower(): value for name, value in dict(headers).items()}
    seconds = float(fields.get(HEADER, "0"))
    if not 0.0 <= seconds <= LONGEST_S:
        return 400, [("content-type", "text/plain")], b"x-service-s is not from 0 to 3600"
    time.sleep(seconds)
    return 200, [("content-type", "application/json")], b"{}"
