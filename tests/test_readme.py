"""What the README tells people to type, typed.

Every line of every `bash` and every `python` block runs here, against a gateway started from the very
command in the README. Ports are the machine's choice instead of 8000 and 8002; `make` targets that would
start this test suite again are run dry and held against the command they stand for.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.app import registries
from gateway.config.load import load
from gateway.demo.processes import Child, free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]

DRY = {
    "make demo": "overspill demo",
    "make test": "-m pytest",
    "make check": "mypy",
    "make bench": "-m loadtests.bench",
}


def run(command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """(data, admin) of a gateway on `config/minimal.yaml`, with a v2 server where that file expects it."""
    folder = tmp_path_factory.mktemp("readme")
    weights = folder / "digits.npz"
    from gateway.demo.models import train

    train().model.save(weights)
    server = Child(
        "server",
        [sys.executable, "-m", "backends.emulators", "--kind", "kserve", "--port", "0",
         "--config", '{"app": "gateway.demo.apps:digits_app"}'],
        env={"OVERSPILL_DEMO_WEIGHTS": str(weights)},
    )  # fmt: skip
    http, admin = free_port(), free_port()
    with server:
        url = server.wait_ready(60)["url"]
        text = (ROOT / "config" / "minimal.yaml").read_text().replace("http://127.0.0.1:8010", url)
        assert url in text
        file = folder / "minimal.yaml"
        file.write_text(f"{text}listen: {{http: '127.0.0.1:{http}', admin: '127.0.0.1:{admin}'}}\n")
        with Child("gateway", [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]) as gateway:
            gateway.wait_answer(f"http://127.0.0.1:{admin}/readyz", 60)
            yield http, admin
            assert gateway.stop() == 0


def here(text: str, ports: tuple[int, int]) -> str:
    return text.replace("localhost:8000", f"localhost:{ports[0]}").replace(
        "localhost:8002", f"localhost:{ports[1]}"
    )


def test_the_readme_has_all_that_is_run_here() -> None:
    assert len(COMMANDS) >= 9
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets(command: str) -> None:
    dry = run([*command.split(), "--dry-run", "--always-make"] if command in DRY else command.split())
    assert dry.returncode == 0, dry.stderr
    if command in DRY:
        assert DRY[command] in dry.stdout


def record(folder: Path) -> None:
    """What `overspill serve … --record run.jsonl` leaves after one call."""
    http, admin = free_port(), free_port()
    text = (ROOT / "config" / "minimal.yaml").read_text()
    (folder / "minimal.yaml").write_text(
        f"{text}listen: {{http: '127.0.0.1:{http}', admin: '127.0.0.1:{admin}'}}\n"
    )
    serve = ["serve", "-c", "minimal.yaml", "--record", "run.jsonl"]
    command = ["bash", "-c", f"cd {folder} && exec {sys.executable} -m gateway.cli {' '.join(serve)}"]
    with Child("gateway", command, env={"PYTHONPATH": str(ROOT)}) as gateway:
        gateway.wait_answer(f"http://127.0.0.1:{admin}/livez", 60)
        run(["curl", "-s", f"localhost:{http}/v2/models/digits/infer", "-d", "{}"])
        assert gateway.stop() == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("overspill ")])
def test_overspill_commands(command: str, ports: tuple[int, int], tmp_path: Path) -> None:
    if "--replay" in command:
        record(tmp_path)
        command = command.replace("config/minimal.yaml", str(tmp_path / "minimal.yaml"))
        command = command.replace("run.jsonl", str(tmp_path / "run.jsonl"))
    words = command.partition("#")[0].split()
    if words[1] == "serve":
        return  # the fixture `ports` is this command, on the same file, with ports of its own; or `record`
    done = run([sys.executable, "-m", "gateway.cli", *words[1:]])
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("curl ")])
def test_curl_commands(command: str, ports: tuple[int, int]) -> None:
    done = run(["bash", "-c", here(command, ports)])
    assert done.returncode == 0, done.stderr
    if "infer" in command:
        assert "200 OK" in done.stdout
        assert '"datatype":"INT64","shape":[1,1],"data":[0]' in done.stdout.replace(" ", "")
    else:
        assert "fleet" in done.stdout


def test_every_command_is_of_a_kind_that_is_run_here() -> None:
    assert all(command.split()[0] in {"make", "overspill", "curl"} for command in COMMANDS)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["tritonclient", "openai"])
def test_snippets(snippet: str, ports: tuple[int, int]) -> None:
    done = run([sys.executable, "-c", here(snippet, ports)])
    assert done.returncode == 0, done.stderr
    if "tritonclient" in snippet:
        assert re.fullmatch(r"\[\[\d\]\]", done.stdout.strip())


def test_the_annotated_policy_file_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "x")
    (example,) = [text for kind, text in BLOCKS if kind == "yaml"]
    assert not load(example, *registries()).warnings


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists(), target


def test_the_digit_in_the_example_is_a_zero() -> None:
    (line,) = [c for c in COMMANDS if "infer" in c]
    numbers = re.search(r'"data": \[([\d,]+)\]', line)
    assert numbers
    assert np.fromstring(numbers[1], sep=",").size == 64
