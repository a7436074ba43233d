"""Sets the stage: trains the model, starts Triton, the emulators and the gateway, and clears up.

Drives everything as processes over sockets. Must never know what load will come.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from gateway.demo.apps import WEIGHTS
from gateway.demo.models import Trained, train
from gateway.demo.plan import FAST_BOOT, FAST_SHARE, LAMBDA_GB, RENTED, SLOW_BOOT, Plan, Rented
from gateway.demo.policy_file import NAME, SECRETS, duration, policy_file
from gateway.demo.processes import Child, free_port, start_module
from gateway.demo.triton_process import why_not

Say = Callable[[str], None]
"""Tells people about a step that has been taken."""

START_LIMIT = 120.0
"""Seconds that any process may take until it is ready: a loaded machine is slow, a broken one is stuck."""


class Stage(NamedTuple):
    """Everything that runs."""

    trained: Trained
    policy: Path
    access_log: Path
    url: str  # of the gateway's data plane
    admin: str
    triton: str  # `real` or `bundled`
    children: tuple[Child, ...]


@contextmanager
def stage(plan: Plan, say: Say) -> Iterator[Stage]:
    """Set up, hand over, and stop every process on every way out. Raises CannotStart."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(TemporaryDirectory(prefix="overspill-demo-")))
        trained = train()
        weights = folder / "digits.npz"
        trained.model.save(weights)
        right = f"{100 * trained.accuracy:.1f} % of {len(trained.images)} unseen images right"
        say(f"trained a digits model: {right}")

        reason = why_not()
        # All begin to start before any is waited for: they share the wait.
        fleet = undo.enter_context(_real_triton(plan, weights) if reason is None else _bundled(plan, weights))
        rented = {each.name: undo.enter_context(_emulator(plan, each, weights)) for each in RENTED}

        warm = fleet.wait_ready(START_LIMIT)
        url = str(warm.get("http") or warm["url"])
        if reason is None:
            say(f"started the real Triton on CPU at {url}, {plan.slots} slots")
        else:
            say(f"{reason}; started the bundled KServe-v2 server instead at {url}, {plan.slots} slots")
        say(f"each inference is paced to {duration(plan.pace)}, as a GPU step would take")
        urls = {name: str(child.wait_ready(START_LIMIT)["url"]) for name, child in rented.items()}
        say(
            f"started serverless emulators {', '.join(urls)}: they boot in {FAST_BOOT:g} s or {SLOW_BOOT:g} s"
            f" and end after {RENTED[0].idle_after:g} s idle, about a tenth of real times"
        )

        http, admin = free_port(), free_port()
        policy = folder / "overspill.yaml"
        access_log = folder / "access.jsonl"
        policy.write_text(
            policy_file(plan, http=http, admin=admin, triton=url, emulators=urls, access_log=str(access_log))
        )
        gateway = undo.enter_context(
            start_module("gateway", "gateway.cli", "serve", "-c", str(policy), env=SECRETS)
        )
        gateway.wait_answer(f"http://127.0.0.1:{admin}/readyz", START_LIMIT)
        say(f"started the gateway at http://127.0.0.1:{http} with the policy in {policy}")
        yield Stage(
            trained,
            policy,
            access_log,
            f"http://127.0.0.1:{http}",
            f"http://127.0.0.1:{admin}",
            "real" if reason is None else "bundled",
            (fleet, *rented.values(), gateway),
        )


def _real_triton(plan: Plan, weights: Path) -> Child:
    return start_module(
        "triton",
        "gateway.demo.triton_process",
        *("--weights", str(weights)),
        *("--slots", str(plan.slots)),
        *("--pace", duration(plan.pace)),
        "--no-writer",
    )


def _bundled(plan: Plan, weights: Path) -> Child:
    config = {"slots": plan.slots, "pace_s": plan.pace}
    return _emulated("the bundled server", "kserve", config, weights)


def _emulator(plan: Plan, rented: Rented, weights: Path) -> Child:
    boot = {"fast_s": FAST_BOOT, "slow_s": SLOW_BOOT, "fast_share": FAST_SHARE}
    config = {
        "seed": plan.seed + RENTED.index(rented),
        "boot": boot,
        "cap": rented.max_in_flight,
        "idle_after_s": rented.idle_after,
        "pace_s": plan.pace,
        **_ACCOUNTS[rented.name],
    }
    return _emulated(f"the {rented.name} emulator", rented.name, config, weights)


def _emulated(name: str, kind: str, config: Mapping[str, Any], weights: Path) -> Child:
    text = json.dumps({"app": "gateway.demo.apps:digits_app", **config})
    arguments = ("--kind", kind, "--port", "0", "--config", text)
    return start_module(name, "backends.emulators", *arguments, env={WEIGHTS: str(weights)})


_ACCOUNTS: Mapping[str, Mapping[str, Any]] = {
    "runpod": {"runpod": {"endpoint_id": NAME, "api_key": SECRETS["RUNPOD_API_KEY"]}},
    "modal": {"modal": {"key": SECRETS["MODAL_KEY"], "secret": SECRETS["MODAL_SECRET"]}},
    "aws_lambda": {
        "aws_lambda": {
            "function": NAME,
            "memory_mb": 1024 * LAMBDA_GB,
            "access_key": SECRETS["AWS_ACCESS_KEY_ID"],
            "secret_key": SECRETS["AWS_SECRET_ACCESS_KEY"],
        }
    },
}
"""What each emulator knows of its customer: the same names and secrets that the policy file refers to."""
