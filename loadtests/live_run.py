"""A fleet, an endpoint and a gateway as processes, and requests at their own moments: what comes of it.

Each request says how long it is to be served (`paced_app`). Knows no simulation.
"""

import asyncio
import json
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from gateway.clock import Clock
from gateway.demo.processes import CannotStart, Child, free_port, start_module
from loadtests.paced_app import HEADER

ROOT = Path(__file__).parent.parent
ROUTE, FLEET, BURST = "paced", "fleet", "burst"
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'
START_S = 60.0
"""Seconds that a process may take until it is ready."""
LATE_S = 0.05
"""A request that left so much later than it was meant to was held up by the driver, not by the gateway."""


class Plan(NamedTuple):
    """One comparison. Seconds, and dollars per second of a slot or an instance."""

    budget_s: float
    objective: float
    cold_s: float
    idle_s: float
    slots: int
    cap: int
    slot_usd: float
    premium: float
    policy: str
    seed: int


@dataclass(frozen=True)
class Figures:
    """What one of the two came to."""

    requests: int
    attained: float
    cost: float
    fleet_cost: float
    rented_cost: float
    activations: int
    spilled: int
    lost: int
    duration_s: float


@dataclass(frozen=True)
class Live(Figures):
    """What was measured beside that.

    metered:  dollars of the rented backend by the gateway's own metrics
    lag_p99_s, lag_max_s, lagged:  how late the driver sent, and how many requests by more than `LATE_S`
    """

    metered: float
    lag_p99_s: float
    lag_max_s: float
    lagged: int


class Sample(NamedTuple):
    """One request: when it was meant to leave, when it left, when its answer was complete."""

    intended: float
    left: float
    finished: float
    status: int
    backend: str


def policy_file(plan: Plan, *, http: int, admin: int, fleet: str, burst: str) -> str:
    """For both: the gateway serves by it, the simulation reads it."""
    return f"""\
version: 1
listen: {{http: '127.0.0.1:{http}', admin: '127.0.0.1:{admin}'}}
backends:
  {FLEET}:
    type: triton
    replicas: [{fleet}]
    max_in_flight: {plan.slots}
    price: {{usd_per_replica_hour: {plan.slots * plan.slot_usd * 3600:.10f}}}
  {BURST}:
    type: modal
    url: {burst}
    max_in_flight: {plan.cap}
    price: {{usd_per_second: {plan.premium * plan.slot_usd:.12f}}}
    cold_start: {{expect: {plan.cold_s:.6f}s, idle_after: {plan.idle_s:.6f}s}}
routes:
  {ROUTE}:
    match: {{model: {ROUTE}}}
    latency_budget: {{within: {plan.budget_s:.6f}s, objective: {100 * plan.objective:g}%}}
    timeout: {max(600.0, 10 * plan.budget_s):g}s
    policy: {plan.policy}
    tiers: [{{backend: {FLEET}}}, {{backend: {BURST}}}]
"""


class Stage(NamedTuple):
    """Everything that runs, by its URL."""

    url: str
    admin: str
    burst: str
    policy: str  # the file's text


