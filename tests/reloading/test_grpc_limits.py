"""The limits of gRPC calls are those of the file that runs now."""

from pathlib import Path

import grpc.aio

from tests.reloading.support import backend, route, running, text
from tests.support.wire import dead_port

INFER = "/inference.GRPCInferenceService/ModelInfer"
LISTEN = "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0', grpc: '127.0.0.1:0'}"
MESSAGE = b"\x0a\x01m" + b"\x3a\x80\x10" + bytes(2048)  # a model, and 2 KiB of raw contents


async def test_a_smaller_limit_holds_from_then_on(tmp_path: Path) -> None:
    backends = {"fleet": backend(f"http://127.0.0.1:{await dead_port()}")}
    routes = {"one": route("fleet", more=", timeout: 200ms")}

    async def told(gate: grpc.aio.Channel) -> grpc.StatusCode:
        code = await gate.unary_unary(INFER)(MESSAGE).code()
        assert isinstance(code, grpc.StatusCode)
        return code

    async with running(tmp_path, text(backends, routes, listen=LISTEN)) as run:
        async with grpc.aio.insecure_channel(str(run.gateway.grpc_address)) as gate:
            assert await told(gate) is not grpc.StatusCode.RESOURCE_EXHAUSTED
            status, _ = await run.reload(text(backends, routes, "limits: {body: 1KiB}", listen=LISTEN))
            assert status == 200
            assert await told(gate) is grpc.StatusCode.RESOURCE_EXHAUSTED
