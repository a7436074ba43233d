"""Credentials that were planted are searched for in everything that a gateway lets out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.auth.support import (
    asked,
    calls,
    claims,
    entry,
    fresh,
    guarded,
    key_file,
    key_set,
    request,
    token,
)
from tests.support.upstream import upstream
from tests.workers_serving.live import serving

ADMIN = "planted-admin-token-0123456789"
HMAC = "planted-hmac-secret-" + "x" * 40
KEY, WRONG = fresh("all"), fresh("all")


async def test_no_credential_leaves_the_gateway(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PLANTED_ADMIN", ADMIN)
    monkeypatch.setenv("PLANTED_HMAC", HMAC)
    caplog.set_level(0)
    keys, log = key_file(tmp_path / "keys.yaml", entry("all", KEY, note="n")), tmp_path / "access.log"
    sets = key_set(tmp_path / "jwks.json")
    auth = (
        f"{{keys: {{file: {keys}}}, admin: {{token: {{env: PLANTED_ADMIN}}}}, jwt: ["
        f"{{issuer: 'https://login.example.com/', audience: overspill, jwks_file: {sets}}}, "
        "{issuer: hmac, audience: overspill, secret: {env: PLANTED_HMAC}}]}"
    )
    good = token(claims(4_000_000_000.0, iat=1))
    signed = token(claims(4_000_000_000.0, iat=1, iss="hmac"), HMAC, "HS256")
    expired = token(claims(1.0))
    planted = [KEY, WRONG, good, signed, expired, ADMIN, HMAC]
    out: list[str] = []
    async with guarded(tmp_path, auth, more=f"access_log: {{path: {log}}}") as (gateway, replica):
        for shown in (KEY, WRONG, good, signed, expired, ADMIN):
            for name, text in (("authorization", f"Bearer {shown}"), ("x-api-key", shown)):
                for model in ("m", "unknown"):
                    status, fields, body = await asked(gateway, request(text, name=name, model=model))
                    assert status == (
                        401 if shown in (WRONG, expired, ADMIN) else 200 if model == "m" else 404
                    )
                    out.append(f"{fields}{body!r}")
        async with aiohttp.ClientSession() as session:
            for path in (
                "metrics",
                "readyz",
                "admin/config",
                "admin/routes",
                "admin/backends",
                "admin/explain",
                "console",
                "x",
            ):
                for shown in (ADMIN, KEY):
                    headers = {"authorization": f"Bearer {shown}"}
                    async with session.get(
                        f"http://{gateway.admin_address}/{path}", headers=headers
                    ) as response:
                        out.append(f"{response.headers}{await response.text()}")
            headers = {"authorization": f"Bearer {ADMIN}", "accept": "application/json"}
            async with session.get(
                f"http://{gateway.admin_address}/admin/config", headers=headers
            ) as response:
                out.append(json.dumps(await response.json()))
        out += [
            gateway.effective_config(),
            repr(vars(gateway.entrance)),
            repr(gateway.entrance.door.__dict__),
        ]
        out += [call.head.decode("latin-1") for call in calls(replica)]
    out += [log.read_text(), caplog.text, *capfd.readouterr(), keys.read_text()]
    everything = "\n".join(out)
    assert '"caller":"batch-7"' in everything
    assert "PLANTED_ADMIN" in everything
    for secret in planted:
        for piece in (secret, secret[-30:], repr(secret.encode())):
            assert piece not in everything, planted.index(secret)


async def test_workers_have_one_admin_port_with_the_credential_and_tell_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_ADMIN", ADMIN)
    keys = key_file(tmp_path / "keys.yaml", entry("all", KEY))
    auth = f"auth: {{keys: {{file: {keys}}}, admin: {{token: {{env: PLANTED_ADMIN}}}}}}\n"
    async with (
        upstream() as replica,
        serving(tmp_path, replica, more=auth) as served,
        aiohttp.ClientSession() as session,
    ):

        async def status(url: str, shown: str | None, method: str = "GET") -> int:
            headers = {} if shown is None else {"authorization": f"Bearer {shown}"}
            async with session.request(method, url, headers=headers) as response:
                return response.status

        admin, data = f"http://127.0.0.1:{served.admin}", f"http://127.0.0.1:{served.http}"
        assert [await status(f"{admin}/livez", None), await status(f"{admin}/metrics", None)] == [200, 401]
        assert await status(f"{admin}/admin/config", ADMIN) == 200
        assert await status(f"{admin}/admin/config", KEY) == 401
        for shown, expected in ((None, 401), (KEY, 200), (ADMIN, 401)):
            assert await status(f"{data}/v1/models", shown) == expected
        config = tmp_path / "gateway.yaml"
        config.write_text(config.read_text().replace(auth, "auth: {anonymous: {}}\n"))
        assert await status(f"{admin}/admin/reload", None, "POST") == 401
        assert await status(f"{admin}/admin/reload", ADMIN, "POST") == 200
        assert await status(f"{admin}/metrics", None) == 200
        assert await status(f"{data}/v1/models", None) == 200
        titles = [
            Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in {served.process.pid, *served.children()}
            if pid
        ]
        assert len(titles) > 2
        everything = served.log + repr(titles)
        assert ADMIN not in everything
        assert KEY not in everything


def test_the_command_line_takes_no_key(tmp_path: Path) -> None:
    keys = key_file(tmp_path / "keys.yaml", entry("all", KEY))
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "keys", "check", "-f", str(keys), "--stdin"],
        input=WRONG, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 1
    assert WRONG not in done.stdout + done.stderr
