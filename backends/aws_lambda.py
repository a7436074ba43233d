"""AWS Lambda: one synchronous invocation per call, signed, with the log tail for what it cost.

Knows what a function's result means for a call. How Lambda is asked is `aws_lambda_api.py`'s, what an
invocation cost `aws_lambda_bill.py`'s, and answers that stream are `aws_lambda_streams.py`'s.

Wire facts: the service's API reference ("Invoke") and botocore's model of it:
- a function that fails is HTTP 200 with `X-Amz-Function-Error`;
- `X-Amz-Log-Type: Tail` returns the last 4 KiB of the log, whose REPORT line has the billed duration,
  and `Init Duration` only after a cold start (`aws_report.py`);
- `x-amzn-RequestId` is Lambda's own: a request that carries another id under that name is a 400.
"""

import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar

import msgspec

from backends.aws_errors import described, environment_died
from backends.aws_lambda_api import PAYLOAD_LIMIT, LambdaApi
from backends.aws_lambda_bill import LambdaBill
from backends.aws_lambda_options import LambdaOptions, lambda_rent
from backends.aws_lambda_streams import LambdaStreams
from backends.aws_provisioned import Provisioned
from backends.aws_report import Report, read_log_result
from backends.aws_signer import secrets_of
from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import Elastic
from backends.envelope import encoded_size, overhead, to_event, unfit_for_raw
from backends.instances import Ticket
from backends.pings import Pinged
from backends.worker_answer import Heard, Parts, hear
from gateway.errors import BackendBroke, BackendError
from gateway.vocab import Call, Headers, Reply

_PROBE_S = 10.0
_JSON: Headers = [(b"content-type", b"application/json")]
_NOT_JSON = b'{"error":"the body has to be a JSON document: it becomes the event of the function"}'


@backends.add("aws_lambda")
class AwsLambda(Elastic):
    """One function."""

    Options: ClassVar[type[BackendOptions]] = LambdaOptions
    options: LambdaOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, LambdaOptions)
        rent = lambda_rent(options.price, options.memory, options.cold_start)
        super().__init__(name, options, kit, rent=rent, secrets=secrets_of(options.credentials))
        self._api = LambdaApi(self, options)
        self._bill = LambdaBill(self, options)
        self._streams = LambdaStreams(self, self._api, self._bill)
        self.provisioned: Provisioned | None = None
        """What stands ready, as of the last probe; None where it is not known or not asked for."""

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
    def usd_per_replica_hour(self) -> float | None:
        """Price of what stands ready, as of the last probe."""
        options, ready = self.options, self.provisioned
        if options.provisioned is None or ready is None or options.memory is None:
            return None
        return 3600 * ready.allocated * options.memory / 2**30 * options.provisioned.usd_per_gb_second

    @property
    def price_known(self) -> bool:
        """True when the file says what an invocation costs."""
        return self.options.price is not None

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for an Invoke, or, with `envelope: raw`, no JSON document in and out."""
        size = call.body.length or 0
        if self.options.envelope == "event":
            size = encoded_size(size) + overhead(call)
        elif (why := unfit_for_raw(call)) is not None:
            return f"{self.name}: {why}"
        if size > PAYLOAD_LIMIT:
            return f"{self.name}: {size} bytes as a Lambda event, {PAYLOAD_LIMIT} are allowed"
        return None

    async def open(self) -> None:
        """Check the secrets and load the signer. Raises ConfigError when there are no credentials."""
        await super().open()
        await self._api.open()

    @property
    def can_open(self) -> bool:
        """Only where the worker kit, or something like it, answers."""
        return super().can_open and self.options.envelope == "event"

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One invocation, billed like any other."""
        payload = msgspec.json.encode(to_event(call, b""))
        if self.options.response == "streamed":
            return await self._streams.ping(payload, ticket)
        answer = await self._api.invoke(payload)
        heard = self._heard(answer)
        report = _report(answer)
        if (fault := heard.fault_of_ping(f"{self.name}: the function")) is not None:
            died = environment_died(answer.body)
            fault.usage = self._bill.judge(report, heard.boot, ticket, died=died)[1]
            raise fault
        return self._bill.pinged(report, heard.boot, ticket)

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One invocation. A buffered answer is complete when it is there: leaving has nothing to release.

        An invocation cannot be cancelled: one that is given up runs, and is billed, to its end.
        """
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        payload = await call.body.read(PAYLOAD_LIMIT)
        if self.options.envelope == "event":
            payload = msgspec.json.encode(to_event(call, payload))
        elif not _is_json(payload):
            yield Reply(400, _JSON, _NOT_JSON)
            return
        with self.attempt(call) as ticket:
            if self.options.response == "streamed":
                async with AsyncExitStack() as held:
                    yield await self._streams.answered(payload, ticket, held)
                return
            answer = await self._bill.outlasting(self._api.invoke(payload), ticket, self._unclaimed)
            reply = self._answer(answer, ticket)
        yield reply

    def _unclaimed(self, answer: Answer, ticket: Ticket) -> None:
        """An invocation whose call had gone is over."""
        try:
            self._bill.charge(None, self._answer(answer, ticket).usage, ticket)
        except BackendError as error:
            self._bill.charge(error, error.usage, ticket)

    def _answer(self, answer: Answer, ticket: Ticket) -> Reply:
        """The client's answer. Raises BackendBroke, with its usage, for a function's error."""
        heard = self._heard(answer)
        died = heard.fault is not None and environment_died(answer.body)
        start, usage = self._bill.judge(_report(answer), heard.boot, ticket, died=died)
        self._bill.end(ticket, usage, heard.boot)
        return heard.reply(start, usage)

    def _heard(self, answer: Answer) -> Heard:
        return hear(lambda: self._output(answer), kit=self.options.envelope == "event")

    def _output(self, answer: Answer) -> Parts:
        if any(name == b"x-amz-function-error" for name, _ in answer.headers):
            said = self.credentials.excerpt(described(answer.body))
            raise BackendBroke(f"{self.name}: the function failed: {said}")
        if self.options.envelope == "raw":
            return 200, _JSON, answer.body
        try:
            result = msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: the function's answer is not JSON") from None
        return self.unpack(result)

    async def probe(self, replica: int) -> bool | None:
        """A DryRun: Lambda checks the signature, the permission and the function, and runs nothing.

        Emulators that do not know it answer 400, which says nothing about the function.
        """
        try:
            async with timeout(_PROBE_S):
                status = await self._api.dry_run()
                if self.options.provisioned is not None:
                    self.provisioned = await self._api.provisioned()
        except (BackendError, TimeoutError):
            return False
        if status in (200, 204):
            return True
        return False if status in (401, 403, 404) else None


def _report(answer: Answer) -> Report | None:
    return read_log_result(dict(answer.headers).get(b"x-amz-log-result", b""))


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
