"""AWS Lambda: one synchronous Invoke per call, signed, with the log tail for what it cost.

Knows Lambda's errors, and which of them mean that nothing ran. It never invokes twice, except after
a refused signature: Lambda has no idempotency key for synchronous invocations.

Wire facts: the service's API reference ("Invoke") and botocore's model of it:
- a function that fails is HTTP 200 with `X-Amz-Function-Error`;
- `X-Amz-Log-Type: Tail` returns the last 4 KiB of the log, whose REPORT line has the billed duration,
  and `Init Duration` only after a cold start;
- `x-amzn-RequestId` is Lambda's own: a request that carries another id under that name is a 400.
"""

import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote

import msgspec
from pydantic import Field, model_validator

from backends.aws_errors import ERRORS, EXPIRED, described, error_type
from backends.aws_report import Report, read_log_result
from backends.aws_signer import Signer
from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import (
    ColdStart,
    Elastic,
    ElasticOptions,
    HttpUrl,
    check_envelope,
    retry_after,
    start_by_boot,
)
from backends.envelope import encoded_size, overhead, to_event
from backends.instances import Boot, Ticket, take_boot
from backends.pings import Pinged
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.options import Options, SecretRef, Size, Usd
from gateway.vocab import Call, Headers, Rent, Reply, Start, Usage

PAYLOAD_LIMIT = 6 * 2**20
"""Bytes of a synchronous invocation's request, and of its response."""

_PROBE_S = 10.0
_NOT_JSON = b'{"error":"the body has to be a JSON document: it becomes the event of the function"}'


class AwsCredentials(Options):
    """Keys by reference. Left out, the machine's own credential chain is used."""

    access_key: SecretRef
    """Access key id."""
    secret_key: SecretRef
    """Secret access key."""
    session_token: SecretRef | None = None
    """Session token of temporary credentials."""


class LambdaPrice(Options):
    """What a function costs; both figures are on the provider's price page, per region and architecture."""

    usd_per_gb_second: Usd
    """Price of one GB of memory for one second of billed duration."""
    usd_per_request: Usd
    """Price of one invocation."""


class LambdaOptions(ElasticOptions):
    """A function of AWS Lambda."""

    type: Literal["aws_lambda"]
    """Kind of backend."""
    function: str = Field(pattern=r"^[A-Za-z0-9_:-]+$")
    """Name or ARN of the function, an alias or version behind a colon included."""
    qualifier: str | None = Field(default=None, pattern=r"^[A-Za-z0-9$_-]+$")
    """Alias or version, where the name does not have it."""
    region: str = Field(pattern=r"^[a-z0-9-]+$")
    """Region of the function."""
    endpoint_url: HttpUrl | None = None
    """Address of the API, for emulators and private endpoints."""
    credentials: AwsCredentials | None = None
    """Keys to sign with."""
    envelope: Literal["event", "raw"] = "event"
    """`event` sends the request as an API Gateway event; `raw` sends the JSON body as the event and
    answers with what the function returns."""
    memory: Size | None = None
    """Memory of the function, for the price where the log tail does not say it."""
    price: LambdaPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "3s", "idle_after": "5m"})
    """What is known ahead about its environments; Lambda does not bill them while they idle."""

    @model_validator(mode="after")
    def _kit_answers_pings(self) -> Self:
        check_envelope(self, self.envelope)
        return self


