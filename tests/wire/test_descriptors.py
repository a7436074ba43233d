"""A process that may open no more files: its replicas are not blamed for connections that it cannot make."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends.client import HttpClient
from backends.replica_connections import ReplicaConnections
from gateway.breaker import STREAK
from gateway.clock import SystemClock
from gateway.errors import BackendDown, NoDescriptor
from gateway.vocab import Verdict
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream
from tests.tls.support import Client, text


@contextmanager
def none_left() -> Iterator[None]:
    """No file more may be opened; those that are open stay, and what is closed makes no room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_connection_to_a_replica_that_cannot_be_tried_says_nothing_of_it() -> None:
    async with upstream() as replica:
        connections = ReplicaConnections(replica.url, clock=SystemClock(), connect_timeout=2.0, keep_idle=1.0)
        with none_left(), pytest.raises(NoDescriptor, match="can be tried") as raised:
            await connections.connect()
        assert raised.value.verdict is Verdict.NEUTRAL
        (await connections.connect()).close()
    refused = ReplicaConnections(replica.url, clock=SystemClock(), connect_timeout=2.0, keep_idle=1.0)
    with pytest.raises(BackendDown) as down:
        await refused.connect()
    assert down.value.verdict is Verdict.FAILURE


async def test_the_client_of_rented_backends_tells_the_same() -> None:
    async with upstream() as replica:
        client = HttpClient("burst", max_in_flight=1)
        with none_left(), pytest.raises(NoDescriptor, match="burst: no connection to 127"):
            await client.exchange("GET", replica.url, headers=[])
        assert (await client.exchange("GET", replica.url, headers=[])).status == 200
        await client.close()


async def test_no_breaker_opens_and_no_replica_is_unready_for_want_of_descriptors() -> None:
    async with upstream() as replica, running(text(replica)) as gateway:
        fleet, capacity = gateway.backends["fleet"], gateway.capacities["fleet"]
        client = Client(*await asyncio.open_connection("127.0.0.1", port_of(gateway)))
        assert (await client.ask())[0] == 200
        with none_left():
            for connections in fleet._replicas:  # type: ignore[attr-defined]
                connections.close()
            for _ in range(3 * STREAK):
                assert (await client.ask())[0] in {502, 503}
            assert await fleet.probe(0) is None
        assert capacity.breaker_state(0) == "closed"
        assert capacity.replicas[0].ready is not False
        assert (await client.ask())[0] == 200
        await client.close()
