"""A client that leaves in the middle of a streamed answer: what it had heard by then, it was told."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.aws_lambda_url import LambdaUrlEmulator
from backends.emulators.instance import BootTimes, FleetOptions
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
