"""Two independent HTTP clients, the gateway, and two independent servers: do all agree where a message ends?

h11 and the standard library's client on one side, h11 and aiohttp on the other. Requests and answers are
drawn at random, valid, in every framing; what arrives must be what was sent, in number, order and bytes.
"""

import asyncio
import hashlib
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import h11
import pytest
from aiohttp import web

from tests.attacks.test_others import FILE
from tests.support.gateways import port_of, running
from tests.support.wire import Peer

SIZES = (0, 1, 2, 15, 255, 4096, 70_000, 300_000)


def answer_to(body: bytes) -> bytes:
    """What both servers say: it names the request's bytes, and has a size of its own."""
    digest = hashlib.sha256(body).hexdigest().encode()
    return digest * (1 + digest[0] % 5 * (200 if digest[1] % 2 else 1))


async def _h11(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            body = b""
            while (event := connection.next_event()) is not h11.PAUSED and not isinstance(
                event, h11.EndOfMessage
            ):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.ConnectionClosed):
                    return
            said = answer_to(body)
            chunked = len(body) % 2 == 1
            fields = [("transfer-encoding", "chunked")] if chunked else [("content-length", str(len(said)))]
            out = connection.send(h11.Response(status_code=200, headers=fields)) or b""
            for start in range(0, len(said), 1 + len(said) // 3):
                out += connection.send(h11.Data(data=said[start : start + 1 + len(said) // 3])) or b""
            writer.write(out + (connection.send(h11.EndOfMessage()) or b""))
            connection.start_next_cycle()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.transport.abort()


@asynccontextmanager
async def h11_server() -> AsyncIterator[str]:
    server = await asyncio.start_server(_h11, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if len(body) % 2 == 0:
            return web.Response(body=answer_to(body))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(answer_to(body))
        return response

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def by_h11(port: int, bodies: list[bytes], chance: Random) -> list[bytes]:
    """All requests are pipelined; each is framed one way or the other."""
    writing, out = h11.Connection(h11.CLIENT), b""
    for body in bodies:
        chunked = chance.random() < 0.5
        fields = [
            ("Host", "x"),
            ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body))),
        ]
        writing = h11.Connection(h11.CLIENT)
        out += writing.send(h11.Request(method="POST", target="/invoke/r/x", headers=fields)) or b""
        step = 1 + chance.randrange(1 + len(body))
        for start in range(0, len(body), step):
            out += writing.send(h11.Data(data=body[start : start + step])) or b""
        out += writing.send(h11.EndOfMessage()) or b""
    peer = await Peer.connect(port)
    peer.send(out)
    told, rest = [], b""
    for _ in bodies:
        reading = h11.Connection(h11.CLIENT)
        reading.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        reading.send(h11.EndOfMessage())
        reading.receive_data(rest) if rest else None
        said = b""
        while not isinstance(event := reading.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                reading.receive_data(await asyncio.wait_for(peer.reader.read(65536), 10))
            elif isinstance(event, h11.Data):
                said += bytes(event.data)
        rest = reading.trailing_data[0]
        told.append(said)
    assert rest == b"", "there is more than was asked for"
    return told


def by_http_client(port: int, bodies: list[bytes], chance: Random) -> list[bytes]:
    """One request after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    told = []
    try:
        for body in bodies:
            if chance.random() < 0.5:
                connection.request("POST", "/invoke/r/x", body=body)
            else:
                pieces = iter([body[:7], body[7:]] if body else [])
                connection.request("POST", "/invoke/r/x", body=(each for each in pieces if each), encode_chunked=True,
                                   headers={"Transfer-Encoding": "chunked"})  # fmt: skip
            told.append(connection.getresponse().read())
    finally:
        connection.close()
    return told


@pytest.mark.parametrize("server", [h11_server, aiohttp_server])
@pytest.mark.parametrize("seed", range(3))
async def test_clients_and_servers_agree_on_every_boundary(server: object, seed: int) -> None:
    chance = Random(seed)
    bodies = [chance.randbytes(chance.choice(SIZES) + chance.randrange(3)) for _ in range(25)]
    async with server() as url, running(FILE.format(url=url)) as gateway:  # type: ignore[operator]
        port = port_of(gateway)
        expected = [answer_to(body) for body in bodies]
        assert await by_h11(port, bodies, chance) == expected
        assert await asyncio.to_thread(by_http_client, port, bodies, chance) == expected
