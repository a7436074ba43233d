"""`check` and start: a port that others can reach says who may use it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import command
from gateway.config.effective import effective
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from tests.auth.support import entry, fresh, key_file
from tests.config.plugins import registries

REST = """
backends: {fleet: {type: fleet, replicas: [http://t:1], max_in_flight: 1}}
routes: {one: {match: {model: m}, tiers: [{backend: fleet}]}}
"""
HTTP, GRPC, ADMIN = "listen.http", "listen.grpc", "listen.admin"
KEYS = "{keys: {file: KEYS}, admin: {token: {env: ADMIN_TOKEN}}}"


def problems(text: str, *, secrets: bool = False) -> list[str]:

    try:
        load(text, *registries(), resolve_secrets=secrets, name="f.yaml")
    except ConfigProblems as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("listen", "auth", "refused"),
    [
        ("{}", None, []),
        ("{http: '127.0.0.1:1', grpc: '[::1]:2', admin: 'localhost:3'}", None, []),
        ("{http: '0.0.0.0:1'}", None, [HTTP]),
        ("{http: '[::]:1'}", None, [HTTP]),
        ("{http: 'gateway.example:1'}", None, [HTTP]),
        ("{http: '10.0.0.1:1', grpc: '0.0.0.0:2', admin: '0.0.0.0:3'}", None, [HTTP, GRPC, ADMIN]),
        ("{http: '10.0.0.1:1', grpc: '0.0.0.0:2', admin: '0.0.0.0:3'}", "none", []),
        ("{http: '0.0.0.0:1', grpc: '0.0.0.0:2', admin: '0.0.0.0:3'}", KEYS, []),
        ("{http: '0.0.0.0:1', admin: '0.0.0.0:3'}", "{keys: {file: KEYS}}", [ADMIN]),
        ("{http: '0.0.0.0:1', admin: '0.0.0.0:3'}", "{admin: {token: {env: X}}}", [HTTP]),
        ("{http: '0.0.0.0:1', admin: '0.0.0.0:3'}", "{anonymous: {}, admin: {anonymous: true}}", []),
    ],
)
def test_a_public_port_without_auth_is_refused_with_its_line(
    listen: str, auth: str | None, refused: list[str]
) -> None:
    section = "" if auth is None else f"auth: {auth}\n"
    told = problems(f"version: 1\n{section}listen: {listen}\n{REST}")
    line = 2 if auth is None else 3
    assert [each.split(": ")[1] for each in told] == refused
    assert all(each.startswith(f"f.yaml:{line}:") for each in told)
    assert all("can be reached from other machines" in each and "127.0.0.1" in each for each in told)


def test_check_and_serve_end_with_status_2(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "version: 1\nlisten: {http: '0.0.0.0:0'}\nbackends: {f: {type: triton, replicas: ['http://127.0.0.1:1'], "
        "max_in_flight: 1}}\nroutes: {r: {match: {model: m}, tiers: [{backend: f}]}}\n"
    )
    for arguments in (
        ["check", "-c", str(file)],
        ["serve", "-c", str(file)],
        ["serve", "-c", str(file), "--workers", "2"],
    ):
        told = CliRunner().invoke(command, arguments)
        assert told.exit_code == 2
        assert "gateway.yaml:2:16: listen.http: 0.0.0.0:0 can be reached" in told.stderr
        assert "`auth: none`" in told.stderr


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ("{}", "auth: names no way in"),
        ("yes", "auth: is `yes`"),
        ("{keys: {file: nowhere.yaml}}", "nowhere.yaml:1:1: (file): there is no such file"),
        ("{keys: {file: BAD}}", "[0].hash: not a hash"),
        ("{admin: {token: a-secret-in-the-file}}", "auth.admin.token: a secret is never written"),
        ("{admin: {token: {env: OVERSPILL_NOT_SET}}}", "OVERSPILL_NOT_SET is not set"),
        ("{admin: {token: {env: SHORT}}}", "must have at least 16 characters"),
        ("{admin: {}}", "auth.admin: give exactly one"),
        ("{anonymous: {routes: [onee]}}", "no route is called `onee`; did you mean `one`?"),
        ("{jwt: [{issuer: i, audience: a, jwks_file: nowhere}]}", "the key set nowhere cannot be read"),
        ("{jwt: [{issuer: i, audience: a, secret: {env: SHORT}}]}", "shorter than 32 bytes"),
        ("{jwt: [{issuer: i, audience: a}]}", "give exactly one of jwks_url, jwks_file and secret"),
        ("{jwt: [{issuer: i, jwks_url: 'https://x/'}]}", "audience: is missing"),
        (
            "{jwt: [{issuer: i, audience: a, jwks_url: 'https://x/'}, {issuer: i, audience: b, jwks_url: 'https://x/'}]}",
            "an issuer is in `jwt` twice",
        ),
        ("{certificates: [{dns: a, uri: b}]}", "give exactly one of dns, uri"),
        ("{certificates: [{dns: a}, {dns: a}]}", "in `certificates` twice"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str, says: str
) -> None:
    key = fresh("a")
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"- {{id: a, hash: {key}}}\n")
    monkeypatch.setenv("SHORT", "tooshort")
    told = "\n".join(problems(f"version: 1\nauth: {auth.replace('BAD', str(bad))}\n{REST}", secrets=True))
    assert says in told
    assert key not in told
    assert "tooshort" not in told
    assert "a-secret-in-the-file" not in told


def test_the_effective_file_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "planted-planted-planted")
    keys = key_file(tmp_path / "keys.yaml", entry("a", fresh("a")))
    sections = (
        "none",
        KEYS.replace("KEYS", str(keys)),
        "{jwt: [{issuer: i, audience: [a, b], jwks_url: 'https://x/', leeway: 1m, routes: [one]}]}",
        "{certificates: [{uri: 'spiffe://a/b', tenant: t}], anonymous: {priority: best_effort}}",
    )
    for auth in sections:
        first = load(f"version: 1\nauth: {auth}\n{REST}", *registries()).settings
        text = effective(first)
        assert "planted" not in text
        assert load(text, *registries()).settings.auth == first.auth
