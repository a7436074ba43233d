"""A recorded live run (sockets, uvloop, the whole gateway), fed to the simulator's pool: the same decisions."""

import asyncio
import json
from collections import Counter
from random import Random

import aiohttp
import pytest

from gateway.app import registries
from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.recorder import Recorder, decisions
from gateway.simulator.replay import difference, replay
from tests.support.gateways import port_of, running

FILE = """
backends:
  fleet:
    {type: loopback, max_in_flight: 2, replicas: 2, latency: 30ms, jitter: 60%, fail_share: 3%, full_share: 2%}
  burst:
    {type: loopback_rented, max_in_flight: 4, latency: 30ms, jitter: 60%, boot: 120ms, idle_after: 200ms,
     fail_share: 3%, price: {usd_per_second: 0.001}}
routes:
  one:
    match: {model: one}
    latency_budget: {within: 250ms, objective: 95%}
    timeout: 2s
    policy: POLICY
    tiers:
      - {backend: fleet, when_full: {queue: 20ms, then: spill}}
      - {backend: burst, when_full: {queue: 200ms, then: shed}}
  two:
    match: {model: two}
    timeout: 300ms
    policy: {type: pinned, header: x-backend}
    tiers: [{backend: burst}, {backend: fleet}]
"""
SECONDS = 1.2
RATES = ((0.0, 60.0), (0.3, 500.0), (0.6, 60.0))
"""From when on, and how many calls a second: a burst that four slots cannot take."""


BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'


def moments(chance: Random) -> list[float]:
    at, found = 0.0, []
    while at < SECONDS:
        rate = next(rate for since, rate in reversed(RATES) if at >= since)
        at += chance.expovariate(rate)
        found.append(at)
    return found


async def ask(session: aiohttp.ClientSession, port: int, chance: Random) -> str:
    """One call, of which some clients lose patience; what became of it."""
    model = "two" if chance.random() < 0.15 else "one"
    headers = {"x-backend": "fleet"} if chance.random() < 0.5 else {}
    headers["x-overspill-priority"] = chance.choice(["critical", "default", "default", "best_effort"])
    patience = aiohttp.ClientTimeout(total=0.05 if chance.random() < 0.05 else 30.0)
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    try:
        async with session.post(url, data=BODY, headers=headers, timeout=patience) as reply:
            await reply.read()
            return reply.headers.get("x-overspill-reason", "")
    except (aiohttp.ClientError, TimeoutError):
        return "left"


async def load_on(port: int, seed: int) -> Counter[str]:
    """The burst, open loop."""
    chance = Random(seed)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = []
        for moment in moments(chance):
            await asyncio.sleep(max(0.0, began + moment - loop.time()))
            asked.append(loop.create_task(ask(session, port, chance)))
        return Counter(await asyncio.gather(*asked))


@pytest.mark.parametrize("policy", ["cheapest_in_budget", "spill_when_full", "queue_threshold"])
async def test_a_live_run_is_decided_again_in_the_same_way(policy: str) -> None:
    text = FILE.replace("POLICY", policy)
    recorder = Recorder(clock=SystemClock(), timers=asyncio.get_running_loop(), seed=11)
    async with running(text, recorder=recorder) as gateway:
        seen = await load_on(port_of(gateway), 5)
    lines = json.loads(json.dumps(recorder.lines, allow_nan=False))

    settings = load(f"version: 1\n{text}", *registries()).settings
    rules = registries()[1]
    policies = {
        name: rules.get(route.policy.type)(route.policy.options) for name, route in settings.routes.items()
    }
    replayed = replay(lines, policies)

    assert replayed.stopped is None
    assert difference(lines, replayed.lines) is None
    assert decisions(replayed.lines) == decisions(lines)
    # It was a run worth recording: calls ran at once, waited, and were given slots that came free.
    words = Counter(word for line in decisions(lines) for word in ("run", "hold", "take") if line.get(word))
    assert min(words["run"], words["hold"], words["take"]) >= 5, (words, seen)
    assert policy != "cheapest_in_budget" or any(line.get("event") == "opened" for line in lines)
    assert not recorder.full
