"""Each backend against the emulator of its provider, with the worker kit in between: same bytes, same bill.

The emulator keeps its bill without knowing this gateway, so the two check each other.
"""

import asyncio
import math
from typing import Any

import pytest

from backends.aws_lambda import AwsLambda
from backends.base import Backend
from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator
from backends.emulators.runpod import RunPodEmulator
from backends.emulators.server import EmulatorServer
from backends.modal import Modal
from backends.runpod import RunPod
from backends.workers import kit, lambda_handler, modal_app, runpod_handler
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Call, Start, Work
from tests.support.provider import a_call, built, until

BOOT_S, IDLE_S, PRICE = 0.3, 0.4, 0.001


def echo(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    if path == "/boom":
        raise ValueError("boom")
    return 200, {"content-type": "application/x", "x-path": f"{method} {path}?{query}"}, body[::-1]


def runpod(options: FleetOptions) -> EmulatorServer:
    return RunPodEmulator(
        lambda _: runpod_handler.make_handler(kit.Worker(echo, kit.Boot())), options=options
    )


def modal(options: FleetOptions) -> EmulatorServer:
    return ModalEmulator(lambda _: modal_app.make_asgi(echo), options=options)


def aws_lambda(options: FleetOptions) -> EmulatorServer:
    return LambdaEmulator(
        lambda _: lambda_handler.make_handler(kit.Worker(echo, kit.Boot())), options=options
    )


def section(server: EmulatorServer) -> tuple[type[Backend], dict[str, Any]]:
    """The backend for an emulator, priced as the emulator prices."""
    common: dict[str, Any] = {
        "max_in_flight": 8,
        "cold_start": {"expect": f"{BOOT_S}s", "idle_after": f"{IDLE_S}s"},
    }
    match server:
        case RunPodEmulator():
            own = {
                "endpoint_id": server.endpoint.endpoint_id,
                "price": {"usd_per_second": server.endpoint.usd_per_second},
            }
            return RunPod, {**RunPod.example(server.url), **common, **own}
        case ModalEmulator():
            price = {"usd_per_second": server.function.usd_per_second}
            auth = {"key": {"env": "EMULATED_TOKEN"}, "secret": {"env": "EMULATED_TOKEN_SECRET"}}
            return Modal, {**Modal.example(server.url), **common, "price": price, "proxy_auth": auth}
        case LambdaEmulator():
            function = server.function
            secret = {"access_key": {"env": "EMULATED_KEY"}, "secret_key": {"env": "EMULATED_SECRET"}}
            own = {
                "function": function.function,
                "credentials": secret,
                "price": {
                    "usd_per_gb_second": function.usd_per_gb_second,
                    "usd_per_request": function.usd_per_request,
                },
            }
            return AwsLambda, {**AwsLambda.example(server.url), **common, **own}
    raise AssertionError(server)


EACH = pytest.mark.parametrize("provider", [runpod, modal, aws_lambda])


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rp-emulated")
    keys = LambdaEmulator(lambda _: lambda e, c: None, options=FleetOptions()).function.keys
    monkeypatch.setenv("EMULATED_TOKEN", "wk-emulated")
    monkeypatch.setenv("EMULATED_TOKEN_SECRET", "ws-emulated")
    monkeypatch.setenv("EMULATED_KEY", keys.access_key)
    monkeypatch.setenv("EMULATED_SECRET", keys.secret_key)


def fleet(**more: Any) -> FleetOptions:
    boot = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    return FleetOptions(**{"cap": 4, "idle_after_s": IDLE_S, "boot": boot, **more})


async def ask(backend: Backend, call: Call) -> tuple[bytes, Start, float]:
    async with backend.send(call, 0) as reply:
        body = reply.body
        if body is None:
            assert reply.stream is not None
            body = b"".join([chunk async for chunk in reply.stream])
        assert reply.status == 200
        fields = dict(reply.headers)
        assert fields[b"x-path"] == b"POST /v2/models/minilm/infer?"
        assert fields[b"content-type"] == b"application/x"
        assert reply.usage is not None
        assert reply.usage.usd is not None
        return body, reply.start, reply.usage.usd


@EACH
async def test_the_bytes_the_starts_and_the_bill(provider: Any) -> None:
    """A cold burst, a warm call, silence: what the gateway has charged is what the provider bills."""
    data = bytes(range(256)) * 40
    async with provider(fleet(pace_s=0.05)) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            burst = await asyncio.gather(*(ask(backend, a_call(data)) for _ in range(2)))
            warm = await ask(backend, a_call(data))
            assert [body for body, _, _ in [*burst, warm]] == [data[::-1]] * 3
            assert [start for _, start, _ in burst] == [Start.COLD, Start.COLD]
            assert warm[1] is Start.WARM
            now = backend.kit.clock.now()
            assert sum(backend.instances(now).values()) == 2
            await until(lambda: not any(backend.instances(backend.kit.clock.now()).values()))
            await asyncio.sleep(0.1)  # the emulator's own idle timers
            charged = sum(usd for _, _, usd in [*burst, warm])
            charged += sum(charge.usd for charge in backend.settle(math.inf))
            bill = server.bill()
    assert bill.cold_starts == 2
    assert bill.requests == 3
    # RunPod's whole seconds agree exactly; measured seconds differ by what the network took.
    assert charged == pytest.approx(bill.usd, rel=1e-6 if kind is not Modal else 0.1)


@EACH
@pytest.mark.parametrize(
    ("cue", "kinds"),
    [
        ("drop", (BackendBroke,)),
        ("kill", (BackendBroke,)),
        ("status", (BackendBroke, BackendFull)),
        ("throttle", (BackendFull,)),
    ],
)
async def test_failures_on_cue(provider: Any, cue: str, kinds: tuple[type[BackendError], ...]) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            server.fail_next(1, cue)
            with pytest.raises(BackendError) as caught:
                await ask(backend, a_call())
            assert type(caught.value) in kinds
            assert (await ask(backend, a_call(b"ab")))[0] == b"ba"


@EACH
async def test_a_handlers_failure_may_have_run(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            with pytest.raises(BackendBroke) as caught:
                await ask(backend, a_call(target=b"/boom"))
            assert caught.value.work is Work.MAYBE


async def test_wrong_keys_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aws_lambda(fleet()) as server:
        monkeypatch.setenv("EMULATED_SECRET", "wrong")
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            assert await backend.probe(0) is False
            with pytest.raises(BackendDenied, match="InvalidSignatureException"):
                await ask(backend, a_call())


@EACH
async def test_probes_are_free(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            assert await backend.probe(0) in (True, None)
            assert server.bill().requests == 0
            assert server.bill().cold_starts == 0
