"""The policy file that the demo's gateway runs with, written so that its reader learns from it. Pure."""

from collections.abc import Mapping

from gateway.demo.models import DIGITS
from gateway.demo.plan import (
    FAST_BOOT,
    FLEET,
    LAMBDA_GB,
    LAMBDA_USD_PER_GB_SECOND,
    LAMBDA_USD_PER_REQUEST,
    RENTED,
    ROUTE,
    USD_PER_GPU_HOUR,
    Plan,
    Rented,
)

NAME = "demo"
"""The endpoint's and the function's name at the providers."""

SECRETS = {
    "RUNPOD_API_KEY": "rp-emulated",
    "MODAL_KEY": "wk-emulated",
    "MODAL_SECRET": "ws-emulated",
    "AWS_ACCESS_KEY_ID": "AKIAEMULATED",
    "AWS_SECRET_ACCESS_KEY": "emulated-secret",
}
"""What the gateway's environment holds: the secrets that the emulators accept."""


def policy_file(
    plan: Plan, *, http: int, admin: int, triton: str, emulators: Mapping[str, str], access_log: str
) -> str:
    """The file as text. `triton` is a base URL, `emulators` has one for every rented backend."""
    rented = "\n".join(_rented(each, emulators[each.name]) for each in RENTED)
    last = RENTED[-1].name
    between = "\n".join(f"      - {{backend: {each.name}, when_full: spill}}" for each in RENTED[:-1])
    return f"""\
# Written by `overspill demo`. Fill the warm fleet first; what it cannot take at once is spilled.
version: 1
listen: {{http: 127.0.0.1:{http}, admin: 127.0.0.1:{admin}}}
access_log: {{path: {access_log}, sample: 100%}}

backends:                        # list prices as of 2026-11
  {FLEET}:
    type: triton
    replicas: [{triton}]
    max_in_flight: {plan.slots}          # slots per replica: Triton runs so many requests at once
    # One machine with {plan.slots} L4, at ${USD_PER_GPU_HOUR} an hour each: paid whether used or not.
    price: {{usd_per_replica_hour: {plan.usd_per_replica_hour:g}}}

  # Rented by use; boot and idle times are a tenth of real ones.
{rented}

routes:
  {ROUTE}:
    match: {{model: {DIGITS}}}
    latency_budget: {{within: {duration(plan.within)}, objective: {100 * plan.objective:g}%}}
    policy: spill_when_full      # the tiers in order, so that all are seen at work. The default,
    tiers:                       # cheapest_in_budget, would rent the cheapest only
      - {{backend: {FLEET}, when_full: {{queue: 20ms, then: spill}}}}
{between}
      - {{backend: {last}, when_full: {{queue: 500ms, then: shed}}}}
    spill_budget: {{usd_per_hour: 5, on_exhausted: queue}}   # the demo spends a cent or two
"""


def duration(seconds: float) -> str:
    """Seconds as the policy file spells them."""
    return f"{1000 * seconds:g}ms" if seconds < 1 else f"{seconds:g}s"


def _rented(each: Rented, url: str) -> str:
    lines = {
        "runpod": [
            f"endpoint_id: {NAME}",
            f"base_url: {url}/v2",
            "api_key: {env: RUNPOD_API_KEY}",
            f"price: {{usd_per_second: {each.usd_per_second:g}}}   # flex worker of the 24 GB class",
            "spill_budget: {usd_per_hour: 2}    # whoever asks; the route has a budget of its own",
        ],
        "modal": [
            f"url: {url}",
            "proxy_auth: {key: {env: MODAL_KEY}, secret: {env: MODAL_SECRET}}",
            f"price: {{usd_per_second: {each.usd_per_second:g}}}  # an L4, without its CPU and memory",
        ],
        "aws_lambda": [
            f"function: {NAME}",
            "region: us-east-1",
            f"endpoint_url: {url}",
            "credentials: {access_key: {env: AWS_ACCESS_KEY_ID}, secret_key: {env: AWS_SECRET_ACCESS_KEY}}",
            f"memory: {LAMBDA_GB}GiB",
            f"price: {{usd_per_gb_second: {LAMBDA_USD_PER_GB_SECOND:.10f}, "
            f"usd_per_request: {LAMBDA_USD_PER_REQUEST:.7f}}}  # x86 in us-east-1",
        ],
    }[each.name]
    cold = f"cold_start: {{expect: {duration(FAST_BOOT)}, idle_after: {duration(each.idle_after)}}}"
    fields = [f"type: {each.name}", *lines, f"max_in_flight: {each.max_in_flight}", cold]
    return "\n".join([f"  {each.name}:", *(f"    {field}" for field in fields)])
