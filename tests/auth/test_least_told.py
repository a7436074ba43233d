"""Callers who may use some routes learn of these only; secrets in files follow them; what `check` says of both."""

import json
import logging
from pathlib import Path

import pytest

from gateway.app import registries
from gateway.auth.jwt import Issuer, Tokens
from gateway.background import Background
from gateway.clock import FakeClock
from gateway.config.auth import TokenIssuer
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.errors import Unauthorised
from tests.auth.support import ISSUER, claims, entry, fresh, key_file, token
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream
from tests.support.wire import Peer
from tests.tls.authority import Authority
from tests.tls.support import section

ALL, SCOPED = fresh("all"), fresh("scoped")
FILE = """
auth: {{keys: {{file: {keys}}}}}
backends: {{fleet: {{type: triton, replicas: ['{url}'], max_in_flight: 4}}}}
routes:
  one: {{match: {{model: [m, mine]}}, tiers: [{{backend: fleet}}]}}
  secret: {{match: {{model: minx}}, tiers: [{{backend: fleet}}]}}
"""
REST = """version: 1
backends: {fleet: {type: loopback, max_in_flight: 1}}
routes: {one: {match: {model: m}, tiers: [{backend: fleet}]}}
"""


async def asked(port: int, key: str, target: str, method: str = "GET", body: str = "") -> tuple[int, str]:
    peer = await Peer.connect(port)
    peer.send(
        f"{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    status, _, answer = await peer.answer()
    return status, answer.decode()


async def test_a_caller_is_told_of_its_own_routes_only(tmp_path: Path) -> None:
    scoped = entry("scoped", SCOPED, routes=["one"])
    keys = key_file(tmp_path / "keys.yaml", entry("all", ALL), scoped)
    async with upstream() as replica, running(FILE.format(keys=keys, url=replica.url)) as gateway:
        port = port_of(gateway)
        for key, names in ((ALL, ["m", "mine", "minx"]), (SCOPED, ["m", "mine"])):
            status, listed = await asked(port, key, "/v1/models")
            assert (status, [each["id"] for each in json.loads(listed)["data"]]) == (200, names)
        assert (await asked(port, ALL, "/v1/models/minx"))[0] == 200
        assert (await asked(port, SCOPED, "/v1/models/mine"))[0] == 200
        status, said = await asked(port, SCOPED, "/v1/models/minx")
        assert (status, said) == (404, (await asked(port, SCOPED, "/v1/models/minx"))[1])
        assert said.replace("minx", "none") == (await asked(port, SCOPED, "/v1/models/none"))[1]
        assert (await asked(port, ALL, "/v2/models/minx/ready"))[0] == 200
        assert (await asked(port, SCOPED, "/v2/models/mine/ready"))[0] == 200
        assert await asked(port, SCOPED, "/v2/models/minx/ready") == await asked(
            port, SCOPED, "/v2/models/none/ready"
        )


async def test_hints_name_only_what_the_caller_may_use(tmp_path: Path) -> None:
    scoped = entry("scoped", SCOPED, routes=["one"])
    keys = key_file(tmp_path / "keys.yaml", entry("all", ALL), scoped)
    async with upstream() as replica, running(FILE.format(keys=keys, url=replica.url)) as gateway:
        port, body = port_of(gateway), '{"model": "min"}'
        _, all_said = await asked(port, ALL, "/v1/chat/completions", "POST", body)
        _, said = await asked(port, SCOPED, "/v1/chat/completions", "POST", body)
        assert "minx" in all_said
        assert "mine" in said
        assert "minx" not in said
        assert "secret" in (await asked(port, ALL, "/invoke/secre/x"))[1]
        assert "secret" not in (await asked(port, SCOPED, "/invoke/secre/x"))[1]


async def test_a_secret_of_tokens_follows_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, clock = tmp_path / "secret", FakeClock()
    old, new = "o" * 40, "new-secret-" * 4
    file.write_text(old)
    options = TokenIssuer.model_validate(
        {"issuer": ISSUER, "audience": "overspill", "secret": {"file": str(file)}}
    )
    issuer = Issuer.of(options, fetch=_never, spawn=Background().spawn, clock=clock)
    cleared: list[int] = []
    issuer.keys.changed = lambda: cleared.append(1)
    tokens = Tokens([issuer], clock)
    by_old, by_new = (token(claims(clock.wall()), key, "HS256") for key in (old, new))
    assert (await tokens.verify(by_old)).name == "batch-7"
    file.write_text(new)
    await issuer.keys.tend()
    assert (await tokens.verify(by_new)).name == "batch-7"
    with pytest.raises(Unauthorised):
        await tokens.verify(by_old)
    file.write_text("too short")
    with caplog.at_level(logging.ERROR):
        await issuer.keys.tend()
    assert "the secret of before stays" in caplog.text
    assert "too short" not in caplog.text
    assert (await tokens.verify(by_new)).name == "batch-7"
    assert cleared == [1]


async def _never(_: str) -> bytes:
    raise AssertionError


def said(more: str) -> tuple[list[str], list[str]]:
    """Problems and warnings."""
    try:
        loaded = load(f"{REST}{more}", *registries(), resolve_secrets=False, name="f.yaml")
    except ConfigProblems as error:
        return [each.path for each in error.problems], []
    return [], [each.path for each in loaded.warnings]


def test_a_secret_in_the_file_is_one_problem() -> None:
    assert said("auth: {admin: {token: abcdefghijklmnopqrstuvwxyz}}\n")[0] == ["auth.admin.token"]
    assert said("auth: {admin: {token: {env: A}}, jwt: 7}\n")[0] == ["auth.jwt"]


def test_the_port_of_the_external_scaler_is_opened_to_others_only_by_word() -> None:
    path = "scaling.external_scaler"
    assert said("scaling: {external_scaler: '0.0.0.0:1'}\n")[0] == [path]
    assert said("auth: {anonymous: {}}\nscaling: {external_scaler: '10.0.0.1:1'}\n")[0] == [path]
    assert said("scaling: {external_scaler: '0.0.0.0:1', anonymous: true}\n")[0] == []
    assert said("scaling: {external_scaler: '127.0.0.1:1'}\n")[0] == []
    assert said("auth: none\nscaling: {external_scaler: '0.0.0.0:1'}\n")[0] == []


def test_names_in_certificates_that_nobody_is_asked_for_are_doubtful(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    names = "auth: {certificates: [{dns: a}]}\n"
    tls = section("tls", authority.issue("good"), authority)
    assert "auth.certificates" in said(names)[1]
    assert said(names + tls + "\n") == ([], [each for each in said(names)[1] if each != "auth.certificates"])


def test_an_admin_port_that_asks_for_certificates_asks_somebody(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    port = "listen: {admin: '0.0.0.0:1'}\n"
    tls = section("admin_tls", authority.issue("good"), authority)
    assert said(port)[0] == ["listen.admin"]
    problems, warnings = said(f"{port}{tls}\n")
    assert problems == []
    assert "listen.admin" not in warnings
    assert said(f"{port}{tls.replace('required', 'optional')}\n")[0] == ["listen.admin"]
