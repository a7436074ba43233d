"""What a gRPC client may send: messages and metadata have their limits, compressed or not."""

import asyncio
import resource
import sys

import grpc.aio
import pytest

from tests.attacks.test_others import FILE
from tests.support.gateways import running
from tests.support.upstream import upstream

_SMALL = "limits: {{body: 1MiB}}\n" + FILE
_INFER = "/inference.GRPCInferenceService/ModelInfer"

_BOMB = """
import grpc, sys
channel = grpc.insecure_channel(sys.argv[1])
try:
    channel.unary_unary(sys.argv[2])(bytes(400 << 20), compression=grpc.Compression.Gzip)
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_over_the_limit_is_refused(compression: grpc.Compression) -> None:
    async with upstream() as replica, running(_SMALL.format(url=replica.url), grpc=True) as gateway:
        async with grpc.aio.insecure_channel(str(gateway.grpc_address)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(_INFER)(bytes(2 << 20), compression=compression)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not [each for each in replica.received if b"infer" in each.line]


async def test_a_message_that_grows_when_it_is_unpacked_is_refused_before_it_has_grown() -> None:
    async with upstream() as replica, running(_SMALL.format(url=replica.url), grpc=True) as gateway:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BOMB, str(gateway.grpc_address), _INFER, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await client.communicate()
        assert said.strip() == b"RESOURCE_EXHAUSTED"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB; it is 400 MiB


@pytest.mark.parametrize("size", [40_000, 200_000])
async def test_metadata_over_the_limit_is_refused(size: int) -> None:
    async with upstream() as replica, running(_SMALL.format(url=replica.url), grpc=True) as gateway:
        async with grpc.aio.insecure_channel(str(gateway.grpc_address)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(_INFER)(b"\x0a\x01r", metadata=(("a", "b" * size),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
