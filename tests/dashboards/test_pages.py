"""The committed JSON is what the code says, and every page is whole."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.dashboards.catalogue import PAGES
from gateway.dashboards.pages import Page

CONFIG = Path(__file__).parents[2] / "config"
FOLDER = CONFIG / "grafana" / "dashboards"


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


def test_the_provisioning_files_point_at_each_other() -> None:
    folder = CONFIG / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    provider: dict[str, Any]
    (provider,) = yaml.safe_load((folder / "dashboards" / "overspill.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
