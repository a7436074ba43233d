"""Unary RPCs through the whole gateway: passed on as bytes, balanced, tried again, cancelled, drained."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.grpc_ingress.support import (
    SERVICE,
    SHED,
    SPILL,
    failure,
    fields,
    file,
    fleet,
    front,
    logged,
    replica,
    request,
)
from tests.support.wire import dead_port, eventually

FULL = "[request id: <id_unknown>] Exceeds maximum queue size"


async def refusing(message: bytes, context: Any, code: Any, details: str) -> bytes:
    await context.abort(code, details)
    raise AssertionError("abort raises")


async def test_bytes_go_through_unchanged_and_are_booked(tmp_path: Path) -> None:
    message = request(raw_input_contents=[bytes(range(256)) * 8])
    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED, top=top)) as gate:
        call = gate.infer(message, metadata=(("x-request-id", "mine-1"),))
        assert await call == b"echo:" + message
        told = fields(await call.trailing_metadata())
        assert told["x-request-id"] == "mine-1"
        assert told["x-overspill-route"] == "one"
        assert told["x-overspill-backend"] == "fleet"
        assert told["x-overspill-reason"] == "warm"
        assert told["x-overspill-start"] == "warm"
        assert one.seen[0][1] == message
    (line,) = logged(tmp_path / "log")
    assert (line["protocol"], line["operation"], line["model"]) == ("grpc", "infer", "m")
    assert (line["outcome"], line["status"], line["request_id"]) == ("ok", 200, "mine-1")
    assert (line["bytes_in"], line["bytes_out"]) == (len(message), len(message) + 5)


async def test_metadata_goes_on_but_for_what_is_between_client_and_gateway() -> None:
    sent = (
        ("x-custom", "1"), ("idempotency-key", "k"), ("authorization", "Bearer secret"), ("some-bin", b"\x00\xff"),
        ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("x-overspill-priority", "critical"),
    )  # fmt: skip
    async with (
        replica() as one,
        front(file({"fleet": fleet(one, more=", headers: {x-own: mine}")}, SHED)) as gate,
    ):
        await gate.infer(request(), metadata=sent)
        got = one.seen[0][2]
    assert got["x-custom"] == "1"
    assert got["idempotency-key"] == "k"
    assert got["some-bin"] == b"\x00\xff"
    assert got["x-own"] == "mine"
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert got["traceparent"] == "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    assert got["x-request-id"]
    assert "authorization" not in got
    assert not [name for name in got if name.startswith("x-overspill")]


async def test_metadata_of_the_replica_comes_back() -> None:
    async def infer(message: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\xff"),))
        return b"ok"

    async with replica(infer) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = gate.infer(request())
        await call
        told = dict(await call.trailing_metadata())
    assert told["x-first"] == "1"
    assert told["x-last-bin"] == b"\xff"


async def test_questions_are_passed_on_and_unknown_methods_are_not() -> None:
    asked = pb.ModelMetadataRequest(name="m").SerializeToString()
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        for name in ("ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"):
            assert await gate.unary(name, asked) == b"echo:" + asked
        assert [name for name, _, _ in one.seen] == [
            "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"
        ]  # fmt: skip
        for name in ("Nonsense", "ModelInfer2"):
            assert (await failure(gate.unary(name, b""))).code() is grpc.StatusCode.UNIMPLEMENTED
        assert (
            await failure(gate.unary("SystemSharedMemoryStatus", b""))
        ).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_unknown_model_and_nonsense_are_refused_here() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        unknown = await failure(gate.infer(request("nobody")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert "nobody" in unknown.details()
        assert fields(unknown.trailing_metadata())["x-request-id"]
        assert (await failure(gate.infer(b"\xff\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not one.seen


async def test_health_checks_follow_readiness() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        check = gate.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert (await failure(check(b"\x0a\x05other"))).code() is grpc.StatusCode.NOT_FOUND


async def test_200_calls_at_once_are_balanced_over_replicas_and_connections() -> None:
    async def slow(message: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.02)
        return message

    async with replica(slow) as one, replica(slow) as two:
        more = file({"fleet": fleet(one, two, slots=8)}, SHED.replace("2s", "20s"))
        async with front(more) as gate:
            messages = [request(id=str(number)) for number in range(200)]
            assert await asyncio.gather(*(gate.infer(message) for message in messages)) == messages
        shares = len(one.seen), len(two.seen)
    assert sum(shares) == 200
    assert min(shares) > 70
    assert max(one.most, two.most) <= 8
    assert min(len(one.peers), len(two.peers)) == 4


async def test_a_full_replica_spills() -> None:
    async def full(message: bytes, context: Any) -> bytes:
        return await refusing(message, context, grpc.StatusCode.UNAVAILABLE, FULL)

    async with replica(full) as one, replica() as two:
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL)) as gate:
            call = gate.infer(request())
            assert await call == b"echo:" + request()
            assert fields(await call.trailing_metadata())["x-overspill-backend"] == "burst"
    assert len(one.seen) == len(two.seen) == 1


async def test_a_full_fleet_without_more_says_so_in_its_own_words() -> None:
    async def full(message: bytes, context: Any) -> bytes:
        return await refusing(message, context, grpc.StatusCode.UNAVAILABLE, FULL)

    async with replica(full) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        error = await failure(gate.infer(request()))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details()
    assert "retry-after" in fields(error.trailing_metadata())


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'x'"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm' version 7 is not found"),
        (grpc.StatusCode.ALREADY_EXISTS, "ümlaut"),
    ],
)
async def test_what_blames_the_client_reaches_it_as_it_is(code: Any, details: str) -> None:
    async def blaming(message: bytes, context: Any) -> bytes:
        return await refusing(message, context, code, details)

    async with replica(blaming) as one, replica() as two:
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL)) as gate:
            error = await failure(gate.infer(request(version="7")))
    assert (error.code(), error.details()) == (code, details)
    assert not two.seen


async def test_a_model_that_is_not_loaded_is_asked_elsewhere() -> None:
    async def unloaded(message: bytes, context: Any) -> bytes:
        details = "Request for unknown model: 'm' is not found"
        return await refusing(message, context, grpc.StatusCode.NOT_FOUND, details)

    async with replica(unloaded) as one, replica() as two:
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL)) as gate:
            assert await gate.infer(request()) == b"echo:" + request()


@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_may_have_run_runs_again_only_if_it_may(idempotent: bool) -> None:
    async def broken(message: bytes, context: Any) -> bytes:
        return await refusing(message, context, grpc.StatusCode.INTERNAL, "onnx runtime error")

    async with replica(broken) as one, replica() as two:
        route = f"idempotent: {str(idempotent).lower()}"
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL, route)) as gate:
            if idempotent:
                assert await gate.infer(request()) == b"echo:" + request()
            else:
                error = await failure(gate.infer(request()))
                assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "onnx runtime error")
    assert len(two.seen) == idempotent


async def test_a_replica_that_is_not_there_started_nothing() -> None:
    async with replica() as one, replica() as two:
        one.port = await dead_port()
        route = "idempotent: false"
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL, route)) as gate:
            assert await gate.infer(request()) == b"echo:" + request()


async def test_a_cancelled_call_is_cancelled_upstream_and_gives_its_slot_back() -> None:
    async def forever(message: bytes, context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with replica(forever) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = gate.infer(request())
        await eventually(lambda: one.running == 1, "the replica was asked")
        assert gate.in_flight == 1
        call.cancel()
        await eventually(lambda: one.cancelled == 1, "the replica heard of it")
        await eventually(lambda: gate.in_flight == 0, "the slot came back")


async def test_the_clients_deadline_is_the_calls_and_the_replicas(tmp_path: Path) -> None:
    remaining: list[float] = []

    async def forever(message: bytes, context: Any) -> bytes:
        remaining.append(context.time_remaining())
        await asyncio.sleep(60)
        return b""

    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica(forever) as one, front(file({"fleet": fleet(one)}, SHED, top=top)) as gate:
        error = await failure(gate.infer(request(), timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: one.cancelled == 1, "the replica heard of it")
        await eventually(lambda: gate.in_flight == 0, "the slot came back")
        assert 0.2 < remaining[0] < 0.6
        in_field = await failure(gate.infer(request(), metadata=(("x-overspill-deadline-ms", "100"),)))
        assert in_field.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "x-overspill-reason" in fields(in_field.trailing_metadata())
    assert [line["outcome"] for line in logged(tmp_path / "log")] == ["deadline", "deadline"]


async def test_a_message_over_the_limit_is_refused() -> None:
    async with replica() as one:
        async with front(file({"fleet": fleet(one)}, SHED, top="limits: {body: 64KiB}")) as gate:
            error = await failure(gate.infer(request(raw_input_contents=[bytes(70_000)])))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not one.seen
            large = request(raw_input_contents=[bytes(60_000)])
            assert await gate.infer(large) == b"echo:" + large


async def test_large_messages_pass_both_ways() -> None:
    large = request(raw_input_contents=[bytes(9 * 2**20)])
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        error = await failure(gate.infer(large))
    # The played replica has gRPC's own limit of 4 MiB; it refuses, and so is the client's fault.
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()


async def test_calls_in_flight_finish_when_the_gateway_drains() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def held(message: bytes, context: Any) -> bytes:
        entered.set()
        await leave.wait()
        return b"done"

    async with (
        replica(held) as one,
        front(file({"fleet": fleet(one)}, SHED, top="drain_timeout: 5s")) as gate,
    ):
        call = gate.infer(request())
        sent = asyncio.ensure_future(call)
        await asyncio.wait_for(entered.wait(), 5)
        unused = gate.open_stream()
        waiting = asyncio.ensure_future(unused.read())
        assert gate.gateway.grpc is not None
        await eventually(
            lambda: gate.gateway.grpc is not None and gate.gateway.grpc.calls == 2, "both are in"
        )
        draining = asyncio.ensure_future(gate.gateway.grpc.drain(5))
        assert (await failure(waiting)).code() is grpc.StatusCode.UNAVAILABLE
        late = await failure(gate.infer(request()))
        assert late.code() is grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        leave.set()
        assert await sent == b"done"
        await asyncio.wait_for(draining, 2)


async def test_what_outlives_the_drain_is_cancelled() -> None:
    async def forever(message: bytes, context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with replica(forever) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = asyncio.ensure_future(failure(gate.infer(request())))
        await eventually(lambda: one.running == 1, "the replica was asked")
        assert gate.gateway.grpc is not None
        await gate.gateway.grpc.drain(0.1)
        assert (await call).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert gate.in_flight == 0


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        assert gate.gateway.grpc is not None
        assert gate.gateway.grpc_address is not None
        with pytest.raises(OSError, match="in use"):
            await gate.gateway.grpc.open("127.0.0.1", gate.gateway.grpc_address.port)


async def test_the_http_port_knows_nothing_of_it() -> None:
    from tests.support.gateways import port_of
    from tests.support.wire import Peer

    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        peer = await Peer.connect(port_of(gate.gateway))
        path = f"{SERVICE}ModelInfer".encode()
        peer.send(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n\x0a\x01m" % path)
        status, _, _ = await peer.answer()
        assert status == 404
