"""RunPod's control plane: read where asked for, changed only where the file says so, and put back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import Backend
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.runpod import RunPodEmulator
from backends.emulators.runpod_lb import RunPodLbEmulator
from backends.runpod import RunPod
from backends.runpod_lb import RunPodLb
from backends.workers import modal_app
from gateway.errors import BackendFull
from gateway.vocab import Start
from tests.serverless.test_endpoints_against_emulators import echo
from tests.support.provider import SECRET, a_call, built, until

BOOT_S = 0.3


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rp-emulated")
    monkeypatch.setenv("CONTROL", "rp-control")


def fleet(**more: Any) -> FleetOptions:
    boot = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    return FleetOptions(**{"cap": 3, "idle_after_s": 30.0, "boot": boot, **more})


@asynccontextmanager
async def queue(manage: bool) -> AsyncIterator[tuple[Backend, Any]]:
    """An endpoint whose handler is not the worker kit's: only the control plane can open a worker."""
    server = RunPodEmulator(lambda _: lambda job: {"echo": job["input"]}, options=fleet())
    own = {"endpoint_id": server.endpoint.endpoint_id, "envelope": "raw"}
    async with server, using(RunPod, server, manage, own) as backend:
        yield backend, server


@asynccontextmanager
async def balanced(manage: bool) -> AsyncIterator[tuple[Backend, Any]]:
    server = RunPodLbEmulator(lambda _: modal_app.make_asgi(echo), options=fleet())
    async with server, using(RunPodLb, server, manage, {}) as backend:
        yield backend, server


@asynccontextmanager
async def using(
    kind: type[Backend], server: Any, manage: bool, own: dict[str, Any]
) -> AsyncIterator[Backend]:
    control = {"api_key": {"env": "CONTROL"}, "base_url": f"{server.url}/v2", "manage_workers": manage}
    cold = {"expect": f"{BOOT_S}s", "idle_after": "30s"}
    section = {**kind.example(server.url), "cold_start": cold, "control": control, **own}
    async with built(kind, section) as (backend, _):
        yield backend


EACH = pytest.mark.parametrize("endpoint", [queue, balanced])


@EACH
async def test_a_worker_is_opened_and_the_settings_are_as_before(endpoint: Any) -> None:
    async with endpoint(manage=True) as (backend, server):
        assert backend.can_open
        usage = await backend.ping(0, route="embed", kind="prewarm")
        assert usage.boot_s >= BOOT_S
        assert server.bill().cold_starts == 1
        assert backend.instances(backend.kit.clock.now())["idle"] == 1
        await until(lambda: server.control.changes == [1, 0])
        async with backend.send(a_call(), 0) as reply:
            assert reply.status == 200
            assert reply.start is not Start.COLD
        assert server.bill().cold_starts == 1


@EACH
async def test_two_at_once_are_two_workers(endpoint: Any) -> None:
    async with endpoint(manage=True) as (backend, server):
        await asyncio.gather(*(backend.ping(0, route="embed", kind="spill") for _ in range(2)))
        await until(lambda: server.control.changes[-1] == 0)
        assert max(server.control.changes) == 2
        assert server.bill().cold_starts == 2


@EACH
async def test_giving_up_puts_the_settings_back(endpoint: Any) -> None:
    async with endpoint(manage=True) as (backend, server):
        task = asyncio.ensure_future(backend.ping(0, route="embed", kind="prewarm"))
        await until(lambda: server.control.changes == [1])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.control.changes == [1, 0])


@EACH
async def test_nothing_is_changed_unless_the_file_says_so(endpoint: Any) -> None:
    async with endpoint(manage=False) as (backend, server):
        assert backend.can_open == (endpoint is balanced)
        assert await backend.probe(0) is True
        if backend.can_open:
            await backend.ping(0, route="embed", kind="spill")
        assert server.control.changes == []


@EACH
async def test_an_endpoint_without_workers_cannot_serve(endpoint: Any) -> None:
    async with endpoint(manage=False) as (backend, server):
        server.control.most = 0
        assert await backend.probe(0) is False


@EACH
async def test_a_key_that_may_not_read_settings_says_nothing_of_the_endpoint(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL", SECRET)
    async with endpoint(manage=True) as (backend, _):
        assert await backend.probe(0) is (True if endpoint is queue else None)


async def test_a_handler_of_its_own_is_not_sent_a_ping() -> None:
    async with queue(manage=True) as (backend, server):
        with pytest.raises(BackendFull):
            await backend.ping(0, route="embed", kind="prewarm", fresh=False)
        assert server.bill().requests == 0
