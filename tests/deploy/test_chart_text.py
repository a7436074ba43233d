"""The chart's own files, read without helm: they fit each other, and what they were copied from."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway import __version__
from gateway.app import load_file
from tests.deploy.tools import CHART, ROOT
from tests.deploy.values import EVERYTHING

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = sorted(path for path in (CHART / "templates").rglob("*") if path.is_file())
ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
FREE = {
    "serviceMonitor.tlsConfig",
    "resources",
    "affinity",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "global",
}
"""Values that are passed on as they are."""


def actions(path: Path) -> list[str]:
    return [text for text in ACTION.findall(path.read_text()) if not text.startswith("/*")]


def keys(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The dotted path of every value that is not a map of the chart's own."""
    for name, value in values.items():
        path = f"{above}{name}"
        if (
            isinstance(value, dict)
            and value
            and path not in FREE
            and not path.endswith(("labels", "annotations"))
        ):
            yield from keys(value, f"{path}.")
        else:
            yield path


def in_schema(path: str) -> bool:
    node = SCHEMA
    for part in path.split("."):
        node = node.get("properties", {}).get(part)
        if node is None:
            return False
    return True


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_closes_what_it_opens(path: Path) -> None:
    depth = 0
    for action in actions(path):
        word = action.split(maxsplit=1)[0] if action else ""
        depth += word in {"if", "range", "with", "define", "block"}
        depth -= word == "end"
        assert depth >= 0, f"an end too many before {action!r}"
    assert depth == 0
    assert path.read_text().count("{{") == path.read_text().count("}}")


def test_templates_use_every_value_and_no_other() -> None:
    used = set()
    for path in TEMPLATES:
        for action in actions(path):
            used |= set(re.findall(r"\.Values\.([A-Za-z0-9.]+)", action))
    written = set(keys(VALUES))
    known = written | {path.rsplit(".", count)[0] for path in written for count in range(path.count(".") + 1)}
    assert used - known == set(), "not in values.yaml"
    assert {path for path in written if not any(path == u or path.startswith(f"{u}.") for u in used)} == set()


def test_includes_name_templates_that_are_defined() -> None:
    texts = [action for path in TEMPLATES for action in actions(path)]
    defined = {name for text in texts for name in re.findall(r'^define "([^"]+)"', text)}
    included = {name for text in texts for name in re.findall(r'include "([^"]+)"', text)}
    assert included == defined


def test_schema_and_values_have_the_same_keys() -> None:
    assert [path for path in keys(VALUES) if not in_schema(path)] == []
    assert set(SCHEMA["properties"]) - set(VALUES) == {"global"}


@pytest.mark.parametrize("values", [VALUES, EVERYTHING | {"config": "a: 1", "image": {"repository": "a"}}])
def test_the_schema_takes_good_values(values: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replicaCounts", 3),
        ("replicaCount", -1),
        ("replicaCount", "two"),
        ("workers", "many"),
        ("workers", 0),
        ("config", ""),
        ("config", {"version": 1}),
        ("image.pullPolicy", "Sometimes"),
        ("image.digest", "latest"),
        ("secretEnv", [{"name": "KEY", "value": "a secret"}]),
        ("secretEnv", [{"name": "K-Y", "secret": "a", "key": "b"}]),
        ("secretFiles", [{"secret": "a", "path": "/etc/overspill"}]),
        ("secretFiles", [{"secret": "a", "path": "/run/secrets/../../tmp"}]),
        ("podDisruptionBudget.maxUnavailable", 0),
        ("autoscaling.targetCPUUtilizationPercentage", 0),
        ("service.type", "ExternalName"),
        ("serviceMonitor.interval", "15 seconds"),
        ("prometheusRule.costPer1kUsd", -1),
        ("keda.backend", "a b"),
        ("adminToken", "a secret"),
        ("securityContext", {"runAsUser": 0}),
    ],
)
def test_the_schema_refuses_bad_values(path: str, value: object) -> None:
    values = json.loads(json.dumps(VALUES))
    *above, name = path.split(".")
    node = values
    for part in above:
        node = node[part]
    node[name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


def test_the_charts_own_policy_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "overspill.yaml"
    path.write_text(VALUES["config"])
    assert load_file(path).settings.routes


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize(
    ("copies", "originals", "left_out"),
    [
        ("dashboards", "config/grafana/dashboards", set()),
        # The limits are values of the chart.
        ("rules", "config/prometheus", {"limits-rules.yaml", "prometheus.yaml"}),
    ],
)
def test_what_the_chart_carries_along_is_what_it_was_copied_from(
    copies: str, originals: str, left_out: set[str]
) -> None:
    there = {path.name: path.read_bytes() for path in (ROOT / originals).iterdir()}
    here = {path.name: path.read_bytes() for path in (CHART / "files" / copies).iterdir()}
    assert here == {name: text for name, text in there.items() if name not in left_out}, "run `make chart`"
