"""Fuzz targets: what a request means, in each protocol, and the fields that all of them read."""

import asyncio
import json
from contextlib import suppress
from typing import NamedTuple

from gateway.errors import BadCall, OverspillError
from gateway.exchange import Exchange
from gateway.framing import read_framing, traceparent_of
from gateway.protocols.base import Answer, Protocols, header_int, parse_target
from gateway.protocols.grpc import METHODS, STREAM, Grpc
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.vocab import HOP_BY_HOP, Call, Headers, WholeBody
from loadtests.fuzz.memory_wire import MemoryTransport
from loadtests.fuzz.pieces import parted
from loadtests.fuzz.target import Target

_MOST_BYTES = 1 << 20
_NOT_HANDED_ON = HOP_BY_HOP | {b"host", b"authorization", b"content-length", b"expect"}
_FORBIDDEN_IN_PATHS = (
    b"/../",
    b"/./",
    b"/%2e%2e/",
    b"/.%2e/",
    b"/%2e./",
    b"/%2e/",
    b"\\",
    b"%5c",
    b"%00",
    b"%0a",
    b"%0d",
)


class _Fleet:
    """A gateway with one model."""

    def live(self) -> bool:
        """Yes."""
        return True

    def ready(self) -> bool:
        """Yes."""
        return True

    def route_of(self, protocol: str, model: str) -> str | None:
        return None

    def model_ready(self, model: str, version: str) -> bool:
        """For one."""
        return (model, version) == ("m", "")

    def sole_route(self) -> str:
        """One."""
        return "r"


class _Request(NamedTuple):
    method: bytes
    target: bytes
    headers: Headers
    body: WholeBody
    request_id: str = "r-1"
    traceparent: str = ""
    arrived: float = 100.0
    max_body: int = _MOST_BYTES


def _request(data: bytes) -> _Request:
    """The lines before the first empty one are `METHOD TARGET` and fields, the rest is the body."""
    head, _, body = data.partition(b"\n\n")
    line, *rows = head.split(b"\n")
    method, _, target = line.partition(b" ")
    fields = [row.partition(b":") for row in rows[:40]]
    return _Request(
        method, target, [(name.lower(), value.strip()) for name, _, value in fields], WholeBody(body)
    )


def _check(call: Call) -> None:
    names = [name for name, _ in call.headers]
    assert _NOT_HANDED_ON.isdisjoint(names)
    assert not any(name.startswith((b"x-overspill-", b"proxy-")) for name in names)
    assert call.target.startswith(b"/")
    assert not call.target.startswith(b"//")
    assert call.target.isascii()
    assert not set(b" \r\n\0") & set(call.target)
    path = call.target.partition(b"?")[0].lower()
    for piece in _FORBIDDEN_IN_PATHS:
        assert piece not in path + b"/", path
    assert call.deadline > call.arrived
    assert call.model.isprintable()


class HttpProtocols(Target):
    """KServe, OpenAI and /invoke: a call, an answer, or a refusal that can be written down."""

    def __init__(self) -> None:
        raw = Raw()
        self._protocols = Protocols([Kserve(_Fleet()), OpenAI(lambda: ["m"]), raw], fallback=raw)
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Its loop."""
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        """One request."""
        request = _request(data)

        async def read() -> Call | Answer:
            return await self._protocols.read(request)

        try:
            result = self._loop.run_until_complete(read())
        except BadCall as error:
            status, headers, body = self._protocols.error(request.target, error)
            assert 400 <= status <= 501
            assert "error" in json.loads(body)
            assert not any(set(b"\r\n\0") & set(value) for _, value in headers)
            return
        if isinstance(result, Call):
            _check(result)
        else:
            assert result.status in {200, 400}


class GrpcProtocol(Target):
    """KServe over gRPC. The first line is the method, the rest a message."""

    def __init__(self) -> None:
        self._protocol = Grpc(_Fleet())
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Its loop."""
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        """One message."""
        name, message = parted(data)
        methods = sorted(METHODS)
        target = methods[name[0] % len(methods)].encode() if name else STREAM.encode()
        request = _Request(b"POST", target, [(b"x-a", name[1:])], WholeBody(message))

        async def read() -> Call | Answer:
            return await self._protocol.read(request)

        try:
            self._loop.run_until_complete(read())
        except OverspillError as error:
            if not 400 <= error.status <= 503:
                raise
        with suppress(BadCall):
            self._protocol.follows(message)(message)


class Fields(Target):
    """Single fields: traces, numbers, targets, framing."""

    def __call__(self, data: bytes) -> None:
        """One line for each field `name: value`; the first is a target."""
        target, rest = parted(data)
        trace = traceparent_of(target)
        assert trace == "" or (len(trace) == 55 and trace.isascii() and trace == trace.lower())
        for slash in (True, False):
            with suppress(BadCall):
                found = parse_target(target, slash_in_segment=slash)
                assert found.path + found.query == target
                assert not {".", ".."} & set(found.segments)
        with suppress(BadCall):
            assert header_int(target, "x") >= 0
        exchange = Exchange(_NoWire(), peer=b"", arrived=0.0, max_body=1)
        exchange.headers = [
            (name.lower(), value.strip(b" \t"))
            for name, _, value in (row.partition(b":") for row in rest.split(b"\n"))
            if not (name.lower() == b"content-length" and not value.strip(b" \t").isdigit())
        ]
        try:
            length, _ = read_framing(exchange)
        except BadCall:
            return
        assert length is None or length >= 0
        assert exchange.request_id.isascii()
        assert len(exchange.request_id) <= 128
        assert len(exchange.traceparent) in {0, 55}


class _NoWire(MemoryTransport):
    """A wire on which nothing is sent."""

    congested = False
    scheme = b"http"
    certificate = None

    async def drain(self) -> None:
        """Nothing to wait for."""

    def done(self, exchange: Exchange) -> None:
        """Nothing to do."""

    def break_off(self) -> None:
        """Nothing to do."""
