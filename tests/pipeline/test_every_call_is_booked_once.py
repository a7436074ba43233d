"""Whatever happens to a call, it ends with one answer or a broken connection, and with one record.

The whole pipeline on virtual time, from the exchange to the ledger, in front of two backends that fail,
push back, boot and stall by chance, while clients come and leave by chance.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app import Gateway, registries
from gateway.body import IncomingBody
from gateway.config.load import load
from gateway.errors import BadCall
from gateway.exchange import Exchange
from gateway.vocab import Outcome
from tests.support.virtual_time import LoopClock, VirtualLoop

FILE = """
version: 1
backends:
  fleet:
    {{type: loopback, max_in_flight: 2, replicas: 2, latency: 40ms, jitter: 50%,
     fail_share: {fail}, down_share: {down}, full_share: {full}}}
  burst:
    {{type: loopback_rented, max_in_flight: 3, latency: 60ms, boot: 300ms, idle_after: 1s, fail_share: {fail},
     full_share: {full}, price: {{usd_per_second: 0.001}}}}
routes:
  one:
    match: {{model: one}}
    latency_budget: {{within: 200ms, objective: 99%}}
    timeout: 500ms
    policy: {policy}
    tiers:
      - {{backend: fleet, when_full: {{queue: 30ms, then: spill}}}}
      - {{backend: burst, when_full: {{queue: 100ms, then: shed}}}}
  two:
    match: {{model: two}}
    timeout: 300ms
    idempotent: false
    policy: weighted
    tiers:
      - {{backend: burst, weight: 1, when_full: spill}}
      - {{backend: fleet, weight: 3, when_full: {{queue: 1s, then: shed}}}}
"""


@dataclass
class Wire:
    scheme = b"http"
    certificate = None
    """A client that counts what it is sent, and never reads slowly."""

    written: bytearray = field(default_factory=bytearray)
    done_times: int = 0
    broken: bool = False
    congested: bool = False

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None: ...
    def done(self, exchange: Exchange) -> None:
        self.done_times += 1

    def break_off(self) -> None:
        self.broken = True

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def invite(self) -> None: ...


@dataclass(frozen=True)
class Visit:
    after: float
    model: str
    leaves_after: float | None
    deadline_ms: int | None
    body: bytes


visits = st.builds(
    Visit,
    after=st.floats(0, 0.05),
    model=st.sampled_from(["one", "two", "nobody"]),
    leaves_after=st.none() | st.floats(0, 0.6),
    deadline_ms=st.none() | st.integers(1, 600),
    body=st.sampled_from([b'{"inputs":[{"name":"x"}]}', b'{"inputs":[{"na', b"{}"]),
)
share = st.sampled_from([0.0, 0.1, 0.4])


def exchange_for(visit: Visit, number: int, clock: LoopClock) -> tuple[Exchange, Wire]:
    wire = Wire()
    exchange = Exchange(wire, peer=b"127.0.0.1", arrived=clock.now(), max_body=1 << 20)
    exchange.method = b"POST"
    exchange.target = b"/v2/models/%b/infer" % visit.model.encode()
    exchange.headers = [(b"content-type", b"application/json")]
    if visit.deadline_ms is not None:
        exchange.headers.append((b"x-overspill-deadline-ms", b"%d" % visit.deadline_ms))
    exchange.request_id = f"v-{number}"
    exchange.traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    exchange.body = IncomingBody(wire, length=len(visit.body), buffer=1 << 20, limit=1 << 20)
    exchange.body.feed(visit.body)
    exchange.body.finish()
    return exchange, wire


async def play(script: list[Visit], config: str, seed: int) -> None:
    clock = LoopClock()
    gateway = Gateway(load(config, *registries()).settings, clock=clock, chance=Random(seed))
    loop = asyncio.get_running_loop()
    wires: list[tuple[Exchange, Wire]] = []
    tasks = []
    for number, visit in enumerate(script):
        await asyncio.sleep(visit.after)
        exchange, wire = exchange_for(visit, number, clock)
        wires.append((exchange, wire))
        task = loop.create_task(gateway.pipeline.handle(exchange))
        if visit.leaves_after is not None:
            loop.call_later(visit.leaves_after, task.cancel)
        tasks.append(task)
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    for (exchange, wire), result in zip(wires, ended, strict=True):
        assert result is None or isinstance(result, asyncio.CancelledError)
        assert wire.done_times <= 1
        assert bytes(wire.written).count(b"HTTP/1.1 ") == wire.done_times
        if result is None:
            assert exchange.ended, "a call that was not given up has its answer"

    ledger = gateway.ledger
    assert (ledger.opened, ledger.closed, ledger.open_records) == (len(script), len(script), 0)
    outcomes: Counter[Outcome] = Counter()
    for tally in ledger.tallies.values():
        outcomes[tally.outcome] += tally.count
    assert sum(outcomes.values()) == len(script)
    assert outcomes[Outcome.INTERNAL_ERROR] == 0
    answered = sum(wire.done_times for _, wire in wires)
    assert answered == len(script) - outcomes[Outcome.CLIENT_GONE]
    await gateway.opening.close()  # what boots holds a slot, though no call may want it any more
    for capacity in gateway.capacities.values():
        assert capacity.in_flight == 0
    for pool in gateway.pools.values():
        assert (pool.in_flight, pool.queue_depth, pool.opening) == (0, 0, 0)
    for backend in gateway.backends.values():
        assert not any(backend.running)  # type: ignore[attr-defined]
    assert gateway.pipeline._admission.inside == 0
    for capacity in gateway.capacities.values():
        capacity.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(visits, max_size=40),
    fail=share,
    down=share,
    full=share,
    seed=st.integers(0, 1000),
    policy=st.sampled_from(["cheapest_in_budget", "spill_when_full"]),
)
def test_one_record_one_answer_and_nothing_left_over(
    script: list[Visit], fail: float, down: float, full: float, seed: int, policy: str
) -> None:
    if fail + down + full > 1:
        fail = 0.0
    config = FILE.format(fail=fail, down=down, full=full, policy=policy)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(script, config, seed))


@pytest.mark.virtual_time
async def test_a_request_that_cannot_be_read_is_booked_too() -> None:
    gateway = Gateway(
        load(FILE.format(fail=0, down=0, full=0, policy="spill_when_full"), *registries()).settings,
        clock=LoopClock(),
        chance=Random(1),
    )
    exchange, wire = exchange_for(Visit(0, "one", None, None, b""), 1, LoopClock())
    gateway.pipeline.refuse(exchange, BadCall("nonsense", close=True))
    assert bytes(wire.written).startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in wire.written
    assert (gateway.ledger.opened, gateway.ledger.closed) == (1, 1)


@pytest.mark.virtual_time
async def test_an_error_inside_the_gateway_is_a_500_with_a_record_and_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway(
        load(FILE.format(fail=0, down=0, full=0, policy="spill_when_full"), *registries()).settings,
        clock=LoopClock(),
        chance=Random(1),
    )
    gateway.backends["fleet"].script.append(RuntimeError("a bug with a secret"))  # type: ignore[attr-defined]
    exchange, wire = exchange_for(Visit(0, "one", None, None, b'{"inputs":[{"name":"x"}]}'), 1, LoopClock())
    await gateway.pipeline.handle(exchange)
    assert bytes(wire.written).startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in wire.written
    assert "a bug" in caplog.text
    assert gateway.ledger.open_records == 0
    assert all(capacity.in_flight == 0 for capacity in gateway.capacities.values())
