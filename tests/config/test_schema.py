"""The JSON Schema says what `check` says, for every file that ships and every golden one that is good."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway import app
from gateway.config.json_schema import json_schema
from tests.config.plugins import GOOD, problems, registries
from tests.config.test_golden import GOLDEN, SEPARATOR
from tests.config.test_shipped import SHIPPED


def validator(schema: dict[str, Any]) -> Any:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def shipped() -> Any:
    """Of the backends and policies that ship."""
    return validator(json_schema(*app.registries()))


@pytest.fixture(scope="module")
def made_up() -> Any:
    """Of the few that these tests have of their own."""
    return validator(json_schema(*registries()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_fit(shipped: Any, path: Path) -> None:
    shipped.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_good_golden_files_fit(made_up: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8").partition(SEPARATOR)[0]
    if not problems(text):
        made_up.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("version: 1", "versoin: 1"),
        ("type: fleet", "type: flet"),
        ("type: rented", "type: fleet"),
        ("max_in_flight: 16", "max_in_flight: 0"),
        ("max_in_flight: 16", "max_inflight: 16"),
        ("{env: RENTED_API_KEY}", "inline"),
        ("{env: RENTED_API_KEY}", "{env: A, file: B}"),
        ("within: 250ms", "within: 250"),
        ("type: skewed", "type: unknown"),
        ("skew: 20%", "skw: 20%"),
        ("{type: skewed, skew: 20%}", "skewed"),
        ("when_full: shed", "when_full: spil"),
        ("queue: 40ms", "queue: 40"),
        ("  invoke:", "  in voke:"),
        ("0.0.0.0:8000", "8000"),
    ],
)
def test_what_check_refuses_the_schema_refuses(made_up: Any, old: str, new: str) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    assert problems(text)
    assert not made_up.is_valid(yaml.safe_load(text))


def test_every_key_of_the_file_is_explained(shipped: Any) -> None:
    """Editors show the descriptions; a key without one was added without its docstring."""
    bare: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in (
                node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ()
            ):
                if not value.get("description") and path + key not in ("version",):
                    bare.append(path + key)
            for key, value in node.items():
                walk(value, f"{path}{key}/")
        elif isinstance(node, list):
            for value in node:
                walk(value, path)

    walk(shipped.schema, "")
    assert bare == []
