"""The page of a simulation: it needs nothing else, says what the JSON says, and trusts no name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backends import backends
from gateway.cli import command
from gateway.simulator import plots
from gateway.simulator.html import page, section
from gateway.simulator.main import Study, Wanted, simulation
from gateway.simulator.plots import Chart, Scale
from gateway.simulator.series import Grid
from policies import policies

OPTIONS = {"service": "lognormal:0.3s:0.4", "budget": "3s", "cold": "lognormal:2s:0.4"}
TRACE = "burst:2:20:60"
VOID = {"meta", "br", "path", "rect", "link", "img"}


class Reader(HTMLParser):
    """Holds that every element is closed in its place, and keeps what the tests look at."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.values: dict[tuple[str, str], float] = {}
        self.texts: dict[str, list[str]] = {}
        self.row = self.field = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.attributes.append((tag, found))
        if tag == "tr":
            self.row = found.get("data-policy") or ""
        if tag == "td":
            self.field = found.get("data-field") or ""
        if tag == "data" and self.row and self.field:
            self.values[self.row, self.field] = float(found["value"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.row = self.field = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@cache
def study(trace: str = TRACE, **changed: Any) -> Study:
    wanted = Wanted(**(OPTIONS | changed))
    return simulation(wanted, backends, policies, tell=lambda _: None, warn=lambda _: None)(trace)


def drawn(of: Study, **changed: Any) -> str:
    wanted = Wanted(**(OPTIONS | changed))
    return page([(of.result["trace"], section(of, wanted, number=0))], seed=wanted.seed)


def simulate(*arguments: str) -> Result:
    options = [part for name, value in OPTIONS.items() for part in (f"--{name}", value)]
    return CliRunner().invoke(command, ["simulate", "--trace", TRACE, *options, *arguments])


def test_it_asks_for_nothing() -> None:
    text = drawn(study())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|<link|<iframe|<img", text)
    scripts = [found for tag, found in read(text).attributes if tag == "script"]
    assert [found["type"] for found in scripts] == ["application/json"]
    assert "default-src 'none'" in text


def test_every_figure_of_the_table_is_that_of_the_json() -> None:
    of = study()
    values = read(drawn(of)).values
    for name, entry in of.result["policies"].items():
        for field in ("replicas", "attained", "cost", "spill_ratio", "cold_ratio", "activations", "lost"):
            assert values[name, field] == entry[field]
        for part, amount in entry["cost_split"].items():
            assert values.get((name, part), 0.0) == amount
        assert values[name, "ratio_to_bound"] == of.result["ratio_to_bound"][name]
    assert {name for name, _ in values} == set(of.result["policies"])


def test_the_json_itself_is_in_it() -> None:
    of = study()
    kept = json.loads("".join(read(drawn(of)).texts["script"]))
    assert kept == of.result


@pytest.mark.parametrize("unit", ["usd", "slot_seconds"])
def test_lines_of_cost_end_at_the_cost(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    cost = plots.cost

    def watched(ident: str, grid: Grid, lines: Any, bound: float | None, **more: Any) -> plots.Drawing:
        seen.extend((name, values[-1]) for name, values in lines)
        return cost(ident, grid, lines, bound, **more)

    monkeypatch.setattr(plots, "cost", watched)
    of = study(unit=unit)
    drawn(of, unit=unit)
    assert dict(seen) == pytest.approx({name: e["cost"] for name, e in of.result["policies"].items()})


def test_every_policy_has_its_drawings_and_every_drawing_its_words() -> None:
    of = study()
    reader = read(drawn(of))
    assert set(of.result["policies"]) <= set(reader.texts["h4"])
    labels = [
        found["aria-labelledby"] or "" for tag, found in reader.attributes if found.get("role") == "img"
    ]
    marks = [found["id"] for _, found in reader.attributes if "id" in found]
    assert len(marks) == len(set(marks))
    assert {mark for label in labels for mark in label.split()} <= set(marks)
    assert len([title for title in reader.texts["title"] if title == "Latency against the budget"]) == len(
        of.result["policies"]
    )
    waiting = [title for title in reader.texts["title"] if title == "Requests waiting"]
    assert len(waiting) == len(of.result["policies"])
    assert all(text.strip() for text in reader.texts["desc"])


def test_names_are_only_text() -> None:
    evil = '<script>alert("1")</script>&amp;</style><img src=x onerror=y>'
    of = study()
    renamed = {evil: of.result["policies"]["fleet_only"]}
    result = {**of.result, "trace": evil, "policies": renamed, "ratio_to_bound": {}}
    text = drawn(replace(of, outcomes={evil: of.outcomes["fleet_only"]}, result=result))
    reader = read(text)
    assert [tag for tag, _ in reader.attributes if tag in ("img", "script")] == ["script"]
    assert reader.texts["h2"] == [evil]
    assert reader.texts["h4"] == [evil]
    assert json.loads("".join(reader.texts["script"]))["trace"] == evil


def test_the_bound_is_told_with_its_kind_and_its_bins() -> None:
    of = study()
    text = " ".join(drawn(of).split())
    assert f'<data value="{of.result["bound"]["cost"]!r}">' in text
    assert f'<data value="{of.result["bound"]["dt"]!r}">' in text
    assert "fluid linear program" in text
    assert "it is not known whether anybody can reach it" in text


def test_without_a_bound_it_says_why() -> None:
    of = study()
    text = drawn(replace(of, result={**of.result, "bound": None, "ratio_to_bound": {}}))
    assert "numpy and scipy" in text
    assert "lower bound, whole trace" not in text
    read(text)


def test_who_misses_the_objective_is_not_the_best() -> None:
    of = study(replicas="1", policies=("fleet_only", "serverless_only"))
    assert of.result["policies"]["fleet_only"]["cost"] < of.result["policies"]["serverless_only"]["cost"]
    text = drawn(of, replicas="1")
    assert "fleet_only does not attain the objective" in text or "No policy answers" in text
    assert "misses the objective" in text


def test_a_long_trace_gives_a_small_page() -> None:
    of = study("poisson:60:700", replicas="40", policies=("fleet_only", "spill_when_full"))
    assert of.result["policies"]["fleet_only"]["requests"] > 40_000
    assert len(drawn(of, replicas="40").encode()) < 400_000


def test_several_traces_have_marks_of_their_own() -> None:
    of, wanted = study(), Wanted()
    both = [(f"trace {number}", section(of, wanted, number=number)) for number in (0, 1)]
    reader = read(page(both, seed=0))
    marks = [found["id"] for _, found in reader.attributes if "id" in found]
    assert len(marks) == len(set(marks))
    assert [found["href"] for tag, found in reader.attributes if tag == "a"] == ["#trace-0", "#trace-1"]


def test_the_highest_value_is_drawn_highest() -> None:
    grid = Grid.over(0.0, 1000.0)
    chart = Chart("c", "t", "w", grid, Scale.linear(50.0), "unit")
    values = [1.0] * grid.count
    values[200] = 50.0
    chart.stairs("s", grid, values)
    (drawn_path,) = chart.parts
    heights = [float(y) for y in re.findall(r"V([\d.]+)", drawn_path)]
    assert min(heights) == float(chart.y(50.0))
    assert f"H{chart.x(grid.edge(200))}V{chart.y(50.0)}" in drawn_path


@pytest.mark.parametrize("high", [0.0, 1e-7, 0.3, 1.0, 7.0, 14.0, 99.0, 1e9])
def test_scales_hold_what_they_show(high: float) -> None:
    scale = Scale.linear(high)
    assert scale.high >= high
    assert 2 <= len(scale.ticks) <= 7
    if high:
        wide = Scale.logarithmic(high / 1000, high)
        assert wide.low <= high / 1000 * (1 + 1e-9)
        assert wide.high >= high
        assert 0 <= wide.height(high / 1000) < wide.height(high) <= 1
        assert list(wide.ticks) == sorted(set(wide.ticks))


def test_the_command_writes_the_page_beside_the_json(tmp_path: Path) -> None:
    to = tmp_path / "page.html"
    done = simulate("--policy", "fleet_only", "--replicas", "4", "--html", str(to), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert json.loads("".join(read(to.read_text(encoding="utf-8")).texts["script"])) == told
    assert str(to.name) in "".join(done.stderr.split())


def test_sensitivity_moves_one_thing_at_a_time(tmp_path: Path) -> None:
    to = tmp_path / "page.html"
    wanted = ("--policy", "fleet_only", "--policy", "serverless_only", "--replicas", "4")
    done = simulate(*wanted, "--html", str(to), "--json", "--sensitivity")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    rows = {(row["parameter"], row["value"]): row for row in told["sensitivity"]}
    assert list(rows) == [
        ("premium", 1.0), ("premium", 1.5), ("premium", 2.0), ("premium", 3.0),
        ("idle_s", 5.0), ("idle_s", 60.0), ("budget_s", 1.5), ("budget_s", 3.0), ("budget_s", 6.0),
    ]  # fmt: skip
    assert rows["premium", 1.5]["policies"] == told["policies"] == rows["budget_s", 3.0]["policies"]
    splits = [rows["premium", p]["policies"]["serverless_only"]["cost_split"] for p in (1.0, 1.5, 2.0, 3.0)]
    assert [split["cold"] / splits[0]["cold"] for split in splits] == pytest.approx([1.0, 1.5, 2.0, 3.0])
    assert rows["premium", 3.0]["policies"]["fleet_only"] == told["policies"]["fleet_only"]
    shares = [rows["budget_s", b]["policies"]["fleet_only"]["attained"] for b in (1.5, 3.0, 6.0)]
    assert shares == sorted(shares)
    text = to.read_text(encoding="utf-8")
    settings = [found["data-setting"] for tag, found in read(text).attributes if "data-setting" in found]
    assert settings == [f"{parameter}={value:g}" for parameter, value in rows]
    for row in rows.values():
        for entry in row["policies"].values():
            assert f'<data value="{entry["cost"]!r}">' in text


def test_without_the_flag_there_is_no_sensitivity() -> None:
    assert "sensitivity" not in drawn(study())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sensitivity",), "--html"),
        (("--html", "/nowhere/at/all/page.html"), "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_simulated(
    arguments: tuple[str, ...], words: str
) -> None:
    done = simulate(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not done.stdout
