"""What a section says of its backend ahead of any measurement: price, idle time, expected cold start.

Asks the backend for its rent, and knows no concrete one. It must never measure anything.
"""

from typing import NamedTuple

from backends.base import Backend
from gateway.vocab import Rent


class Facts(NamedTuple):
    """One backend, before it has been asked anything.

    rent:     None for an owned backend
    idle_s:   how long an unused instance lives on, billed or not; None when nobody says so
    boot_s:   the cold start that is expected, 0.0 when nobody says so
    """

    owned: bool
    rent: Rent | None
    idle_s: float | None
    boot_s: float

    @property
    def priced(self) -> bool:
        """Whether it is known what a second costs."""
        return self.rent is not None and self.rent.usd_per_second is not None


def facts(backend: Backend, idle_s: float | None = None) -> Facts:
    """The facts of a backend. `idle_s`: what the caller knows better than the file."""
    if backend.owned:
        return Facts(owned=True, rent=None, idle_s=None, boot_s=0.0)
    rent = backend.rent
    if idle_s is None and rent is not None and rent.idle_s > 0.0:
        idle_s = rent.idle_s
    boot_s = 0.0 if rent is None else rent.boot_s
    return Facts(owned=False, rent=rent, idle_s=idle_s, boot_s=boot_s)
