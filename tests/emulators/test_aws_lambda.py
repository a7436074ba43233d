"""The emulated Invoke API over a real socket: requests signed by botocore, answers as its model describes."""

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from backends.emulators.aws_lambda import LambdaEmulator, LambdaOptions
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.sigv4 import Keys
from backends.workers import kit, lambda_handler
from gateway.clock import FakeClock
from tests.emulators.apps import Gate, echo

AT_ONCE = BootTimes(0.0, 0.0, 1.0, 0.0)
LASTING = FleetOptions(boot=AT_ONCE, idle_after_s=60.0)
REPORT = re.compile(
    r"REPORT RequestId: (?P<id>[0-9a-f-]{36})\tDuration: (?P<run>[\d.]+) ms\t"
    r"Billed Duration: (?P<billed>\d+) ms\tMemory Size: (?P<memory>\d+) MB\tMax Memory Used: \d+ MB\t"
    r"(?:Init Duration: (?P<init>[\d.]+) ms\t)?(?:Status: (?P<status>\w+)\t)?\n"
)


def same(event: Any, context: Any) -> Any:
    return {"echo": event}


class Answer:
    """An answer that has been read."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return str(self.headers.get("x-amzn-ErrorType", ""))

    @property
    def log(self) -> str:
        return base64.b64decode(self.headers["X-Amz-Log-Result"]).decode()

    @property
    def report(self) -> dict[str, Any]:
        match = REPORT.search(self.log)
        assert match is not None, self.log
        return match.groupdict()


class Client:
    """Signs with botocore and sends with aiohttp."""

    def __init__(self, server: LambdaEmulator, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.credentials = Credentials("AKIAEMULATED", "emulated-secret")
        self.region = "us-east-1"
        self.service = "lambda"

    async def invoke(
        self, body: bytes = b"{}", *, function: str = "emulated", query: str = "", **headers: str
    ) -> Answer:
        url = f"{self.server.url}/2015-03-31/functions/{function}/invocations{query}"
        request = AWSRequest("POST", url, {k.replace("_", "-"): v for k, v in headers.items()}, body)
        SigV4Auth(self.credentials, self.service, self.region).add_auth(request)
        return await self.send(url, dict(request.headers.items()), body)

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        async with self.session.post(
            URL(url, encoded=True), data=io.BytesIO(body), headers=headers
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def aws(
    handler: Callable[[Any, Any], Any] = same,
    *,
    options: FleetOptions = LASTING,
    clock: Any = None,
    make: Callable[[str], Any] | None = None,
    **function: Any,
) -> AsyncIterator[Client]:
    server = LambdaEmulator(
        make or (lambda _: handler), options=options, function=LambdaOptions(**function), clock=clock
    )
    async with server, aiohttp.ClientSession() as session:
        yield Client(server, session)


async def test_signed_invoke_answers_with_the_functions_json() -> None:
    async with aws() as client:
        answer = await client.invoke(b'{"a":1}')
    assert (answer.status, answer.json) == (200, {"echo": {"a": 1}})
    assert answer.headers["X-Amz-Executed-Version"] == "$LATEST"
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
                        answer.headers["x-amzn-RequestId"])  # fmt: skip
    assert "X-Amz-Log-Result" not in answer.headers
    assert "X-Amz-Function-Error" not in answer.headers


async def test_log_tail_tells_cold_from_warm_and_what_is_billed() -> None:
    options = FleetOptions(boot=BootTimes(0.2, 0.2, 1.0, 0.0), idle_after_s=60.0)
    async with aws(options=options, memory_mb=2048) as client:
        cold = await client.invoke(X_Amz_Log_Type="Tail")
        warm = await client.invoke(X_Amz_Log_Type="Tail")
        bill = client.server.bill()
    assert cold.log.startswith("INIT_START ")
    assert warm.log.startswith(f"START RequestId: {warm.headers['x-amzn-RequestId']} Version: $LATEST\nEND ")
    assert cold.report["id"] == cold.headers["x-amzn-RequestId"]
    assert float(cold.report["init"]) >= 195  # timers may fire a little early
    billed = int(cold.report["billed"])
    expected = float(cold.report["init"]) + float(cold.report["run"])
    assert expected - 0.02 <= billed <= expected + 1.02
    assert warm.report["init"] is None
    assert int(warm.report["billed"]) < billed
    assert cold.report["memory"] == "2048"
    assert bill.billed_seconds == pytest.approx((billed + int(warm.report["billed"])) / 1000)
    assert bill.gb_seconds == pytest.approx(2 * bill.billed_seconds)
    assert bill.requests == 2


async def test_function_error_is_a_200_with_the_error_as_body() -> None:
    def broken(event: Any, context: Any) -> Any:
        raise ValueError("boom")

    async with aws(broken) as client:
        answer = await client.invoke(X_Amz_Log_Type="Tail")
    assert (answer.status, answer.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    document = answer.json
    assert (document["errorMessage"], document["errorType"]) == ("boom", "ValueError")
    assert document["requestId"] == answer.headers["x-amzn-RequestId"]
    assert isinstance(document["stackTrace"], list)
    assert answer.report["status"] is None


async def test_timeout_is_a_function_error_and_ends_the_environment() -> None:
    async def slow(event: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    async with aws(slow, timeout_s=0.05) as client:
        answer = await client.invoke(X_Amz_Log_Type="Tail")
        assert client.server.fleet.state()["gone"] == 1
    assert (answer.status, answer.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    assert answer.json["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 0.05 seconds" in answer.json["errorMessage"]
    assert answer.report["status"] == "timeout"


async def test_killed_environment_is_a_runtime_exit_error() -> None:
    async with aws() as client:
        client.server.fail_next(1, "kill")
        answer = await client.invoke()
        assert (answer.status, answer.json["errorType"]) == (200, "Runtime.ExitError")
        assert (await client.invoke()).json == {"echo": {}}
        assert client.server.bill().cold_starts == 2


async def test_failed_init_is_a_function_error_that_is_billed() -> None:
    options = FleetOptions(boot=BootTimes(0.05, 0.05, 1.0, 0.0), idle_after_s=60.0)
    async with aws(options=options) as client:
        client.server.fail_next(1, "boot")
        answer = await client.invoke()
        assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
        assert client.server.bill().billed_seconds >= 0.05


async def test_answer_that_is_not_json_is_a_marshal_error() -> None:
    async with aws(lambda event, context: {"raw": b"bytes"}) as client:
        answer = await client.invoke()
    assert answer.json["errorType"] == "Runtime.MarshalError"


async def test_answer_over_6_mb_is_a_function_error() -> None:
    async with aws(lambda event, context: "x" * (6 * 1024 * 1024)) as client:
        answer = await client.invoke()
    assert answer.json["errorType"] == "Function.ResponseSizeTooLarge"


async def test_concurrency_over_the_cap_is_429_at_once_with_reason_and_retry_after() -> None:
    gate = Gate()

    async with aws(
        lambda event, context: gate({"input": event}),
        options=FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0),
    ) as client:
        running = asyncio.ensure_future(client.invoke())
        await asyncio.to_thread(gate.entered.acquire)
        answer = await client.invoke()
        gate.open.set()
        await running
        assert client.server.bill().requests == 1
    assert (answer.status, answer.kind) == (429, "TooManyRequestsException")
    assert answer.json["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer.headers["Retry-After"] == "1"


async def test_throttles_on_cue_name_their_reason() -> None:
    async with aws() as client:
        client.server.fail_next(1, "rate")
        answer = await client.invoke()
        assert (answer.status, answer.json["Reason"]) == (429, "CallerRateLimitExceeded")
        client.server.fail_next(1, "status", status=502)
        assert (await client.invoke()).status == 502
        assert (await client.invoke()).status == 200


async def test_dry_run_checks_and_runs_nothing() -> None:
    async with aws() as client:
        answer = await client.invoke(X_Amz_Invocation_Type="DryRun")
        assert (answer.status, answer.body) == (204, b"")
        assert client.server.bill().requests == 0


async def test_event_is_accepted_and_runs_later() -> None:
    done = asyncio.Event()

    async def later(event: Any, context: Any) -> Any:
        done.set()

    async with aws(later) as client:
        answer = await client.invoke(X_Amz_Invocation_Type="Event")
        assert (answer.status, answer.body) == (202, b"")
        async with asyncio.timeout(5):
            await done.wait()


@pytest.mark.parametrize(
    ("name", "query", "status"),
    [
        ("emulated", "", 200),
        ("emulated%3Alive", "", 200),
        ("emulated", "?Qualifier=live", 200),
        ("arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Aemulated", "", 200),
        ("emulated", "?Qualifier=7", 404),
        ("other", "", 404),
    ],
)
async def test_function_is_found_by_name_alias_or_arn(name: str, query: str, status: int) -> None:
    async with aws(versions=("live",)) as client:
        answer = await client.invoke(function=name, query=query)
    assert answer.status == status
    if status == 404:
        assert answer.kind == "ResourceNotFoundException"
        assert answer.json["Type"] == "User"
        assert "Function not found: arn:aws:lambda:us-east-1:" in answer.json["Message"]


async def test_alias_is_the_executed_version() -> None:
    async with aws(versions=("live",)) as client:
        answer = await client.invoke(query="?Qualifier=live")
    assert answer.headers["X-Amz-Executed-Version"] == "live"


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", {}, 400, "InvalidRequestContentException"),
        (b'"' + b"x" * 6_291_456 + b'"', {}, 413, "RequestTooLargeException"),
        (b'"' + b"x" * 1_048_576 + b'"', {"X_Amz_Invocation_Type": "Event"}, 413, "RequestTooLargeException"),
        (b"{}", {"X_Amz_Invocation_Type": "Later"}, 400, "InvalidParameterValueException"),
        (b"{}", {"X_Amzn_RequestId": "mine"}, 400, "InvalidParameterValueException"),
        (b"{}", {"X_Amzn_RequestId": "5b3a0e3e-0000-4000-8000-000000000000"}, 200, ""),
        (b"", {}, 200, ""),
    ],
    ids=["json", "6 MB", "1 MB event", "type", "request id", "request uuid", "empty"],
)
async def test_refusals_of_the_request_itself(
    body: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    async with aws() as client:
        answer = await client.invoke(body, **headers)
    assert (answer.status, answer.kind) == (status, kind)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"credentials": Credentials("AKIAEMULATED", "wrong")}, "InvalidSignatureException"),
        ({"credentials": Credentials("AKIAOTHER", "emulated-secret")}, "UnrecognizedClientException"),
        ({"credentials": Credentials("AKIAEMULATED", "emulated-secret", "t")}, "UnrecognizedClientException"),
        ({"region": "eu-west-1"}, "InvalidSignatureException"),
        ({"service": "s3"}, "InvalidSignatureException"),
    ],
)
async def test_wrong_signatures_are_403(change: dict[str, Any], kind: str) -> None:
    async with aws() as client:
        vars(client).update(change)
        answer = await client.invoke()
    assert (answer.status, answer.kind) == (403, kind)


async def test_session_token_of_temporary_credentials_is_checked() -> None:
    async with aws(keys=Keys("AKIAEMULATED", "emulated-secret", "token")) as client:
        assert (await client.invoke()).status == 403
        client.credentials = Credentials("AKIAEMULATED", "emulated-secret", "token")
        assert (await client.invoke()).status == 200


async def test_changed_body_missing_signature_and_old_date_are_403() -> None:
    async with aws() as client:
        url = f"{client.server.url}/2015-03-31/functions/emulated/invocations"
        request = AWSRequest("POST", url, {}, b"{}")
        SigV4Auth(client.credentials, "lambda", "us-east-1").add_auth(request)
        signed = dict(request.headers.items())
        assert (await client.send(url, signed, b"{}")).status == 200
        assert (await client.send(url, signed, b'{"a":1}')).kind == "InvalidSignatureException"
        extra = signed | {"X-Amz-Log-Type": "Tail"}
        assert (await client.send(url, extra, b"{}")).kind == "InvalidSignatureException"
        assert (await client.send(url, {}, b"{}")).kind == "MissingAuthenticationTokenException"
        broken = signed | {"Authorization": "AWS4-HMAC-SHA256 nonsense"}
        assert (await client.send(url, broken, b"{}")).kind == "IncompleteSignatureException"
    async with aws(clock=FakeClock()) as client:  # whose wall clock stands at another time
        assert (await client.invoke()).kind == "InvalidSignatureException"


async def test_worker_kit_in_each_environment_looks_like_a_process_of_its_own() -> None:
    def make(name: str) -> Any:
        return lambda_handler.make_handler(kit.Worker(echo, kit.Boot()))

    event = {
        "version": "2.0",
        "rawPath": "/a%20b",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {"http": {"method": "PUT"}},
        "body": base64.b64encode(b"\xff\x00").decode(),
        "isBase64Encoded": True,
    }
    async with aws(make=make) as client:
        answers = [(await client.invoke(json.dumps(event).encode())).json for _ in range(2)]
        client.server.fail_next(1, "kill")
        await client.invoke()
        answers.append((await client.invoke(json.dumps(event).encode())).json)
    assert base64.b64decode(answers[0]["body"]) == b"\x00\xff"
    assert answers[0]["headers"]["x-seen"] == "PUT /a%20b?"
    ids = [each["headers"]["x-overspill-boot-id"] for each in answers]
    assert ids[0] == ids[1] != ids[2]
