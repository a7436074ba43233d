"""What the Dockerfile promises, read from its instructions; and that its files are all let through to it."""

import ast
import fnmatch
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    word: str
    rest: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, `FROM` first; lines joined, comments gone."""
    text = re.sub(r"(?m)^\s*#.*\n?", "", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found: list[list[Instruction]] = [[]]
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Instruction(word, " ".join(rest.split())))
    return found[1:]


BUILDER, FINAL = stages()


def given(stage: list[Instruction], word: str) -> list[str]:
    return [instruction.rest for instruction in stage if instruction.word == word]


def copied_from_context() -> list[str]:
    paths = []
    for rest in given(BUILDER, "COPY") + [r for r in given(FINAL, "COPY") if "--from" not in r]:
        paths += rest.split()[:-1]
    return paths


def test_the_final_stage_takes_only_the_environment_from_the_builder() -> None:
    assert given(BUILDER, "FROM")[0].endswith("AS builder")
    assert given(FINAL, "COPY") == ["--from=builder /opt/overspill /opt/overspill"]
    assert given(FINAL, "RUN") == [], "nothing is installed or built in the image that ships"


def test_both_stages_share_one_slim_python() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-slim$", text, re.MULTILINE)
    assert {rest.split()[0] for rest in given(BUILDER, "FROM") + given(FINAL, "FROM")} == {"${PYTHON_IMAGE}"}


def test_it_does_not_run_as_root() -> None:
    [user] = given(FINAL, "USER")
    uid, gid = (int(part) for part in user.split(":"))  # numbers: Kubernetes cannot check a name
    assert uid > 0
    assert gid > 0
    order = [instruction.word for instruction in FINAL]
    assert order.index("USER") < order.index("ENTRYPOINT")


def test_every_install_is_pinned_by_hash_or_needs_no_network() -> None:
    installs = [
        command
        for run in given(BUILDER, "RUN")
        for command in run.split("&&")
        if re.search(r"\b(pip|uv)\b.* install ", command)
    ]
    assert len(installs) == 3
    for command in installs:
        local = "--no-index" in command and "--no-deps" in command
        assert "--require-hashes" in command or local, command
    [wheel] = [run for run in given(BUILDER, "RUN") if "pip wheel" in run]
    assert "--no-build-isolation" in wheel, "isolation would fetch a build tool that no lock names"


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt"])
def test_the_locks_have_a_hash_for_every_requirement(lock: str) -> None:
    text = (ROOT / ".ci/lock" / lock).read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(requirements) > 10
    for line in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line[:80]


def test_the_build_tool_is_taken_from_the_lock(tmp_path: Path) -> None:
    if shutil.which("sed") is None:
        pytest.skip("needs sed")
    [command] = [run for run in given(BUILDER, "RUN") if "build.txt" in run]
    (tmp_path / "lock").mkdir()
    shutil.copy(ROOT / ".ci/lock/dev.txt", tmp_path / "lock")
    subprocess.run(command.split("&&")[0], shell=True, cwd=tmp_path, check=True, timeout=20)
    text = (tmp_path / "lock/build.txt").read_text()
    assert text.startswith("setuptools==")
    assert "--hash=sha256:" in text
    assert text.count("==") == 1


def test_the_health_check_asks_the_admin_port_and_fails_on_anything_but_success() -> None:
    [check] = given(FINAL, "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    assert "OVERSPILL_HEALTH_URL=http://127.0.0.1:8002/livez" in " ".join(given(FINAL, "ENV"))
    dead = subprocess.run(
        [shutil.which("python3") or "python", *command[1:]],
        env={"OVERSPILL_HEALTH_URL": "http://127.0.0.1:1/livez"},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert dead.returncode == 1


def test_it_serves_drains_on_stop_and_names_its_ports() -> None:
    assert given(FINAL, "EXPOSE") == ["8000 8001 8002"]
    assert given(FINAL, "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(given(FINAL, "ENTRYPOINT")[0]) == ["overspill"]
    assert json.loads(given(FINAL, "CMD")[0]) == ["serve", "-c", "/etc/overspill/overspill.yaml"]


def test_every_package_of_the_distribution_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"]} <= set(copied_from_context())


def let_through(path: str) -> bool:
    """Docker's rule: the last pattern that matches the path or a folder above it decides."""
    let = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if any(fnmatch.fnmatch(name, pattern) for name in [*above, *parts]):
            let = keep
    return let


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    for path in copied_from_context():
        assert (ROOT / path).exists(), path
        assert let_through(path), path
    for path in (
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "key.pem",
        "gateway/__pycache__/a.pyc",
    ):
        assert not let_through(path), path
