"""The whole gateway on real sockets in front of servers that misbehave on cue."""

import asyncio
import json
from collections.abc import Mapping

import aiohttp
import pytest

from backends.emulators.kserve import KServeServer
from backends.emulators.kserve_app import KServeApp
from backends.emulators.kserve_infer import Model, TensorSpec
from backends.emulators.tensors import Tensor
from gateway.app import Gateway
from gateway.vocab import Outcome
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer, dead_port, eventually


class Twice(Model):
    """Doubles small integers."""

    name = "twice"
    inputs = (TensorSpec("x", "INT32", (-1,)),)
    outputs = (TensorSpec("y", "INT32", (-1,)),)

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        x = memoryview(inputs["x"].raw).cast("i")
        doubled = b"".join((2 * value).to_bytes(4, "little", signed=True) for value in x)
        return {"y": Tensor("INT32", inputs["x"].shape, doubled)}


def server(**options: object) -> KServeServer:
    return KServeServer(KServeApp([Twice()]), **options)  # type: ignore[arg-type]


BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[3],"data":[1,2,3]}]}'
ANSWER = [2, 4, 6]


def infer(extra: bytes = b"", body: bytes = BODY, model: bytes = b"twice") -> bytes:
    return (
        b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
        % (model, extra, len(body), body)
    )


def one_tier(url: str, slots: int = 2, when_full: str = "shed", route: str = "") -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: {slots}, price: {{usd_per_replica_hour: 0.79}},
    probe_every: 50ms, connect_timeout: 300ms}}
routes:
  twice:
    match: {{model: twice}}
    latency_budget: {{within: 250ms, objective: 99%}}
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: {when_full}}}]
    {route}
"""


def two_tiers(
    first: str, second: str, slots: int = 1, when_full: str = "spill", policy: str = "spill_when_full"
) -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{first}"], max_in_flight: {slots}, price: {{usd_per_replica_hour: 0.79}},
    probe_every: 50ms, connect_timeout: 300ms}}
  reserve: {{type: modal, url: "{second}", max_in_flight: 4, price: {{usd_per_second: 0.0002}},
    cold_start: {{expect: 1s, idle_after: 2s}}}}
routes:
  twice:
    match: {{model: twice}}
    policy: {policy}
    tiers:
      - {{backend: fleet, when_full: {when_full}}}
      - {{backend: reserve, when_full: shed}}
"""


def outcomes(gateway: Gateway) -> dict[Outcome, int]:
    counts: dict[Outcome, int] = {}
    for tally in gateway.ledger.tallies.values():
        counts[tally.outcome] = counts.get(tally.outcome, 0) + tally.count
    return counts


