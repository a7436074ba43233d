"""A whole gateway that asks who calls: on the wire, in its records, and when its files change."""

import asyncio
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.clock import SystemClock
from tests.auth.support import (
    asked,
    calls,
    claims,
    configuration,
    entry,
    fresh,
    guarded,
    key_file,
    key_set,
    request,
    token,
    until,
)  # fmt: skip
from tests.support.wire import Peer

KEY, SCOPED, ADMIN = fresh("all"), fresh("scoped"), "an-admin-token-of-some-length"
NOW = 4_000_000_000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    scoped = entry("scoped", SCOPED, tenant="acme", routes=["one"], priority="default")
    return key_file(tmp_path / "keys.yaml", entry("all", KEY), scoped)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_nobody_unknown_gets_in_and_the_known_leave_their_key_behind(
    tmp_path: Path, file: Path
) -> None:
    log = tmp_path / "access.log"
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}", more=f"access_log: {{path: {log}}}") as (
        gateway,
        replica,
    ):
        status, fields, body = await asked(gateway, request())
        assert (status, fields[b"www-authenticate"]) == (401, b'Bearer realm="overspill"')
        assert b"send an `Authorization: Bearer" in body
        status, fields, _ = await asked(gateway, request("Bearer nonsense"))
        assert (status, fields[b"www-authenticate"]) == (
            401,
            b'Bearer realm="overspill", error="invalid_token"',
        )
        assert not calls(replica)
        for name, shown in (
            ("authorization", f"Bearer {KEY}"),
            ("x-api-key", KEY),
            ("api-key", KEY),
            ("x-api-key", KEY),
        ):
            assert (await asked(gateway, request(shown, name=name, more="x-team: search\r\n")))[0] == 200
        assert len(calls(replica)) == 4
        for call in calls(replica):
            assert KEY.encode() not in call.head
            assert call.field(b"x-team") == [b"search"]
            assert not any(call.field(name) for name in (b"authorization", b"x-api-key", b"api-key"))
        gateway.ledger.access_log.flush()  # type: ignore[union-attr]
        seen = [(each["status"], each["caller"], each["tenant"], each["error"]) for each in lines(log)]
        assert seen == [(401, None, None, "unauthorised")] * 2 + [(200, "all", None, None)] * 4
        assert gateway.ledger.opened == 6


async def test_a_key_opens_its_own_routes_only_and_in_every_protocol(tmp_path: Path, file: Path) -> None:
    log = tmp_path / "access.log"
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}", more=f"access_log: {{path: {log}}}") as (
        gateway,
        replica,
    ):
        assert (await asked(gateway, request(f"Bearer {SCOPED}")))[0] == 200
        status, _, body = await asked(gateway, request(f"Bearer {SCOPED}", model="n"))
        assert status == 403
        assert b"may not use" in body
        head = f"POST /invoke/two HTTP/1.1\r\nhost: x\r\nx-api-key: {SCOPED}\r\ncontent-length: 2\r\n\r\n{{}}"
        assert (await asked(gateway, head.encode()))[0] == 403
        chat = json.dumps({"model": "n", "messages": []})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {{}}\r\ncontent-length: {len(chat)}\r\n\r\n{chat}"
        status, _, body = await asked(gateway, head.replace("{}", SCOPED, 1).encode())
        assert (status, json.loads(body)["error"]["type"]) == (403, "permission_error")
        status, _, body = await asked(gateway, head.replace("{}", "wrong", 1).encode())
        assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
        critical = request(f"Bearer {SCOPED}", more="x-overspill-priority: critical\r\n")
        assert (await asked(gateway, critical))[0] == 200  # lowered, not refused
        assert len(calls(replica)) == 2
        gateway.ledger.access_log.flush()  # type: ignore[union-attr]
        assert [each["tenant"] for each in lines(log)] == ["acme"] * 4 + [None] + ["acme"]
        assert {each["route"] for each in lines(log)} == {"one", "two", None}


@pytest.mark.parametrize(
    ("target", "status"),
    [("/v2/health/live", 200), ("/v2/health/ready", 200), ("/v2", 401), ("/v1/models", 401), ("/v2/models/m/ready", 401),
     ("/nowhere", 401), ("/v2/health/live/../../models/m", 401), ("/webhooks/fleet", 404)],
)  # fmt: skip
async def test_health_is_for_everybody_and_nothing_else_is(
    tmp_path: Path, file: Path, target: str, status: int
) -> None:
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}") as (gateway, _):
        await until(gateway.ready)
        assert (await asked(gateway, f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode()))[0] == status


