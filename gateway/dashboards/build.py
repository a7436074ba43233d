"""Draws pages as Grafana dashboards, in Grafana's own JSON model.

The only place that imports `grafana-foundation-sdk` (extra `dashboards`). Must never know what a query asks.
"""

import json
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
)
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from gateway.dashboards.pages import Kind, Page, Panel, Query

_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_LISTS = {
    "job": "label_values(overspill_build_info, job)",
    "route": 'label_values(overspill_overhead_seconds_count{job=~"$job"}, route)',
    "backend": 'label_values(overspill_capacity{job=~"$job"}, backend)',
}
"""Where the choices of each variable come from."""


def as_json(page: Page) -> str:
    """The dashboard as Grafana imports it, the same text for the same page."""
    value = json.loads(json.dumps(_dashboard(page).build(), cls=JSONEncoder))
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _dashboard(page: Page) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags(["overspill"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Overspill").type(model.DashboardLinkType.DASHBOARDS).tags(["overspill"])
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name in ("job", *page.chooses):
        built.with_variable(_variable(name))
    number = 0
    for row in page.rows:
        number += 1
        built.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel(_panel(panel, number))
    return built


def _variable(name: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(_LISTS[name])
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel, number: int) -> Any:
    built = _DRAWN[panel.kind](panel)
    built.title(panel.title).description(panel.description).id(number)
    built.span(panel.width).height(panel.height).unit(panel.unit).datasource(_SOURCE)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.words:
        built.mappings([_mapping(panel.words)])
    if panel.steps:
        steps = [model.Threshold(value=step.value, color=step.color) for step in panel.steps]
        built.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    for place, query in enumerate(panel.queries):
        built.with_target(_target(query, panel.kind).ref_id(chr(ord("A") + place)))
        if query.limit:
            built.override_by_query(chr(ord("A") + place), _dashed())
    return built


def _target(query: Query, kind: Kind) -> prometheus.Dataquery:
    built = prometheus.Dataquery().datasource(_SOURCE).expr(query.expr).legend_format(query.legend)
    if kind in ("number", "bars"):
        return built.instant()
    if query.exemplars:
        built.exemplar(exemplar=True)
    return built.format(PromQueryFormat.HEATMAP).range() if kind == "heat" else built.range()


def _dashed() -> list[model.DynamicConfigValue]:
    return [
        model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
        model.DynamicConfigValue("custom.fillOpacity", 0),
        model.DynamicConfigValue("custom.stacking", {"mode": "none"}),
    ]


def _mapping(words: tuple[tuple[str, str, str], ...]) -> model.ValueMap:
    return model.ValueMap(
        {
            value: model.ValueMappingResult(text=text, color=color, index=place)
            for place, (value, text, color) in enumerate(words)
        }
    )


def _graph(panel: Panel) -> lines.Panel:
    legend = common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST)
    legend.placement(common_model.LegendPlacement.BOTTOM).show_legend(show_legend=True)
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    built = lines.Panel().line_width(1).show_points(common_model.VisibilityMode.NEVER).min(0)
    built.legend(legend).tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    if panel.steps:
        style = common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        built.thresholds_style(style)
    return built


def _stacked(panel: Panel, mode: common_model.StackingMode) -> lines.Panel:
    return _graph(panel).fill_opacity(35).stacking(common.StackingConfig().mode(mode))


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


_DRAWN: dict[Kind, Any] = {
    "lines": lambda panel: _graph(panel).fill_opacity(5),
    "area": lambda panel: _stacked(panel, common_model.StackingMode.NORMAL),
    "shares": lambda panel: _stacked(panel, common_model.StackingMode.PERCENT),
    "number": lambda panel: (
        stat.Panel()
        .reduce_options(_last())
        .text_mode(common_model.BigValueTextMode.VALUE_AND_NAME)
        .color_mode(
            common_model.BigValueColorMode.VALUE
            if panel.steps or panel.words
            else common_model.BigValueColorMode.NONE
        )
        .graph_mode(common_model.BigValueGraphMode.NONE)
    ),
    "bars": lambda _: (
        bargauge.Panel()
        .reduce_options(_last())
        .orientation(common_model.VizOrientation.HORIZONTAL)
        .display_mode(common_model.BarGaugeDisplayMode.BASIC)
    ),
    "heat": lambda _: heatmap.Panel().calculate(calculate=False),
    "states": lambda _: statetimeline.Panel().show_value(common_model.VisibilityMode.AUTO),
}
