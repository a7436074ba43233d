"""Opening instances without a call, against the emulators: what boots, what it costs, and whose cost it is."""

import asyncio
import math
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from backends.aws_lambda import AwsLambda
from backends.base import Backend, Kit
from backends.elastic import Elastic
from backends.emulators.instance import BootTimes
from backends.emulators.server import EmulatorServer
from backends.modal import Modal
from backends.runpod import RunPod
from gateway.clock import SystemClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Charge, Start
from tests.serverless.test_against_emulators import (
    BOOT_S,
    EACH,
    IDLE_S,
    _secrets,
    ask,
    aws_lambda,
    fleet,
    modal,
    runpod,
    section,
)
from tests.support.provider import Background, a_call, built, until

__all__ = ["_secrets"]

KIT = Kit(SystemClock(), Random(1), Background().spawn)
PER_LIFE = pytest.mark.parametrize("provider", [runpod, modal])


def of_kind(charges: list[Charge], kind: str) -> float:
    return sum(charge.usd for charge in charges if charge.kind == kind)


async def gone(backend: Backend) -> list[Charge]:
    """All charges, once every instance has idled to its end, the emulator's own as well."""
    await until(lambda: not any(backend.instances(backend.kit.clock.now()).values()))
    await asyncio.sleep(0.1)
    return backend.settle(math.inf)


def near(server: EmulatorServer) -> Any:
    """The bill; measured seconds differ from it by what the network took."""
    return pytest.approx(server.bill().usd, rel=0.1)


