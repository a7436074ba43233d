"""Certificates change while calls go on: no call is lost, and a wrong file changes nothing."""

import asyncio
from pathlib import Path

import pytest

from gateway import tls as tls_module
from gateway.app import Gateway
from tests.reloading.support import running as running_from_file
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream
from tests.tls.authority import Authority
from tests.tls.support import Client, asked, section, text
from tests.tls.test_data_port import metric


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(tls_module, "SETTLED_S", 0.05)


async def until_shown(port: int, authority: Authority, name: str) -> None:
    for _ in range(200):
        client = await Client.connect(port, authority.client())
        shown = client.shown
        await client.close()
        if shown == name:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} is never shown")


async def until_rejected(gateway: Gateway, count: int) -> None:
    name = 'overspill_certificate_renewals_total{port="data",result="rejected"}'
    while metric(gateway, name) < count:
        await asyncio.sleep(0.02)


async def test_under_load_certificates_change_and_no_call_is_lost(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, second, third = (authority.issue(name) for name in ("first", "second", "third"))
    statuses: list[int] = []
    shown: set[str] = set()
    enough = asyncio.Event()
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        port = port_of(gateway)

        async def lasting() -> None:
            client = await Client.connect(port, authority.client())
            while not enough.is_set():
                statuses.append((await client.ask())[0])
            await client.close()

        async def coming_and_going() -> None:
            while not enough.is_set():
                client = await Client.connect(port, authority.client())
                shown.add(client.shown)
                statuses.append((await client.ask())[0])
                await client.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(lasting())
                group.create_task(coming_and_going())
            for other in (second, third):
                pair.written(other)
                await until_shown(port, authority, other.certificate.stem)
            while not {"first", "second", "third"} <= shown:
                await asyncio.sleep(0.02)
            enough.set()
        assert set(statuses) == {200}
        assert len(statuses) > 20
        assert metric(gateway, 'overspill_certificate_renewals_total{port="data",result="ok"}') == 2


async def test_files_that_do_not_fit_leave_the_last_good_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    pair, second = authority.issue("first"), authority.issue("second")
    async with upstream() as replica, running(text(replica, section("tls", pair))) as gateway:
        port = port_of(gateway)
        pair.certificate.write_bytes(second.certificate.read_bytes())
        name = 'overspill_certificate_last_renewal_successful{port="data"}'
        await until_rejected(gateway, 1)
        assert metric(gateway, name) == 0
        await until_shown(port, authority, "first")
        assert f"{pair.key} is not the key of {pair.certificate}" in caplog.text
        pair.key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
        await until_rejected(gateway, 2)
        await until_shown(port, authority, "first")
        assert "c2VjcmV0" not in caplog.text
        pair.key.unlink()
        await until_rejected(gateway, 3)
        await until_shown(port, authority, "first")
        assert (await asked(port, authority.client()))[0] == 200
        pair.key.write_bytes(second.key.read_bytes())
        await until_shown(port, authority, "second")
        assert metric(gateway, name) == 1
        assert not gateway.draining


async def test_another_authority_for_clients_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    authority, before, after = (Authority(tmp_path, name) for name in ("ours", "before", "after"))
    pair = authority.issue("gateway")
    old, new = authority.client(before.issue("old")), authority.client(after.issue("new"))
    more = section("tls", pair, before)
    async with upstream() as replica, running(text(replica, more)) as gateway:
        port = port_of(gateway)
        assert (await asked(port, old))[0] == 200
        lasting = await Client.connect(port, old)
        before.file.write_bytes(after.file.read_bytes())
        while not metric(gateway, 'overspill_certificate_renewals_total{port="data",result="ok"}'):
            await asyncio.sleep(0.02)
        assert (await asked(port, new))[0] == 200
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asked(port, old)
        assert (await lasting.ask())[0] == 200
        await lasting.close()


async def test_a_reload_by_hand_reads_them_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY_S", 1e6)
    authority = Authority(tmp_path)
    pair, second = authority.issue("first"), authority.issue("second")
    listen = "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}\n"
    async with upstream() as replica:
        file = f"version: 1\n{listen}{text(replica, section('tls', pair))}"
        async with running_from_file(tmp_path, file) as run:
            pair.written(second)
            status, told = await run.ask("POST", "/admin/reload")
            assert (status, told["result"]) == (200, "unchanged")
            client = await Client.connect(run.http, authority.client())
            assert client.shown == "second"
            await client.close()
            pair.key.write_bytes(authority.issue("third").key.read_bytes())
            status, told = await run.ask("POST", "/admin/reload")
            assert status == 422
            assert "is not the key of" in str(told)
            assert (await asked(run.http, authority.client()))[0] == 200
            status, told = await run.reload(file.replace("tls: {", "admin_tls: {"))
            assert status == 422


async def test_an_expired_certificate_is_not_shown_and_keeps_nothing_else_from_changing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY_S", 1e6)
    authority = Authority(tmp_path)
    pair, expired = authority.issue("first"), authority.issue("late", days=-1)
    listen = "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}\n"
    async with upstream() as replica:
        file = f"version: 1\n{listen}{text(replica, section('tls', pair))}"
        async with running_from_file(tmp_path, file) as run:
            pair.written(expired)
            status, told = await run.ask("POST", "/admin/reload")
            assert (status, told["result"]) == (200, "unchanged")
            assert f"{pair.certificate} has expired" in str(told["warnings"])
            status, told = await run.reload(file.replace("queue: 5s", "queue: 6s"))
            assert (status, told["result"]) == (200, "ok")
            assert told["changed"]["routes"]["changed"] == ["everything"]
            (warning,) = (each for each in told["warnings"] if each["path"] == "tls.certificate")
            assert "goes on with its last good one" in warning["message"]
            client = await Client.connect(run.http, authority.client())
            assert client.shown == "first"
            await client.close()
            assert metric(run.gateway, 'overspill_certificate_last_renewal_successful{port="data"}') == 0

            pair.written(authority.issue("second"))
            status, told = await run.ask("POST", "/admin/reload")
            assert (status, told["result"]) == (200, "unchanged")
            assert "has expired" not in str(told)
            client = await Client.connect(run.http, authority.client())
            assert client.shown == "second"
            await client.close()
            assert metric(run.gateway, 'overspill_certificate_last_renewal_successful{port="data"}') == 1
