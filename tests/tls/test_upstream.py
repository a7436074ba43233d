"""TLS towards backends: whom the gateway believes, what it shows, and what comes of a certificate that expired."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from grpc import aio, ssl_server_credentials, unary_unary_rpc_method_handler
from tritonclient.grpc import service_pb2, service_pb2_grpc

from backends.client import HttpClient
from backends.upstream_tls import ClientTls, UpstreamTls
from gateway.app import Gateway
from gateway.errors import BackendDown, ConfigError
from gateway.options import SecretRef
from gateway.vocab import Work
from tests.support.gateways import port_of, running
from tests.support.wire import Peer
from tests.tls.authority import Authority, Pair
from tests.tls.support import REQUEST, text


@asynccontextmanager
async def replica(shows: Pair, clients: Authority | None = None) -> AsyncIterator[SimpleNamespace]:
    """An https server that answers every request with 200, and notes who asked."""
    state = SimpleNamespace(url="", asked=[], context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    state.context.load_cert_chain(shows.certificate, shows.key)
    if clients is not None:
        state.context.load_verify_locations(clients.file)
        state.context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.split(b"\r\n"):
                    if line.startswith(b"content-length: "):
                        await reader.readexactly(int(line.split()[1]))
                state.asked.append((head.split()[0], writer.get_extra_info("peercert")))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=state.context)
    state.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    yield state
    server.close()


async def infer(gateway: Gateway) -> tuple[int, bytes]:
    peer = await Peer.connect(port_of(gateway))
    peer.send(REQUEST)
    status, _, body = await peer.answer()
    return status, body


async def test_a_private_authority_and_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    own = clients.issue("overspill")
    tls = f", tls: {{ca_file: {authority.file}, certificate: {own.certificate}, key: {{file: {own.key}}}}}"
    async with replica(authority.issue("replica"), clients) as server:
        async with running(text(server.url, backend=tls)) as gateway:
            for _ in range(3):
                assert await infer(gateway) == (200, b"ok")
            posts = [peer for method, peer in server.asked if method == b"POST"]
            assert [dict(each[0] for each in peer["subject"])["commonName"] for peer in posts] == 3 * [
                "overspill"
            ]
        async with running(text(server.url, backend=f", tls: {{ca_file: {authority.file}}}")) as gateway:
            assert (await infer(gateway))[0] in {502, 503}, "it shows nothing, so it is refused"


@pytest.mark.parametrize(
    ("name", "days", "tls"),
    [
        ("localhost", -1, "ca_file: {ca}"),
        ("elsewhere.example", 90, "ca_file: {ca}"),
        ("localhost", 90, "ca_file: {other}"),
        ("localhost", 90, ""),
    ],
)
async def test_a_replica_that_cannot_be_believed_is_down_and_hears_nothing(
    tmp_path: Path, name: str, days: float, tls: str
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    more = tls.format(ca=authority.file, other=other.file)
    shows = authority.issue("replica", days=days, host=name)
    async with replica(shows) as server:
        url = server.url if name == "localhost" else server.url.replace("localhost", "127.0.0.1")
        async with running(text(url, backend=f", tls: {{{more}}}")) as gateway:
            while gateway.capacities["fleet"].ready(0) is not False:
                await asyncio.sleep(0.02)
            status, body = await infer(gateway)
            assert status in {502, 503}
            assert b"BEGIN" not in body
            assert server.asked == []


async def test_the_breaker_opens_for_an_expired_certificate_and_closes_for_a_new_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    expired, renewed = authority.issue("expired", days=-1), authority.issue("renewed")
    tls = f", tls: {{ca_file: {authority.file}}}"
    # Nobody probes, so that it is the calls from which it is seen.
    file = text("URL", backend=tls).replace("probe_every: 100ms", "probe_every: 1h")
    async with replica(renewed) as server, running(file.replace("URL", server.url)) as gateway:
        assert await infer(gateway) == (200, b"ok")
        server.context.load_cert_chain(expired.certificate, expired.key)
        for connections in gateway.backends["fleet"]._replicas:  # type: ignore[attr-defined]
            connections.close()
        for _ in range(20):
            assert (await infer(gateway))[0] in {502, 503}
            if gateway.capacities["fleet"].breaker_state(0) == "open":
                break
        assert gateway.capacities["fleet"].breaker_state(0) == "open"
        posts = [method for method, _ in server.asked if method == b"POST"]
        assert len(posts) == 1
        server.context.load_cert_chain(renewed.certificate, renewed.key)
        async with asyncio.timeout(60):
            while (await infer(gateway))[0] != 200:
                await asyncio.sleep(0.1)


async def test_nothing_is_verified_only_where_the_file_says_so(tmp_path: Path) -> None:
    shows = Authority(tmp_path).issue("replica", days=-1, host="elsewhere.example")
    async with replica(shows) as server:
        async with running(text(server.url, backend=", tls: {insecure_skip_verify: true}")) as gateway:
            assert await infer(gateway) == (200, b"ok")


async def test_the_client_of_rented_backends_tells_why_and_that_nothing_was_sent(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    clients = {
        "its certificate is refused: certificate has expired": UpstreamTls(ca_file=authority.file),
        "its certificate is refused: unable to get local issuer certificate": None,
    }
    async with replica(authority.issue("provider", days=-1)) as server:
        for words, options in clients.items():
            client = HttpClient("burst", max_in_flight=1, tls=ClientTls("burst", options))
            with pytest.raises(BackendDown, match=words) as raised:
                await client.exchange("POST", server.url, headers=[], body=b"x")
            assert raised.value.work is Work.NOT_STARTED
            await client.close()
        assert server.asked == []
    async with replica(authority.issue("provider")) as server:
        client = HttpClient(
            "burst", max_in_flight=1, tls=ClientTls("burst", UpstreamTls(ca_file=authority.file))
        )
        for _ in range(2):
            assert (await client.exchange("POST", server.url, headers=[], body=b"x")).status == 200
        assert len(server.asked) == 2
        await client.close()


def test_files_are_read_again_when_they_change_and_wrong_ones_are_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    own, next_own = authority.issue("own"), authority.issue("next")
    options = UpstreamTls(ca_file=authority.file, certificate=own.certificate, key=SecretRef(file=own.key))
    tls = ClientTls("fleet", options)
    first = tls.context()
    assert tls.context() is first
    own.written(next_own)
    second = tls.context()
    assert second is not first
    own.key.write_bytes(other.issue("x").key.read_bytes())
    assert tls.context() is second
    assert "fleet: its certificates stay as they were: key values mismatch" in caplog.text
    own.key.unlink()
    assert tls.context() is second
    with pytest.raises(ConfigError, match="fleet: TLS cannot be used"):
        ClientTls("fleet", options).open()


@pytest.mark.parametrize("trusted", [True, False])
async def test_grpc_ports_of_replicas_speak_tls_where_the_file_says_so(tmp_path: Path, trusted: bool) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair = authority.issue("replica")

    async def answer(_: bytes, __: object) -> bytes:
        return bytes(service_pb2.ModelInferResponse(model_name="m").SerializeToString())

    class Methods:
        def service(self, _: object) -> object:
            return unary_unary_rpc_method_handler(answer)

    server = aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    files = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
    port = server.add_secure_port("localhost:0", ssl_server_credentials(files))
    await server.start()
    ca = authority if trusted else other
    async with replica(pair) as http:
        more = f", tls: {{ca_file: {ca.file}}}, grpc: {{replicas: ['localhost:{port}'], tls: true}}"
        file = text(http.url, backend=more).replace("probe_every: 100ms", "probe_every: 1h")
        async with running(file, grpc=True) as gateway:
            assert gateway.grpc_address is not None
            async with aio.insecure_channel(str(gateway.grpc_address)) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                asking = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="m"), timeout=10)
                if trusted:
                    assert (await asking).model_name == "m"
                else:
                    with pytest.raises(aio.AioRpcError):
                        await asking
            # Before the gateway goes: who closes a TLS connection waits for the other side, and this loop
            # ends with the gateway.
            await server.stop(None)