async def test_a_call_goes_through_and_says_where_it_went() -> None:
    async with server() as triton, running(one_tier(triton.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        peer.send(infer(b"X-Request-Id: mine\r\n"))
        status, fields, body = await peer.answer()
        assert status == 200
        assert json.loads(body)["outputs"][0]["data"] == ANSWER
        assert fields[b"x-request-id"] == b"mine"
        assert fields[b"x-overspill-route"] == b"twice"
        assert fields[b"x-overspill-backend"] == b"fleet"
        assert fields[b"x-overspill-reason"] == b"warm"
        assert fields[b"x-overspill-start"] == b"warm"
        assert float(fields[b"x-overspill-cost-usd"]) > 0
        assert b"upstream;dur=" in fields[b"server-timing"]
        seen = dict(triton.requests[-1].headers)
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert seen["x-forwarded-proto"] == "http"
        assert seen["x-request-id"] == "mine"
        assert seen["accept-encoding"] == "identity"
        assert len(seen["traceparent"]) == 55


async def test_the_answer_has_the_very_bytes_of_the_server() -> None:
    async with server() as triton, running(one_tier(triton.url)) as gateway:
        direct = await Peer.connect(triton.port)
        direct.send(infer())
        through = await Peer.connect(port_of(gateway))
        through.send(infer(b"Accept-Encoding: gzip\r\n"))
        assert (await direct.answer())[2] == (await through.answer())[2]


async def test_every_kind_of_request_works_again_when_its_head_is_known() -> None:
    head = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"parameters":{"binary_data_size":8}}]}'
    tensor = (5).to_bytes(4, "little") + (6).to_bytes(4, "little")
    binary = infer(b"Inference-Header-Content-Length: %d\r\n" % len(head), head + tensor)
    raw = infer(b"Inference-Header-Content-Length: 0\r\n", tensor)
    question = b"GET /v2/models/twice HTTP/1.1\r\nHost: x\r\n\r\n"
    async with server() as triton, running(one_tier(triton.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        for request in (infer(), binary, raw, question):
            answers = []
            for _ in range(3):
                peer.send(request)
                answers.append(await peer.answer())
            assert [status for status, _, _ in answers] == [200] * 3
            assert len({body for _, _, body in answers}) == 1
        assert len(gateway.listener.heads) == 4
        bad = infer(body=BODY.replace(b"]}]}", b"]}]]"))
        peer.send(bad)
        assert (await peer.answer())[0] == 400  # the head is known, the body is looked at all the same


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (infer(model=b"nobody"), 404),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (infer(body=b'{"inputs":[{'), 400),
        (infer(body=b"{}"), 400),
        (infer(b"X-Overspill-Deadline-Ms: soon\r\n"), 400),
        (b"GET /v2/models/twice/infer HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 403),
        (b"GET /v2/systemsharedmemory/status HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET /v2/models/twice/../../repository HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/models/twice/ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/models/nobody/ready HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/models/twice HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/models/twice/config HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/models/twice/stats HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v2/models/stats HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ],
)
async def test_every_answer_has_its_status_its_id_and_one_record(request_bytes: bytes, status: int) -> None:
    async with server() as triton, running(one_tier(triton.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        peer.send(request_bytes)
        answer = await peer.answer()
        assert answer[0] == status, answer
        assert answer[1][b"x-request-id"]
        assert gateway.ledger.opened == 1
        if status >= 400 and b"/v2" in request_bytes:
            assert json.loads(answer[2])["error"]


async def test_a_body_over_the_limit_is_413_in_the_protocols_shape_and_booked() -> None:
    text = one_tier("http://127.0.0.1:9") + "limits: {body: 100}\n"
    async with running(text) as gateway:
        peer = await Peer.connect(port_of(gateway))
        peer.send(infer(body=b"x" * 101))
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'{"error":' in answer
        assert outcomes(gateway) == {Outcome.REJECTED: 1}


async def test_a_full_fleet_spills_and_says_so() -> None:
    async with server(pace_s=0.3) as first, server() as second:
        async with running(two_tiers(first.url, second.url)) as gateway:
            a, b = await Peer.connect(port_of(gateway)), await Peer.connect(port_of(gateway))
            a.send(infer())
            await eventually(lambda: first.in_flight == 1, "the fleet is full")
            b.send(infer())
            status, fields, _ = await b.answer()
            assert (status, fields[b"x-overspill-backend"], fields[b"x-overspill-reason"]) == (
                200,
                b"reserve",
                b"spill_full",
            )
            assert (await a.answer())[1][b"x-overspill-backend"] == b"fleet"
            assert first.seen_in_flight_max == 1


async def test_an_answer_is_framed_once_whoever_gave_it() -> None:
    async with server() as first, server() as second, running(two_tiers(first.url, second.url)) as gateway:
        for backend in ("fleet", "reserve"):
            peer = await Peer.connect(port_of(gateway))
            peer.send(infer())
            head = await peer.head()
            assert head.count(b"content-length:") == 1
            assert b"x-overspill-backend: %b" % backend.encode() in head
            await first.stop()
            gateway.capacities["fleet"].note_ready(0, False, gateway.clock.now())
            gateway.capacities["fleet"].note_ready(0, False, gateway.clock.now())


async def test_a_call_that_may_wait_gets_the_slot_that_comes_free() -> None:
    async with server(pace_s=0.15) as first, server() as second:
        text = two_tiers(first.url, second.url, when_full="{queue: 5s, then: spill}")
        async with running(text) as gateway:
            peers = [await Peer.connect(port_of(gateway)) for _ in range(3)]
            for peer in peers:
                peer.send(infer())
            answers = [await peer.answer() for peer in peers]
            assert sorted(fields[b"x-overspill-reason"] for _, fields, _ in answers) == [
                b"warm",
                b"warm_queued",
                b"warm_queued",
            ]
            assert first.seen_in_flight_max == 1
            assert not second.requests


async def test_when_everything_is_taken_it_is_429_with_retry_after() -> None:
    async with server(pace_s=0.5) as triton, running(one_tier(triton.url, slots=1)) as gateway:
        a, b = await Peer.connect(port_of(gateway)), await Peer.connect(port_of(gateway))
        a.send(infer())
        await eventually(lambda: triton.in_flight == 1, "the fleet is full")
        b.send(infer())
        status, fields, body = await b.answer()
        assert status == 429
        assert int(fields[b"retry-after"]) >= 1
        assert fields[b"x-overspill-reason"] == b"shed_full"
        assert "try again" in json.loads(body)["error"]
        assert (await a.answer())[0] == 200


async def test_when_nothing_is_there_it_is_503_with_retry_after_and_never_a_hang() -> None:
    async with running(one_tier(f"http://127.0.0.1:{await dead_port()}")) as gateway:
        peer = await Peer.connect(port_of(gateway))
        for _ in range(8):
            peer.send(infer())
            status, fields, body = await peer.answer()
            assert status in {502, 503}
            assert b'{"error":' in body
        assert status == 503
        assert int(fields[b"retry-after"]) >= 1
        assert gateway.ready() is False


async def test_a_backend_that_goes_down_is_answered_for_by_the_next_tier_and_its_breaker_opens() -> None:
    async with server() as first, server() as second:
        text = two_tiers(first.url, second.url).replace("probe_every: 50ms", "probe_every: 1h")
        async with running(text) as gateway:
            peer = await Peer.connect(port_of(gateway))
            peer.send(infer())
            assert (await peer.answer())[1][b"x-overspill-reason"] == b"warm"
            await first.stop()
            reasons = []
            for _ in range(8):
                peer.send(infer())
                status, fields, _ = await peer.answer()
                assert status == 200
                reasons.append(fields[b"x-overspill-reason"])
            assert reasons == [b"fallback"] * 5 + [b"spill_breaker"] * 3
            assert len(second.requests) == 8


async def test_a_fleet_that_comes_back_is_used_again() -> None:
    async with server() as first, server() as second:
        async with running(two_tiers(first.url, second.url)) as gateway:
            capacity = gateway.capacities["fleet"]
            await first.stop_listening()
            first.app.ready = False
            await eventually(lambda: capacity.blocked is not None, "the probe notices that it is gone")
            peer = await Peer.connect(port_of(gateway))
            peer.send(infer())
            assert (await peer.answer())[1][b"x-overspill-reason"] == b"spill_unhealthy"
            first.app.ready = True
            await first.listen()
            await eventually(lambda: capacity.blocked is None, "the probe notices that it is back")
            peer.send(infer())
            assert (await peer.answer())[1][b"x-overspill-reason"] == b"warm"


@pytest.mark.parametrize("policy", ["cheapest_in_budget", "spill_when_full"])
@pytest.mark.parametrize("trouble", ["refuse", "garbage", 500, 503])
async def test_a_failed_attempt_is_tried_elsewhere_and_the_client_sees_only_the_answer(
    trouble: str | int, policy: str
) -> None:
    async with server() as first, server() as second:
        async with running(two_tiers(first.url, second.url, policy=policy)) as gateway:
            # A kept connection that is cut without a word is tried once more on a new one.
            first.fail_next(2 if trouble == "refuse" else 1, trouble)  # type: ignore[arg-type]
            peer = await Peer.connect(port_of(gateway))
            peer.send(infer())
            status, fields, body = await peer.answer()
            assert (status, fields[b"x-overspill-backend"]) == (200, b"reserve")
            assert fields[b"x-overspill-reason"] == b"fallback"
            assert json.loads(body)["outputs"][0]["data"] == ANSWER
            assert outcomes(gateway) == {Outcome.OK: 1}


async def test_a_call_that_must_run_once_is_not_tried_again_once_it_may_have_run() -> None:
    async with server() as first, server() as second:
        text = two_tiers(first.url, second.url) + "    idempotent: false\n"
        async with running(text) as gateway:
            peer = await Peer.connect(port_of(gateway))
            first.fail_next(1, "garbage")
            peer.send(infer())
            assert (await peer.answer())[0] == 502
            first.fail_next(1, 500)
            peer.send(infer())
            status, fields, body = await peer.answer()
            assert status == 500
            assert b"on demand" in body  # the backend's own words
            assert fields[b"x-overspill-backend"] == b"fleet"
            first.fail_next(1, 503)
            peer.send(infer())
            assert (await peer.answer())[0] == 200  # pushed back: surely not started
            assert outcomes(gateway)[Outcome.BACKEND_ERROR] == 2


async def test_a_silent_backend_costs_the_deadline_and_no_more() -> None:
    async with server() as triton, running(one_tier(triton.url, route="timeout: 300ms")) as gateway:
        triton.fail_next(2, "stall")
        peer = await Peer.connect(port_of(gateway))
        for extra in (b"", b"X-Overspill-Deadline-Ms: 100\r\n"):
            peer.send(infer(extra))
            status, fields, _ = await peer.answer()
            assert status == 504
            assert fields[b"x-overspill-reason"] == b"shed_deadline"
            assert b"retry-after" in fields
        await eventually(lambda: triton.hung_up == 2, "the work is cancelled")
        peer.send(infer())
        assert (await peer.answer())[0] == 200
        assert outcomes(gateway) == {Outcome.DEADLINE: 2, Outcome.OK: 1}


async def test_silence_for_a_routes_own_timeout_trips_the_breaker_but_an_impatient_client_does_not() -> None:
    async with server() as triton:
        text = one_tier(triton.url, route="timeout: 100ms").replace("probe_every: 50ms", "probe_every: 1h")
        async with running(text) as gateway:
            peer = await Peer.connect(port_of(gateway))
            for extra, calls, state in ((b"X-Overspill-Deadline-Ms: 20\r\n", 6, "closed"), (b"", 5, "open")):
                triton.fail_next(calls, "stall")
                for _ in range(calls):
                    peer.send(infer(extra))
                    assert (await peer.answer())[0] == 504
                assert gateway.capacities["fleet"].replicas[0].breaker.state(gateway.clock.now()) == state


async def test_a_deadline_passes_in_the_queue_too() -> None:
    async with server(pace_s=0.6) as triton:
        async with running(one_tier(triton.url, slots=1, when_full="{queue: 10s, then: shed}")) as gateway:
            a, b = await Peer.connect(port_of(gateway)), await Peer.connect(port_of(gateway))
            a.send(infer())
            await eventually(lambda: triton.in_flight == 1, "the fleet is full")
            b.send(infer(b"X-Overspill-Deadline-Ms: 100\r\n"))
            assert (await b.answer())[0] == 504
            assert (await a.answer())[0] == 200
            assert triton.seen_in_flight_max == 1


async def test_a_client_that_hangs_up_frees_the_slot_and_stops_the_work() -> None:
    async with server() as triton, running(one_tier(triton.url, slots=1)) as gateway:
        triton.fail_next(1, "stall")
        peer = await Peer.connect(port_of(gateway))
        peer.send(infer())
        await eventually(lambda: triton.in_flight == 1, "the work runs")
        peer.reset()
        await eventually(lambda: triton.hung_up == 1, "the replica is told")
        await eventually(lambda: gateway.capacities["fleet"].in_flight == 0, "the slot is free")
        other = await Peer.connect(port_of(gateway))
        other.send(infer())
        assert (await other.answer())[0] == 200
        assert outcomes(gateway) == {Outcome.CLIENT_GONE: 1, Outcome.OK: 1}


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = (
    b"POST /v2/models/twice/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n"
    b'{"text_input":"a"}'
)


async def test_a_stream_arrives_as_it_is_made_and_holds_its_slot_until_the_last_byte() -> None:
    go = asyncio.Event()

    async def stream(_: Received, writer: asyncio.StreamWriter) -> None:
        if b"ready" in _.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(STREAM_HEAD + b"b\r\ndata: {}\r\n\n\r\n"[:0] + b"8\r\ndata: 1\n\r\n")
        await go.wait()
        writer.write(b"8\r\ndata: 2\n\r\n0\r\n\r\n")

    async with upstream(stream) as replica, running(one_tier(replica.url, slots=1)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        peer.send(STREAM)
        head = await peer.head()
        assert b"transfer-encoding: chunked" in head
        assert await peer.exactly(13) == b"8\r\ndata: 1\n\r\n"
        assert gateway.capacities["fleet"].in_flight == 1
        go.set()
        assert await peer.exactly(18) == b"8\r\ndata: 2\n\r\n0\r\n\r\n"
        await eventually(lambda: gateway.capacities["fleet"].in_flight == 0, "the slot is free")
        assert outcomes(gateway) == {Outcome.OK: 1}


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_stream_that_breaks_off_says_so_and_never_ends_cleanly(how: str) -> None:
    async def stream(request: Received, writer: asyncio.StreamWriter) -> None:
        if b"ready" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(STREAM_HEAD + b"8\r\ndata: 1\n\r\n")
        await writer.drain()
        if how == "cut":
            writer.close()
        else:
            await asyncio.Event().wait()

    route = "stall_timeout: 200ms"
    async with upstream(stream) as replica, running(one_tier(replica.url, route=route)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        peer.send(STREAM)
        answer = await peer.rest()
        assert b"data: 1\n" in answer
        assert b'data: {"error":' in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert outcomes(gateway) == {Outcome.TRUNCATED: 1}


async def test_a_large_binary_body_streams_through_both_ways() -> None:
    size = 4 * 1024 * 1024

    async def swallow(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(request.body))
        writer.write(request.body)

    async with upstream(swallow) as replica, running(one_tier(replica.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        head = (
            b'{"inputs":[{"name":"x","datatype":"INT8","shape":[%d],"parameters":{"binary_data_size":%d}}]}'
            % (size, size)
        )
        body = head + bytes(range(256)) * (size // 256)
        for framing in (
            b"Content-Length: %d\r\n\r\n" % len(body),
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
        ):
            peer.send(
                b"POST /v2/models/twice/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
                % len(head)
                + framing
            )
            peer.send(body)
            if b"chunked" in framing:
                peer.send(b"\r\n0\r\n\r\n")
            assert (await peer.answer())[2] == body


async def test_openai_and_invoke_calls_travel_the_same_way() -> None:
    text = """
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 2}}
routes:
  chat:
    match: {{model: tiny}}
    tiers: [{{backend: fleet, when_full: shed}}]
  tool:
    tiers: [{{backend: fleet, when_full: shed}}]
"""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        body = request.line + b" " + request.body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with upstream(answer) as replica, running(text.format(url=replica.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        body = b'{"model":"tiny","messages":[]}'
        peer.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert (await peer.answer())[2] == b"POST /v1/chat/completions HTTP/1.1 " + body
        peer.send(b"PUT /invoke/tool/a/b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert (await peer.answer())[2] == b"PUT /a/b?c=d HTTP/1.1 hi"
        peer.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n"
            + b'{"model":"none"}'
        )
        status, _, body = await peer.answer()
        assert status == 404
        assert json.loads(body)["error"]["code"] == "model_not_found"
        peer.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [m["id"] for m in json.loads((await peer.answer())[2])["data"]] == ["tiny"]


async def test_slots_bound_what_the_replicas_ever_see_and_both_are_used() -> None:
    async with server(pace_s=0.02) as one, server(pace_s=0.02) as two:
        text = f"""
backends:
  fleet: {{type: triton, replicas: ["{one.url}", "{two.url}"], max_in_flight: 3}}
routes:
  twice: {{match: {{model: twice}}, tiers: [{{backend: fleet, when_full: {{queue: 20s, then: shed}}}}]}}
"""
        async with running(text) as gateway, aiohttp.ClientSession() as session:

            async def ask() -> int:
                url = f"http://127.0.0.1:{port_of(gateway)}/v2/models/twice/infer"
                async with session.post(url, data=BODY) as reply:
                    await reply.read()
                    return reply.status

            statuses = await asyncio.gather(*(ask() for _ in range(60)))
            assert set(statuses) == {200}
            assert one.seen_in_flight_max <= 3
            assert two.seen_in_flight_max <= 3
            assert min(len(one.requests), len(two.requests)) >= 10


async def test_metrics_routes_and_readiness_are_on_the_admin_port_and_agree_with_the_answers() -> None:
    async with server() as triton, running(one_tier(triton.url)) as gateway:
        peer = await Peer.connect(port_of(gateway))
        for _ in range(3):
            peer.send(infer())
            await peer.answer()
        assert gateway.admin_address is not None
        async with aiohttp.ClientSession(f"http://{gateway.admin_address}") as session:
            text = await (await session.get("/metrics")).text()
            assert 'overspill_requests_total{backend="fleet",outcome="ok",route="twice"} 3.0' in text
            assert 'overspill_decisions_total{reason="warm",route="twice"} 3.0' in text
            assert (await session.get("/readyz")).status == 200
            routes = await (await session.get("/admin/routes")).json()
            assert routes["routes"][0]["requests"] == 3
            assert "max_in_flight: 2" in await (await session.get("/admin/config")).text()
