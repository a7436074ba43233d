"""`overspill explain` as a user meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import command
from tests.explain.support import config

STATE = """\
backends:
  fleet: {in_flight: 4, service: {mean: 1s, tail: 2s}}
  burst: {cold: {mean: 300ms, tail: 400ms}, service: {mean: 500ms, tail: 700ms}}
queue:
  - {calls: 20, age: 100ms}
"""


@pytest.fixture
def run(tmp_path: Path):  # type: ignore[no-untyped-def]
    def invoke(*options: str, policy: str = "cheapest_in_budget", state: str | None = None, status: int = 0):  # type: ignore[no-untyped-def]
        file = tmp_path / "overspill.yaml"
        file.write_text(config(policy))
        if state is not None:
            (tmp_path / "state.yaml").write_text(state)
            options = (*options, "--state", str(tmp_path / "state.yaml"))
        result = CliRunner().invoke(command, ["explain", "-c", str(file), *options])
        assert result.exit_code == status, result.output
        return result

    return invoke


def test_everything_idle_runs_on_the_fleet(run) -> None:  # type: ignore[no-untyped-def]
    text = run("--route", "embed").stdout
    assert "answer: run on fleet now (warm)" in text
    assert "everything is up and idle" in text
    assert "dearer than fleet" not in text, "a boot of 8 s is too late before it is too dear"
    assert "after the budget" in text
    assert "unknown" in text, "the price of `unpriced`"


def test_json_has_every_candidate(run) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(run("--json", state=STATE).stdout)
    assert (found["route"], found["policy"], found["within_s"]) == ("embed", "cheapest_in_budget", 2.0)
    assert found["action"]["do"] == "hold"
    assert found["action"]["open"].keys() == {"burst"}
    opened = [line for line in found["candidates"] if line["chosen"]]
    assert [(line["backend"], line["way"]) for line in opened] == [("burst", "new instance")]
    assert "opening" in found["says"]
    assert found["estimates"]["burst"]["cold_mean_s"] == pytest.approx(0.3)


def test_the_answer_is_the_same_however_often_it_is_asked(run) -> None:  # type: ignore[no-untyped-def]
    for policy in ("weighted", "cheapest_in_budget", "spill_when_full"):
        assert len({run("--json", policy=policy, state=STATE).stdout for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("backends: {fleat: {}}", "1:12: backends.fleat: `fleat` is no backend of this route; did you mean `fleet`?"),
        ("backends: {fleet: {warm: 1}}", "1:26: backends.fleet.warm: is for rented backends"),
        ("backends: {fleet: {in_flight: 5}}", "1:31: backends.fleet.in_flight: does not fit: 5 slots are used"),
        ("backends: {fleet: {replicas_down: 3}}", "makes 3 replicas that are down or cut off; `fleet` has 2"),
        ("backends: {burst: {warm: [1h]}}", "has an instance that would be gone"),
        ("backends: {burst: {warm: -1}}", "1:26: backends.burst.warm: must be at least 0"),
        ("backends: {burst: {service: {mean: 2s, tail: 1s}}}", "has a tail below its mean"),
        ("queue: [{calls: 1, budget_left: 1m}]", "1:33: queue[0].budget_left: is more than the whole"),
        ("queue: [{age: 5}]", "5 is not a duration"),
        ("attained: 120%", "1:11: attained: '120%' is not a share"),
        ("fleet: {in_flight: 1}", "1:1: fleet: `fleet` is not a key here"),
        ("", "1:1: (file): is empty"),
        ("[1]", "is not a mapping; a state has `backends`, `queue` and `attained`"),
        ("a: [", "is not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_state_is_told_with_its_place(run, state: str, problem: str) -> None:  # type: ignore[no-untyped-def]
    said = run(state=state, status=2).stderr
    assert problem in said
    assert said.startswith("/"), "FILE:LINE:COLUMN"
    assert "state.yaml:" in said


def test_a_wrong_route_or_a_missing_file_is_told(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "the file has no route 'nope'; it has embed" in run("--route", "nope", status=2).stderr
    said = run("--state", str(tmp_path / "none.yaml"), status=2).stderr
    assert "none.yaml:1:1: (file): there is no such file" in said


def test_the_shipped_state_is_good() -> None:
    options = ["explain", "-c", "config/fleet-and-runpod.yaml", "--state", "config/explain-state.yaml"]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    assert "answer: " in result.stdout
