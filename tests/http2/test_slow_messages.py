"""A gRPC message that comes too slowly, by a clock that the test moves."""

import asyncio
from collections.abc import Collection

import pytest

from gateway.clock import Clock, FakeClock
from gateway.cork import Cork
from gateway.errors import OverspillError, SlowRequest
from gateway.grpc_connection import GrpcConnection, GrpcLimits, Rpc
from gateway.grpc_head import RpcHead
from gateway.http2.frames import ErrorCode
from tests.http2.played import PlayedTransport

METHOD = b"/a.B/C"


class Refusing:
    """A port that has calls refused and answers none."""

    limits = GrpcLimits(body_timeout=30.0, body_min_rate=100)
    scheme = b"http"
    methods: Collection[bytes] = (METHOD,)
    streamed: Collection[bytes] = ()
    full = False
    draining = False
    cork = Cork(at_once=True)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.refused: list[OverspillError] = []

    def admit(self, connection: GrpcConnection) -> bool:
        return True

    def forget(self, connection: GrpcConnection) -> None: ...

    def start(self, rpc: Rpc) -> "asyncio.Task[None]":
        raise AssertionError("its message never was complete")

    def cancel(self, task: "asyncio.Task[None]") -> None: ...

    def refuse(self, rpc: Rpc, error: OverspillError) -> None:
        self.refused.append(error)


@pytest.mark.parametrize(("each", "refused"), [(99, [SlowRequest]), (101, [])])
def test_a_least_rate_over_ten_seconds(each: int, refused: list[type[OverspillError]]) -> None:
    clock = FakeClock()
    port = Refusing(clock)
    connection = GrpcConnection(port)
    connection.connection_made(PlayedTransport())
    head = RpcHead()
    head.target = METHOD
    rpc = Rpc(connection, 1, head)
    rpc.content(b"\0\0\1\0\0", last=False)  # a message of 64 KiB begins
    clock.advance(0.5)
    rpc.sweep(clock.now())
    for _ in range(21):
        rpc.content(bytes(each), last=False)
        clock.advance(1.0)
        rpc.sweep(clock.now())
        if port.refused:
            break
    assert [type(error) for error in port.refused] == refused


class Stuck(PlayedTransport):
    """Its client takes nothing: it is closed only when it is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.cut_off = False

    def abort(self) -> None:
        self.cut_off = True


def test_who_does_not_take_the_end_of_a_connection_is_cut_off() -> None:
    clock = FakeClock()
    connection = GrpcConnection(Refusing(clock))
    transport = Stuck()
    connection.connection_made(transport)
    connection.give_up(ErrorCode.ENHANCE_YOUR_CALM, "enough")
    clock.advance(59.0)
    connection.sweep(clock.now())
    assert not transport.cut_off
    clock.advance(2.0)
    connection.sweep(clock.now())
    assert transport.cut_off
