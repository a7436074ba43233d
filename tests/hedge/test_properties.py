"""Whatever happens to the two attempts, a call has one record and one answer, and everything is given back.

The whole pipeline on virtual time, in front of backends that are slow, fail, push back and boot by chance,
while clients come and hang up by chance. Times are multiples of 10 ms, so that things coincide.
"""

import asyncio
import json
import logging
from collections import Counter
from pathlib import Path
from random import Random
from typing import cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.loopback import LoopbackRented
from gateway.app import Gateway, registries
from gateway.config.load import load
from gateway.spending import LocalSpend
from gateway.vocab import Outcome, Usage
from tests.pipeline.test_every_call_is_booked_once import Visit, exchange_for
from tests.support.virtual_time import LoopClock, VirtualLoop

FILE = """
version: 1
retry_budget: {{share: 50%, floor_per_second: {floor}}}
access_log: {{path: {log}}}
backends:
  fleet:
    {{type: loopback, max_in_flight: 2, replicas: 2, latency: {latency}ms, jitter: {jitter},
     fail_share: {fail}, down_share: {down}, full_share: {full}}}
  burst:
    {{type: loopback_rented, max_in_flight: 3, latency: 40ms, jitter: {jitter}, boot: 100ms, idle_after: 1s,
     fail_share: {fail}, full_share: {full}, price: {{usd_per_second: 0.001}}}}
routes:
  one:
    match: {{model: one}}
    latency_budget: {{within: 200ms, objective: 99%}}
    timeout: 500ms
    policy: {policy}
    {hedge}
    spill_budget: {{usd_per_hour: {usd}, on_exhausted: {exhausted}}}
    tiers:
      - {{backend: fleet, when_full: {{queue: 30ms, then: spill}}}}
      - {{backend: burst, when_full: {{queue: 100ms, then: shed}}}}
"""

visits = st.builds(
    Visit,
    after=st.integers(0, 3).map(lambda tens: tens / 100),
    model=st.just("one"),
    leaves_after=st.none() | st.integers(0, 20).map(lambda tens: tens / 100),
    deadline_ms=st.none() | st.integers(1, 30).map(lambda tens: tens * 10),
    body=st.just(b'{"inputs":[{"name":"x"}]}'),
)
share = st.sampled_from([0.0, 0.2, 0.4])


class Billed:
    """The bill of the rented backend, kept beside the gateway."""

    def __init__(self, backend: LoopbackRented) -> None:
        self.usd = 0.0
        self._bill = backend.bill
        backend.bill = self.bill  # type: ignore[method-assign]

    def bill(self, seconds: float, boot: float) -> Usage:
        usage = self._bill(seconds, boot)
        self.usd += usage.usd or 0.0
        return usage


class Unseen(logging.Handler):
    """Errors of tasks that nobody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.getMessage())

    def __enter__(self) -> "Unseen":
        logging.getLogger("overspill.background").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("overspill.background").removeHandler(self)


async def play(script: list[Visit], config: str, seed: int, log: Path) -> None:
    clock = LoopClock()
    gateway = Gateway(load(config, *registries()).settings, clock=clock, chance=Random(seed))
    billed = Billed(cast("LoopbackRented", gateway.backends["burst"]))
    loop = asyncio.get_running_loop()
    began = clock.now()
    visited = []
    for number, visit in enumerate(script):
        await asyncio.sleep(visit.after)
        exchange, wire = exchange_for(visit, number, clock)
        task = loop.create_task(gateway.pipeline.handle(exchange))
        if visit.leaves_after is not None:
            loop.call_later(visit.leaves_after, task.cancel)
        visited.append((exchange, wire, task))
    for exchange, wire, task in visited:
        await asyncio.wait([task])
        assert wire.done_times <= 1
        assert bytes(wire.written).count(b"HTTP/1.1 ") == wire.done_times
        if not task.cancelled():
            assert task.exception() is None
            assert exchange.ended, "a call that was not given up has its answer"
            assert task.cancelling() == 0, "no cancellation is left over for the next call of a connection"
    await gateway.opening.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(gateway.background) == 0
    gateway.settle(clock.now())
    _check(gateway, script, billed, clock.now() - began)
    assert gateway.access_log is not None
    gateway.access_log.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    assert Counter(line["request_id"] for line in lines) == {f"v-{n}": 1 for n in range(len(script))}
    told = Counter(line["hedged"] for line in lines if line["hedged"])
    assert told == Counter({k: v for k, v in gateway.ledger.routes["one"].hedges.items() if v})
    for line in lines:
        assert line["reason"] != "hedge" or line["hedged"], line
        assert line["hedged"] != "won" or line["reason"] == "hedge", line
        assert not line["hedged"] or line["attempts"] >= 2
    for capacity in gateway.capacities.values():
        capacity.close()


def _check(gateway: Gateway, script: list[Visit], billed: Billed, seconds: float) -> None:
    ledger = gateway.ledger
    assert (ledger.opened, ledger.closed, ledger.open_records) == (len(script), len(script), 0)
    outcomes: Counter[Outcome] = Counter()
    for tally in ledger.tallies.values():
        outcomes[tally.outcome] += tally.count
    assert sum(outcomes.values()) == len(script)
    assert outcomes[Outcome.INTERNAL_ERROR] == 0
    for capacity in gateway.capacities.values():
        assert capacity.in_flight == 0
    pool = gateway.pools["one"]
    assert (pool.in_flight, pool.queue_depth, pool.opening) == (0, 0, 0)
    for backend in gateway.backends.values():
        assert not any(backend.running)  # type: ignore[attr-defined]
    source = gateway.spending.routes["one"]._source
    assert isinstance(source, LocalSpend)
    assert source._reserved == 0
    hedges = sum(ledger.routes["one"].hedges.values())
    tokens = gateway.retries.routes["one"].granted
    if gateway.hedging:
        assert (
            hedges
            <= tokens
            <= 0.5 * len(script) + gateway.settings.retry_budget.floor_per_second * (seconds + 1)
        )
        assert hedges <= 0.25 * len(script) + 1
    else:
        assert hedges == 0
    # What the provider bills is what is booked, each dollar under one kind.
    lanes = [lane for (_, backend), lane in ledger.lanes.items() if backend == "burst"]
    booked = sum(sum(lane.usd.values()) for lane in lanes)
    assert abs(booked - billed.usd) < 1e-9
    assert all(set(lane.usd) <= {"spill", "retry", "hedge"} for lane in lanes)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    script=st.lists(visits, max_size=40),
    fail=share,
    down=st.sampled_from([0.0, 0.2]),
    full=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 1000),
    policy=st.sampled_from(["cheapest_in_budget", "spill_when_full", "weighted"]),
    jitter=st.sampled_from([0.0, 0.9]),
    latency=st.sampled_from([40, 80, 150]),
    hedge=st.sampled_from(
        [
            "",
            "hedge: {after: 40ms, share: 25%}",
            "hedge: {after: 80ms, share: 25%}",
            "hedge: {after: p50, share: 25%}",
        ]
    ),
    floor=st.sampled_from([0, 10, 1000]),
    usd=st.sampled_from([0, 0.0005, 100]),
    exhausted=st.sampled_from(["queue", "shed", "warn"]),
)
def test_one_record_one_answer_and_nothing_left_over(
    script: list[Visit], seed: int, tmp_path_factory: object, **options: object
) -> None:
    log = tmp_path_factory.mktemp("hedge") / "log"  # type: ignore[attr-defined]
    with Unseen() as unseen, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(script, FILE.format(log=log, **options), seed, log))
    assert not unseen.errors
