"""Names that lead to a machine's metadata service, at the moment at which a connection is made."""

import socket
from collections.abc import Sequence
from random import Random

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from backends.base import Kit
from backends.client import HttpClient
from backends.discovery import DnsDiscovery
from backends.egress import Guarded, allowed, forbidden, literal
from backends.membership import Membership
from backends.replica_connections import ReplicaConnections
from gateway.auth.fetch import NotFetched, fetch
from gateway.clock import SystemClock
from gateway.errors import BackendDenied, BackendDown
from tests.support.provider import Received, Wire, providing

FORBIDDEN = [
    "169.254.169.254", "169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "febf::1", "100.100.100.200",
    "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    "::ffff:100.100.100.200", "::ffff:0:a9fe:a9fe", "fd00:ec2::254", "168.63.129.16", "192.0.0.192",
]  # fmt: skip
FINE = [
    "127.0.0.1",
    "::1",
    "10.0.0.1",
    "192.168.1.1",
    "fd00::1",
    "100.64.0.1",
    "8.8.8.8",
    "2001:db8::1",
    "a.example",
]
NUMBERS = ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"]


class Rebinding(AbstractResolver):
    """Answers with one address after the other, and with the last one from then on."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)
        self.asked: list[str] = []

    def next(self) -> str:
        return self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=self.next(), port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return [self.next()]

    async def close(self) -> None: ...


async def fine(_: Received, wire: Wire) -> None:
    await wire.answer(200, b"{}", {"connection": "close"})


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_no_name_may_stand_for(address: str) -> None:
    assert forbidden(address)
    with pytest.raises(OSError, match="name x leads to a link-local or metadata address"):
        allowed("x", [address])
    assert allowed("x", [address, "10.0.0.1"]) == ["10.0.0.1"]


@pytest.mark.parametrize("address", FINE)
def test_private_and_public_addresses_are_fine(address: str) -> None:
    assert not forbidden(address)
    assert allowed("x", [address]) == [address]


@pytest.mark.parametrize("host", NUMBERS)
def test_numbers_in_other_spellings_are_names_and_so_are_looked_up(host: str) -> None:
    assert literal(host) is None


async def test_a_name_that_is_bound_anew_leads_to_no_metadata_service() -> None:
    resolver = Rebinding("127.0.0.1", "169.254.169.254")
    async with providing(fine) as provider:
        client = HttpClient("burst", max_in_flight=1, resolver=lambda: resolver)
        url = provider.url.replace("127.0.0.1", "burst.example")
        assert (await client.exchange("GET", url, headers=[])).status == 200
        await client.close()
        with pytest.raises(BackendDown, match="link-local or metadata"):
            await client.exchange("GET", url, headers=[])
        await client.close()
        assert resolver.asked == ["burst.example", "burst.example"]
        assert len(provider.seen) == 1


@pytest.mark.parametrize("host", NUMBERS)
async def test_a_number_that_the_system_would_read_as_an_address_is_judged_or_refused(host: str) -> None:
    client = HttpClient("burst", max_in_flight=1, resolver=lambda: Rebinding("169.254.169.254"))
    with pytest.raises((BackendDown, BackendDenied), match=r"link-local or metadata|cannot be used"):
        await client.exchange("GET", f"http://{host}/", headers=[])
    await client.close()


async def test_a_metadata_service_that_the_file_says_to_ask_is_asked() -> None:
    guarded = Guarded(Rebinding("169.254.169.254"), names=["metadata.example"])
    assert [each["host"] for each in await guarded.resolve("metadata.example")] == ["169.254.169.254"]
    with pytest.raises(OSError, match="link-local or metadata"):
        await guarded.resolve("other.example")


async def test_a_replica_s_name_is_judged_at_each_connection() -> None:
    names = Rebinding("127.0.0.1", "169.254.169.254")
    async with providing(fine) as provider:
        connections = ReplicaConnections(
            provider.url.replace("127.0.0.1", "replica.example"), clock=SystemClock(), connect_timeout=1.0,
            keep_idle=1.0, lookup=names.lookup,
        )  # fmt: skip
        (await connections.connect()).close()
        with pytest.raises(BackendDown, match="link-local or metadata"):
            await connections.connect()
        assert names.asked == ["replica.example", "replica.example"]


async def test_a_replica_s_further_addresses_are_tried() -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with providing(fine) as provider:
        url = provider.url.replace("127.0.0.1", "replica.example")
        connections = ReplicaConnections(
            url, clock=SystemClock(), connect_timeout=1.0, keep_idle=1.0, lookup=lookup
        )
        (await connections.connect()).close()


async def test_discovery_takes_no_replica_at_a_metadata_service() -> None:
    came: list[str] = []
    membership = Membership(
        "fleet", DnsDiscovery("fleet.example", 80, every=1.0, chance=Random(1)),
        kit=Kit(clock=SystemClock(), chance=Random(1), spawn=lambda *_, **__: None),
        arrive=lambda _, address: came.append(address), leave=lambda _: None,
    )  # fmt: skip
    membership.found(["169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.169.254]:80", "10.0.0.7:80"])
    assert came == ["10.0.0.7:80"]
    membership.found(["169.254.169.254:80"])
    assert membership.report(0.0)["replicas"] == 1
    assert "link-local" in membership.report(0.0)["trouble"]


async def test_the_keys_of_an_issuer_come_from_no_metadata_service() -> None:
    async with providing(fine) as provider:
        url = provider.url.replace("127.0.0.1", "login.example")
        assert await fetch(url, resolver=lambda: Rebinding("127.0.0.1")) == b"{}"
        with pytest.raises(NotFetched, match="could not be asked"):
            await fetch(url, resolver=lambda: Rebinding("169.254.169.254"))


def test_the_library_asks_no_resolver_for_addresses() -> None:
    """What makes an address of the file itself one that is connected to."""
    assert aiohttp.helpers.is_ip_address("169.254.169.254")
