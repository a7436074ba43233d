"""AWS Lambda: a signed Invoke, what the log tail says it cost, and which errors mean that nothing ran."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from backends.aws_errors import ERRORS
from backends.aws_lambda import AwsLambda
from backends.aws_lambda_api import PAYLOAD_LIMIT
from backends.aws_report import Report, read_log, read_log_result
from backends.workers import kit
from gateway.errors import BackendBroke, BackendDenied, BackendDown, BackendError, BackendFull, BackendUnready
from gateway.pricing import gb_seconds
from gateway.vocab import Start, Verdict, Work
from tests.support.provider import (
    SECRET,
    Behaviour,
    Provider,
    Received,
    Wire,
    a_call,
    built,
    providing,
    refusing_url,
    until,
)
from tests.support.requests import ArrivingBody

REPORT = (
    "REPORT RequestId: 8f5\tDuration: 2.10 ms\tBilled Duration: 200 ms\tMemory Size: 1024 MB\t"
    "Max Memory Used: 90 MB\t"
)
COLD = REPORT + "Init Duration: 150.20 ms\t"


def tail(log: str) -> dict[str, str]:
    return {"x-amz-log-result": base64.b64encode(log.encode()).decode()}


def invoked(log: str | None = REPORT, result: Any = None, **fields: str) -> Behaviour:
    document = (
        kit.write_result(200, [("content-type", "text/plain")], b"answer") if result is None else result
    )

    async def behave(request: Received, wire: Wire) -> None:
        await wire.json(200, document, {**(tail(log) if log else {}), **fields})

    return behave


def refused(status: int, kind: str, document: Any = None, **fields: str) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.json(status, document or {"Message": "no"}, {"x-amzn-errortype": kind, **fields})

    return behave


@asynccontextmanager
async def function(behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[AwsLambda, Provider]]:
    async with providing(behaviour) as provider:
        described = {**AwsLambda.example(provider.url), **options}
        async with built(AwsLambda, described) as (backend, _):
            yield backend, provider


async def failure(backend: AwsLambda) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async with backend.send(a_call(), 0):
            raise AssertionError("an answer came")
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("burst: ")
    assert backend.client.in_use == 0
    return caught.value


async def test_a_call_becomes_an_invocation_and_its_result_the_answer() -> None:
    async with function(invoked()) as (backend, provider):
        async with backend.send(a_call(b"body"), 0) as reply:
            assert (reply.status, reply.body) == (200, b"answer")
            assert reply.headers == [(b"content-type", b"text/plain")]
    request = provider.seen[0]
    assert (request.method, request.target) == ("POST", "/2015-03-31/functions/embed/invocations")
    assert request.fields["x-amz-invocation-type"] == "RequestResponse"
    assert request.fields["x-amz-log-type"] == "Tail"
    assert request.fields["content-type"] == "application/json"
    assert request.fields["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={SECRET}/")
    assert "/us-east-1/lambda/aws4_request" in request.fields["authorization"]
    # Lambda takes a request id of its own making only.
    assert "x-amzn-requestid" not in request.fields
    event = request.json()
    assert event["rawPath"] == "/v2/models/minilm/infer"
    assert base64.b64decode(event["body"]) == b"body"


async def test_an_arn_and_a_qualifier_are_part_of_the_path() -> None:
    arn = "arn:aws:lambda:us-east-1:123456789012:function:embed"
    async with function(invoked(), function=arn, qualifier="live") as (backend, provider):
        async with backend.send(a_call(), 0):
            pass
    quoted = arn.replace(":", "%3A")
    assert provider.seen[0].target == f"/2015-03-31/functions/{quoted}/invocations?Qualifier=live"


async def test_one_gigabyte_for_200_ms_is_a_fifth_of_a_gigabyte_second() -> None:
    price = {"usd_per_gb_second": 1.0, "usd_per_request": 0.0}
    async with function(invoked(), price=price) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            usage = reply.usage
    assert usage is not None
    assert usage.usd == 0.2
    assert usage.usd == gb_seconds(2**30, 0.2)
    assert (usage.billed_s, usage.boot_s, usage.reported) == (0.2, 0.0, True)


async def test_the_request_itself_has_a_price_too() -> None:
    price = {"usd_per_gb_second": 0.0000166667, "usd_per_request": 0.0000002}
    async with function(invoked(), price=price) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == pytest.approx(0.2 * 0.0000166667 + 0.0000002)


async def test_an_environment_that_idles_costs_nothing() -> None:
    async with function(invoked()) as (backend, _):
        async with backend.send(a_call(), 0):
            pass
        assert backend.instances(backend.kit.clock.now())["idle"] == 1
        assert backend.settle(float("inf")) == []


@pytest.mark.parametrize(
    ("log", "memory", "known"),
    [(None, "1GiB", False), ("no report", "1GiB", False), (REPORT, None, True)],
)
async def test_what_is_not_reported_is_unknown(log: str | None, memory: str | None, known: bool) -> None:
    async with function(invoked(log), memory=memory) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert (reply.usage.usd is not None) == known
            assert (reply.start is Start.UNKNOWN) != known
    async with function(invoked(REPORT), price=None) as (backend, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None


JSON_REPORT = {
    "type": "platform.report",
    "record": {
        "requestId": "8f5",
        "metrics": {
            "durationMs": 2.1,
            "billedDurationMs": 200,
            "memorySizeMB": 1024,
            "initDurationMs": 150.2,
        },
        "status": "success",
    },
}
NO_MEMORY = {"type": "platform.report", "record": {"metrics": {"billedDurationMs": 200}}}


async def test_the_files_memory_stands_in_where_the_report_has_none() -> None:
    log = json.dumps(NO_MEMORY)
    price = {"usd_per_gb_second": 1.0, "usd_per_request": 0.0}
    async with function(invoked(log), memory="2GiB", price=price) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == 0.4


@pytest.mark.parametrize(
    ("log", "boot_s"),
    [
        (REPORT, None),
        (COLD, 0.1502),
        (REPORT + "Restore Duration: 398.97 ms\tBilled Restore Duration: 182 ms\t", 0.39897),
        ("START\nhello REPORT RequestId: no\n" + COLD + "\n", 0.1502),
        (COLD + "\nXRAY TraceId: 1-2", 0.1502),
        ("noise\n" + json.dumps(JSON_REPORT) + "\n", 0.1502),
    ],
)
def test_the_report_is_found_in_the_log(log: str, boot_s: float | None) -> None:
    report = read_log(log)
    assert report is not None
    assert (report.billed_s, report.memory_gb) == (0.2, 1.0)
    assert report.duration_s == pytest.approx(0.0021)
    assert report.boot_s == (None if boot_s is None else pytest.approx(boot_s))


@pytest.mark.parametrize("value", [b"", b"!!!", base64.b64encode(b"START\nEND\n"), base64.b64encode(b"{}")])
def test_a_log_without_a_report_says_nothing(value: bytes) -> None:
    assert read_log_result(value) is None


def test_a_report_that_is_cut_short_says_what_it_says() -> None:
    report = read_log("REPORT RequestId: 1\tDuration: x ms\tBilled Dur")
    assert report == Report(None, None, None, None, None)


INIT_FAILED = "INIT_REPORT Init Duration: 10008.54 ms\tPhase: init\tStatus: timeout"
INIT_JSON = {
    "type": "platform.initReport",
    "record": {"phase": "init", "status": "error", "metrics": {"durationMs": 10008.54}},
}
START = "START RequestId: 8f5 Version: $LATEST"


@pytest.mark.parametrize(
    ("log", "failed_s"),
    [
        (f"{INIT_FAILED}\n{START}\n{REPORT}", 10.00854),
        (
            f"{json.dumps(INIT_JSON)}\n" + '{"type":"platform.start"}' + f"\n{json.dumps(JSON_REPORT)}",
            10.00854,
        ),
        (f"{INIT_FAILED.replace('timeout', 'success')}\n{START}\n{REPORT}", None),
        (f"{START}\n{INIT_FAILED.replace('Phase: init', 'Phase: invoke')}\n{REPORT}", None),
        (f"{INIT_FAILED}\n{REPORT}", None),  # no START: these are the function's own last lines
        (f"{START}\n{INIT_FAILED}\n{REPORT}", None),
    ],
)
def test_an_init_that_failed_is_told_before_the_invocation(log: str, failed_s: float | None) -> None:
    report = read_log(log)
    assert report is not None
    assert report.failed_init_s == failed_s
    assert report.billed_s == 0.2


@pytest.mark.parametrize("line", ["INIT_REPORT Phase: init Status: error", "INIT_REPORT Init Duration: 9 ms"])
def test_an_init_report_without_its_figures_says_nothing(line: str) -> None:
    assert read_log(line) is None


async def test_an_invocation_after_a_failed_init_was_a_cold_start() -> None:
    async with function(invoked(f"{INIT_FAILED}\n{START}\n{REPORT}")) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD
            assert reply.usage is not None
            assert (reply.usage.boot_s, reply.usage.billed_s) == (10.00854, 0.2)


async def test_an_init_of_which_no_invocation_came_is_billed() -> None:
    document = {"errorType": "Runtime.ExitError", "errorMessage": "Runtime exited with error"}
    behaviour = invoked(INIT_FAILED, document, **{"x-amz-function-error": "Unhandled"})
    async with function(behaviour, memory="1GiB") as (backend, _):
        error = await failure(backend)
    assert error.usage is not None
    assert error.usage.billed_s == 10.009  # rounded up to whole milliseconds
    assert error.usage.usd == pytest.approx(10.009 * 0.0000166667 + 0.0000002)


BOOTED = kit.write_result(200, [("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "0.01")], b"")
UP = kit.write_result(200, [("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "500")], b"")


@pytest.mark.parametrize(
    ("log", "result", "start", "boot_s"),
    [
        (REPORT, None, Start.WARM, 0.0),
        (COLD, None, Start.COLD, 0.1502),
        (None, None, Start.UNKNOWN, None),
        (None, BOOTED, Start.COLD, 0.01),
        (None, UP, Start.WARM, 0.0),
        (REPORT, BOOTED, Start.WARM, 0.0),  # Lambda's own word comes first
    ],
)
async def test_warm_or_cold(log: str | None, result: Any, start: Start, boot_s: float | None) -> None:
    async with function(invoked(log, result)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start
            assert reply.usage is not None
            assert reply.usage.boot_s == boot_s
            assert not any(name.startswith(b"x-overspill") for name, _ in reply.headers)


async def test_a_functions_own_failure_is_a_200_that_cost_money() -> None:
    document = {"errorType": "Sandbox.Timedout", "errorMessage": f"Task timed out {SECRET}", "stackTrace": []}
    behaviour = invoked(REPORT, document, **{"x-amz-function-error": "Unhandled"})
    async with function(behaviour) as (backend, _):
        error = await failure(backend)
    assert type(error) is BackendBroke
    assert error.work is Work.MAYBE
    assert "Sandbox.Timedout: Task timed out …" in str(error)
    assert error.usage is not None
    assert error.usage.billed_s == 0.2
    assert error.usage.usd == pytest.approx(0.2 * 0.0000166667 + 0.0000002)


@pytest.mark.parametrize("result", [[], "text", 7, {"body": "x"}, {"statusCode": 200, "body": 7}])
async def test_a_result_that_is_no_answer_is_broken(result: Any) -> None:
    async with function(invoked(REPORT, result)) as (backend, _):
        error = await failure(backend)
    assert type(error) is BackendBroke
    assert error.usage is not None


async def test_a_result_that_is_not_json_is_broken() -> None:
    async def garbage(request: Received, wire: Wire) -> None:
        await wire.answer(200, b"<html>")

    async with function(garbage) as (backend, _):
        assert type(await failure(backend)) is BackendBroke


@pytest.mark.parametrize("kind", sorted(ERRORS))
async def test_every_error_of_the_table(kind: str) -> None:
    async with function(refused(502, kind + ":http://internal.amazon.com/")) as (backend, _):
        error = await failure(backend)
        assert type(error) is ERRORS[kind]
        assert kind in str(error)
        ran = type(error) is BackendBroke
        assert (error.work is Work.MAYBE) == ran
        assert backend.instances(backend.kit.clock.now())["idle"] == int(ran)


@pytest.mark.parametrize(
    ("status", "kind", "expected", "verdict"),
    [
        (429, "TooManyRequestsException", BackendFull, Verdict.NEUTRAL),
        (429, "SomethingNew", BackendFull, Verdict.NEUTRAL),
        (502, "ENINotReadyException", BackendUnready, Verdict.FAILURE),
        (409, "SnapStartNotReadyException", BackendUnready, Verdict.FAILURE),
        (403, "InvalidSignatureException", BackendDenied, Verdict.FAILURE),
        (404, "ResourceNotFoundException", BackendDenied, Verdict.FAILURE),
        (400, "SomethingNew", BackendDenied, Verdict.FAILURE),
        (301, "", BackendDenied, Verdict.FAILURE),
        (502, "KMSDisabledException", BackendDenied, Verdict.FAILURE),
        (500, "ServiceException", BackendBroke, Verdict.FAILURE),
        (503, "", BackendBroke, Verdict.FAILURE),
        (504, "SomethingNew", BackendBroke, Verdict.FAILURE),
    ],
)
async def test_what_a_refusal_means(
    status: int, kind: str, expected: type[BackendError], verdict: Verdict
) -> None:
    async with function(refused(status, kind, **{"retry-after": "2"})) as (backend, provider):
        error = await failure(backend)
    assert type(error) is expected
    assert error.verdict is verdict
    assert error.retry_after == 2.0
    assert len(provider.seen) == 1


async def test_the_errors_type_may_be_in_the_body() -> None:
    async def refuse(request: Received, wire: Wire) -> None:
        await wire.json(403, {"__type": "com.amazon.coral.service#AccessDeniedException"})

    async with function(refuse) as (backend, _):
        assert "AccessDeniedException" in str(await failure(backend))


async def test_expired_credentials_are_read_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def expired(request: Received, wire: Wire) -> None:
        if SECRET in request.fields["authorization"]:
            monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rotated")
            await refused(403, "ExpiredTokenException")(request, wire)
        else:
            await invoked()(request, wire)

    async with function(expired) as (backend, provider):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"answer"
    assert len(provider.seen) == 2
    assert "Credential=rotated/" in provider.seen[1].fields["authorization"]


async def test_credentials_that_stay_expired_are_denied() -> None:
    async with function(refused(403, "ExpiredTokenException")) as (backend, provider):
        assert type(await failure(backend)) is BackendDenied
    assert len(provider.seen) == 2


async def test_a_session_token_is_sent_and_signed() -> None:
    secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
    keys = {"access_key": secret, "secret_key": secret, "session_token": secret}
    async with function(invoked(), credentials=keys) as (backend, provider):
        async with backend.send(a_call(), 0):
            pass
    assert provider.seen[0].fields["x-amz-security-token"] == SECRET
    assert "x-amz-security-token" in provider.seen[0].fields["authorization"]


async def test_the_machines_own_credentials_are_used_when_none_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAMACHINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with function(invoked(), credentials=None) as (backend, provider):
        async with backend.send(a_call(), 0):
            pass
    assert "Credential=AKIAMACHINE/" in provider.seen[0].fields["authorization"]


async def test_raw_sends_the_body_as_the_event_and_answers_with_what_comes_back() -> None:
    async with function(invoked(result={"vector": [1.5]}), envelope="raw") as (backend, provider):
        async with backend.send(a_call(b'{"prompt": "hi"}'), 0) as reply:
            assert json.loads(reply.body or b"") == {"vector": [1.5]}
        async with backend.send(a_call(b"not json"), 0) as reply:
            assert reply.status == 400
    assert [request.body for request in provider.seen] == [b'{"prompt": "hi"}']


async def test_what_it_cannot_carry() -> None:
    async with function(invoked()) as (backend, _):
        fits = PAYLOAD_LIMIT // 4 * 3 - 4096
        assert backend.cannot_carry(a_call(ArrivingBody(b"x", declared=fits))) is None
        assert str(PAYLOAD_LIMIT) in (
            backend.cannot_carry(a_call(ArrivingBody(b"x", declared=fits + 8192))) or ""
        )
    async with function(invoked(), envelope="raw") as (backend, _):
        assert "stream" in (backend.cannot_carry(a_call(stream=True)) or "")
        assert "POST" in (backend.cannot_carry(a_call(method=b"GET")) or "")


@pytest.mark.parametrize(
    ("status", "healthy"),
    [(204, True), (200, True), (403, False), (404, False), (400, None), (429, None), (500, None)],
)
async def test_a_probe_is_a_dry_run(status: int, healthy: bool | None) -> None:
    async def dry(request: Received, wire: Wire) -> None:
        await wire.answer(status)

    async with function(dry) as (backend, provider):
        assert await backend.probe(0) is healthy
    assert provider.seen[0].fields["x-amz-invocation-type"] == "DryRun"


async def test_nobody_there() -> None:
    async with built(AwsLambda, AwsLambda.example(await refusing_url())) as (backend, _):
        error = await failure(backend)
        assert type(error) is BackendDown
        assert error.work is Work.NOT_STARTED
        assert await backend.probe(0) is False


async def test_a_connection_that_breaks_may_have_run() -> None:
    async def reset(request: Received, wire: Wire) -> None:
        await wire.reset()

    async with function(reset) as (backend, provider):
        error = await failure(backend)
        assert type(error) is BackendBroke
        assert error.work is Work.MAYBE
        await until(lambda: provider.connections == 0)
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"function": "a/b"},
        {"region": ""},
        {"region": "x.evil.com/"},
        {"endpoint_url": "lambda.local"},
        {"price": {"usd_per_gb_second": 0.1}},
        {"qualifier": "a&b=c"},
        {"credentials": {"access_key": SECRET, "secret_key": SECRET}},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        AwsLambda.Options.model_validate({**AwsLambda.example("http://127.0.0.1:9"), **wrong})
    assert SECRET not in str([(e["loc"], e["msg"]) for e in caught.value.errors()])
