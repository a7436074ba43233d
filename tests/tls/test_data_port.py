"""The HTTP port with TLS: real clients get their answers, and who is not to be served is cut off."""

import asyncio
import http.client
import logging
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import generate_latest

from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.tls.authority import Authority
from tests.tls.support import BODY, REQUEST, Client, asked, section, text

REFUSED = (OSError, asyncio.IncompleteReadError)


def metric(gateway: Gateway, sample: str) -> float:
    lines = generate_latest(gateway.admin.registry).decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{sample} "))


def failures(gateway: Gateway, reason: str) -> float:
    return metric(gateway, f'overspill_tls_handshake_failures_total{{port="data",reason="{reason}"}}')


async def until_failed(gateway: Gateway, reason: str, count: int = 1) -> None:
    for _ in range(200):
        if failures(gateway, reason) >= count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no failure is counted as {reason}")


async def test_clients_of_all_sorts_are_answered_and_the_replica_hears_of_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        port = port_of(gateway)
        context = authority.client()

        def by_http_client() -> tuple[str | None, list[int]]:
            offer = authority.client()
            offer.set_alpn_protocols(["h2", "http/1.1"])
            connection = http.client.HTTPSConnection("localhost", port, context=offer, timeout=10)
            statuses = []
            for _ in range(2):
                connection.request("POST", "/v2/models/m/infer", BODY)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            spoken = connection.sock.selected_alpn_protocol()
            connection.close()
            return spoken, statuses

        assert await asyncio.to_thread(by_http_client) == ("http/1.1", [200, 200])
        async with aiohttp.ClientSession() as session:
            url = f"https://localhost:{port}/v2/models/m/infer"
            for _ in range(3):
                async with session.post(url, data=BODY, ssl=context) as response:
                    assert (response.status, await response.read()) == (200, b"ok")
        if shutil.which("curl"):
            curl = await asyncio.create_subprocess_exec(
                "curl", "-sS", "--cacert", str(authority.file), "-d", BODY.decode(), url,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert await curl.communicate() == (b"ok", b"")
        posts = [each for each in replica.received if each.line.startswith(b"POST")]
        assert len(posts) >= 5
        assert {each.field(b"x-forwarded-proto")[0] for each in posts} == {b"https"}
        assert 89 * 86400 < metric(gateway, 'overspill_certificate_expires_seconds{port="data"}') < 90 * 86400


async def test_large_bodies_go_both_ways_unharmed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    sent = bytes(range(256)) * 4096 * 8

    async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
        body = received.body or b"ok"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with upstream(echo) as replica, running(text(replica, section("tls", pair))) as gateway:
        client = await Client.connect(port_of(gateway), authority.client())
        for _ in range(2):
            head = b"POST /invoke/everything HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(sent)
            status, body = await asyncio.wait_for(client.ask(head + sent), 30)
            assert status == 200
            assert body == sent
        await client.close()


async def test_required_lets_in_nobody_without_a_certificate_of_the_authority(tmp_path: Path) -> None:
    authority, clients, strangers = (Authority(tmp_path, name) for name in ("ours", "clients", "strangers"))
    pair = authority.issue("gateway")
    more = section("tls", pair, clients)
    async with upstream() as replica, running(text(replica, more)) as gateway:
        port = port_of(gateway)
        with pytest.raises(REFUSED):
            await asked(port, authority.client())
        with pytest.raises(REFUSED):
            await asked(port, authority.client(strangers.issue("mallory")))
        with pytest.raises(REFUSED):
            await asked(port, authority.client(clients.issue("late", days=-1)))
        assert (await asked(port, authority.client(clients.issue("alice"))))[0] == 200
        await until_failed(gateway, "client_certificate", 3)
        posts = [each for each in replica.received if each.line.startswith(b"POST")]
        assert len(posts) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_are_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        context = authority.client()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = version
        context.maximum_version = version
        with pytest.raises(REFUSED):
            await asked(port_of(gateway), context)
        await until_failed(gateway, "version")


async def test_min_version_1_3_refuses_1_2(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    more = section("tls", pair, more=', min_version: "1.3"')
    async with upstream() as replica, running(text(replica, more)) as gateway:
        older = authority.client()
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(REFUSED):
            await asked(port_of(gateway), older)
        assert (await asked(port_of(gateway), authority.client()))[0] == 200


async def test_a_handshake_that_does_not_come_is_cut_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    more = section("tls", pair) + "limits: {head_timeout: 300ms}\n"
    async with upstream() as replica, running(text(replica, more)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        writer.write(b"\x16\x03\x01")  # the beginning of a handshake
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await until_failed(gateway, "timeout")
        client = await Client.connect(port_of(gateway), authority.client())
        client.writer.write(b"GET / HT")
        assert (await asyncio.wait_for(client.reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
        await client.close()


async def test_plain_http_is_closed_and_leaves_no_trace_but_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    caplog.set_level(logging.DEBUG)
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        for junk in (REQUEST, b"\x00" * 64, b"SSH-2.0-x\r\n" * 9):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
            writer.write(junk)
            answer = b""
            with suppress(OSError):
                answer = await asyncio.wait_for(reader.read(), 5)
            assert not answer.startswith(b"HTTP/")
            writer.close()
        await until_failed(gateway, "not_tls", 2)
        assert (await asked(port_of(gateway), authority.client()))[0] == 200
    assert "Traceback" not in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    secret = pair.key.read_text().splitlines()[1]
    assert secret not in caplog.text


async def test_connections_that_shake_hands_count_among_the_most(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    more = section("tls", pair) + "limits: {connections: 4, head_timeout: 2s}\n"
    async with upstream() as replica, running(text(replica, more)) as gateway:
        silent = [await asyncio.open_connection("127.0.0.1", port_of(gateway)) for _ in range(4)]
        with pytest.raises(REFUSED):
            await asked(port_of(gateway), authority.client())
        await until_failed(gateway, "full")
        for _, writer in silent:
            writer.close()
        await until_failed(gateway, "left", 4)
        assert (await asked(port_of(gateway), authority.client()))[0] == 200


async def test_closing_waits_neither_for_handshakes_nor_for_idle_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("gateway")
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        idle = await Client.connect(port_of(gateway), authority.client())
        assert (await idle.ask())[0] == 200
        async with asyncio.timeout(5):
            await gateway.listener.drain(30.0)
            assert await idle.reader.read() == b""
            assert await reader.read() == b""
        writer.close()
        await idle.close()
