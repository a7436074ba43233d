"""Step 1: what a client may ask of one connection. Knows nothing of sockets, nor of the file."""

from typing import NamedTuple


class ListenerLimits(NamedTuple):
    """Sizes in bytes, times in seconds. The defaults are those of the `limits` section."""

    head: int = 32 * 1024
    fields: int = 100
    target: int = 8 * 1024
    body: int = 64 * 1024 * 1024
    body_buffer: int = 256 * 1024
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    body_min_rate: int = 1024
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    connections: int = 10_000
    pipelined: int = 16
