"""The same limits over gRPC: RESOURCE_EXHAUSTED, and the same words in the trailing metadata."""

import grpc

from tests.grpc_ingress.support import SHED, failure, fields, file, fleet, front, replica, request

TOP = "auth: {anonymous: {tenant: acme}}\ntenants: {acme: {requests_per_minute: 2}}"


async def test_a_tenant_over_its_rate_is_resource_exhausted() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED, top=TOP)) as gate:
        call = gate.infer(request())
        await call
        assert fields(await call.trailing_metadata())["ratelimit"] == '"requests";r=1;t=30'
        await gate.infer(request())
        error = await failure(gate.infer(request()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tenant acme" in error.details()
        told = fields(error.trailing_metadata())
        assert told["ratelimit-policy"] == '"requests";q=2;w=60'
        assert told["ratelimit"].startswith('"requests";r=0;t=')
        assert 29 <= int(told["retry-after"]) <= 30
        assert len(one.seen) == 2
