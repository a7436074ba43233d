"""Request heads that were read before, to the byte: a client repeats itself, and need not be parsed again.

Belongs to step 1. Heads that carry an id of their own never come again and are not kept. Knows nothing of
sockets.
"""

from typing import NamedTuple

from gateway.kept_fields import KeptFields

MOST = 1024
"""Heads that a listener keeps."""


class Head(NamedTuple):
    """What a head says. `length` is that of the body; only whole, kept-alive HTTP/1.1 requests are kept."""

    method: bytes
    target: bytes
    headers: KeptFields
    length: int
