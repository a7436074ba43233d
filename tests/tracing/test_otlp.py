"""A whole gateway, a replica and a collector, joined by real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, Upstream, ok, upstream
from tests.support.wire import Peer
from tests.tracing.collector import Collector, over_grpc, over_http, serving, told

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
INFER = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[1]}]}'


def request(
    path: bytes = b"/v2/models/m/infer", *fields: bytes, body: bytes = INFER, method: bytes = b"POST"
) -> bytes:
    more = b"".join(field + b"\r\n" for field in fields)
    return b"%b %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        method,
        path,
        more,
        len(body),
        body,
    )


def file(collector: str, *replicas: str, tracing: str = "sample: 100%", more: str = "") -> str:
    return f"""
tracing: {{endpoint: '{collector}', {tracing}}}
backends:
  fleet:
    type: triton
    replicas: [{", ".join(repr(url) for url in replicas)}]
    max_in_flight: 4
    price: {{usd_per_replica_hour: 3.6}}
routes:
  all: {{match: {{model: '*'}}, latency_budget: {{within: 250ms}}, tiers: [{{backend: fleet}}]{more}}}
  named: {{tiers: [{{backend: fleet}}]}}
"""


async def asked(gateway: Gateway, *requests: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    peer = await Peer.connect(port_of(gateway))
    answers = []
    for each in requests:
        peer.send(each)
        answers.append(await peer.answer())
    return answers


def counted(gateway: Gateway, exported: int = 0, dropped: int = 0, failed: int = 0) -> bool:
    assert gateway.tracing is not None
    return gateway.tracing.results() == {"exported": exported, "dropped": dropped, "failed": failed}


@asynccontextmanager
async def stage(
    tracing: str = "sample: 100%", more: str = ""
) -> AsyncIterator[tuple[Gateway, Upstream, Collector]]:
    async with over_http() as collector, upstream() as replica:
        async with running(file(collector.url, replica.url, tracing=tracing, more=more)) as gateway:
            yield gateway, replica, collector


async def test_a_call_becomes_one_tree_of_spans_under_its_callers() -> None:
    async with stage() as (gateway, replica, collector):
        ((status, _, _),) = await asked(
            gateway, request(b"/v2/models/m/infer", b"traceparent: " + PARENT.encode())
        )
        assert status == 200
        (call,) = await collector.calls(1)
        assert call.trace == PARENT[3:35]
        assert call.server.parent_span_id.hex() == PARENT[36:52]
        assert call.server.name == "POST /v2/models/{model}/infer"
        assert call.under(call.server) == {"receive", "queue", "POST"}
        (client,) = call.clients()
        assert call.under(client) == {"relay"}
        (sent,) = replica.received[-1].field(b"traceparent")
        assert sent.decode() == f"00-{call.trace}-{client.span_id.hex()}-01"
        for span in call.all:
            assert call.server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= call.server.end_time_unix_nano


async def test_what_a_call_was_is_said_in_the_words_of_the_conventions() -> None:
    async with stage() as (gateway, replica, collector):
        ((_, fields, _),) = await asked(gateway, request())
        (call,) = await collector.calls(1)
        attributes = told(call.server)
        expected = {
            "http.request.method": "POST", "http.route": "/v2/models/{model}/infer", "url.path": "/v2/models/m/infer",
            "url.scheme": "http", "http.response.status_code": 200, "overspill.route": "all",
            "overspill.backend": "fleet", "overspill.reason": "warm", "overspill.outcome": "ok", "overspill.model": "m",
            "overspill.request_id": fields[b"x-request-id"].decode(), "overspill.bytes_in": len(INFER),
            "overspill.predicted.backend": "fleet",
        }  # fmt: skip
        assert attributes.items() >= expected.items()
        assert 0.0 < attributes["overspill.cost_usd"] < 1e-3
        assert 0.0 <= attributes["overspill.predicted.probability"] <= 1.0
        (client,) = call.clients()
        assert told(client).items() >= {"server.address": "127.0.0.1", "server.port": replica.port}.items()
        (resource,) = collector.resources
        assert resource["service.name"] == "overspill"
        assert resource["service.instance.id"]


async def test_the_same_spans_come_over_grpc() -> None:
    async with over_grpc() as collector, upstream() as replica:
        tracing = "protocol: grpc, sample: 100%, service_name: edge"
        async with running(file(collector.url, replica.url, tracing=tracing)) as gateway:
            await asked(gateway, request())
            (call,) = await collector.calls(1)
            assert call.under(call.server) == {"receive", "queue", "POST"}
            assert collector.resources[0]["service.name"] == "edge"


async def test_a_caller_that_does_not_keep_its_spans_gets_none_here() -> None:
    async with stage() as (gateway, replica, collector):
        unsampled = PARENT[:-2] + "00"
        await asked(gateway, request(b"/v2/models/m/infer", b"traceparent: " + unsampled.encode()), request())
        (call,) = await collector.calls(1)
        assert call.trace != PARENT[3:35]
        assert replica.received[-2].field(b"traceparent") == [unsampled.encode()]


async def test_calls_outside_the_sample_are_told_so_and_make_no_spans() -> None:
    async with stage("sample: 0%") as (gateway, replica, collector):
        await asked(gateway, request(), request(b"/v2/models/m/infer", b"traceparent: " + PARENT.encode()))
        (call,) = await collector.calls(1)
        assert call.trace == PARENT[3:35]
        (sent,) = replica.received[-2].field(b"traceparent")
        assert sent.endswith(b"-00")
        assert sent[3:35] != PARENT[3:35].encode()


async def test_state_goes_on_with_its_trace_and_is_dropped_without_one() -> None:
    async with stage() as (gateway, replica, _):
        state = b"tracestate: vendor=1"
        await asked(
            gateway,
            request(b"/v2/models/m/infer", b"traceparent: " + PARENT.encode(), state),
            request(b"/v2/models/m/infer", state),
            request(b"/v2/models/m/infer", b"traceparent: broken", state),
        )
        assert [each.field(b"tracestate") for each in replica.received[-3:]] == [[b"vendor=1"], [], []]


async def test_each_attempt_has_a_span_and_a_context_of_its_own() -> None:
    async def broken(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        else:
            await ok(received, writer)

    async with over_http() as collector, upstream(broken) as bad, upstream() as good:
        async with running(file(collector.url, bad.url, good.url)) as gateway:
            while not [each for each in bad.received if each.line.startswith(b"POST")]:
                ((status, _, _),) = await asked(gateway, request())
                assert status == 200
            calls = await collector.calls(1)
            call = next(call for call in calls if len(call.clients()) == 2)
            first, second = call.clients()
            assert (told(first)["server.port"], told(second)["server.port"]) == (bad.port, good.port)
            assert told(first)["error.type"]
            assert first.status.code == 2
            assert told(second)["http.request.resend_count"] == 1
            assert "error.type" not in told(second)
            for replica, span in ((bad, first), (good, second)):
                sent = [
                    each.field(b"traceparent")[0].decode()
                    for each in replica.received
                    if each.line[:4] == b"POST"
                ]
                assert f"00-{call.trace}-{span.span_id.hex()}-01" in sent
            assert sum(span.name == "queue" for span in call.all) == 2


async def test_a_refused_request_has_a_span_and_no_steps() -> None:
    async with stage() as (gateway, _, collector):
        ((status, _, _),) = await asked(gateway, request(b"/v2/models/m/infer", body=b"not json"))
        assert status == 400
        (call,) = await collector.calls(1)
        assert [span.name for span in call.all] == ["POST"]
        assert told(call.server)["error.type"] == "bad_request"
        assert call.server.status.code == 0  # the client's mistake is no failure of the server's


async def test_no_secret_and_no_body_leaves_in_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", "planted-collector-key")

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        body = b"planted-answer"
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: planted-cookie\r\ncontent-length: 14\r\n\r\n" + body)

    async with over_http() as collector, upstream(answer) as replica:
        tracing = "sample: 100%, headers: {x-key: {env: COLLECTOR_KEY}}"
        async with running(file(collector.url, replica.url, tracing=tracing)) as gateway:
            fields = (
                b"authorization: Bearer planted-token", b"x-api-key: planted-key", b"tracestate: planted=state",
                b"cookie: planted-session",
            )  # fmt: skip
            secret = json.dumps(
                {"model": "m", "messages": [{"role": "user", "content": "planted-prompt"}]}
            ).encode()
            await asked(
                gateway,
                request(b"/v2/models/m/infer?key=planted-query", *fields),
                request(b"/v1/chat/completions?key=planted-query", *fields, body=secret),
                request(b"/invoke/named/planted-path?key=planted-query", *fields, body=b"planted-body"),
                request(b"/invoke/planted-route", *fields),
                request(b"/v2/models/m/infer", *fields, body=b"planted-nonsense"),
            )
            await collector.calls(5)
            sent = b"".join(collector.raw)
            assert b"/v2/models/m/infer" in sent
            assert b"planted" not in sent
            assert all(fields["x-key"] == "planted-collector-key" for fields in collector.fields)


async def test_names_that_no_text_can_hold_spoil_no_batch() -> None:
    async with stage() as (gateway, _, collector):
        body = b'{"model": "half \\ud800 a pair", "messages": []}'
        await asked(gateway, request(b"/v1/chat/completions", body=body), request())
        await collector.calls(2)
        while not counted(gateway, exported=2):
            await asyncio.sleep(0.01)


async def test_what_became_of_the_spans_is_a_metric() -> None:
    async with stage() as (gateway, _, collector):
        await asked(gateway, request())
        await collector.calls(1)
        while not counted(gateway, exported=1):
            await asyncio.sleep(0.01)
        assert gateway.admin_address is not None
        peer = await Peer.connect(gateway.admin_address.port)
        peer.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        _, _, text = await peer.answer()
        assert b'overspill_traced_calls_total{result="exported"} 1.0' in text
        assert b'overspill_traced_calls_total{result="dropped"} 0.0' in text


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_collector_that_is_down_costs_spans_and_no_request(protocol: str) -> None:
    async with upstream() as replica:
        tracing = f"protocol: {protocol}, sample: 100%, timeout: 200ms"
        async with running(file("http://127.0.0.1:9", replica.url, tracing=tracing)) as gateway:
            answers = await asked(gateway, *[request()] * 20)
            assert {status for status, _, _ in answers} == {200}
        assert counted(gateway, failed=20)


async def test_a_collector_that_hangs_costs_spans_and_no_request() -> None:
    forever = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await forever.wait()
        return web.Response()

    async with serving(hang) as url, upstream() as replica:
        async with running(file(url, replica.url, tracing="sample: 100%, timeout: 200ms")) as gateway:
            answers = await asked(gateway, *[request()] * 20)
            assert {status for status, _, _ in answers} == {200}
        forever.set()
        assert counted(gateway, failed=20)


async def test_a_collector_that_refuses_costs_spans_and_no_request() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400)

    async with serving(refuse) as url, upstream() as replica:
        async with running(file(url, replica.url)) as gateway:
            answers = await asked(gateway, *[request()] * 5)
            assert {status for status, _, _ in answers} == {200}
        assert counted(gateway, failed=5)


async def test_what_waits_when_the_gateway_stops_is_sent_first() -> None:
    async with over_http() as collector, upstream() as replica:
        async with running(file(collector.url, replica.url)) as gateway:
            await asked(gateway, *[request()] * 3)
        assert counted(gateway, exported=3)
        assert len(await collector.calls(3)) == 3


async def test_a_hedge_has_a_span_and_a_context_of_its_own() -> None:
    released = asyncio.Event()

    async def slow(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            await released.wait()
        await ok(received, writer)

    async with over_http() as collector, upstream(slow) as first, upstream(slow) as second:
        more = ", hedge: {after: 20ms, share: 100%}"
        async with running(file(collector.url, first.url, second.url, more=more)) as gateway:
            peer = await Peer.connect(port_of(gateway))
            peer.send(request())
            posts: dict[int, bytes] = {}
            async with asyncio.timeout(10.0):
                while len(posts) < 2:
                    await asyncio.sleep(0.01)
                    for each in (first, second):
                        for received in each.received:
                            if received.line.startswith(b"POST"):
                                (posts[each.port],) = received.field(b"traceparent")
            released.set()
            status, _, _ = await peer.answer()
            assert status == 200
            (call,) = await collector.calls(1)
            one, two = call.clients()
            assert (told(one)["overspill.hedge"], told(two)["overspill.hedge"]) == (False, True)
            for span in (one, two):
                port = told(span)["server.port"]
                assert posts[port].decode() == f"00-{call.trace}-{span.span_id.hex()}-01"
            assert told(call.server)["overspill.hedged"] in {"won", "lost"}
