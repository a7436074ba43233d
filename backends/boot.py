"""What a worker says about itself in the two fields of the worker kit.

Pure. It must never know a provider or an instance table.
"""

import math
from typing import NamedTuple

from gateway.vocab import Headers

BOOT_ID = b"x-overspill-boot-id"
BOOT_AGE = b"x-overspill-boot-age"


class Boot(NamedTuple):
    """What a worker said about itself: the id of its process and the process's age in seconds."""

    id: str
    age: float | None


def take_boot(headers: Headers) -> tuple[Headers, Boot | None]:
    """The fields without the worker kit's two, and what those two said; None if they were not there."""
    found = {name: value for name, value in headers if name in (BOOT_ID, BOOT_AGE)}
    rest = [field for field in headers if field[0] not in (BOOT_ID, BOOT_AGE)] if found else headers
    if BOOT_ID not in found:
        return rest, None
    try:
        age: float | None = float(found.get(BOOT_AGE, b""))
    except ValueError:
        age = None
    if age is not None and not 0 <= age < math.inf:
        age = None
    return rest, Boot(found[BOOT_ID].decode("latin-1"), age)
