"""The files in config/ are good, and stay so: users begin with them."""

import re
from pathlib import Path

import pytest
import yaml

from gateway import app
from gateway.config.effective import effective
from gateway.config.json_schema import json_schema
from gateway.config.load import load

STATE = Path("config/explain-state.yaml")  # of a fleet, for `overspill explain`: no configuration
PRICES = Path("config/prices.yaml")  # what `price: {like: …}` looks up
STACK = Path("config/compose.yaml")  # for a container engine
SHIPPED = sorted(path for path in Path("config").glob("*.yaml") if path not in (STATE, PRICES, STACK))
SECRETS = ("RUNPOD_API_KEY", "MODAL_KEY", "MODAL_SECRET")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "planted")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_is_good_and_nothing_in_it_is_doubtful(path: Path) -> None:
    loaded = load(path, *app.registries())
    assert loaded.warnings == []
    assert "planted" not in effective(loaded.settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_effective_configuration_is_good_too(path: Path) -> None:
    first = load(path, *app.registries()).settings
    again = load(effective(first), *app.registries()).settings
    assert again.model_dump() == first.model_dump()


def test_the_defaults_that_the_example_names_are_the_defaults() -> None:
    path = Path("config/overspill.yaml")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    without = {key: value for key, value in written.items() if key != "limits"}
    registries = app.registries()
    limits = load(path, *registries).settings.limits
    assert load(yaml.safe_dump(without), *registries).settings.limits == limits
    assert set(written["limits"]) == set(type(limits).model_fields)


def test_the_example_names_every_key() -> None:
    text = Path("config/overspill.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"\b([a-z_0-9]+):", text))
    schema = json_schema(*app.registries())
    shapes = [schema, *(shape for name, shape in schema["$defs"].items() if "oopback" not in name)]
    assert {key for shape in shapes for key in shape.get("properties", {})} - named == set()


def test_every_secret_that_the_files_need_is_named_here() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in SHIPPED)
    assert set(re.findall(r": \{env: ([A-Z_]+)\}", texts)) == set(SECRETS)
