"""Budgets on the shape of the code, so that it stays readable: sizes, globals, hidden imports."""

import ast
from pathlib import Path

import pytest

from tests.support.source import parsed

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for folder in ("gateway", "backends", "policies", "loadtests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

MODULE_LINES = 500
FUNCTION_LINES = 60
HEAVY = {
    "botocore", "cryptography", "grpc", "jwt", "litellm", "pytriton", "sklearn", "numpy", "modal", "runpod",
    "tritonclient",
    "gateway.auth.listing", "gateway.demo", "gateway.app", "gateway.explain", "gateway.idempotency.sqlite", "gateway.probe", "gateway.simulator", "gateway.top",
    "gateway.tracing", "opentelemetry",
}  # fmt: skip
"""Optional or costly packages that may be imported where they are used."""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_keeps_the_shape(path: Path) -> None:
    text = path.read_text()
    tree = parsed(text)
    assert text.count("\n") <= MODULE_LINES
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= FUNCTION_LINES, node.name
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    names = (
                        [inner.module or ""]
                        if isinstance(inner, ast.ImportFrom)
                        else [a.name for a in inner.names]
                    )
                    for name in names:
                        assert any(name == h or name.startswith(h + ".") for h in HEAVY), (
                            f"{node.name}: {name}"
                        )
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module says in its docstring what it is for"
