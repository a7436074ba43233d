"""The import arrows of the design go one way. This walks every import and holds it against the picture."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source import parsed

ROOT = Path(__file__).parent.parent
PRODUCT = ("gateway", "backends", "policies")

HTTP2 = {"gateway.http2"} | {
    f"gateway.http2.{name}" for name in ("frames", "fields", "limits", "messages", "stream", "connection")
}
"""The wire that the gRPC port and the gRPC replicas have in common."""
LEAVES = {
    "gateway." + name
    for name in ("vocab", "errors", "clock", "registry", "options", "cork", "busy_poll", "kept_fields")
} | HTTP2
LEAF_LIBRARIES = {
    "gateway.vocab": {"msgspec"},
    "gateway.options": {"pydantic"},
    "gateway.http2.fields": {"hpack"},
}

STEPS = "gateway.steps"  # what stands between the leaves and the pipeline
ABOVE = {
    "gateway.pipeline",
    "gateway.listener",
    "gateway.connection",
    "gateway.app",
    "gateway.serving",
    "gateway.cli",
}


def modules() -> Iterator[tuple[str, Path]]:
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow goes"
            assert node.module is not None
            yield node.module
            # `from backends import runpod` names a module; `from gateway.vocab import Call` does not
            for alias in node.names:
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


ALL = dict(modules())


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_only_each_other_and_the_standard_library(name: str) -> None:
    ours = {i for i in imports(ALL[name]) if i.split(".")[0] in PRODUCT and i != "gateway"}
    assert ours <= LEAVES
    outside = {i.split(".")[0] for i in imports(ALL[name])} - set(PRODUCT)
    import sys

    foreign = {i for i in outside if i not in sys.stdlib_module_names}
    assert foreign <= LEAF_LIBRARIES.get(name, set())


@pytest.mark.parametrize("name", [n for n in ALL if n.split(".")[0] in ("policies", "backends")])
def test_plugins_know_the_leaves_and_their_own_folder(name: str) -> None:
    folder = name.split(".")[0]
    for target in imports(ALL[name]):
        if target.split(".")[0] not in PRODUCT or target == "gateway":
            continue
        assert target in LEAVES or target.split(".")[0] == folder, f"{name} imports {target}"


def concrete(folder: str) -> set[str]:
    """The plugin modules of a folder: those that register something."""
    return {
        name
        for name, path in ALL.items()
        if name.startswith(f"{folder}.") and f"@{folder}.add(" in path.read_text()
    }


@pytest.mark.parametrize("folder", ["policies", "backends"])
def test_plugins_do_not_know_each_other(folder: str) -> None:
    for name in concrete(folder):
        others = concrete(folder) - {name}
        assert not others & set(imports(ALL[name])), name


def test_only_the_composition_root_knows_concrete_plugins() -> None:
    plugins = concrete("policies") | concrete("backends") | {"policies", "backends"}
    for name, path in ALL.items():
        if name.split(".")[0] != "gateway" or name == "gateway.app":
            continue
        assert not plugins & set(imports(path)), name


def test_no_step_knows_what_stands_above_it() -> None:
    for name, path in ALL.items():
        top = ".".join(name.split(".")[:2])
        if name.split(".")[0] != "gateway" or top in ABOVE or top in {"gateway.demo", "gateway.admin"}:
            continue
        assert not ABOVE & set(imports(path)), f"{name} imports upwards"


def test_nobody_imports_the_command_line_or_the_demo() -> None:
    for name, path in ALL.items():
        if name == "gateway.cli" or name.startswith("gateway.demo"):
            continue
        assert not {i for i in imports(path) if i == "gateway.cli" or i.startswith("gateway.demo")}, name


def test_one_http_client_and_one_web_server_framework_place() -> None:
    for name, path in ALL.items():
        text = path.read_text()
        if "ClientSession" in text:
            assert name in {"backends.client"} or name.startswith("gateway.demo"), name
        if "aiohttp.web" in text or "import web" in text:
            assert name in {"gateway.admin", "gateway.console.web"} or name.startswith(
                "backends.emulators"
            ), name
