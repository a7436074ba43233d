"""A collector: takes OTLP over HTTP and over gRPC on real sockets, and keeps what it was sent, byte for byte."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
grpc = pytest.importorskip("grpc")
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

PATIENCE_S = 15.0
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Collector:
    """What arrived. `raw` are the requests as they came, `fields` those that came with them."""

    url: str = ""
    raw: list[bytes] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes, fields: dict[str, str]) -> None:
        self.raw.append(data)
        self.fields.append(fields)
        for resource in service.ExportTraceServiceRequest.FromString(data).resource_spans:
            self.resources.append(told(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.came.set()

    async def calls(self, count: int) -> list["Call"]:
        """The calls, once the spans of so many have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [Call(self, span) for span in self.spans if span.kind == 2]) < count:
                self.came.clear()
                await self.came.wait()
        return found


class Call:
    """The spans of one call."""

    def __init__(self, collector: Collector, server: Any) -> None:
        self.server = server
        self.trace = server.trace_id.hex()
        self.all = [span for span in collector.spans if span.trace_id == server.trace_id]

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.all if span.name == name]
        return span

    def clients(self) -> list[Any]:
        return sorted(
            (span for span in self.all if span.kind == 3), key=lambda span: span.start_time_unix_nano
        )

    def under(self, span: Any) -> set[str]:
        return {each.name for each in self.all if each.parent_span_id == span.span_id}


def told(span: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@asynccontextmanager
async def over_http() -> AsyncIterator[Collector]:
    collector = Collector()

    async def export(request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        collector.take(await request.read(), {name.lower(): value for name, value in request.headers.items()})
        return web.Response(
            body=service.ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    async with serving(export) as collector.url:
        yield collector


@asynccontextmanager
async def serving(export: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """An HTTP server that answers exports; yields its URL."""
    app = web.Application()
    app.router.add_post("/v1/traces", export)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def over_grpc() -> AsyncIterator[Collector]:
    collector = Collector()

    async def export(data: bytes, context: Any) -> bytes:
        collector.take(data, dict(context.invocation_metadata()))
        return bytes(service.ExportTraceServiceResponse().SerializeToString())

    from grpc import aio

    server = aio.server()
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler(
            EXPORT.split("/")[1], {"Export": grpc.unary_unary_rpc_method_handler(export)}
        ),
    ))  # fmt: skip
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    collector.url = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        await server.stop(0.0)
