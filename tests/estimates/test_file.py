"""What was learned outlives the process; a damaged file costs the memory and never the gateway."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.estimates import BackendEstimates, Estimates, Expectation, Prior

EXPECT = Expectation(objective=0.95, service=Prior(0.5, 2.0), cold=Prior(8.0, 20.0), idle_s=30.0)
WALL = 1_800_000_000.0


def taught(seed: int = 1, calls: int = 300) -> Estimates:
    chance = Random(seed)
    table = Estimates()
    for route, backend in (("chat", "fleet"), ("chat", "burst"), ("embed", "burst")):
        pair = table.of(route, backend, EXPECT)
        for call in range(calls):
            size = 2.0 ** chance.uniform(3, 12)
            seconds = 0.001 * size * chance.lognormvariate(0, 0.3)
            pair.learn_served(pair.bucket_of(size), seconds, call * 0.7)
            pair.learn_start(chance.uniform(0, 60), cold=chance.random() < 0.3)
            if call % 7 == 0:
                pair.learn_cold(chance.choice([5.0, 200.0, None]), chance.choice([1.5, 60.0]), call * 0.7)
    table.refresh()
    return table


def reads(pair: BackendEstimates) -> list[float]:
    profiles = [*pair.profiles, pair.service, pair.cold, *(pair.cold_at(age) for age in (1, 100, 1e4, None))]
    numbers = [n for p in profiles for n in (p.mean, p.tail, p.deviation, p.samples)]
    numbers += [pair.warm_chance(age) for age in (0.1, 3.0, 20.0, 50.0, 500.0)]
    numbers += [pair.calibration, float(pair.bucket_of(100.0)), *(pair.cold_modes() or ())]
    return numbers


@pytest.mark.parametrize("asked_first", [True, False])
def test_a_saved_table_reads_the_same(tmp_path: Path, asked_first: bool) -> None:
    path = tmp_path / "state" / "estimates.json"
    before = taught()
    assert before.save(path, now=300.0, wall=WALL) is None
    after = Estimates()
    if asked_first:
        after.of("chat", "burst", EXPECT)
    assert after.load(path, now=7.0, wall=WALL) is None
    for route, backend in (("chat", "fleet"), ("chat", "burst"), ("embed", "burst")):
        expected = reads(before.of(route, backend))
        assert reads(after.of(route, backend, EXPECT)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), calls=st.integers(0, 60), downtime=st.floats(0, 1e6))
def test_learning_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, seed: int, calls: int, downtime: float
) -> None:
    path = tmp_path_factory.mktemp("state") / "estimates.json"
    kept = taught(seed, calls)
    assert kept.save(path, now=300.0, wall=WALL) is None
    restarted = Estimates()
    assert restarted.load(path, now=5.0, wall=WALL + downtime) is None
    one, other = kept.of("chat", "fleet", EXPECT), restarted.of("chat", "fleet", EXPECT)
    for call in range(30):
        one.learn_service(9, 0.4, 300.0 + downtime + call)
        other.learn_service(9, 0.4, 5.0 + call)
    one.refresh()
    other.refresh()
    assert other.profiles[9].mean == pytest.approx(one.profiles[9].mean, rel=0.01)
    assert other.profiles[9].samples == pytest.approx(one.profiles[9].samples, rel=0.01)


def test_ages_go_on_while_the_gateway_is_down(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    taught().save(path, now=210.0, wall=WALL)
    weights = []
    for downtime in (0.0, 60.0, -3_600.0):
        table = Estimates()
        table.load(path, now=1_000.0, wall=WALL + downtime)
        pair = table.of("chat", "fleet", EXPECT)
        pair.learn_service(1, 1.0, 1_000.0)
        pair.refresh()
        weights.append(pair.service.samples - 1)
    assert weights[1] == pytest.approx(weights[0] * 2 ** (-60 / 1800), rel=1e-3)
    assert weights[2] == pytest.approx(weights[0])  # a clock set back makes nothing younger


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    table = Estimates()
    assert table.load(tmp_path / "none.json", now=0.0, wall=WALL) is None
    assert table.of("chat", "fleet", EXPECT).service.mean == 0.5


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("good") / "estimates.json"
    taught().save(path, now=300.0, wall=WALL)
    return path.read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[1, 2", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "does not say"),
        ('{"format": "something else", "version": 1}', "does not say"),
        (
            '{"format": "overspill-estimates", "version": 2, "pairs": []}',
            "of version 2, this program reads 1",
        ),
        ('{"format": "overspill-estimates", "version": 1, "pairs": NaN}', "NaN"),
        ('{"format": "overspill-estimates", "version": 1}', "pairs is not a list"),
        ('{"format": "overspill-estimates", "version": 1, "pairs": [{"route": 1}]}', "does not name"),
    ],
)
def test_a_foreign_file_is_refused_with_a_reason(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "estimates.json"
    path.write_bytes(text.encode("latin-1"))
    table = Estimates()
    problem = table.load(path, now=0.0, wall=WALL)
    assert problem is not None
    assert str(path) in problem
    assert complaint in problem
    assert table.of("chat", "fleet", EXPECT).service.mean == 0.5


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("service", "whole", None),
        ("service", "parts", {"99": {}}),
        ("service", "quiet", "long ago"),
        ("cold", "parts", []),
        ("survival", "bins", {"3": [5, 2]}),
        ("survival", "bins", {"3": [1]}),
        ("survival", "idle_s", -1),
    ],
)
def test_one_damaged_pair_refuses_the_file_and_changes_nothing(
    tmp_path: Path, good: str, section: str, key: str, value: object
) -> None:
    document = json.loads(good)
    document["pairs"][1][section][key] = value
    path = tmp_path / "estimates.json"
    path.write_text(json.dumps(document))
    table = taught(seed=5)
    before = reads(table.of("chat", "fleet"))
    problem = table.load(path, now=0.0, wall=WALL)
    assert problem is not None
    assert "route 'chat', backend 'burst'" in problem
    assert reads(table.of("chat", "fleet")) == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_stops_the_gateway(
    tmp_path_factory: pytest.TempPathFactory, good: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("state")
    document = json.loads(good)
    node: Any = document
    while True:  # walk to some leaf or branch and put something else there
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5) | st.just([]) | st.just({}) | st.just(1e308) | st.just(10**400)
    )  # fmt: skip
    path = folder / "estimates.json"
    path.write_text(json.dumps(document))
    table = Estimates()
    problem = table.load(path, now=50.0, wall=WALL + 100)
    assert problem is None or problem.startswith(str(path))
    for route, backend in (("chat", "fleet"), ("chat", "burst"), ("embed", "burst")):
        pair = table.of(route, backend, EXPECT)
        pair.learn_service(3, 1.0, 60.0)
        pair.learn_cold(None, 3.0, 60.0)
        pair.refresh()
        assert all(number == number and number >= 0 for number in reads(pair))


def test_a_disk_that_refuses_is_a_reason_and_leaves_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    problem = taught().save(tmp_path / "taken", now=300.0, wall=WALL)
    assert problem is not None
    assert "could not be saved" in problem
    assert [item.name for item in tmp_path.iterdir()] == ["taken"]
    assert "not restored" in (Estimates().load(tmp_path / "taken", now=0.0, wall=WALL) or "")


def test_a_pair_nobody_asked_for_yet_is_kept_for_a_week(tmp_path: Path) -> None:
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    taught().save(path, now=300.0, wall=WALL)
    table = Estimates()
    table.load(path, now=0.0, wall=WALL)
    table.of("embed", "burst", EXPECT)
    table.save(again, now=10.0, wall=WALL + 10)
    assert len(json.loads(again.read_text())["pairs"]) == 3
    table.save(again, now=10.0, wall=WALL + 8 * 86_400)
    assert len(json.loads(again.read_text())["pairs"]) == 1


def test_a_pair_is_one_object_and_takes_a_new_expectation() -> None:
    table = taught()
    pair = table.of("chat", "fleet", EXPECT)
    assert table.of("chat", "fleet") is pair
    mean, tail = pair.service.mean, pair.service.tail
    table.of("chat", "fleet", EXPECT._replace(objective=0.5, idle_s=300.0))
    assert pair.service.mean == pytest.approx(mean, rel=0.05)
    assert pair.service.tail < tail
    assert pair.warm_chance(200.0) == 1.0


def test_the_file_is_small(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    taught(calls=3_000).save(path, now=2_200.0, wall=WALL)
    assert path.stat().st_size < 3 * 64_000