@backends.add("aws_lambda")
class AwsLambda(Elastic):
    """One function."""

    Options: ClassVar[type[BackendOptions]] = LambdaOptions
    options: LambdaOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, LambdaOptions)
        keys = options.credentials
        secrets: dict[str, SecretRef] = {}
        if keys is not None:
            secrets = {"access_key": keys.access_key, "secret_key": keys.secret_key}
            if keys.session_token is not None:
                secrets["session_token"] = keys.session_token
        super().__init__(name, options, kit, rent=_rent(options), secrets=secrets)
        self._signer = Signer(
            name,
            service="lambda",
            region=options.region,
            credentials=self.credentials if keys else None,
            session_token="session_token" in secrets,
        )
        base = options.endpoint_url or f"https://lambda.{options.region}.amazonaws.com"
        self._url = f"{base.rstrip('/')}/2015-03-31/functions/{quote(options.function, safe='')}/invocations"
        if options.qualifier is not None:
            self._url += f"?Qualifier={quote(options.qualifier, safe='')}"

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a function whose API is served at `url`."""
        secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
        return {
            "type": "aws_lambda",
            "function": "embed",
            "region": "us-east-1",
            "endpoint_url": url,
            "credentials": {"access_key": secret, "secret_key": secret},
            "max_in_flight": 4,
            "price": {"usd_per_gb_second": 0.0000166667, "usd_per_request": 0.0000002},
            "cold_start": {"expect": "3s", "idle_after": "5m"},
        }

    @property
    def price_known(self) -> bool:
        """True when the file says what an invocation costs."""
        return self.options.price is not None

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for an Invoke, or, with `envelope: raw`, no JSON document in and out."""
        size = call.body.length or 0
        if self.options.envelope == "event":
            size = encoded_size(size) + overhead(call)
        else:
            if call.stream:
                return f"{self.name}: `envelope: raw` cannot answer with a stream"
            binary = any(name == b"inference-header-content-length" for name, _ in call.headers)
            if call.method != b"POST" or binary:
                return f"{self.name}: `envelope: raw` carries JSON bodies of POST requests only"
        if size > PAYLOAD_LIMIT:
            return f"{self.name}: {size} bytes as a Lambda event, {PAYLOAD_LIMIT} are allowed"
        return None

    async def open(self) -> None:
        """Check the secrets and load the signer. Raises ConfigError when there are no credentials."""
        await super().open()
        await self._signer.open()

    @property
    def can_open(self) -> bool:
        """Only where the worker kit, or something like it, answers."""
        return super().can_open and self.options.envelope == "event"

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One invocation, billed like any other."""
        answer = await self._invoke(msgspec.json.encode(to_event(call, b"")))
        if answer.status != 200:
            raise self._refusal(answer)
        fields = dict(answer.headers)
        report = read_log_result(fields.get(b"x-amz-log-result", b""))
        boot: Boot | None = None
        fault: BackendBroke | None = None
        try:
            status, headers, _ = self._output(answer, fields.get(b"x-amz-function-error"))
            boot = take_boot(headers)[1]
            if status >= 500:
                fault = BackendBroke(f"{self.name}: the function answered a ping with {status}")
        except BackendBroke as error:
            fault = error
        start, usage = self._judge(report, boot, ticket)
        if fault is not None:
            fault.usage = usage
            raise fault
        return Pinged(usage.instance, start, usage.boot_s, boot.age if boot else None, usage=usage)

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One invocation. The answer is complete when it is there, so leaving has nothing to release.

        An invocation cannot be cancelled: one that is given up runs, and is billed, to its end.
        """
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        payload = await call.body.read(PAYLOAD_LIMIT)
        if self.options.envelope == "event":
            payload = msgspec.json.encode(to_event(call, payload))
        elif not _is_json(payload):
            yield Reply(400, [(b"content-type", b"application/json")], _NOT_JSON)
            return
        with self.attempt(call) as ticket:
            answer = await self._invoke(payload)
            if answer.status != 200:
                raise self._refusal(answer)
            reply = self._answer(answer, ticket)
        yield reply

    async def _invoke(self, payload: bytes) -> Answer:
        """The signed exchange; once more, with fresh credentials, if AWS says that these have expired."""
        answer = await self._signed(payload, "RequestResponse")
        if answer.status in (400, 403) and error_type(answer) in EXPIRED:
            self._signer.forget()
            answer = await self._signed(payload, "RequestResponse")
        return answer

    async def _signed(self, payload: bytes, invocation: str) -> Answer:
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"x-amz-invocation-type", invocation.encode()),
            (b"x-amz-log-type", b"Tail" if invocation == "RequestResponse" else b"None"),
        ]
        headers = self.added.onto(headers, self.credentials)
        headers = await self._signer.sign("POST", self._url, headers, payload)
        return await self.client.exchange("POST", self._url, headers=headers, body=payload)

    def _refusal(self, answer: Answer) -> BackendError:
        """What a status other than 200 means, by the error's type."""
        kind = error_type(answer)
        said = f"{self.name}: Lambda answered {answer.status} {self.credentials.excerpt(kind)}".rstrip()
        by_status: type[BackendError] = BackendDenied if answer.status < 500 else BackendBroke
        if answer.status == 429:
            by_status = BackendFull
        error = ERRORS.get(kind, by_status)
        return error(said, retry_after=retry_after(answer.headers, self.kit.clock.wall()))

    def _answer(self, answer: Answer, ticket: Ticket) -> Reply:
        """The client's answer from a 200. Raises BackendBroke, with its usage, for a function's error."""
        fields = dict(answer.headers)
        report = read_log_result(fields.get(b"x-amz-log-result", b""))
        parsed: tuple[int, Headers, bytes] | None = None
        boot: Boot | None = None
        fault: BackendBroke | None = None
        try:
            parsed = self._output(answer, fields.get(b"x-amz-function-error"))
        except BackendBroke as error:
            fault = error
        if parsed is not None and self.options.envelope == "event":
            headers, boot = take_boot(parsed[1])
            parsed = parsed[0], headers, parsed[2]
        start, usage = self._judge(report, boot, ticket)
        now = self.kit.clock.now()
        self.table.end(ticket, now, instance_id=usage.instance, boot_s=usage.boot_s)
        if parsed is None:
            assert fault is not None
            fault.usage = usage
            raise fault
        return Reply(*parsed, start=start, usage=usage)

    def _output(self, answer: Answer, function_error: bytes | None) -> tuple[int, Headers, bytes]:
        if function_error is not None:
            said = self.credentials.excerpt(described(answer.body))
            raise BackendBroke(f"{self.name}: the function failed: {said}")
        if self.options.envelope == "raw":
            return 200, [(b"content-type", b"application/json")], answer.body
        try:
            result = msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BackendBroke(f"{self.name}: the function's answer is not JSON") from None
        return self.unpack(result)

    def _judge(self, report: Report | None, boot: Boot | None, ticket: Ticket) -> tuple[Start, Usage]:
        """Warm or cold, and the bill: from the REPORT line, else from the worker kit's fields."""
        now = self.kit.clock.now()
        instance = boot.id if boot else ""
        boot_s: float | None = None
        if report is not None:
            boot_s = report.boot_s
            start = Start.COLD if boot_s is not None else Start.WARM
        elif boot is not None:
            start = start_by_boot(boot, now - ticket.began, seen=self.table.knows(instance, now))
            boot_s = boot.age if start is Start.COLD else None
        else:
            start = Start.UNKNOWN
        if start is Start.WARM:
            boot_s = 0.0
        billed_s = report.billed_s if report else None
        memory_gb = report.memory_gb if report else None
        return start, Usage(
            billed_s, boot_s, self._usd(report), instance, billed_s is not None, memory_gb=memory_gb
        )

    def _usd(self, report: Report | None) -> float | None:
        """Billed duration times memory, and the request itself; None when one of them is not known."""
        price, memory = self.options.price, self.options.memory
        if price is None or report is None:
            return None
        if report.memory_gb is None and memory is not None:
            report = report._replace(memory_gb=memory / 2**30)
        used = report.gb_seconds
        return None if used is None else used * price.usd_per_gb_second + price.usd_per_request

    async def probe(self, replica: int) -> bool | None:
        """A DryRun: Lambda checks the signature, the permission and the function, and runs nothing.

        Emulators that do not know it answer 400, which says nothing about the function.
        """
        try:
            async with timeout(_PROBE_S):
                answer = await self._signed(b"{}", "DryRun")
        except (BackendError, TimeoutError):
            return False
        if answer.status in (200, 204):
            return True
        return False if answer.status in (401, 403, 404) else None


def _rent(options: LambdaOptions) -> Rent:
    """Lambda bills the start-up (since August 2025) and the work in whole milliseconds, and no idling.

    The price of a second follows from the memory, and is not known where the file does not say that.
    """
    price, memory = options.price, options.memory
    usd = price.usd_per_gb_second * memory / 2**30 if price is not None and memory is not None else None
    return Rent(
        usd,
        usd_per_call=price.usd_per_request if price is not None else 0.0,
        idle_s=options.cold_start.idle_after,
        boot_s=options.cold_start.expect,
        bills_idle=False,
        round_up_s=0.001,
    )


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
