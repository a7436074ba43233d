"""What a section says of its backend ahead of any measurement: price, idle time, expected cold start.

Reads the keys that backends share, and so knows no concrete backend. It must never measure anything.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from backends.base import Backend, BackendOptions
from gateway.pricing import BYTES_PER_GB
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
    options = backend.options
    if backend.owned:
        return Facts(owned=True, rent=None, idle_s=None, boot_s=0.0)
    rent = backend.rent if isinstance(backend.rent, Rent) else _declared(options)
    if idle_s is None:
        idle_s = _part(options, "cold_start", "idle_after", getattr(options, "idle_after", None))
    if idle_s is None and rent.idle_s > 0:
        idle_s = rent.idle_s
    boot_s = rent.boot_s or _part(options, "cold_start", "expect", getattr(options, "boot", None)) or 0.0
    return Facts(owned=False, rent=rent, idle_s=idle_s, boot_s=boot_s)


def _declared(options: BackendOptions) -> Rent:
    """The rent in the words of the file, for a backend that does not tell it itself.

    Idling counts as billed: too much is set aside rather than too little.
    """
    usd = _part(options, "price", "usd_per_second")
    per_gb, memory = _part(options, "price", "usd_per_gb_second"), getattr(options, "memory", None)
    if usd is None and per_gb is not None and memory is not None:
        usd = per_gb * memory / BYTES_PER_GB
    idle_s = _part(options, "cold_start", "idle_after", getattr(options, "idle_after", None)) or 0.0
    return Rent(usd, _part(options, "price", "usd_per_request") or 0.0, idle_s, 0.0, round_up_s=1.0)


def _part(options: BackendOptions, section: str, key: str, default: Any = None) -> float | None:
    value: Any = getattr(options, section, None)
    found = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    found = default if found is None else found
    return None if found is None else float(found)
