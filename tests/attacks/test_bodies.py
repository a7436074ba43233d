"""Bodies that are more than they seem: nested without end, compressed, or made to be looked at for long."""

import asyncio
import io
import time

import aiohttp
import pytest

from tests.attacks.test_others import FILE
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream

MODELS = FILE.replace("  r:\n", "  r:\n    match: {{model: m}}\n")
DEEP = b"[" * 1_000_000


def openai(inside: bytes) -> tuple[str, bytes]:
    return "/v1/chat/completions", b'{"model":"m","messages":' + inside


def kserve(inside: bytes) -> tuple[str, bytes]:
    return "/v2/models/m/infer", b'{"inputs":' + inside


@pytest.mark.parametrize("shape", [openai, kserve])
@pytest.mark.parametrize(
    "inside",
    [
        DEEP,
        b'{"a":' * 300_000,
        b"[" * 400_000 + b"]" * 400_000 + b"}",
        b"9" * 1_000_000 + b"}",
        b'"' + b"\\" * 999_999,
    ],
)
async def test_json_that_is_nested_or_broken_is_refused_at_once(shape: object, inside: bytes) -> None:
    path, body = shape(inside)  # type: ignore[operator]
    async with upstream() as replica, running(MODELS.format(url=replica.url)) as gateway:
        began = time.monotonic()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(gateway)}") as client:
            async with client.post(path, data=io.BytesIO(body)) as answer:
                status = answer.status
        assert status in {400, 200}
        assert not (status == 200 and inside == DEEP)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/models/m/infer"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_nothing_compressed_is_unpacked_here(path: str, coding: str) -> None:
    bomb = b"\x1f\x8b\x08\x00" + bytes(1000)
    async with upstream() as replica, running(MODELS.format(url=replica.url)) as gateway:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(gateway)}") as client:
            async with client.post(path, data=bomb, headers={"content-encoding": coding}) as answer:
                assert answer.status in {400, 200}
            async with client.post("/invoke/r/x", data=bomb, headers={"content-encoding": coding}) as answer:
                assert answer.status == 200
        passed = [each for each in replica.received if b"/v2/health" not in each.line]
        assert passed[-1].body == bomb  # as it came
        assert all(each.body == bomb for each in passed)


async def test_the_admin_port_reads_no_more_than_a_question() -> None:
    async with upstream() as replica, running(MODELS.format(url=replica.url)) as gateway:
        async with aiohttp.ClientSession(f"http://{gateway.admin_address}") as client:
            for body in (b'{"state":' + b'{"a":' * 100_000, DEEP, b'{"route":"\xff"}', b"x" * 40_000_000):
                try:
                    async with client.post("/admin/explain", data=io.BytesIO(body)) as answer:
                        assert 400 <= answer.status < 500
                except (aiohttp.ClientError, asyncio.IncompleteReadError):
                    continue  # it closed before it had read all
            async with client.get("/healthz") as answer:
                assert answer.status in {200, 404}
