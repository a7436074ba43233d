"""The tables of names and modules say the truth, and a process imports the plugins that its file names."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import backends
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.registry import Registry
from policies import policies
from tests.support.source import parsed

ROOT = Path(__file__).parent.parent.parent
FILE = """
version: 1
listen: {http: "127.0.0.1:0", admin: "127.0.0.1:0"}
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 4}
  burst: {type: runpod, endpoint_id: abc, api_key: {env: KEY_OF_THIS_TEST}, max_in_flight: 4}
routes:
  all: {match: {model: "*"}, policy: spill_when_full, tiers: [{backend: fleet}, {backend: burst}]}
"""
COMMANDS_ONLY = (
    "gateway.demo",
    "gateway.simulator.main",
    "gateway.probe.command",
    "rich",
    "numpy",
    "botocore",
)


def added(folder: str) -> Iterator[tuple[str, str]]:
    """(name, module) of each class that a module of the folder adds under a name."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(parsed(path.read_text())):
            for each in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(each, ast.Call) and ast.unparse(each.func) == f"{folder}.add":
                    yield ast.literal_eval(each.args[0]), module


@pytest.mark.parametrize(("folder", "registry"), [("backends", backends), ("policies", policies)])
def test_every_name_is_found_in_the_module_that_adds_it(folder: str, registry: Registry[object]) -> None:
    assert registry.modules() == dict(added(folder))
    assert list(registry) == sorted(name for name, _ in added(folder))
    assert {name: registry.get(name).__module__ for name in registry} == registry.modules()


def test_a_module_that_does_not_keep_its_word_is_told() -> None:
    kinds: Registry[object] = Registry("backend")
    kinds.find_in("gateway.vocab", "nothing")
    assert list(kinds) == ["nothing"]
    with pytest.raises(RuntimeError, match=r"gateway\.vocab adds no backend 'nothing'"):
        kinds.get("nothing")


def test_a_name_is_found_in_one_module() -> None:
    kinds: Registry[object] = Registry("backend")
    kinds.find_in("here", "one", "two")
    kinds.find_in("here", "two")
    with pytest.raises(ValueError, match="backend 'two' is in here, not in there"):
        kinds.find_in("there", "two")
    with pytest.raises(ValueError, match="'one' is registered"):
        kinds.retire("one", "elsewhere")


def test_a_name_that_nobody_has_is_answered_with_all_that_there_are() -> None:
    with pytest.raises(KeyError, match=f"unknown backend 'tritn'; known: {', '.join(backends)}"):
        backends.get("tritn")
    with pytest.raises(ConfigProblems) as caught:
        load(FILE.replace("triton", "tritn"), backends, policies, resolve_secrets=False)
    (said,) = (str(problem) for problem in caught.value.problems)
    assert "there is no backend type `tritn`; did you mean `triton`?" in said
    assert all(name in said for name in backends)


def test_serving_imports_the_backends_and_policies_of_the_file_and_no_others(tmp_path: Path) -> None:
    file, errors = tmp_path / "gateway.yaml", tmp_path / "errors.txt"
    file.write_text(FILE)
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-v", "-m", "gateway.cli", "serve", "-c", str(file)],
            stderr=subprocess.PIPE, env={**os.environ, "KEY_OF_THIS_TEST": "x"},
        )  # fmt: skip
        assert process.stderr is not None
        with process, process.stderr:
            for line in process.stderr:
                sink.write(line)
                if b"serving on" in line:
                    process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, errors.read_text()
    imported = set(re.findall(r"^import '([\w.]+)' #", errors.read_text(), re.MULTILINE))
    plugins = {*backends.modules().values(), *policies.modules().values()}
    assert imported & plugins == {"backends.triton", "backends.runpod", "policies.spill_when_full"}
    assert not imported & set(COMMANDS_ONLY)
