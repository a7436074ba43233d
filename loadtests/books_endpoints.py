"""The endpoints whose books are compared: an emulator each, and what the gateway's file says of it.

Knows emulators and the file's format. It must never know a gateway.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.aws_lambda_url import LambdaUrlEmulator, streamed
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator, ModalServerEmulator
from backends.emulators.runpod import RunPodEmulator
from backends.emulators.runpod_lb import RunPodLbEmulator
from backends.emulators.server import EmulatorServer
from backends.workers import kit, lambda_handler, modal_app, runpod_handler

SLOTS = 6
"""Calls at once on one endpoint, by the gateway's file. The provider would start twice as many instances."""


class Times(NamedTuple):
    """How long things take, in seconds.

    A provider's are ten to a hundred times as long. What the way there and back adds to a measurement does
    not grow with them: the longer they are, the less it weighs.

    expected:  mean of the boots
    work:      from, to
    """

    idle: float
    boots: BootTimes
    expected: float
    work: tuple[float, float]

    @classmethod
    def times(cls, factor: float) -> "Times":
        """So many times the shortest that still show everything."""
        boots = BootTimes(fast_s=0.15 * factor, slow_s=0.6 * factor, fast_share=2 / 3, spread=0.1)
        return cls(0.6 * factor, boots, 0.3 * factor, (0.1 * factor, 0.3 * factor))


SECRETS = {"BOOKS_RUNPOD": "rp-emulated", "BOOKS_MODAL": "wk-emulated", "BOOKS_MODAL_SECRET": "ws-emulated",
           "BOOKS_AWS": "AKIAEMULATED", "BOOKS_AWS_SECRET": "emulated-secret"}  # fmt: skip
"""Environment in which the file's references are found. They open nothing but the emulators."""

FRONT = ("throttle", "status", "drop")
"""Failures before anything runs."""
INSIDE = ("error", "kill", "boot", "cut")
"""Failures of what runs: an exception, a death in the middle, a failed start, an answer that breaks off."""


