"""A whole gateway in this process, built from a configuration as a user would write it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from gateway.app import Gateway, registries
from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.recorder import Recorder
from tests.support.wire import Peer


@asynccontextmanager
async def running(
    text: str, *, recorder: Recorder | None = None, grpc: bool = False
) -> AsyncIterator[Gateway]:
    """`text` is the file less its `listen` section, which is set to ports of the system's choice."""
    more = ", grpc: '127.0.0.1:0'" if grpc else ""
    file = f"version: 1\nlisten: {{http: '127.0.0.1:0', admin: '127.0.0.1:0'{more}}}\n{text}"
    settings = load(file, *registries()).settings
    gateway = Gateway(settings, clock=SystemClock(), chance=Random(7), recorder=recorder)
    await gateway.open()
    try:
        yield gateway
    finally:
        await Peer.close_all()
        await gateway.close()
        assert gateway.ledger.open_records == 0
        assert not len(gateway.background)
        assert all(capacity.in_flight == 0 for capacity in gateway.capacities.values())


def port_of(gateway: Gateway) -> int:
    assert gateway.http_address is not None
    return gateway.http_address.port