@contextmanager
def stage(plan: Plan) -> Iterator[Stage]:
    """Fleet, endpoint and gateway as processes; stopped on every way out. Raises CannotStart."""
    with ExitStack() as undo:
        boot = {"fast_s": plan.cold_s, "slow_s": plan.cold_s, "fast_share": 1.0, "spread": 0.0}
        fleet = undo.enter_context(_emulator("kserve", {"slots": plan.slots}))
        burst = undo.enter_context(
            _emulator(
                "modal",
                {
                    "seed": plan.seed, "boot": boot, "cap": plan.cap, "idle_after_s": plan.idle_s,
                    "modal": {"key": None, "timeout_s": 3600.0, "redirect_after_s": 3600.0},
                    "price": {"usd_per_second": plan.premium * plan.slot_usd},
                },
            )
        )  # fmt: skip
        urls = [str(child.wait_ready(START_S)["url"]) for child in (fleet, burst)]
        http, admin = free_port(), free_port()
        text = policy_file(plan, http=http, admin=admin, fleet=urls[0], burst=urls[1])
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="overspill-live-")))
        (folder / "overspill.yaml").write_text(text)
        gateway = undo.enter_context(
            start_module("gateway", "gateway.cli", "serve", "-c", str(folder / "overspill.yaml"))
        )
        gateway.wait_answer(f"http://127.0.0.1:{admin}/readyz", START_S)
        yield Stage(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{admin}", urls[1], text)


def _emulator(kind: str, config: dict[str, Any]) -> Child:
    text = json.dumps({"app": "loadtests.paced_app:app", **config})
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    return start_module(
        f"the {kind} emulator", "backends.emulators", "--kind", kind, "--config", text, env=environment
    )


async def drive(url: str, moments: Sequence[float], services: Sequence[float], clock: Clock) -> list[Sample]:
    """Send every request at its own moment, whatever became of those before it."""
    samples: list[Sample] = []
    target = f"{url}/v2/models/{ROUTE}/infer"
    connector = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=3600.0)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        began = clock.now() + 0.1

        async def one(intended: float, seconds: float) -> None:
            left = clock.now() - began
            status, backend = 0, ""
            try:
                async with session.post(target, data=BODY, headers={HEADER: f"{seconds:.9f}"}) as reply:
                    await reply.read()
                    status, backend = reply.status, reply.headers.get("x-overspill-backend", "")
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            samples.append(Sample(intended, left, clock.now() - began, status, backend))

        async with asyncio.TaskGroup() as tasks:
            for moment, seconds in zip(moments, services, strict=True):
                await asyncio.sleep(max(0.0, began + moment - clock.now()))
                tasks.create_task(one(moment, seconds))
    return samples


async def settled(stage_: Stage, idle_s: float, clock: Clock) -> dict[str, Any]:
    """The emulator's bill, once its last instance is gone. Raises CannotStart when that does not come."""
    give_up = clock.now() + idle_s + START_S
    while _get(f"{stage_.burst}/__emulator/state")["instances"]:
        if clock.now() > give_up:
            raise CannotStart("an instance outlived its idle time-out by a minute")
        await asyncio.sleep(0.1)
    bill: dict[str, Any] = _get(f"{stage_.burst}/__emulator/bill")
    return bill


def metered(admin: str) -> float:
    """Dollars of the rented backend by the gateway's own metrics."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10.0) as reply:
        text = reply.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "overspill_cost_usd_total" and sample.labels.get("backend") == BURST
    )


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10.0) as reply:
        return json.load(reply)


async def live(
    moments: Sequence[float], services: Sequence[float], plan: Plan, stage_: Stage, clock: Clock
) -> Live:
    """One run at real speed."""
    samples = await drive(stage_.url, moments, services, clock)
    bill = await settled(stage_, plan.idle_s, clock)
    by_gateway = metered(stage_.admin)
    give_up = clock.now() + 5.0
    while abs(by_gateway - bill["usd"]) > 0.02 * bill["usd"] and clock.now() < give_up:
        await asyncio.sleep(0.2)  # the gateway books idle tails when they fell due
        by_gateway = metered(stage_.admin)
    lags = sorted(sample.left - sample.intended for sample in samples)
    duration = max(sample.finished for sample in samples)
    fleet_cost = duration * plan.slots * plan.slot_usd
    in_time = sum(each.status == 200 and each.finished - each.intended <= plan.budget_s for each in samples)
    return Live(
        len(samples), in_time / len(samples), fleet_cost + bill["usd"], fleet_cost, bill["usd"],
        bill["cold_starts"], sum(each.backend == BURST for each in samples),
        sum(each.status != 200 for each in samples), duration, metered=by_gateway,
        lag_p99_s=lags[int(0.99 * (len(lags) - 1))], lag_max_s=lags[-1],
        lagged=sum(lag > LATE_S for lag in lags),
    )  # fmt: skip
