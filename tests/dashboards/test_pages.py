"""What the dashboards and rules ask for exists, and the committed JSON is what the code says."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.dashboards.catalogue import PAGES
from gateway.dashboards.pages import Page
from tests.ledger.test_metrics import PROMISED

CONFIG = Path(__file__).parents[2] / "config"
FOLDER = CONFIG / "grafana" / "dashboards"
LATER = {"recommended_replicas", "instances_started_total"}
"""Metrics that are there for some gateways only."""


def metrics(text: str) -> set[str]:
    return set(re.findall(r"\boverspill_([a-z0-9_]+)", text))


@pytest.mark.parametrize("name", PAGES)
def test_the_json_is_what_the_code_says(name: str) -> None:
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        pytest.skip("the extra `dashboards` is not installed")
    from gateway.dashboards.build import as_json

    assert (FOLDER / f"{name}.json").read_text() == as_json(PAGES[name]), "run python -m gateway.dashboards"


@pytest.mark.parametrize("name", PAGES)
def test_the_json_asks_what_the_page_asks(name: str) -> None:
    """Also where the extra is not installed: no query, title or unit may drift."""
    page, drawn = PAGES[name], json.loads((FOLDER / f"{name}.json").read_text())
    assert (drawn["uid"], drawn["title"]) == (page.uid, page.title)
    panels = [panel for panel in drawn["panels"] if panel["type"] != "row"]
    assert [(panel["title"], panel["description"]) for panel in panels] == [
        (panel.title, panel.description) for panel in page.panels
    ]
    assert [
        [(target["expr"], target["legendFormat"]) for target in panel["targets"]] for panel in panels
    ] == [[(query.expr, query.legend) for query in panel.queries] for panel in page.panels]
    assert [panel["fieldConfig"]["defaults"]["unit"] for panel in panels] == [
        panel.unit for panel in page.panels
    ]
    ids = [panel["id"] for panel in drawn["panels"]]
    assert len(set(ids)) == len(ids)


def test_there_is_no_other_json() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in PAGES}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_panels_fill_their_rows_and_say_what_they_show(page: Page) -> None:
    for panel in page.panels:
        assert panel.description
        assert panel.queries
    for row in page.rows:
        used = 0
        for panel in row.panels:
            used = panel.width if used + panel.width > 24 else used + panel.width
        assert used == 24, row.title


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_every_metric_of_a_page_is_one_of_the_gateways(page: Page) -> None:
    asked = {name for panel in page.panels for query in panel.queries for name in metrics(query.expr)}
    assert asked <= set(PROMISED) | LATER


def test_every_metric_of_the_rules_is_one_of_the_gateways() -> None:
    for path in (CONFIG / "prometheus").glob("*-rules.yaml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                assert metrics(rule["expr"]) <= set(PROMISED) | LATER, rule


def test_the_provisioning_files_point_at_each_other() -> None:
    folder = CONFIG / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    provider: dict[str, Any]
    (provider,) = yaml.safe_load((folder / "dashboards" / "overspill.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