async def test_the_body_of_somebody_unknown_is_not_taken(tmp_path: Path, file: Path) -> None:
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}") as (gateway, replica):
        assert gateway.http_address is not None
        head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 60000000\r\n{}\r\n"
        for more in ("", "expect: 100-continue\r\n"):
            peer = await Peer.connect(gateway.http_address.port)
            peer.send(head.format(more).encode())  # and not a byte of the body
            status, fields, _ = await peer.answer()
            assert (status, fields[b"connection"]) == (401, b"close")
        invited = await Peer.connect(gateway.http_address.port)
        invited.send(head.format(f"expect: 100-continue\r\nx-api-key: {KEY}\r\n").encode())
        assert (await invited.head()).startswith(b"HTTP/1.1 100 ")
        invited.reset()
        await until(lambda: gateway.ledger.open_records == 0)
        assert not calls(replica)


async def test_a_connection_serves_one_caller_after_the_other(tmp_path: Path, file: Path) -> None:
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}") as (gateway, _):
        assert gateway.http_address is not None
        peer = await Peer.connect(gateway.http_address.port)
        peer.send(
            request(f"Bearer {KEY}")
            + request("Bearer x")
            + request(f"Bearer {SCOPED}", model="n")
            + request(f"Bearer {KEY}")
        )
        assert [(await peer.answer())[0] for _ in range(4)] == [200, 401, 403, 200]


async def test_a_key_that_is_revoked_is_worth_nothing_while_the_gateway_runs(
    tmp_path: Path, file: Path
) -> None:
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}") as (gateway, _):
        assert (await asked(gateway, request(f"Bearer {KEY}")))[0] == 200
        other = fresh("new")
        key_file(file, entry("all", KEY, revoked_at="2026-01-01"), entry("new", other))
        await gateway.entrance.look()
        status, _, body = await asked(gateway, request(f"Bearer {KEY}"))
        assert status == 401
        assert b"revoked" in body
        assert (await asked(gateway, request(f"Bearer {other}")))[0] == 200


async def reload(gateway: Gateway, path: Path, text: str, **fields: str) -> tuple[int, Any]:
    path.write_text(text)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://{gateway.admin_address}/admin/reload", headers=fields) as response:
            return response.status, await response.json()


async def test_a_reload_changes_who_may_call(tmp_path: Path, file: Path) -> None:
    config = tmp_path / "gateway.yaml"
    async with guarded(tmp_path, "none") as (gateway, replica):
        assert gateway.pipeline._gatekeeper is None
        assert (await asked(gateway, request("whatever", name="x-api-key")))[0] == 200
        assert calls(replica)[0].field(b"x-api-key") == [b"whatever"]
        guarded_text = configuration(replica, f"{{keys: {{file: {file}}}}}")
        status, told = await reload(gateway, config, guarded_text)
        assert (status, told["changed"]["settings"]) == (200, ["auth"])
        assert (await asked(gateway, request()))[0] == 401
        assert (await asked(gateway, request(f"Bearer {KEY}")))[0] == 200
        other, key = tmp_path / "other.yaml", fresh("other")
        status, told = await reload(gateway, config, guarded_text.replace("keys.yaml", "other.yaml"))
        assert status == 422
        assert "there is no such file" in str(told)
        assert (await asked(gateway, request(f"Bearer {KEY}")))[0] == 200
        key_file(other, entry("other", key))
        assert (await reload(gateway, config, guarded_text.replace("keys.yaml", "other.yaml") + "\n"))[
            0
        ] == 200
        assert (await asked(gateway, request(f"Bearer {KEY}")))[0] == 401
        assert (await asked(gateway, request(f"Bearer {key}")))[0] == 200
        assert (await reload(gateway, config, configuration(replica, "none")))[0] == 200
        assert (await asked(gateway, request()))[0] == 200


async def test_tokens_of_an_issuer_with_a_key_set_in_a_file(tmp_path: Path) -> None:
    path = key_set(tmp_path / "jwks.json")
    issuer = f"{{issuer: 'https://login.example.com/', audience: overspill, jwks_file: {path}, routes_claim: scope}}"
    async with guarded(tmp_path, f"{{jwt: [{issuer}]}}") as (gateway, replica):
        now = SystemClock().wall()
        good = token(claims(now, scope="one"))
        for _ in range(2):
            assert (await asked(gateway, request(f"Bearer {good}")))[0] == 200
        assert (await asked(gateway, request(f"Bearer {good}", model="n")))[0] == 403
        assert (await asked(gateway, request(f"Bearer {token(claims(now - 700))}")))[0] == 401
        assert good.encode() not in b"".join(call.head for call in calls(replica))
        key_set(path, "b")
        await gateway.entrance.look()
        assert (await asked(gateway, request(f"Bearer {good}")))[0] == 401


async def test_an_issuer_that_is_down_is_503(tmp_path: Path) -> None:
    issuer = "{issuer: 'https://login.example.com/', audience: overspill, jwks_url: 'http://127.0.0.1:1/'}"
    async with guarded(tmp_path, f"{{jwt: [{issuer}]}}") as (gateway, _):
        status, fields, body = await asked(gateway, request(f"Bearer {token(claims(NOW))}"))
        assert (status, fields[b"retry-after"]) == (503, b"10")
        assert b"cannot be had now" in body


