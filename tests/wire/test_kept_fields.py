"""A head that is known is never answered, nor sent on, otherwise than one that is parsed."""

import asyncio

import pytest

from gateway.kept_fields import MOST, KeptFields
from tests.support.gateways import port_of, running
from tests.support.upstream import Upstream, upstream
from tests.support.wire import Peer
from tests.wire.test_gateway import infer, one_tier

OF_EACH_CALL = (b"x-request-id", b"traceparent", b"server-timing", b"x-overspill-cost-usd")


def less(head: bytes) -> list[bytes]:
    """The lines of a head but for those that differ from call to call."""
    return [line for line in head.split(b"\r\n") if line.partition(b":")[0].lower() not in OF_EACH_CALL]


async def rounds(replica: Upstream, *peers: Peer, request: bytes, times: int = 4) -> list[list[bytes]]:
    """What the replica was sent; each peer asks in turn."""
    del replica.received[:]
    for _ in range(times):
        for peer in peers:
            peer.send(request)
            assert (await peer.answer())[0] == 200
    return [less(each.head) for each in replica.received]


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Accept: */*\r\nX-A: 1\r\nX-A: 2\r\n",
        b"X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-For: 10.0.0.1\r\n",
        b"X-Forwarded-Proto: https\r\n",
        b"Connection: x-a\r\nX-A: 1\r\nX-B: 2\r\n",
        b"Connection: x-forwarded-for, x-forwarded-proto\r\nX-Forwarded-For: 10.0.0.9\r\n",
        b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n",
        b"X-Overspill-Deadline-Ms: 60000\r\n",
        b"X-Overspill-Priority: best_effort\r\n",
        b"Authorization: Bearer x\r\nAccept-Encoding: gzip\r\n",
    ],
)
async def test_what_the_replica_is_sent_is_the_same_each_time(fields: bytes) -> None:
    async with upstream() as replica, running(one_tier(replica.url)) as gateway:
        first, *others = await rounds(replica, await Peer.connect(port_of(gateway)), request=infer(fields))
        assert b"x-forwarded-proto: " + (b"https" if b"Proto: https" in fields else b"http") in first
        assert any(line.endswith(b"127.0.0.1") for line in first if line.startswith(b"x-forwarded-for: "))
        assert others == [first] * 3
        assert len({each.field(b"x-request-id")[0] for each in replica.received}) == 4
        assert len({each.field(b"traceparent")[0] for each in replica.received}) == 4


async def test_each_client_stands_for_itself_though_all_have_one_head() -> None:
    async with upstream() as replica, running(one_tier(replica.url)) as gateway:
        port = port_of(gateway)
        peers = []
        for place in range(1, 4):
            streams = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{place}", 0))
            peers.append(Peer(*streams))
            Peer.connected.append(peers[-1])
        heads = await rounds(replica, *peers, request=infer(), times=3)
        assert len(gateway.listener.heads) == 1
        told = [line for head in heads for line in head if line.startswith(b"x-forwarded-for")]
        assert told == [b"x-forwarded-for: 127.0.0.%d" % place for place in (1, 2, 3)] * 3


async def test_what_the_client_is_answered_is_the_same_each_time() -> None:
    async with upstream() as replica, running(one_tier(replica.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        heads = []
        for _ in range(4):
            peer.send(infer())
            heads.append(less(await peer.head()))
            await peer.exactly(2)
        assert heads == [heads[0]] * 4
        assert b"content-type: text/plain" in heads[0]


async def test_one_head_on_two_replicas_names_each_by_its_own_address() -> None:
    async with upstream() as first, upstream() as second:
        config = one_tier(first.url).replace(f'"{first.url}"', f'"{first.url}/a", "{second.url}/b"')
        async with running(config) as gateway:
            peer = await Peer.connect(port_of(gateway))
            for _ in range(40):
                peer.send(infer())
                assert (await peer.answer())[0] == 200
            for replica, base in ((first, b"/a"), (second, b"/b")):
                calls = [each for each in replica.received if each.line.startswith(b"POST")]
                assert len(calls) > 1
                assert {each.line for each in calls} == {b"POST %b/v2/models/twice/infer HTTP/1.1" % base}
                assert {each.field(b"host")[0] for each in calls} == {b"127.0.0.1:%d" % replica.port}


def test_what_is_kept_with_fields_is_bounded() -> None:
    fields = KeptFields([(b"a", b"1")])
    for number in range(10 * MOST):
        fields.keep(number, number)
        assert fields.known[number] == number
        assert len(fields.known) <= MOST
    assert fields == [(b"a", b"1")]