@EACH
async def test_an_instance_boots_without_a_call_and_the_next_call_finds_it_warm(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            assert backend.can_open
            usage = await backend.ping(0, route="embed", kind="prewarm")
            assert usage is not None
            assert usage.boot_s == pytest.approx(BOOT_S, abs=0.1)
            assert backend.instances(backend.kit.clock.now()) == {"opening": 0, "busy": 0, "idle": 1}
            _, start, usd = await ask(backend, a_call())
            assert start is Start.WARM
            charges = await gone(backend)
            assert server.bill().cold_starts == 1
            assert of_kind(charges, "prewarm") >= (usage.usd or 0) > 0
            assert usd + sum(charge.usd for charge in charges) == near(server)
            assert {charge.route for charge in charges} == {"embed"}


@EACH
@pytest.mark.parametrize("kind", ["prewarm", "spill"])
async def test_every_cent_of_an_unused_instance_is_of_its_own_kind(provider: Any, kind: str) -> None:
    async with provider(fleet()) as server:
        of, options = section(server)
        async with built(of, options) as (backend, _):
            await backend.ping(0, route="embed", kind=kind)
            charges = await gone(backend)
            assert sum(charge.usd for charge in charges) == near(server)
            assert {(charge.route, charge.kind) for charge in charges} == {("embed", kind)}


@PER_LIFE
async def test_what_idles_after_a_call_is_the_calls(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            await backend.ping(0, route="embed", kind="prewarm")
            ahead = backend.settle(backend.kit.clock.now())
            _, _, usd = await ask(backend, a_call())
            charges = await gone(backend)
            assert {charge.kind for charge in ahead} == {"prewarm"}
            # The seconds between the two are still of the ping's kind, the tail is the call's.
            assert of_kind(charges, "spill") > IDLE_S * 0.9 * (backend.rent.usd_per_second or 0)  # type: ignore[union-attr]
            assert usd + sum(charge.usd for charge in [*ahead, *charges]) == near(server)


@EACH
async def test_so_many_pings_so_many_instances(provider: Any) -> None:
    async with provider(fleet(idle_after_s=1.5)) as server:
        kind, options = section(server)
        options["cold_start"] = {"expect": f"{BOOT_S}s", "idle_after": "1500ms"}
        async with built(kind, options) as (backend, _):
            pings = (backend.ping(0, route="embed", kind="spill") for _ in range(3))
            names = {usage.instance for usage in await asyncio.gather(*pings) if usage is not None}
            assert len(names) == 3
            assert backend.instances(backend.kit.clock.now())["idle"] == 3
            charges = await gone(backend)
            assert server.bill().cold_starts == 3
            assert sum(charge.usd for charge in charges) == near(server)


@PER_LIFE
async def test_a_prewarm_that_met_an_instance_which_was_up_waits_for_a_new_one(provider: Any) -> None:
    """The first worker that is up takes every ping in the provider's queue."""
    boot = BootTimes(fast_s=0.1, slow_s=0.6, fast_share=0.5, spread=0.0)
    async with provider(fleet(boot=boot, idle_after_s=1.5)) as server:
        kind, options = section(server)
        options["cold_start"] = {"expect": "1s", "idle_after": "1500ms"}
        async with built(kind, options) as (backend, _):
            pings = (backend.ping(0, route="embed", kind="prewarm") for _ in range(4))
            usages = await asyncio.gather(*pings)
            boots = sorted(usage.boot_s or 0.0 for usage in usages if usage is not None)
            assert 0.05 < boots[0] < 0.4
            assert boots[-1] > 0.55  # and what it idled until it was found
            assert len({usage.instance for usage in usages if usage is not None}) == 4
            charges = await gone(backend)
            assert server.bill().cold_starts == 4
            assert sum(charge.usd for charge in charges) == near(server)


@PER_LIFE
async def test_a_call_need_not_wait_for_the_very_instance_that_was_opened_for_it(provider: Any) -> None:
    """Where others answer the pings, all are taken to be up when that is expected; calls meet them then."""
    boot = BootTimes(fast_s=0.1, slow_s=0.5, fast_share=0.5, spread=0.0)
    async with provider(fleet(boot=boot, idle_after_s=1.5)) as server:
        kind, options = section(server)
        options["cold_start"] = {"expect": "600ms", "idle_after": "1500ms"}
        async with built(kind, options) as (backend, _):
            began = backend.kit.clock.now()
            await asyncio.gather(*(backend.ping(0, route="embed", kind="spill") for _ in range(4)))
            assert backend.kit.clock.now() - began < 2.0
            assert 1 <= backend.instances(backend.kit.clock.now())["idle"] <= 4
            answers = await asyncio.gather(*(ask(backend, a_call()) for _ in range(4)))
            assert len(answers) == 4
            assert server.bill().cold_starts == 4, "the pings had them boot, and no call had to"
            await gone(backend)


@EACH
async def test_one_more_is_opened_while_others_idle(provider: Any) -> None:
    async with provider(fleet(idle_after_s=1.5)) as server:
        kind, options = section(server)
        options["cold_start"] = {"expect": f"{BOOT_S}s", "idle_after": "1500ms"}
        async with built(kind, options) as (backend, _):
            for count in (1, 2, 3):
                await backend.ping(0, route="embed", kind="prewarm")
                assert backend.instances(backend.kit.clock.now()) == {"opening": 0, "busy": 0, "idle": count}
                assert server.bill().cold_starts == count
            charges = await gone(backend)
            assert sum(charge.usd for charge in charges) == near(server)


@EACH
async def test_a_ping_that_is_not_to_open_anything_keeps_what_idles(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            await backend.ping(0, route="embed", kind="prewarm")
            await asyncio.sleep(0.6 * IDLE_S)
            usage = await backend.ping(0, route="embed", kind="prewarm", fresh=False)
            assert usage is not None
            assert usage.boot_s == 0.0
            await asyncio.sleep(0.6 * IDLE_S)
            assert backend.instances(backend.kit.clock.now())["idle"] == 1
            charges = await gone(backend)
            assert server.bill().cold_starts == 1
            assert sum(charge.usd for charge in charges) == near(server)


@PER_LIFE
async def test_where_no_new_instance_comes_up_it_says_full_and_pays_for_what_it_used(provider: Any) -> None:
    async with provider(fleet(cap=1, idle_after_s=3.0)) as server:
        kind, options = section(server)
        options["cold_start"] = {"expect": "300ms", "idle_after": "3s"}
        async with built(kind, options) as (backend, _):
            assert isinstance(backend, Elastic)
            backend.pings.patience = 1.0
            await backend.ping(0, route="embed", kind="prewarm")
            with pytest.raises(BackendFull, match="up before"):
                await backend.ping(0, route="embed", kind="prewarm")
            assert backend.instances(backend.kit.clock.now()) == {"opening": 0, "busy": 0, "idle": 1}
            charges = await gone(backend)
            assert server.bill().cold_starts == 1
            assert sum(charge.usd for charge in charges) == near(server)


@EACH
@pytest.mark.parametrize(
    ("cue", "kinds"),
    [("drop", (BackendBroke,)), ("kill", (BackendBroke,)), ("throttle", (BackendFull,))],
)
async def test_a_ping_that_failed_leaves_no_instance(
    provider: Any, cue: str, kinds: tuple[type[BackendError], ...]
) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            server.fail_next(1, cue)
            with pytest.raises(BackendError) as caught:
                await backend.ping(0, route="embed", kind="prewarm")
            assert type(caught.value) in kinds
            assert not any(backend.instances(backend.kit.clock.now()).values())
            charges = backend.settle(math.inf)
            assert {charge.kind for charge in charges} <= {"prewarm"}
            if cue == "throttle":
                assert charges == []


@pytest.mark.parametrize("cue", ["error", "cut", "kill", "boot"])
async def test_a_start_whose_ping_failed_is_counted_once_whether_it_lives_on_or_not(cue: str) -> None:
    async with aws_lambda(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            server.fail_next(1, cue)
            with pytest.raises(BackendError):
                await backend.ping(0, route="embed", kind="prewarm")
            assert backend.instances_started == 1
            await ask(backend, a_call())
            assert (
                backend.instances_started
                == server.bill().cold_starts
                == (2 if cue in ("kill", "boot") else 1)
            )
            assert server.fleet.unmet == 0


@EACH
async def test_a_ping_that_is_given_up_leaves_what_may_come_up_to_its_idle_end(provider: Any) -> None:
    async with provider(fleet()) as server:
        kind, options = section(server)
        async with built(kind, options) as (backend, _):
            ping = asyncio.ensure_future(backend.ping(0, route="embed", kind="prewarm"))
            await until(lambda: backend.instances(backend.kit.clock.now())["opening"] == 1)
            await asyncio.sleep(0.05)
            ping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ping
            # Nobody waits for it any more, and it comes up all the same where waiting is what starts one.
            assert isinstance(backend, Elastic)
            assert backend.instances(backend.kit.clock.now())["opening"] == int(backend.STARTS_FOR_WAITING)
            charges = await gone(backend)
            assert {charge.kind for charge in charges} <= {"prewarm"}


async def test_wrong_keys_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in (runpod, modal, aws_lambda):
        async with provider(fleet()) as server:
            for name in ("OVERSPILL_EXAMPLE_SECRET", "EMULATED_SECRET", "EMULATED_TOKEN_SECRET"):
                monkeypatch.setenv(name, "wrong")
            kind, options = section(server)
            async with built(kind, options) as (backend, _):
                with pytest.raises(BackendDenied):
                    await backend.ping(0, route="embed", kind="spill")
                assert backend.settle(math.inf) == []


@pytest.mark.parametrize("kind", [RunPod, Modal, AwsLambda])
def test_the_file_can_leave_it_out(kind: type[Backend]) -> None:
    options = {**kind.example("http://127.0.0.1:9"), "late_binding": "none"}
    backend = kind("burst", kind.Options.model_validate(options), KIT)
    assert not backend.can_open


@pytest.mark.parametrize("kind", [RunPod, AwsLambda])
def test_a_handler_without_the_kit_is_not_pinged(kind: type[Backend]) -> None:
    options = {**kind.example("http://127.0.0.1:9"), "envelope": "raw"}
    backend = kind("burst", kind.Options.model_validate(options), KIT)
    assert not backend.can_open
    with pytest.raises(ValidationError, match="late_binding: ping needs envelope: event"):
        kind.Options.model_validate({**options, "late_binding": "ping"})


@pytest.mark.parametrize(
    ("kind", "more", "usd", "fee", "bills_idle", "round_up_s"),
    [
        (RunPod, {}, 0.00019, 0.0, True, 1.0),
        (Modal, {}, 0.000222, 0.0, True, 0.0),
        (AwsLambda, {"memory": "2GiB"}, 2 * 0.0000166667, 0.0000002, False, 0.001),
        (AwsLambda, {}, None, 0.0000002, False, 0.001),
    ],
)
def test_the_rent_is_what_the_file_says(
    kind: type[Backend],
    more: dict[str, Any],
    usd: float | None,
    fee: float,
    bills_idle: bool,
    round_up_s: float,
) -> None:
    options = {
        **kind.example("http://127.0.0.1:9"),
        **more,
        "cold_start": {"expect": "9s", "idle_after": "44s"},
    }
    rent = kind("burst", kind.Options.model_validate(options), KIT).rent
    assert rent is not None
    assert rent.usd_per_second == (usd if usd is None else pytest.approx(usd))
    assert (rent.usd_per_call, rent.bills_boot, rent.bills_idle) == (fee, True, bills_idle)
    assert (rent.idle_s, rent.boot_s, rent.round_up_s) == (44.0, 9.0, round_up_s)
