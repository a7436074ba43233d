"""The admin port with TLS of its own, in one process and in front of several workers."""

import asyncio
import http.client
import signal
from pathlib import Path

import pytest

from tests.support.gateways import port_of, running
from tests.support.upstream import upstream
from tests.tls.authority import Authority
from tests.tls.support import Client, asked, section, text
from tests.workers_serving.live import Served, serving


async def get(
    port: int, authority: Authority, path: str = "/metrics", method: str = "GET"
) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPSConnection("localhost", port, context=authority.client(), timeout=20)
        connection.request(method, path)
        response = connection.getresponse()
        said = response.status, response.read().decode()
        connection.close()
        return said

    return await asyncio.to_thread(ask)


async def test_its_certificate_is_not_that_of_the_data_port(tmp_path: Path) -> None:
    data, admin = Authority(tmp_path, "data"), Authority(tmp_path, "admin")
    more = section("tls", data.issue("d")) + section("admin_tls", admin.issue("a"))
    async with upstream() as replica, running(text(replica, more)) as gateway:
        assert gateway.admin_address is not None
        port = gateway.admin_address.port
        status, metrics = await get(port, admin)
        assert status == 200
        assert 'overspill_certificate_expires_seconds{port="admin"}' in metrics
        assert (await get(port, admin, "/readyz"))[0] == 200
        with pytest.raises(OSError):
            await get(port, data)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        _, metrics = await get(port, admin)
        assert 'overspill_tls_handshake_failures_total{port="admin",reason="not_tls"} 1.0' in metrics
        assert (await asked(port_of(gateway), data.client()))[0] == 200
        key = (tmp_path / "a.key").read_text().splitlines()[1]
        assert key not in (await get(port, admin, "/admin/config"))[1]


async def test_without_it_metrics_say_nothing_of_certificates() -> None:
    async with upstream() as replica, running(text(replica)) as gateway:
        assert gateway.admin_address is not None
        reader, writer = await asyncio.open_connection(*gateway.admin_address)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"certificate" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def shown_everywhere(served: Served, port: int, authority: Authority, name: str) -> None:
    """Until a good many connections in a row, which the workers share, are shown this certificate."""
    in_a_row = 0
    for _ in range(400):
        client = await Client.connect(port, authority.client())
        in_a_row = in_a_row + 1 if client.shown == name else 0
        assert (await client.ask())[0] == 200
        await client.close()
        if in_a_row == 24:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(served.log)


async def test_several_workers_and_their_admin_port_change_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, own = authority.issue("first"), authority.issue("admin")
    second = authority.issue("second")
    more = section("tls", pair) + section("admin_tls", own)
    async with upstream() as replica, serving(tmp_path, replica, more=more) as served:
        found = await served.until(r"serving on https://127.0.0.1:(\d+), admin on https://127.0.0.1:(\d+)")
        port, admin = int(found[1]), int(found[2])
        await shown_everywhere(served, port, authority, "first")
        pair.written(second)
        served.process.send_signal(signal.SIGHUP)
        await shown_everywhere(served, port, authority, "second")
        _, metrics = await get(admin, authority)
        lines = metrics.splitlines()
        assert lines.count("# TYPE overspill_certificate_expires_seconds gauge") == 1
        for name in ("data", "admin"):
            assert any(
                each.startswith(f'overspill_certificate_expires_seconds{{port="{name}"}} ') for each in lines
            )
        assert 'overspill_certificate_renewals_total{port="data",result="ok"} 2.0' in lines
        own.written(authority.issue("another"))
        status, told = await get(admin, authority, "/admin/reload", "POST")
        assert (status, "unchanged" in told) == (200, True)
        client = await Client.connect(admin, authority.client())
        assert client.shown == "another"
        await client.close()
        assert await served.stop() == 0
        for file in tmp_path.glob("*.key"):
            assert file.read_text().splitlines()[1] not in served.log
        assert "Traceback" not in served.log
