"""Endpoints reached with the call's own request, and streamed invocations, against their emulators.

The emulators keep their bills without knowing this gateway, so the two check each other.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from backends.aws_lambda import AwsLambda
from backends.aws_lambda_url import AwsLambdaUrl
from backends.base import Backend
from backends.emulators.aws_lambda import PRELUDE_END, LambdaEmulator, LambdaOptions
from backends.emulators.aws_lambda_url import LambdaUrlEmulator, streamed
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalServerEmulator
from backends.emulators.runpod_lb import RunPodLbEmulator, RunPodLbOptions
from backends.emulators.server import EmulatorServer
from backends.modal_server import ModalServer
from backends.runpod_lb import RunPodLb
from backends.workers import kit, lambda_handler, modal_app
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Call, Start, Work
from tests.support.provider import a_call, built, until

BOOT_S, IDLE_S = 0.3, 0.8


def echo(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    if path == "/boom":
        raise ValueError("boom")
    return 200, {"content-type": "application/x", "x-path": f"{method} {path}?{query}"}, body[::-1]


class Case(NamedTuple):
    """An emulator, its backend, and how near the two books can be."""

    server: EmulatorServer
    kind: type[Backend]
    options: dict[str, Any]
    near: float = 1e-6


def fleet(**more: Any) -> FleetOptions:
    boot = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    return FleetOptions(**{"cap": 4, "idle_after_s": IDLE_S, "boot": boot, **more})


def worker(name: str) -> Any:
    return lambda_handler.make_handler(kit.Worker(echo, kit.Boot()))


def streaming_worker(name: str) -> Any:
    return streamed(worker(name))


KEYS = {"access_key": {"env": "EMULATED_KEY"}, "secret_key": {"env": "EMULATED_SECRET"}}
LAMBDA: dict[str, Any] = {
    "credentials": KEYS,
    "price": {"usd_per_gb_second": 0.0000166667, "usd_per_request": 0.0000002},
}


def runpod_lb(options: FleetOptions, **endpoint: Any) -> Case:
    server = RunPodLbEmulator(
        lambda _: modal_app.make_asgi(echo), options=options, endpoint=RunPodLbOptions(**endpoint)
    )
    return Case(server, RunPodLb, {"price": {"usd_per_second": server.endpoint.usd_per_second}})


def runpod_lb_refusing(options: FleetOptions) -> Case:
    return runpod_lb(options, refuses_cold=True)


def lambda_stream(options: FleetOptions, make: Any = streaming_worker, **function: Any) -> Case:
    server = LambdaEmulator(make, options=options, function=LambdaOptions(**function))
    return Case(server, AwsLambda, {**LAMBDA, "function": "emulated", "response": "streamed"})


def lambda_stream_of_one_that_does_not(options: FleetOptions) -> Case:
    return lambda_stream(options, worker)


def lambda_snapstart(options: FleetOptions) -> Case:
    return lambda_stream(options, worker, snapstart=True)


def lambda_url(options: FleetOptions) -> Case:
    return Case(LambdaUrlEmulator(worker, options=options), AwsLambdaUrl, LAMBDA, near=0.25)


def lambda_url_open(options: FleetOptions) -> Case:
    server = LambdaUrlEmulator(worker, options=options, auth="NONE")
    return Case(server, AwsLambdaUrl, {**LAMBDA, "auth": "none", "credentials": None}, near=0.25)


def lambda_url_stream(options: FleetOptions) -> Case:
    server = LambdaUrlEmulator(streaming_worker, options=options, mode="RESPONSE_STREAM")
    return Case(server, AwsLambdaUrl, LAMBDA, near=0.25)


def modal_server(options: FleetOptions) -> Case:
    server = ModalServerEmulator(lambda _: modal_app.make_asgi(echo), options=options)
    price = {"usd_per_second": server.function.usd_per_second}
    auth = {"key": {"env": "EMULATED_TOKEN"}, "secret": {"env": "EMULATED_TOKEN_SECRET"}}
    return Case(server, ModalServer, {"price": price, "proxy_auth": auth}, near=0.25)


LB = [runpod_lb, runpod_lb_refusing]
STREAMS = [lambda_stream, lambda_stream_of_one_that_does_not, lambda_snapstart]
URLS = [lambda_url, lambda_url_open, lambda_url_stream]
EACH = pytest.mark.parametrize("provider", [*LB, *STREAMS, *URLS, modal_server])


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = LambdaOptions().keys
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rp-emulated")
    monkeypatch.setenv("EMULATED_TOKEN", "wk-emulated")
    monkeypatch.setenv("EMULATED_TOKEN_SECRET", "ws-emulated")
    monkeypatch.setenv("EMULATED_KEY", keys.access_key)
    monkeypatch.setenv("EMULATED_SECRET", keys.secret_key)


def section(case: Case) -> dict[str, Any]:
    cold = {"expect": f"{BOOT_S}s", "idle_after": f"{IDLE_S}s"}
    return {**case.kind.example(case.server.url), "max_in_flight": 8, "cold_start": cold, **case.options}


async def ask(backend: Backend, call: Call) -> tuple[bytes, Start, float]:
    async with backend.send(call, 0) as reply:
        body = reply.body
        if body is None:
            assert reply.stream is not None
            body = b"".join([chunk async for chunk in reply.stream])
        assert reply.status == 200
        fields = dict(reply.headers)
        assert fields[b"x-path"] == b"POST /v2/models/minilm/infer?a=%20b&c"
        assert fields[b"content-type"] == b"application/x"
        assert not any(name.startswith(b"x-overspill-") for name in fields)
        assert reply.usage is not None
        assert reply.usage.usd is not None
        return body, reply.start, reply.usage.usd


def binary(data: bytes) -> Call:
    fields = [(b"content-type", b"application/octet-stream"), (b"x-twice", b"1"), (b"x-twice", b"2")]
    return a_call(data, target=b"/v2/models/minilm/infer?a=%20b&c", headers=fields)


@EACH
async def test_the_bytes_the_starts_and_the_bill(provider: Any) -> None:
    """A cold burst, a warm call, silence: what the gateway has charged is what the provider bills."""
    data = bytes(range(256)) * 700
    case = provider(fleet(pace_s=0.1))
    async with case.server as server:
        async with built(case.kind, section(case)) as (backend, _):
            # Where a refusal makes one start, one that takes both calls leaves another that nobody sees.
            calls = 1 if provider is runpod_lb_refusing else 2
            burst = await asyncio.gather(*(ask(backend, binary(data)) for _ in range(calls)))
            warm = await ask(backend, binary(data))
            assert [body for body, _, _ in [*burst, warm]] == [data[::-1]] * (calls + 1)
            assert warm[1] is Start.WARM
            assert [start for _, start, _ in burst] == [Start.COLD] * calls
            assert sum(backend.instances(backend.kit.clock.now()).values()) == calls
            await until(lambda: not any(backend.instances(backend.kit.clock.now()).values()))
            await asyncio.sleep(0.1)  # the emulator's own idle timers
            charged = sum(usd for _, _, usd in [*burst, warm])
            charged += sum(charge.usd for charge in backend.settle(math.inf))
            bill = server.bill()
    assert bill.cold_starts == calls
    # What is reported, or billed in whole seconds, agrees exactly; measured times differ by the network's.
    assert charged == pytest.approx(bill.usd, rel=case.near)


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
    case = provider(fleet())
    async with case.server as server:
        async with built(case.kind, section(case)) as (backend, _):
            await ask(backend, binary(b"ab"))
            server.fail_next(1, cue)
            with pytest.raises(BackendError) as caught:
                await ask(backend, binary(b"ab"))
            assert type(caught.value) in kinds
            assert (await ask(backend, binary(b"ab")))[0] == b"ba"


@EACH
async def test_a_handlers_failure_may_have_run(provider: Any) -> None:
    case = provider(fleet())
    async with case.server:
        async with built(case.kind, section(case)) as (backend, _):
            with pytest.raises(BackendBroke) as caught:
                await ask(backend, a_call(target=b"/boom"))
            assert caught.value.work is Work.MAYBE


@pytest.mark.parametrize("provider", [lambda_stream, lambda_url])
async def test_wrong_keys_are_denied(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMULATED_SECRET", "wrong")
    case = provider(fleet())
    async with case.server:
        async with built(case.kind, section(case)) as (backend, _):
            with pytest.raises(BackendDenied, match="InvalidSignatureException"):
                await ask(backend, binary(b"ab"))


@pytest.mark.parametrize(
    ("provider", "cue", "kind", "said"),
    [
        (modal_server, "stopped", BackendDenied, "is stopped"),
        (modal_server, "disabled", BackendDenied, "is disabled"),
        (modal_server, "no_container", BackendFull, "503"),
        (runpod_lb, "no_worker", BackendFull, "no worker is up"),
    ],
)
async def test_what_the_provider_refuses_has_not_run(
    provider: Any, cue: str, kind: type[BackendError], said: str
) -> None:
    case = provider(fleet())
    async with case.server as server:
        options = section(case)
        if case.kind is RunPodLb:
            options["wait_for_worker"] = "0s"
        async with built(case.kind, options) as (backend, _):
            server.fail_next(1, cue)
            with pytest.raises(kind, match=said) as caught:
                await ask(backend, binary(b"ab"))
            assert caught.value.work is Work.NOT_STARTED
            assert server.bill().cold_starts == 0


async def test_a_throttle_says_for_which_limit() -> None:
    case = lambda_stream(fleet())
    async with case.server as server:
        async with built(case.kind, section(case)) as (backend, _):
            server.fail_next(1, "rate")
            with pytest.raises(BackendFull, match="CallerRateLimitExceeded") as caught:
                await ask(backend, binary(b"ab"))
            assert caught.value.retry_after == 1.0


def dripping(name: str) -> Any:
    """A function that streams three words, a while apart, and fails at the last if told to."""

    def handler(event: Any, context: Any) -> Iterator[bytes]:
        yield b'{"headers": {"content-type": "text/event-stream", "x-a": "1"}}' + PRELUDE_END[:3]
        yield PRELUDE_END[3:] + b"one "
        time.sleep(0.15)
        yield b"two "
        time.sleep(0.15)
        if event["rawPath"] == "/boom":
            raise ValueError("boom")
        yield b"three"

    return handler


def dripping_invocation() -> Case:
    return lambda_stream(fleet(), dripping)


def dripping_url() -> Case:
    server = LambdaUrlEmulator(dripping, options=fleet(), mode="RESPONSE_STREAM")
    return Case(server, AwsLambdaUrl, LAMBDA)


DRIPPING = pytest.mark.parametrize("provider", [dripping_invocation, dripping_url])


@DRIPPING
async def test_a_streamed_answer_arrives_as_it_is_written(provider: Any) -> None:
    case = provider()
    async with case.server:
        async with built(case.kind, section(case)) as (backend, _):
            async with backend.send(a_call(stream=True), 0) as reply:
                clock, times, got = backend.kit.clock, [], b""
                assert reply.stream is not None
                assert dict(reply.headers)[b"x-a"] == b"1"
                async for chunk in reply.stream:
                    times.append(clock.now())
                    got += chunk
            assert got == b"one two three"
            assert times[-1] - times[0] >= 0.25
            if case.kind is AwsLambda:
                # Only the end of the invocation tells that it was a cold one.
                assert reply.start is Start.COLD
                assert reply.usage is not None
                assert reply.usage.usd == pytest.approx(case.server.bill().usd)


@DRIPPING
async def test_a_function_that_fails_while_it_streams_truncates_the_answer(provider: Any) -> None:
    case = provider()
    async with case.server:
        async with built(case.kind, section(case)) as (backend, _):
            got = b""
            with pytest.raises(AnswerTruncated) as caught:
                async with backend.send(a_call(target=b"/boom"), 0) as reply:
                    assert reply.stream is not None
                    async for chunk in reply.stream:
                        got += chunk
            assert got.startswith(b"one ")
            assert caught.value.usage is not None
            if case.kind is AwsLambda:
                assert "ValueError: boom" in str(caught.value)
                assert caught.value.usage.usd == pytest.approx(case.server.bill().usd)


@DRIPPING
async def test_leaving_in_the_middle_of_a_stream_leaves_nothing_busy(provider: Any) -> None:
    case = provider()
    async with case.server:
        async with built(case.kind, section(case)) as (backend, _):
            async with backend.send(a_call(), 0) as reply:
                assert reply.stream is not None
                assert (await anext(aiter(reply.stream))) == b"one "
            assert backend.instances(backend.kit.clock.now())["busy"] == 0
            assert backend.client.in_use == 0


@pytest.mark.parametrize("provider", [runpod_lb, runpod_lb_refusing, lambda_stream, lambda_url, modal_server])
async def test_a_ping_opens_an_instance_that_the_next_call_finds_warm(provider: Any) -> None:
    case = provider(fleet())
    async with case.server as server:
        async with built(case.kind, section(case)) as (backend, _):
            usage = await backend.ping(0, route="embed", kind="prewarm")
            assert usage is not None
            assert (await ask(backend, binary(b"ab")))[1] is Start.WARM
            assert server.bill().cold_starts == 1


@pytest.mark.parametrize(("ready", "hourly"), [(2, 2 * 3600 * 0.0000041667), (0, 0.0)])
async def test_what_stands_ready_and_what_that_costs(ready: int, hourly: float) -> None:
    case = lambda_stream(fleet(), worker, versions=("live",), provisioned=ready)
    async with case.server:
        standing = {"qualifier": "live", "memory": "1GiB", "provisioned": {"usd_per_gb_second": 0.0000041667}}
        async with built(AwsLambda, {**section(case), **standing}) as (backend, _):
            assert backend.usd_per_replica_hour is None  # not asked yet
            assert await backend.probe(0) is True
            assert backend.usd_per_replica_hour == pytest.approx(hourly)
            assert backend.provisioned is not None
            assert backend.provisioned.available == ready


@pytest.mark.parametrize("provider", [lambda_stream, *URLS])
async def test_an_invocation_that_was_left_is_charged_to_its_end(provider: Any) -> None:
    """Nobody reads the answer any more, and Lambda runs the function, and bills it, all the same."""
    case = provider(fleet(pace_s=0.2))
    async with case.server as server:
        async with built(case.kind, section(case)) as (backend, background):
            left = asyncio.ensure_future(ask(backend, binary(b"ab")))
            await until(lambda: server.bill().cold_starts > 0)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            await background.done()
            while background.tasks:
                await background.done()
            charges = backend.settle(math.inf)
            assert not any(backend.instances(backend.kit.clock.now() + 2 * IDLE_S).values())
            assert backend.client.in_use == 0
        assert [charge.kind for charge in charges] == ["spill"]
        bill = server.bill()
    assert bill.cold_starts == 1
    assert charges[0].usd == pytest.approx(bill.usd, rel=case.near)
