"""A route in any state, built as `overspill explain` builds it."""

from random import Random
from typing import Any

from gateway.app import registries
from gateway.clock import FakeClock
from gateway.config.load import load
from gateway.config.schema import Settings
from gateway.explain.scene import Scene, build_backends, build_scene
from gateway.explain.state_file import State
from policies import policies

CONFIG = """
version: 1
backends:
  fleet: {{type: loopback, replicas: 2, max_in_flight: 2}}
  burst: {{type: runpod, endpoint_id: abc, api_key: {{env: NOT_SET}}, max_in_flight: 4,
    price: {{usd_per_second: 0.001}}, cold_start: {{expect: {cold}, idle_after: 30s}}}}
  unpriced: {{type: modal, url: "https://127.0.0.1:1", max_in_flight: 2,
    cold_start: {{expect: 2s, idle_after: 10s}}}}
routes:
  embed:
    match: {{model: minilm}}
    latency_budget: {{within: {within}, objective: 99%}}
    timeout: 60s
    policy: {policy}
    tiers:
      - {{backend: fleet, when_full: {when_full}}}
      - {{backend: burst, when_full: spill}}
      - {{backend: unpriced, when_full: shed}}
"""


def config(policy: str = "spill_when_full", **options: Any) -> str:
    """A fleet of 2 x 2 slots, a priced endpoint and one without a price."""
    written = {
        key: "burst" if key == "backend" else value for key, value in policies.get(policy).EXAMPLE.items()
    }
    example = ", ".join(f"{key}: {value}" for key, value in written.items())
    named = f"{{type: {policy}{', ' if example else ''}{example}}}"
    return CONFIG.format(**{"cold": "8s", "within": "2s", "when_full": "spill", "policy": named} | options)


def settings(policy: str = "spill_when_full", **options: Any) -> Settings:
    """The same, checked."""
    return load(config(policy, **options), *registries(), resolve_secrets=False).settings


def scene(made: Settings, state: dict[str, Any]) -> Scene:
    """Its route in a state."""
    route = made.routes["embed"]
    clock = FakeClock()
    backends = build_backends(made, route, registries()[0], clock)
    policy = registries()[1].get(route.policy.type)(route.policy.options)
    given = State.model_validate(state)
    return build_scene("embed", route, policy, backends=backends, clock=clock, state=given)


def any_state(chance: Random) -> dict[str, Any]:
    """Any state that fits the backends."""
    down, cut = chance.choice([(0, 0), (0, 0), (0, 0), (1, 0), (0, 1), (1, 1), (2, 0)])
    up = 2 - down - cut
    burst = [chance.randint(0, 4)]
    burst.append(chance.randint(0, 4 - burst[0]))
    burst.append(chance.randint(0, 4 - sum(burst)))
    closed = chance.random() < 0.2
    mean = chance.choice([0.02, 0.3, 1.5])
    backends: dict[str, Any] = {
        "fleet": {
            "in_flight": chance.choice([0, up, 2 * up, 2 * up]), "replicas_down": down, "breaker_open": cut,
            "service": {"mean": f"{mean}s", "tail": f"{chance.choice([1.0, 1.5, 4.0]) * mean}s"},
        },
        "burst": {"breaker_open": 1} if closed else {
            "in_flight": burst[0], "warm": [f"{chance.randint(0, 29)}s" for _ in range(burst[1])],
            "opening": [f"{chance.choice([0.1, 1, 7])}s" for _ in range(burst[2])],
            "cold": {"mean": f"{chance.choice([0.5, 8])}s"},
        },
        "unpriced": {"in_flight": chance.choice([0, 1, 2])},
    }  # fmt: skip
    queue = [
        {
            "calls": chance.randint(1, 5), "age": f"{chance.choice([0, 10, 500, 3000])}ms",
            "priority": chance.choice(["critical", "default", "best_effort"]),
        }
        for _ in range(chance.randint(0, 3))
    ]  # fmt: skip
    return {"backends": backends, "queue": queue, "attained": chance.choice([None, 1.0, 0.95])}
