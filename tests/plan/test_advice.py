"""Live advice: what is remembered, what the child process makes of it, and what happens when it fails."""

import asyncio
import io
import json
import sys
from math import isnan
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from gateway.advice import CALLS_PER_ROUTE, FEWEST_CALLS, Advice, RecentCalls
from gateway.app import registries
from gateway.cli import command
from gateway.ledger import Ledger
from gateway.metrics import GatewayCollector, build_registry
from gateway.record import Record
from gateway.reports import report_backends
from gateway.simulator import advise
from gateway.simulator.advise import Row, workload_of
from gateway.vocab import Outcome, Start, Usage
from tests.ledger.support import BURST, EMBED, FLEET, T0, State, answered, opened
from tests.support.gateways import running

CONFIG = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 1, price: {usd_per_replica_hour: 3.6}}
  burst: {type: modal, url: "http://127.0.0.1:9/", max_in_flight: 50, price: {usd_per_second: 0.0015},
    cold_start: {expect: 2s, idle_after: 3s}}
routes:
  embed:
    match: {model: m}
    latency_budget: {within: 15s, objective: 99%}
    policy: spill_when_full
    tiers: [{backend: fleet}, {backend: burst}]
"""


def advice(*command: str, limit_s: float = 30.0) -> Advice:
    more = {"command": command} if command else {}
    return Advice(every_s=600, routes=["embed"], backends=["fleet"], limit_s=limit_s, **more)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def record(*, held_from: float | None = T0, status: int = 200, start: Start | None = None) -> Record:
    made = Record("r", "", T0)
    made.route, made.status, made.start, made.slot_at = "embed", status, start, held_from
    return made


def last(found: Advice) -> tuple[float, float, bool]:
    recent = found._recent["embed"]
    return recent.rows(len(recent) - 1, 1)[0]


def fill(found: Advice, gap: float, held_s: float, count: int = 400) -> None:
    for number in range(count):
        made = record(held_from=T0 + gap * number)
        made.arrived = T0 + gap * number
        found.note(made, True, made.arrived + held_s)


# -- what is remembered --------------------------------------------------------------------------


def test_the_oldest_calls_are_overwritten() -> None:
    recent = RecentCalls(3)
    for number in range(5):
        recent.add(float(number), 0.5, number % 2 == 0)
    assert sorted(recent.rows(0, 10)) == [(2.0, 0.5, True), (3.0, 0.5, False), (4.0, 0.5, True)]
    assert len(recent) == 3
    copy = recent.copy()
    recent.add(9.0, 0.5, True)
    assert 9.0 not in {row[0] for row in copy.rows(0, 3)}


def test_a_call_is_remembered_by_when_it_came_and_how_long_it_held_its_slot() -> None:
    found = advice()
    found.note(record(held_from=T0 + 2), True, T0 + 5)
    assert last(found) == (T0, 3.0, True), "waiting is not service"
    found.note(record(start=Start.WARM), False, T0 + 4)
    assert last(found) == (T0, 4.0, False)
    booted = record(start=Start.COLD)
    booted.usage = Usage(9.0, 6.0, 0.1)
    found.note(booted, False, T0 + 9)
    assert last(found) == (T0, 3.0, False), "a start is not service either"


@pytest.mark.parametrize(
    ("made", "owned"),
    [
        (record(held_from=None, status=503), True),
        (record(status=502), True),
        (record(status=0), True),
        (record(start=Start.COLD), False),
        (record(start=Start.UNKNOWN), False),
    ],
)
def test_a_call_whose_service_is_not_known_still_came(made: Record, owned: bool) -> None:
    found = advice()
    found.note(made, owned, T0 + 9)
    arrived, held_s, _ = last(found)
    assert arrived == T0
    assert isnan(held_s)


def test_calls_of_other_routes_are_forgotten() -> None:
    found = advice()
    made = record()
    made.route = "other"
    found.note(made, True, T0 + 1)
    assert not len(found._recent["embed"])


def test_what_is_kept_is_bounded_however_many_routes_there_are() -> None:
    assert advice()._recent["embed"]._most == CALLS_PER_ROUTE
    many = Advice(every_s=1, routes=[f"r{number}" for number in range(100)], backends=["fleet"])
    assert sum(recent._most for recent in many._recent.values()) <= 200_000


def test_the_ledger_tells_of_calls_but_not_of_those_that_the_client_broke() -> None:
    found = advice()
    book = Ledger(routes=(EMBED,), backends=(FLEET, BURST), now=T0, advice=found)
    answered(book, seconds=0.25)
    gone = opened(book)
    gone.outcome = Outcome.CLIENT_GONE
    book.close(gone, T0 + 1)
    question = opened(book)
    question.inference = False
    book.close(question, T0 + 1)
    assert found._recent["embed"].rows(0, 9) == [(T0, 0.25, True)]


# -- the child process ---------------------------------------------------------------------------


async def test_the_child_works_out_the_replicas() -> None:
    busy = advice()
    fill(busy, gap=0.5, held_s=0.95)
    await busy.work_out(CONFIG)
    assert busy.recommended == {"fleet": 2}


async def test_rare_calls_need_none() -> None:
    rare = advice()
    fill(rare, gap=60.0, held_s=1.0)
    await rare.work_out(CONFIG)
    assert rare.recommended == {"fleet": 0}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("print('nonsense')", "malformed"),
        ('print(\'{"recommended": {"fleet": "two"}, "unknown": {}}\')', "Expected `int`"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with status -9"),
    ],
)
async def test_a_child_that_fails_leaves_nothing_known(
    code: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = advice(*python(code))
    found.recommended = {"fleet": 7}
    fill(found, 1.0, 0.5, 5)
    await found.work_out(CONFIG)
    assert found.recommended == {}
    assert why in caplog.text
    caplog.clear()
    await found.work_out(CONFIG)
    assert not caplog.text, "said once"


async def test_a_program_that_is_not_there_leaves_nothing_known(caplog: pytest.LogCaptureFixture) -> None:
    found = advice("/nowhere/python")
    await found.work_out(CONFIG)
    assert found.recommended == {}
    assert "no advice on replicas" in caplog.text


async def test_only_backends_that_were_asked_for_are_told(tmp_path: Path) -> None:
    said = json.dumps({"recommended": {"fleet": 3, "other": 2}, "unknown": {}})
    found = advice(*python(f"print('''{said}''')"))
    await found.work_out(CONFIG)
    assert found.recommended == {"fleet": 3}


HANGS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"


def alive(file: Path) -> bool:
    pid = int(file.read_text())
    return Path(f"/proc/{pid}").exists()


async def test_a_child_that_hangs_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pid = tmp_path / "pid"
    found = advice(*python(HANGS), str(pid), limit_s=0.5)
    await found.work_out(CONFIG)
    assert not alive(pid)
    assert "took longer than 0.5 s" in caplog.text


async def test_a_child_does_not_outlive_the_gateway(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    found = advice(*python(HANGS), str(pid))
    fill(found, 1.0, 0.5, FEWEST_CALLS)
    task = asyncio.get_running_loop().create_task(found.run(lambda: CONFIG))
    while not (pid.exists() and pid.read_text()):
        await asyncio.sleep(0.01)
    assert alive(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


@pytest.mark.virtual_time
async def test_nobody_is_asked_before_there_are_enough_calls() -> None:
    class Counting(Advice):
        times: list[float] = []

        async def work_out(self, config: str) -> None:
            self.times.append(asyncio.get_running_loop().time())

    found = Counting(every_s=20, routes=["embed"], backends=["fleet"])
    task = asyncio.get_running_loop().create_task(found.run(lambda: CONFIG))
    start = asyncio.get_running_loop().time()
    await asyncio.sleep(35)
    assert found.times == []
    fill(found, 1.0, 0.5, FEWEST_CALLS)
    await asyncio.sleep(50)
    task.cancel()
    assert [round(at - start) for at in found.times] == [40, 60, 80]


# -- inside the child ----------------------------------------------------------------------------


def asked(calls: dict[str, list[Row]], config: str = CONFIG) -> dict[str, dict[str, int | str]]:
    question = json.dumps({"config": config, "calls": calls}).encode()
    answer = advise.advise(io.BytesIO(question), *registries(), cpu_s=100_000)
    found: dict[str, dict[str, int | str]] = json.loads(answer)
    return found


def rows(gap: float, held: float | None, count: int = 300) -> list[Row]:
    return [(gap * number, held, True) for number in range(count)]


@pytest.mark.parametrize(
    ("config", "calls", "why"),
    [
        (
            CONFIG.replace("price: {usd_per_replica_hour: 3.6}", "probe_every: 1s"),
            rows(1, 0.5),
            "has no price",
        ),
        (CONFIG.replace("price: {usd_per_second: 0.0015},", ""), rows(1, 0.5), "burst has no price"),
        (
            CONFIG.replace("latency_budget: {within: 15s, objective: 99%}", ""),
            rows(1, 0.5),
            "no route that uses it",
        ),
        (CONFIG, rows(1, 0.5, 20), "20 calls so far"),
        (CONFIG, rows(1, None), "0 calls so far"),
        (CONFIG, [], "0 calls so far"),
    ],
)
def test_what_cannot_be_known_is_absent_with_its_reason(config: str, calls: list[Row], why: str) -> None:
    found = asked({"embed": calls}, config)
    assert found["recommended"] == {}
    assert why in str(found["unknown"]["fleet"])


def test_routes_that_share_a_fleet_are_taken_together() -> None:
    route = CONFIG[CONFIG.index("  embed:") :]
    second = (
        route.replace("embed:", "other:")
        .replace("model: m", "model: n")
        .replace("within: 15s", "within: 30s")
    )
    steady = rows(0.5, 0.475)
    assert asked({"embed": steady})["recommended"] == {"fleet": 1}
    both = asked(
        {"embed": steady, "other": [(at + 0.25, held, owned) for at, held, owned in steady]}, CONFIG + second
    )
    assert both["recommended"] == {"fleet": 2}


def test_calls_of_unknown_service_take_as_long_as_others_do() -> None:
    calls: list[Row] = [(float(number), 2.0 if number % 2 else None, True) for number in range(300)]
    found = workload_of("fleet", [*reversed(calls), (300.5, 50.0, False)])
    assert list(found.arrivals) == sorted(found.arrivals)
    assert set(found.services) == {2.0}, "what ran elsewhere says nothing about an owned slot"


def test_calls_of_another_day_do_not_count() -> None:
    found = workload_of(
        "fleet", [*rows(1.0, 1.0), *((200_000.0 + at, held, owned) for at, held, owned in rows(1.0, 2.0))]
    )
    assert set(found.services) == {2.0}
    assert found.arrivals[0] == 0


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff\xfe", b"[]", b"{}", b'{"config": 3, "calls": {}}', b'{"config": "a: [", "calls": {}}',
                b'{"config": "version: 1", "calls": {"r": [[1, 2]]}}'],
)  # fmt: skip
def test_garbage_on_standard_input_is_an_error_in_a_sentence(garbage: bytes) -> None:
    with pytest.raises(ValueError, match=r"no question|cannot be used"):
        advise.advise(io.BytesIO(garbage), *registries(), cpu_s=100_000)


def test_the_hidden_command_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise ValueError("standard input is no question")

    monkeypatch.setattr(advise, "advise", refuse)
    done = CliRunner().invoke(command, ["advise"], input="x")
    assert done.exit_code == 2
    assert "overspill advise: standard input is no question" in done.stderr
    assert "advise" not in CliRunner().invoke(command, ["--help"]).stdout


# -- what is shown -------------------------------------------------------------------------------


@pytest.fixture
def shown() -> tuple[State, CollectorRegistry]:
    state = State(Ledger(routes=(EMBED,), backends=(FLEET, BURST), now=T0, advice=advice()))
    return state, build_registry(GatewayCollector(state, version="1"))


def test_the_metric_is_absent_until_it_is_known(shown: tuple[State, CollectorRegistry]) -> None:
    state, registry = shown
    labels = {"backend": "fleet"}
    assert registry.get_sample_value("overspill_recommended_replicas", labels) is None
    entries = report_backends(state.ledger, state.capacities, T0)
    assert entries[0]["recommended_replicas"] is None
    assert state.ledger.advice is not None
    state.ledger.advice.recommended = {"fleet": 0}
    assert registry.get_sample_value("overspill_recommended_replicas", labels) == 0
    assert registry.get_sample_value("overspill_recommended_replicas", {"backend": "burst"}) is None
    assert report_backends(state.ledger, state.capacities, T0)[0]["recommended_replicas"] == 0


@pytest.mark.parametrize(
    ("more", "price", "budget", "on"),
    [
        ("", "price: {usd_per_replica_hour: 1}", "latency_budget: {within: 1s}", True),
        ("advice: {every: 1h}", "price: {usd_per_replica_hour: 1}", "latency_budget: {within: 1s}", True),
        ("advice: false", "price: {usd_per_replica_hour: 1}", "latency_budget: {within: 1s}", False),
        ("", "probe_every: 1s", "latency_budget: {within: 1s}", False),
        ("", "price: {usd_per_replica_hour: 1}", "idempotent: true", False),
    ],
)
async def test_when_a_gateway_gives_advice(more: str, price: str, budget: str, on: bool) -> None:
    async with running(f"""
{more}
backends:
  fleet: {{type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 1, {price}}}
routes:
  r: {{match: {{model: m}}, {budget}, tiers: [{{backend: fleet}}]}}
""") as gateway:
        assert (gateway.ledger.advice is not None) is on


def test_nan_goes_to_the_child_as_unknown() -> None:
    found = advice()
    found.note(record(status=503), True, T0 + 1)
    question = json.loads(asyncio.run(found._question("version: 1")))
    assert question["calls"] == {"embed": [[T0, None, True]]}