async def test_callers_that_show_nothing_may_be_let_in_somewhere(tmp_path: Path, file: Path) -> None:
    auth = f"{{keys: {{file: {file}}}, anonymous: {{routes: [two], tenant: guests}}}}"
    async with guarded(tmp_path, auth) as (gateway, _):
        assert (await asked(gateway, request(model="n")))[0] == 200
        assert (await asked(gateway, request()))[0] == 403
        assert (await asked(gateway, request("Bearer wrong", model="n")))[0] == 401


async def test_grpc_clients_show_it_in_their_metadata(tmp_path: Path, file: Path) -> None:
    grpc = pytest.importorskip("grpc")
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}", grpc=True) as (gateway, replica):
        await until(gateway.ready)
        service = "/inference.GRPCInferenceService/"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_address[1]}") as channel:  # type: ignore[index]

            async def code(method: str, *metadata: tuple[str, str], model: str = "m") -> str:
                message = b"\x0a\x01" + model.encode() if method != "ServerLive" else b""
                try:
                    await channel.unary_unary(service + method)(message, metadata=metadata, timeout=10)
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return "OK"

            assert await code("ServerLive") == await code("ServerReady") == "OK"
            assert await code("ModelInfer") == await code("ModelReady") == "UNAUTHENTICATED"
            assert await code("ModelInfer", ("authorization", "Bearer x")) == "UNAUTHENTICATED"
            assert await code("ModelReady", ("authorization", f"Bearer {KEY}")) == "OK"
            assert await code("ModelReady", ("x-api-key", KEY)) == "OK"
            assert await code("ModelInfer", ("x-api-key", SCOPED), model="n") == "PERMISSION_DENIED"

            async def stream(*metadata: tuple[str, str]) -> str:
                call = channel.stream_stream(service + "ModelStreamInfer")(metadata=metadata, timeout=10)
                try:
                    await call.write(b"\x0a\x01n")
                    async for _ in call:
                        pass
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass
                return str((await call.code()).name)

            assert await stream() == "UNAUTHENTICATED"
            assert await stream(("x-api-key", SCOPED)) == "PERMISSION_DENIED"
        assert not calls(replica)


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


async def test_the_admin_port_has_a_credential_of_its_own(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "admin.token"
    secret.write_text(ADMIN + "\n")
    auth = f"{{keys: {{file: {file}}}, admin: {{token: {{file: {secret}}}}}}}"
    async with guarded(tmp_path, auth) as (gateway, _), aiohttp.ClientSession() as session:

        async def status(path: str, shown: str = "", method: str = "GET", **more: str) -> int:
            fields = {**more, **({"authorization": shown} if shown else {})}
            async with session.request(
                method, f"http://{gateway.admin_address}{path}", headers=fields
            ) as response:
                if response.status == 401:
                    challenges = response.headers.getall("www-authenticate")
                    assert [each.split()[0] for each in challenges] == ["Bearer", "Basic"]
                return response.status

        await until(gateway.ready)
        assert await status("/livez") == await status("/readyz") == 200
        closed = (
            "/metrics",
            "/admin/config",
            "/admin/routes",
            "/admin/explain",
            "/console",
            "/nowhere",
            "/livez/",
        )
        for path in closed:
            for shown in (
                "",
                "Bearer wrong",
                "Bearer",
                "Bearer " + KEY,
                basic("x:wrong"),
                "Basic ???",
                basic(ADMIN),
                ADMIN,
            ):
                assert await status(path, shown) == 401, (path, shown)
        assert await status("/admin/reload", method="POST") == 401
        for shown in (f"Bearer {ADMIN}", basic(f"anybody:{ADMIN}"), basic(f":{ADMIN}")):
            assert await status("/admin/routes", shown) == 200
            assert await status("/metrics", shown) == 200
            assert await status("/nowhere", shown) == 404
        pages = {"sec-fetch-site": "cross-site"}
        assert await status("/admin/reload", basic(f":{ADMIN}"), "POST", **pages) == 403
        assert (
            await status("/admin/reload", basic(f":{ADMIN}"), "POST", **{"sec-fetch-site": "same-origin"})
            == 200
        )
        assert (await asked(gateway, request(f"Bearer {ADMIN}")))[0] == 401  # it opens nothing else
        secret.write_text("another-token-of-some-length")
        assert await status("/metrics", f"Bearer {ADMIN}") == 401
        assert await status("/metrics", "Bearer another-token-of-some-length") == 200
        secret.unlink()
        assert await status("/metrics", "Bearer another-token-of-some-length") == 200
        assert await status("/metrics", "Bearer ") == 401
