"""`cut`: an answer that breaks off in the middle of its body, after the work was done and billed."""

from typing import Any

import aiohttp
import pytest

from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator, ModalOptions
from backends.emulators.runpod import RunPodEmulator
from backends.workers import modal_app
from tests.emulators.apps import echo

LASTING = FleetOptions(boot=BootTimes(0.01, 0.01, 1.0, 0.0), idle_after_s=60.0)


def modal() -> ModalEmulator:
    return ModalEmulator(
        lambda _: modal_app.make_asgi(echo), options=LASTING, function=ModalOptions(key=None)
    )


async def test_the_head_arrives_and_the_body_does_not() -> None:
    async with modal() as server, aiohttp.ClientSession() as session:
        server.fail_next(1, "cut")
        async with session.post(f"{server.url}/x", data=b"something long") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        async with session.post(f"{server.url}/x", data=b"something long") as answer:
            assert len(await answer.read()) > 1
        assert server.bill().cold_starts == 1
        assert server.fleet.unmet == 0  # its head has said who it is


async def test_an_instance_that_only_a_body_would_have_named_is_untold() -> None:
    def handler(event: dict[str, Any]) -> dict[str, Any]:
        return {"said": event["input"]}

    server = RunPodEmulator(lambda _: handler, options=LASTING)
    async with server, aiohttp.ClientSession() as session:
        url = f"{server.url}/v2/{server.endpoint.endpoint_id}/runsync?wait=5000"
        keys = {"authorization": "Bearer rp-emulated"}
        server.fail_next(1, "cut")
        async with session.post(url, json={"input": {"a": 1}}, headers=keys) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert (server.bill().cold_starts, server.fleet.unmet) == (1, 1)
        async with session.post(url, json={"input": {"a": 1}}, headers=keys) as answer:
            assert (await answer.json())["status"] == "COMPLETED"
        assert (server.bill().cold_starts, server.fleet.unmet) == (1, 0)


async def test_a_failed_answer_is_not_cut() -> None:
    async with modal() as server, aiohttp.ClientSession() as session:
        server.fail_next(1, "cut")
        server.fail_next(1, "error")
        async with session.post(f"{server.url}/x", data=b"something") as answer:
            assert answer.status == 500
            await answer.read()
        assert server.cues.report() == {"cut": 1}
