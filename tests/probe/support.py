"""A measurement of an in-memory backend on virtual time."""

from random import Random
from typing import Any

from backends.base import Backend, Kit
from backends.loopback import Loopback, LoopbackRented
from gateway.probe.facts import facts
from gateway.probe.measure import Measurement, Wanted
from gateway.probe.purse import Purse, Rates
from gateway.probe.request import Template
from tests.support.provider import Background
from tests.support.virtual_time import LoopClock

REQUEST = Template(protocol="raw", route="all", model="", path="/", body=b"{}")
PRICE = 0.001


def backend(kind: type[Backend] = LoopbackRented, **options: Any) -> Backend:
    if issubclass(kind, LoopbackRented):
        rented = {"boot": "4s", "idle_after": "10s", "price": {"usd_per_second": PRICE}}
        options = {"type": "loopback_rented", **rented, **options}
    else:
        assert issubclass(kind, Loopback)
        options = {"type": "loopback", **options}
    section = {"max_in_flight": 8, "latency": "200ms", **options}
    kit = Kit(LoopClock(), Random(3), Background().spawn)
    return kind("burst", kind.Options.model_validate(section), kit)


def measurement(of: Backend, *, cap: float = 100.0, idle: float | None = None, **wanted: Any) -> Measurement:
    known = facts(of, idle)
    asked: dict[str, Any] = {"calls": 20, "colds": 3, "most": 1, "timeout_s": 60.0, **wanted}
    return Measurement(
        of,
        facts=known,
        purse=Purse(None if of.owned else Rates.of(known.rent), cap),
        wanted=Wanted(**asked),
        clock=of.kit.clock,
        tell=lambda _: None,
    )