class Executions:
    """How often each request was run on one endpoint, by its id."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, request_id: str) -> None:
        """It runs now."""
        with self._lock:
            self.of[request_id] += 1


def worker(name: str, executions: Executions) -> kit.App:
    """What every instance runs: a little work; the answer says who did it. `do` in the body makes it fail."""

    def work(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> kit.Response:
        asked = json.loads(body)["parameters"]
        executions.note(asked["id"])
        time.sleep(asked["work_s"])
        answer = json.dumps({"by": name, "id": asked["id"]}).encode()
        fields = {"content-type": "application/json"}
        if asked["do"] == "fail":
            return 500, fields, answer
        return 200, fields, answer if asked["do"] != "break" else _breaking(answer)

    return work


def _breaking(answer: bytes) -> Iterator[bytes]:
    yield answer[:5]
    time.sleep(0.005)
    raise RuntimeError("in the middle of the answer, on demand")


class Endpoint(NamedTuple):
    """One endpoint.

    told:       the provider itself tells of each start; else the worker kit does, in answers that arrive
    tolerance:  share of the bill by which the gateway's may differ; `why` it may, beyond 1 %
    """

    name: str
    emulator: EmulatorServer
    section: str
    executions: Executions
    told: bool
    tolerance: float = 0.01
    why: str = ""


def _options(times: Times) -> FleetOptions:
    return FleetOptions(cap=2 * SLOTS, idle_after_s=times.idle, boot=times.boots)


def _runpod(name: str, app: kit.App, seed: int, times: Times) -> tuple[EmulatorServer, str]:
    emulator = RunPodEmulator(
        lambda _: runpod_handler.make_handler(kit.Worker(app, kit.Boot())), options=_options(times), seed=seed
    )
    return emulator, (
        f"type: runpod, endpoint_id: {emulator.endpoint.endpoint_id}, base_url: '{{url}}/v2', "
        f"api_key: {{env: BOOKS_RUNPOD}}, price: {{usd_per_second: {emulator.endpoint.usd_per_second}}}"
    )


def _runpod_lb(name: str, app: kit.App, seed: int, times: Times) -> tuple[EmulatorServer, str]:
    emulator = RunPodLbEmulator(lambda _: modal_app.make_asgi(app), options=_options(times), seed=seed)
    return emulator, (
        f"type: runpod_lb, endpoint_id: emulated, url: '{{url}}', api_key: {{env: BOOKS_RUNPOD}}, "
        f"price: {{usd_per_second: {emulator.endpoint.usd_per_second}}}"
    )


def _modal(name: str, app: kit.App, seed: int, times: Times) -> tuple[EmulatorServer, str]:
    kind = ModalServerEmulator if name.startswith("modal_server") else ModalEmulator
    emulator = kind(lambda _: modal_app.make_asgi(app), options=_options(times), seed=seed)
    return emulator, (
        f"type: {name.partition('-')[0]}, url: '{{url}}', "
        "proxy_auth: {key: {env: BOOKS_MODAL}, secret: {env: BOOKS_MODAL_SECRET}}, "
        f"price: {{usd_per_second: {emulator.function.usd_per_second}}}"
    )


def _lambda(name: str, app: kit.App, seed: int, times: Times) -> tuple[EmulatorServer, str]:
    flows = name.startswith(("aws_lambda-streamed", "aws_lambda_url-streamed"))

    def make(_: str) -> Callable[[Any, Any], Any]:
        handler = lambda_handler.make_handler(kit.Worker(app, kit.Boot()))
        return streamed(handler) if flows else handler

    more: Mapping[str, Any] = {"options": _options(times), "seed": seed}
    keys = "credentials: {access_key: {env: BOOKS_AWS}, secret_key: {env: BOOKS_AWS_SECRET}}"
    emulator: LambdaEmulator
    if name.startswith("aws_lambda_url"):
        emulator = LambdaUrlEmulator(make, mode="RESPONSE_STREAM" if flows else "BUFFERED", **more)
        section = f"type: aws_lambda_url, url: '{{url}}', region: us-east-1, {keys}"
    else:
        emulator = LambdaEmulator(make, **more)
        answers = "streamed" if flows else "buffered"
        section = (
            f"type: aws_lambda, function: {emulator.function.function}, region: us-east-1, "
            f"endpoint_url: '{{url}}', response: {answers}, {keys}"
        )
    function = emulator.function
    return emulator, (
        f"{section}, memory: {function.memory_mb}MiB, price: {{usd_per_gb_second: "
        f"{function.usd_per_gb_second:.12f}, usd_per_request: {function.usd_per_request:.12f}}}"
    )


_MEASURED = "no log tail on this way: invocations are measured from outside, with the way there and back"
_KINDS: Mapping[
    str, tuple[Callable[[str, kit.App, int, Times], tuple[EmulatorServer, str]], bool, float, str]
] = {
    "runpod": (_runpod, True, 0.01, ""),
    "runpod-pinged": (_runpod, True, 0.01, ""),
    "runpod_lb": (_runpod_lb, False, 0.01, ""),
    "runpod_lb-pinged": (_runpod_lb, False, 0.01, ""),
    "modal": (_modal, False, 0.01, ""),
    "modal-pinged": (_modal, False, 0.01, ""),
    "modal_server": (_modal, False, 0.01, ""),
    "aws_lambda": (_lambda, True, 0.01, ""),
    "aws_lambda-pinged": (_lambda, True, 0.01, ""),
    "aws_lambda-streamed": (_lambda, True, 0.01, ""),
    "aws_lambda_url": (_lambda, False, 0.05, _MEASURED),
    "aws_lambda_url-streamed": (_lambda, False, 0.05, _MEASURED),
}
KINDS = tuple(_KINDS)
"""Names of all endpoints; those that are `pinged` are opened ahead of calls."""


def endpoint(name: str, seed: int, times: Times) -> Endpoint:
    """One endpoint, not yet started. `{url}` in its section is to be filled in."""
    make, told, tolerance, why = _KINDS[name]
    executions = Executions()
    emulator, section = make(name, worker(name, executions), seed, times)
    return Endpoint(name, emulator, section, executions, told, tolerance, why)


def breaks(name: str) -> bool:
    """Whether an application's answer can break off there: it has to be sent as it is made."""
    return name.startswith(("modal", "runpod_lb"))
