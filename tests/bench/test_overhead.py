"""What observing costs: its arithmetic, its report, its variants, and the whole of it once as small as it gets."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import load_file
from gateway.ledger import Ledger
from gateway.record import Record
from gateway.vocab import Outcome
from loadtests.bench import overhead
from loadtests.bench.figures import Run
from loadtests.bench.overhead import EVERYTHING, LIMIT, NOTHING, VARIANTS, Variant, costs, markdown, verdict
from loadtests.bench.peers.nginx import find_nginx
from loadtests.bench.peers.plan import Site
from loadtests.bench.unobserved import Forgetful, Unbooked, Unobserved
from loadtests.bench.workload import WORKLOADS
from tests.bench.test_figures import GOOD


def site(directory: Path) -> Site:
    return Site(
        directory=directory, port=1, admin_port=2, spare_port=3, upstream_port=4, upstream_health_port=4,
        workload=WORKLOADS["infer"],
    )  # fmt: skip


def run(peer: str, cpu_us: float, number: int = 1, **change: object) -> Run:
    changed = replace(GOOD, peer=peer, round=number, cpu_us_per_request=cpu_us)
    return replace(changed, **change)  # type: ignore[arg-type]


def test_each_is_compared_with_the_whole_of_its_own_round() -> None:
    runs = [
        run(EVERYTHING, 100.0, 1), run(NOTHING, 90.0, 1),
        run(EVERYTHING, 200.0, 2), run(NOTHING, 160.0, 2),
        run(EVERYTHING, 100.0, 3), run(NOTHING, 85.0, 3),
    ]  # fmt: skip
    whole, together = costs(runs)
    assert (whole.name, whole.share.high, whole.cpu_us.median) == (EVERYTHING, 0.0, 100.0)
    assert (together.saved_us.low, together.saved_us.median, together.saved_us.high) == (10.0, 15.0, 40.0)
    assert together.share.median == pytest.approx(0.15)
    assert together.share.high == pytest.approx(0.2)


def test_the_mean_of_its_processes_counts_without_those_that_others_disturbed() -> None:
    whole = [run(f"{EVERYTHING}#{number}", cpu_us) for number, cpu_us in ((1, 110.0), (2, 90.0))]
    less = [
        run(f"{NOTHING}#1", 85.0),
        run(f"{NOTHING}#2", 10.0, foreign_share=0.5),
        run(f"{NOTHING}#3", 95.0),
    ]
    together = costs([*whole, *less])[-1]
    assert together.share.median == pytest.approx(0.1)
    assert together.undisturbed


@pytest.mark.parametrize(("cpu_us", "met"), [(85.5, True), (84.0, False)])
def test_the_verdict_is_about_all_three_together(cpu_us: float, met: bool) -> None:
    found = costs([run(EVERYTHING, 100.0), run("no_log", 10.0), run(NOTHING, cpu_us)])
    assert verdict(found, LIMIT) is met
    assert f"at most 15% wanted: {'met' if met else 'missed'}." in markdown(found, {}, LIMIT)


def test_rounds_that_others_disturbed_count_only_where_there_are_no_better_ones() -> None:
    noisy = [run(EVERYTHING, 100.0, 1, foreign_share=0.5), run(NOTHING, 50.0, 1)]
    found = costs(noisy)
    assert verdict(found, LIMIT) is None
    assert "not shown" in markdown(found, {}, LIMIT)
    quiet = [run(EVERYTHING, 100.0, 2), run(NOTHING, 90.0, 2)]
    assert costs([*noisy, *quiet])[-1].share.median == pytest.approx(0.1)
    assert verdict(costs([*noisy, *quiet]), LIMIT) is True


def test_a_run_with_failures_counts_for_nothing() -> None:
    found = costs([run(EVERYTHING, 100.0, faults=("1 status errors",)), run(NOTHING, 90.0)])
    assert found == []
    assert verdict(found, LIMIT) is None
    assert "nothing was measured" in markdown(found, {}, LIMIT)


def written(variant: Variant, directory: Path) -> Path:
    """Its file, and one of keys that has none."""
    (directory / "keys.yaml").write_text("[]\n")
    file = directory / "overspill.yaml"
    file.write_text(overhead.config(variant, site(directory), 4318))
    return file


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration_that_the_gateway_takes(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    file = written(variant, tmp_path)
    settings = load_file(file).settings
    assert (settings.access_log is not None) is variant.log
    assert (settings.tracing is not None) is variant.tracing
    assert settings.access_log is None or settings.access_log.sample == 1.0
    assert settings.tracing is None or settings.tracing.sample == 0.01
    assert settings.auth is not None, "every one asks for a key"


class Stayed:
    """What a call holds of its tenant's limits."""

    def __init__(self) -> None:
        self.left: list[Record] = []

    def lines(self, now: float) -> bytes:
        return b""

    def leave(self, record: Record, now: float) -> None:
        self.left.append(record)


async def test_what_is_left_out_is_not_there_and_the_rest_is(tmp_path: Path) -> None:
    settings = load_file(written(VARIANTS["no_log"], tmp_path)).settings.model_copy(update={"tracing": None})
    whole = Unobserved(settings, without=frozenset())
    less = Unobserved(settings, without=frozenset({"metrics", "decisions"}))
    assert type(whole.ledger) is Ledger
    assert type(less.ledger) is Unbooked
    assert isinstance(less.explaining._ring, Forgetful)
    assert not isinstance(whole.explaining._ring, Forgetful)
    for gateway in (whole, less):
        record = gateway.ledger.open("a-1", "", gateway.clock.now())
        record.outcome = Outcome.OK
        stay = record.stay = Stayed()
        gateway.ledger.close(record, gateway.clock.now())
        assert gateway.ledger.open_records == 0
        assert stay.left == [record]
        await gateway.close()
    assert (len(whole.ledger.ended), len(less.ledger.ended)) == (1, 0)


@pytest.mark.skipif(shutil.which("wrk") is None or find_nginx() is None, reason="needs wrk and nginx")
def test_it_measures_every_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    table = tmp_path / "table.md"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        given = [
            "--rounds",
            "1",
            "--processes",
            "1",
            "--seconds",
            "1",
            "--warm-up",
            "0",
            "--connections",
            "2",
            "--limit",
            "1",
        ]
        code = overhead.main([*given, "--markdown", str(table)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code in {0, 3}, "no run failed, and whatever it costs is less than all"
    printed = capsys.readouterr().out
    assert table.read_text().strip() == printed.strip()
    for variant in VARIANTS.values():
        assert f"| {variant.says} |" in printed
