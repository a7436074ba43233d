"""A client that leaves: what it had heard by then, it was told; what crossed with its leaving is in doubt."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.aws_lambda_url import LambdaUrlEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator, ModalOptions
from backends.emulators.server import CROSSING_S
from backends.workers import kit, modal_app
from tests.emulators.apps import echo
from tests.support.wire import eventually

LASTING = FleetOptions(boot=BootTimes(0.0, 0.0, 1.0, 0.0), idle_after_s=60.0)
HEAD = json.dumps({"statusCode": 200, "headers": {"x-instance": "it-is-me"}}).encode()
MORE_THAN_SOCKETS_HOLD = 256
"""Pieces of 64 KiB."""


def flood(event: Any, context: Any) -> Iterator[bytes]:
    yield HEAD
    yield bytes(8)
    for _ in range(MORE_THAN_SOCKETS_HOLD):
        yield bytes(65_536)


def api() -> LambdaEmulator:
    return LambdaEmulator(lambda _: flood, options=LASTING)


def url() -> LambdaEmulator:
    return LambdaUrlEmulator(lambda _: flood, options=LASTING, auth="NONE", mode="RESPONSE_STREAM")


@pytest.mark.parametrize("make", [api, url])
async def test_who_heard_the_head_and_leaves_while_the_body_waits_for_him_was_told(
    make: Callable[[], LambdaEmulator],
) -> None:
    async with make() as server:
        target = f"{server.url}/2021-11-15/functions/emulated/response-streaming-invocations"
        request = AWSRequest("POST", target, {}, b"{}")
        SigV4Auth(Credentials("AKIAEMULATED", "emulated-secret"), "lambda", "us-east-1").add_auth(request)
        fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        address = server.url.removeprefix("http://")
        reader, writer = await asyncio.open_connection(*address.split(":"))
        path = target.removeprefix(server.url)
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: {address}\r\n{fields}content-length: 2\r\n\r\n{{}}".encode()
        )
        await reader.readuntil(b"it-is-me")
        # Reads no further: the server has more to write than its side and this one hold.
        writer.transport.abort()
        await eventually(lambda: server.bill().requests == 1, "the invocation has ended, and is billed")
        await eventually(lambda: server.fleet.unmet == 0, "who was there had been told")


async def test_a_word_that_crosses_with_the_hanging_up_of_its_only_hearer_leaves_the_start_in_doubt() -> None:
    server = web_function(echo)
    async with server:
        _, writer = await asked(server)
        await eventually(lambda: server.bill().cold_starts > server.fleet.unmet, "the answer has left")
        writer.transport.abort()  # before a byte of it was read
        await eventually(lambda: server.fleet.doubtful == 1, "nobody knows whether it was heard")
        assert await answered(server) == 200
        assert (server.bill().cold_starts, server.fleet.unmet, server.fleet.doubtful) == (1, 0, 0)


async def test_who_hears_it_and_stays_a_while_was_told_and_so_was_he_whom_the_provider_cut_off() -> None:
    for cut in (False, True):
        server = web_function(echo)
        async with server:
            if cut:
                server.fail_next(1, "cut")
            reader, writer = await asked(server)
            await reader.readuntil(b"\r\n\r\n")
            await server.sleep(2 * CROSSING_S)
            writer.transport.abort()
            await server.sleep(2 * CROSSING_S)
            assert (server.fleet.unmet, server.fleet.doubtful) == (0, 0)


def web_function(app: kit.App) -> ModalEmulator:
    function = ModalOptions(key=None)
    return ModalEmulator(lambda _: modal_app.make_asgi(app), options=LASTING, function=function)


async def asked(server: ModalEmulator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = server.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(f"POST /x HTTP/1.1\r\nhost: {address}\r\ncontent-length: 9\r\n\r\nsomething".encode())
    return reader, writer


async def answered(server: ModalEmulator) -> int:
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}/x", data=b"something") as one:
        await one.read()
        return one.status
