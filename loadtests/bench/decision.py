"""`python -m loadtests.bench.decision`: what one decision costs, in microseconds of one core.

Puts a real pool with five candidates (one fleet, four rented backends) into states in which a decision is
easy or hard, and asks the policy the same question many times; `spill_when_full` is asked in the same
rounds, alternately, for comparison. Quotes medians over the rounds. It sends nothing and opens nothing.

Exit code 1 if a median is above the limit (20 µs unless `--limit` says otherwise).
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping
from random import Random
from statistics import median

from gateway.app import registries
from gateway.clock import FakeClock
from gateway.config.load import load
from gateway.explain.asked import Wanted, make_call
from gateway.explain.scene import Scene, build_backends, build_scene
from gateway.explain.state_file import State
from gateway.lease import FIRST, Lease

RENTED = 4
CONFIG = (
    """
version: 1
backends:
  fleet: {type: loopback, replicas: 4, max_in_flight: 4}
"""
    + "".join(
        f"  rented_{number}: {{type: loopback_rented, max_in_flight: 50, boot: {number + 2}s, idle_after: 5s,"
        f" price: {{usd_per_second: 0.000{number + 2}}}}}\n"
        for number in range(RENTED)
    )
    + """
routes:
  bench:
    match: {model: m}
    latency_budget: {within: 10s}
    policy: POLICY
    tiers:
      - {backend: fleet}
"""
    + "".join(f"      - {{backend: rented_{number}}}\n" for number in range(RENTED))
)

STATES: Mapping[str, object] = {
    "free owned slot": {},
    "wait for the fleet": {"backends": {"fleet": {"in_flight": 16}}, "queue": [{"calls": 8, "age": "10ms"}]},
    "idle instance": {
        "backends": {"fleet": {"in_flight": 16}, "rented_1": {"warm": 2}, "rented_2": {"warm": 1}},
        "queue": [{"calls": 400, "age": "10ms"}],
    },
    "on its way": {
        "backends": {
            "fleet": {"in_flight": 16},
            **{f"rented_{number}": {"opening": ["1s"] * 8} for number in range(RENTED)},
        },
        "queue": [{"calls": 260, "age": "10ms"}],
    },
    "open an instance": {
        "backends": {"fleet": {"in_flight": 16}},
        "queue": [{"calls": 260, "age": "10ms"}],
    },
}  # fmt: skip
"""What the pool looks like, by what is decided there."""


def scene(policy: str, state: object) -> Scene:
    """A pool in that state, under that policy."""
    settings = load(CONFIG.replace("POLICY", policy), *registries()).settings
    options = settings.routes["bench"]
    clock = FakeClock()
    rule = registries()[1].get(policy)(options.policy.options)
    backends = build_backends(settings, options, registries()[0], clock)
    checked = State.model_validate_json(json.dumps(state))
    return build_scene("bench", options, rule, backends=backends, clock=clock, state=checked)


def microseconds(pool_scene: Scene, times: int) -> float:
    """Of one decision, over so many of them."""
    pool, now = pool_scene.pool, pool_scene.now
    chance = Random(0)
    call = make_call(Wanted(timeout=60.0), now)
    leases = [Lease(pool, call, FIRST) for _ in range(times)]
    for lease in leases:
        lease.since = now
    arrive = pool.policy.arrive
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    for lease in leases:
        arrive(lease, pool, now, chance)
    elapsed = time.perf_counter() - began
    gc.enable()
    return elapsed / times * 1e6


def main() -> int:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.decision", description=__doc__)
    options.add_argument("--rounds", type=int, default=15, help="rounds (15)")
    options.add_argument("--times", type=int, default=2000, help="decisions per round and state (2000)")
    options.add_argument("--limit", type=float, default=20.0, help="microseconds that are enough (20)")
    wanted = options.parse_args()
    worst = 0.0
    print(f"{'state':22}{'answer':10}{'cheapest_in_budget':>20}{'spill_when_full':>18}")
    for name, state in STATES.items():
        ours, simple = scene("cheapest_in_budget", state), scene("spill_when_full", state)
        lease = Lease(ours.pool, make_call(Wanted(timeout=60.0), ours.now), FIRST)
        lease.since = ours.now
        answer = ours.pool.policy.arrive(lease, ours.pool, ours.now, Random(0))
        rounds = [
            (microseconds(ours, wanted.times), microseconds(simple, wanted.times))
            for _ in range(wanted.rounds)
        ]
        mine, theirs = (median(column) for column in zip(*rounds, strict=True))
        worst = max(worst, mine)
        word = type(answer).__name__.lower() + (" +open" if getattr(answer, "opens", ()) else "")
        print(f"{name:22}{word:10}{mine:17.2f} µs{theirs:15.2f} µs")
    return int(worst > wanted.limit)


if __name__ == "__main__":
    sys.exit(main())
