"""Metadata of gRPC calls: `limits.head` is their limit, and it is exact."""

import grpc.aio
import pytest

from tests.attacks.test_others import FILE
from tests.support.gateways import running
from tests.support.upstream import upstream

_FILE = "limits: {{head: 4KiB}}\n" + FILE
_LIVE = "/inference.GRPCInferenceService/ServerLive"


async def asked(metadata: tuple[tuple[str, str | bytes], ...]) -> grpc.StatusCode:
    async with upstream() as replica, running(_FILE.format(url=replica.url), grpc=True) as gateway:
        async with grpc.aio.insecure_channel(str(gateway.grpc_address)) as channel:
            call = channel.unary_unary(_LIVE)(b"", metadata=metadata)
            code = await call.code()
            assert isinstance(code, grpc.StatusCode)
            # The connection is as good as before.
            assert await (channel.unary_unary(_LIVE)(b"")).code() is grpc.StatusCode.OK
    return code


# What the library sends of its own (:path, te, user-agent and so on) is less than 600 bytes.
@pytest.mark.parametrize("size", [3000, 3400])
async def test_metadata_under_the_limit_never_is_refused(size: int) -> None:
    assert await asked((("a", "b" * size),)) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "metadata",
    [
        (("a", "b" * 4200),),
        (("a-bin", bytes(4200)),),
        tuple((f"a{place}", "") for place in range(130)),  # each counts 32 bytes more than it has
        (("a", "b"),) * 130,
        (("a" * 4200, "b"),),
    ],
    ids=["one value", "bytes", "many names", "one name often", "a name"],
)
async def test_metadata_over_the_limit_is_refused_and_nothing_else(
    metadata: tuple[tuple[str, str | bytes], ...],
) -> None:
    assert await asked(metadata) is grpc.StatusCode.RESOURCE_EXHAUSTED
