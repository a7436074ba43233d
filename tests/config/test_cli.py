"""The command as users run it: a process of its own, its streams and its exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli import command
from tests.config.test_shipped import SECRETS, SHIPPED

BAD = """\
version: 1
backends:
  fleet: {type: triton, replicas: [http://127.0.0.1:1], max_in_flight: 1, prise: {}}
  burst: {type: triton, replicas: [http://127.0.0.1:2], max_in_flight: many}
routes:
  embed: {tiers: [{backend: flet}]}
"""
LINE = re.compile(r"^(?P<file>.+?):(?P<line>[1-9]\d*):(?P<column>[1-9]\d*): (?P<path>\S+): (?P<message>.+)$")


def overspill(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return str(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_check_says_good(path: Path) -> None:
    done = overspill("check", "-c", str(path), **dict.fromkeys(SECRETS, "planted"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: good: ")


@pytest.mark.parametrize("name", ["check", "serve"])
def test_a_bad_file_ends_with_2_and_one_line_for_each_problem(name: str, bad: str) -> None:
    done = overspill(name, "-c", bad)
    assert (done.returncode, done.stdout) == (2, "")
    found = [LINE.match(line) for line in done.stderr.splitlines()]
    assert all(found)
    places = [
        (match["file"], int(match["line"]), int(match["column"]), match["path"]) for match in found if match
    ]
    assert places == [
        (bad, 3, 75, "backends.fleet.prise"),
        (bad, 4, 72, "backends.burst.max_in_flight"),
        (bad, 6, 29, "routes.embed.tiers[0].backend"),
    ]
    assert "did you mean `price`?" in done.stderr
    assert "did you mean `fleet`?" in done.stderr


def test_a_missing_file_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    for name in ("check", "serve"):
        done = overspill(name, "-c", str(path))
        assert (done.returncode, done.stderr) == (2, f"{path}:1:1: (file): there is no such file\n")


def test_a_secret_that_is_not_here_ends_with_2_unless_told_otherwise() -> None:
    path = "config/fleet-and-runpod.yaml"
    done = overspill("check", "-c", path)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"{path}:\d+:\d+: backends\.burst\.api_key: .*RUNPOD_API_KEY is not set.*\n", done.stderr
    )
    assert overspill("check", "--no-secrets", "-c", path).returncode == 0


def test_json(bad: str) -> None:
    done = overspill("check", "--json", "-c", bad)
    assert (done.returncode, done.stderr) == (2, "")
    result = json.loads(done.stdout)
    assert result["ok"] is False
    assert result["warnings"] == []
    first = result["problems"][0]
    assert set(first) == {"file", "line", "column", "path", "message"}
    assert (first["file"], first["line"], first["column"], first["path"]) == (
        bad,
        3,
        75,
        "backends.fleet.prise",
    )


def test_json_of_a_good_file() -> None:
    done = overspill("check", "--json", "--effective", "-c", "config/minimal.yaml")
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"], result["problems"]) == (0, True, [])
    assert result["effective"].startswith("version: 1\n")


def test_warnings_do_not_change_the_status(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "version: 1\n"
        "backends: {fleet: {type: triton, replicas: ['http://127.0.0.1:1'], max_in_flight: 1}}\n"
        "routes: {all: {tiers: [{backend: fleet}]}}\n"
    )
    done = overspill("check", "-c", str(path))
    assert done.returncode == 0
    assert done.stderr == (
        f"{path}:2:12: warning: backends.fleet.price: "
        "is not given: its cost will be unknown and cost metrics absent\n"
    )


def test_effective_is_a_file_that_can_be_checked(tmp_path: Path) -> None:
    environment = dict.fromkeys(SECRETS, "planted-secret-value")
    done = overspill("check", "--effective", "-c", "config/overspill.yaml", **environment)
    assert done.returncode == 0
    assert "planted-secret-value" not in done.stdout + done.stderr
    path = tmp_path / "effective.yaml"
    path.write_text(done.stdout)
    again = overspill("check", "--effective", "-c", str(path), **environment)
    assert again.stdout == done.stdout


def test_schema_is_json() -> None:
    done = overspill("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_version() -> None:
    assert overspill("--version").stdout == f"overspill {__version__}\n"


def test_help_names_every_command() -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    for name in ("serve", "check", "schema", "demo"):
        assert name in done.stdout
        assert CliRunner().invoke(command, [name, "--help"]).exit_code == 0


def test_without_a_file_it_says_so() -> None:
    done = overspill("check")
    assert done.returncode == 2
    assert "--config" in done.stderr


def test_output_that_nobody_wants_in_colours_has_none(bad: str) -> None:
    assert "\x1b" not in overspill("check", "-c", bad).stderr
