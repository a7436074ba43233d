"""Secrets are found when asked for, and never shown, wherever they are written by mistake."""

import traceback
from pathlib import Path

import pytest

from gateway.config.effective import effective
from gateway.config.problems import ConfigProblems
from tests.config.plugins import problems, read

SECRET = "hunter2-rpa_4XK9"
FILE = """\
version: 1
backends:
  burst: {{type: rented, endpoint: e, max_in_flight: 1, price: {{usd_per_second: 1}}, {0}}}
routes:
  all: {{tiers: [{{backend: burst}}]}}
"""


def test_secrets_are_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RENTED_API_KEY", SECRET)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    text = FILE.format(f"api_key: {{env: RENTED_API_KEY}}, backup_keys: [{{file: {tmp_path}/key}}]")
    assert problems(text, resolve_secrets=True) == []


def test_every_reference_that_leads_nowhere_is_a_problem_at_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RENTED_API_KEY", raising=False)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "good").write_text("x")
    files = ", ".join(f"{{file: {tmp_path}/{name}}}" for name in ("none", "empty", "binary", "good"))
    text = FILE.format(
        f"api_key: {{env: RENTED_API_KEY}}, backup_keys: [{files}], headers: {{x-a: {{env: ALSO_NOT}}}}"
    )
    found = [line.partition(": ")[2] for line in problems(text, resolve_secrets=True)]
    assert found == [
        "backends.burst.api_key: environment variable RENTED_API_KEY is not set; set it before the gateway starts",
        f"backends.burst.backup_keys[0]: cannot read secret file {tmp_path}/none: No such file or directory",
        f"backends.burst.backup_keys[1]: secret file {tmp_path}/empty is empty",
        f"backends.burst.backup_keys[2]: secret file {tmp_path}/binary is not UTF-8 text",
        "backends.burst.headers.x-a: environment variable ALSO_NOT is not set; set it before the gateway starts",
    ]


def test_they_need_not_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RENTED_API_KEY", raising=False)
    assert problems(FILE.format("api_key: {env: RENTED_API_KEY}"), resolve_secrets=False) == []


def test_the_effective_configuration_shows_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTED_API_KEY", SECRET)
    text = effective(read(FILE.format("api_key: {env: RENTED_API_KEY}"), resolve_secrets=True).settings)
    assert "api_key: {env: RENTED_API_KEY}" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "planted",
    [
        f"api_key: {SECRET}",
        f"api_key: '{SECRET}'",
        f"api_key: [{SECRET}]",
        f"api_key: {{{SECRET}}}",
        f"api_key: {{{SECRET}: 1}}",
        f"api_key: {{value: {SECRET}}}",
        f"api_key: {{env: {SECRET}}}",
        f"api_key: {{env: [{SECRET}]}}",
        f"api_key: {{env: A, file: {SECRET}}}",
        f"api_key: {{file: {SECRET}}}",
        f"api_key: *{SECRET}",
        f"api_key: !{SECRET} x",
        f"api_key: !!{SECRET} x",
        f"api_key: &{SECRET} {{env: A}}, backup_keys: [&{SECRET} {{env: A}}]",
        f"api_key: {SECRET}: x",
        f"api_key: '{SECRET}",
        f'api_key: "{SECRET}\\q"',
        f"apikey: {SECRET}",
        f"api_key: {{env: A}}, token: {SECRET}",
        f"api_key: {{env: A}}, password: [{SECRET}]",
        f"api_key: {{env: A}}, headers: {{authorization: Bearer {SECRET}}}",
        f"api_key: {{env: A}}, headers: {{X-Api-Key: {SECRET}}}",
        f"api_key: {{env: A}}, headers: {{cookie: [{SECRET}]}}",
        f"api_key: {{env: A}}, headers: {SECRET}",
        f"api_key: {{env: A}}, endpoint_url: https://{SECRET}@api.example",
        f"api_key: {{env: A}}, memory: https://u:{SECRET}@api.example",
        f"api_key: {{env: A}}, backup_keys: {SECRET}",
        f"api_key: {{env: A}}, backup_keys: {{0: {SECRET}}}",
    ],
)
@pytest.mark.parametrize("resolve", [True, False])
def test_a_planted_secret_is_never_repeated(planted: str, resolve: bool) -> None:
    try:
        loaded = read(FILE.format(planted), resolve_secrets=resolve)
    except ConfigProblems as error:
        shown = "".join(traceback.format_exception(error)) + repr(error.problems)
    else:
        # Taken for a reference, which it looks like: only its own place may show it.
        assert planted in (f"api_key: {{env: {SECRET}}}", f"api_key: {{file: {SECRET}}}")
        shown = "".join(map(str, loaded.warnings))
    assert SECRET not in shown
