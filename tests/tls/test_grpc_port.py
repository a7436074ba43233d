"""The gRPC port with TLS: the library's own clients, certificates that change, clients that must show theirs."""

import asyncio
from pathlib import Path

import grpc
import numpy
import pytest
from grpc import aio
from tritonclient.grpc import InferInput, service_pb2, service_pb2_grpc
from tritonclient.grpc.aio import InferenceServerClient

from gateway import tls as tls_module
from gateway.app import Gateway
from tests.support.gateways import running
from tests.support.upstream import Received, upstream
from tests.tls.authority import Authority, Pair
from tests.tls.support import section, text


def credentials(authority: Authority, shows: Pair | None = None) -> grpc.ChannelCredentials:
    pair = (None, None) if shows is None else (shows.key.read_bytes(), shows.certificate.read_bytes())
    return grpc.ssl_channel_credentials(authority.file.read_bytes(), *pair)


def address(gateway: Gateway) -> str:
    assert gateway.grpc_address is not None
    return f"localhost:{gateway.grpc_address.port}"


async def ready(target: str, trusted: grpc.ChannelCredentials) -> bool:
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with aio.secure_channel(target, trusted, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10)
        return bool(answer.live)


async def test_secure_channels_are_served_and_the_replica_hears_of_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")

    async def infer(received: Received, writer: asyncio.StreamWriter) -> None:
        output = b'{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.5]}'
        body = b'{"model_name": "m", "model_version": "1", "outputs": [%b]}' % output
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with upstream(infer) as replica, running(text(replica, section("tls", pair)), grpc=True) as gateway:
        client = InferenceServerClient(address(gateway), creds=credentials(authority), ssl=True)
        assert await client.is_server_live()
        given = InferInput("x", [1], "FP32")
        given.set_data_from_numpy(numpy.ones(1, numpy.float32))
        assert (await client.infer("m", [given])).as_numpy("y").tolist() == [2.5]
        await client.close()
        asked = [each for each in replica.received if each.line.startswith(b"POST")]
        assert asked[0].field(b"x-forwarded-proto") == [b"https"]
        with pytest.raises(aio.AioRpcError):
            await ready(address(gateway), credentials(Authority(tmp_path, "strangers")))
        with pytest.raises(aio.AioRpcError):
            async with aio.insecure_channel(address(gateway)) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                await stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)


async def test_required_asks_grpc_clients_too(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    pair = authority.issue("gateway")
    more = section("tls", pair, clients)
    async with upstream() as replica, running(text(replica, more), grpc=True) as gateway:
        assert await ready(address(gateway), credentials(authority, clients.issue("alice")))
        for stranger in (None, authority.issue("mallory")):
            with pytest.raises(aio.AioRpcError):
                await ready(address(gateway), credentials(authority, stranger))


async def test_a_new_certificate_is_shown_to_new_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(tls_module, "SETTLED_S", 0.05)
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    pair = before.issue("gateway")
    other = after.issue("other")
    async with upstream() as replica, running(text(replica, section("tls", pair)), grpc=True) as gateway:
        assert await ready(address(gateway), credentials(before))
        pair.written(other)
        assert gateway.tls.data is not None
        while not gateway.tls.data.renewals["ok"]:
            await asyncio.sleep(0.02)
        assert await ready(address(gateway), credentials(after))
        with pytest.raises(aio.AioRpcError):
            await ready(address(gateway), credentials(before))
