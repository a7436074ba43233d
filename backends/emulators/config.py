"""What the runner's JSON may say, and the server that it describes.

Must never know the application it serves: that is named in the configuration and imported when asked
for, so that nothing here depends on it.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from backends.emulators.aws_lambda import LambdaEmulator, LambdaOptions
from backends.emulators.aws_lambda_url import LambdaUrlEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.kserve import KServeServer
from backends.emulators.kserve_app import KServeApp
from backends.emulators.modal import ModalEmulator, ModalOptions, ModalServerEmulator
from backends.emulators.runpod import RunPodEmulator, RunPodOptions
from backends.emulators.runpod_lb import RunPodLbEmulator, RunPodLbOptions
from backends.emulators.server import EmulatorServer
from backends.emulators.sigv4 import Keys
from backends.workers import kit, lambda_handler, modal_app, runpod_handler
from gateway.options import Options

Kind = Literal[
    "runpod", "runpod_lb", "modal", "modal_server", "lambda", "aws_lambda", "aws_lambda_url", "kserve"
]  # fmt: skip
"""`lambda` and `aws_lambda` are the same."""


class Boot(Options):
    """Start-up times in seconds, see `fleet.BootTimes`."""

    fast_s: float = Field(default=2.0, ge=0)
    """Where everything is cached."""
    slow_s: float = Field(default=8.0, ge=0)
    """Where nothing is."""
    fast_share: float = Field(default=1 / 3, ge=0, le=1)
    """Share of fast starts."""
    spread: float = Field(default=0.1, ge=0, le=1)
    """Each time is drawn from this share below to this share above its mode."""


class RunPodEndpoint(Options):
    """The emulated RunPod endpoint."""

    endpoint_id: str = "emulated"
    """Path segment after /v2."""
    api_key: str = "rp-emulated"
    """The bearer key that is let in."""


class ModalFunction(Options):
    """The emulated Modal web function."""

    key: str | None = "wk-emulated"
    """Token id; null for a function without proxy authorization."""
    secret: str = "ws-emulated"  # noqa: S105 - opens nothing but this emulator
    """Token secret."""
    redirect_after_s: float = Field(default=150.0, gt=0)
    """When an unanswered request is sent to its result URL."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Of one execution."""
    backlog: int = Field(default=2000, ge=0)
    """Inputs that may wait."""
    hang_up_ends: bool = False
    """Whether an execution ends when its client leaves."""


class LambdaFunction(Options):
    """The emulated Lambda function."""

    function: str = "emulated"
    """Its name."""
    region: str = "us-east-1"
    """Region in the signature's scope and the ARN."""
    memory_mb: int = Field(default=1024, ge=128, le=10_240)
    """Memory, which is what is priced."""
    timeout_s: float = Field(default=30.0, gt=0, le=900)
    """Of one invocation."""
    versions: tuple[str, ...] = ()
    """Versions and aliases beside $LATEST."""
    access_key: str = "AKIAEMULATED"
    """Access key id that is let in."""
    secret_key: str = "emulated-secret"  # noqa: S105 - opens nothing but this emulator
    """Its secret."""
    session_token: str | None = None
    """Its session token."""


class Price(Options):
    """What the emulator bills; where a figure is missing, a list price of 2026-11."""

    usd_per_second: float | None = Field(default=None, ge=0)
    """RunPod and Modal: of one instance."""
    usd_per_gb_second: float | None = Field(default=None, ge=0)
    """Lambda."""
    usd_per_request: float | None = Field(default=None, ge=0)
    """Lambda."""


class EmulatorConfig(Options):
    """One emulator. Unknown keys are errors."""

    app: str
    """`module:name` of an app of the worker kit, or of a function without arguments that returns one."""
    seed: int = 0
    """Of boot times and ids."""
    boot: Boot = Boot()
    """Start-up times."""
    cap: int = Field(default=5, ge=1)
    """Instances at once."""
    idle_after_s: float = Field(default=5.0, ge=0)
    """After so long without work an instance is gone."""
    queue_limit: int | None = Field(default=None, ge=0)
    """Requests that may wait before more get the provider's 429 (for kserve: Triton's 503)."""
    pace_s: float = Field(default=0.0, ge=0)
    """Least time that one request takes."""
    price: Price = Price()
    """What it costs."""
    runpod: RunPodEndpoint = RunPodEndpoint()
    """For `--kind runpod`."""
    modal: ModalFunction = ModalFunction()
    """For `--kind modal`."""
    aws_lambda: LambdaFunction = LambdaFunction()
    """For `--kind lambda`."""
    slots: int | None = Field(default=None, ge=1)
    """For `--kind kserve`: inferences at once."""

    def fleet(self) -> FleetOptions:
        """The fleet's part."""
        boot = BootTimes(**self.boot.model_dump())
        return FleetOptions(self.cap, self.idle_after_s, boot, self.queue_limit, self.pace_s)


def load_app(name: str) -> kit.App:
    """The app called `module:name`. Raises ValueError when there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError) as error:
        raise ValueError(f"app {name!r} cannot be imported: {error}") from error
    made = found if isinstance(found, KServeApp) or inspect.signature(found).parameters else found()
    if not callable(made):
        raise ValueError(f"app {name!r} is not callable")
    app: kit.App = made
    return app


def build(kind: Kind, config: EmulatorConfig, *, host: str, port: int) -> EmulatorServer | KServeServer:
    """The server, not yet started. Every instance gets a kit worker of its own, as a new process would."""
    app = load_app(config.app)
    where: dict[str, Any] = {"host": host, "port": port}
    if kind == "kserve":
        return KServeServer(
            app, slots=config.slots, queue_limit=config.queue_limit, pace_s=config.pace_s, **where
        )
    where |= {"options": config.fleet(), "seed": config.seed}
    price = config.price.model_dump(exclude_none=True)
    if kind == "runpod":
        endpoint = RunPodOptions(**config.runpod.model_dump(), **price)
        return RunPodEmulator(_runpod_worker(app), endpoint=endpoint, **where)
    if kind == "runpod_lb":
        balanced = RunPodLbOptions(api_key=config.runpod.api_key, **price)
        return RunPodLbEmulator(lambda _: modal_app.make_asgi(app), endpoint=balanced, **where)
    if kind in ("modal", "modal_server"):
        modal = ModalEmulator if kind == "modal" else ModalServerEmulator
        return modal(
            lambda _: modal_app.make_asgi(app),
            function=ModalOptions(**config.modal.model_dump(), **price),
            **where,
        )
    own = config.aws_lambda.model_dump()
    keys = Keys(own.pop("access_key"), own.pop("secret_key"), own.pop("session_token"))
    emulator = LambdaUrlEmulator if kind == "aws_lambda_url" else LambdaEmulator
    return emulator(
        lambda _: lambda_handler.make_handler(kit.Worker(app, kit.Boot())),
        function=LambdaOptions(**own, keys=keys, **price),
        **where,
    )


def _runpod_worker(app: kit.App) -> Callable[[str], Any]:
    return lambda _: runpod_handler.make_handler(kit.Worker(app, kit.Boot()))
