"""AWS Lambda: one synchronous invocation per call, signed, with the log tail for what it cost.

Knows Lambda's errors, and which of them mean that nothing ran. It never invokes twice, except after
a refused signature: Lambda has no idempotency key for synchronous invocations.

Wire facts: the service's API reference ("Invoke") and botocore's model of it:
- a function that fails is HTTP 200 with `X-Amz-Function-Error`;
- `X-Amz-Log-Type: Tail` returns the last 4 KiB of the log, whose REPORT line has the billed duration,
  and `Init Duration` only after a cold start;
- `x-amzn-RequestId` is Lambda's own: a request that carries another id under that name is a 400.
"""

import asyncio
import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from backends.aws_errors import ERRORS, EXPIRED, described, error_type, reason
from backends.aws_lambda_options import LambdaOptions, invocation_usd, lambda_rent
from backends.aws_lambda_stream import Invocation
from backends.aws_provisioned import Provisioned, read_provisioned
from backends.aws_report import Report, read_log_result
from backends.aws_signer import Signer, secrets_of
from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, Exchange
from backends.elastic import (
    Elastic,
    retry_after,
    start_by_boot,
)
from backends.envelope import encoded_size, overhead, to_event
from backends.instances import Boot, Ticket, take_boot
from backends.outlasting import outlasting
from backends.pings import Pinged
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Call, Charge, Headers, Reply, Start, Usage, Work

PAYLOAD_LIMIT = 6 * 2**20
"""Bytes of a synchronous invocation's request, and of its response."""

T = TypeVar("T")

_PROBE_S = 10.0
_LONGEST_S = 900.0  # the longest time limit that a function can have
_ANSWER_LIMIT = 64 * 2**20
_BYTES = (b"content-type", b"application/octet-stream")  # what Lambda says of an answer without a head
_NOT_JSON = b'{"error":"the body has to be a JSON document: it becomes the event of the function"}'


@backends.add("aws_lambda")
class AwsLambda(Elastic):
    """One function."""

    Options: ClassVar[type[BackendOptions]] = LambdaOptions
    options: LambdaOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, LambdaOptions)
        keys = options.credentials
        secrets = secrets_of(keys)
        rent = lambda_rent(options.price, options.memory, options.cold_start)
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._signer = Signer(
            name,
            service="lambda",
            region=options.region,
            credentials=self.credentials if keys else None,
            session_token="session_token" in secrets,
        )
        base = options.endpoint_url or f"https://lambda.{options.region}.amazonaws.com"
        function = f"functions/{quote(options.function, safe='')}"
        query = f"?Qualifier={quote(options.qualifier, safe='')}" if options.qualifier is not None else ""
        self._url = f"{base.rstrip('/')}/2015-03-31/{function}/invocations{query}"
        self._provisioned_url = f"{base.rstrip('/')}/2019-09-30/{function}/provisioned-concurrency{query}"
        self.provisioned: Provisioned | None = None
        """What stands ready, as of the last probe; None where it is not known or not asked for."""
        self._stream_url = f"{base.rstrip('/')}/2021-11-15/{function}/response-streaming-invocations{query}"

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

    def price(self, billed_s: float) -> float | None:
        """US dollars of an invocation that was measured here, where Lambda's own word did not arrive."""
        usd = self._rent.usd_per_second
        return None if usd is None else billed_s * usd + self._rent.usd_per_call

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
        payload = msgspec.json.encode(to_event(call, b""))
        if self.options.response == "streamed":
            return await self._streamed_ping(payload, ticket)
        answer = await self._invoke(payload)
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

    async def _streamed_ping(self, payload: bytes, ticket: Ticket) -> Pinged:
        """A function that streams would answer a plain invocation with bytes that are not JSON."""
        async with contextlib.AsyncExitStack() as held:
            opened = await self._opened(payload)
            held.push_async_callback(opened.leave)
            invocation = Invocation(self.name, opened.it, self.credentials)
            held.push_async_callback(invocation.close)
            boot: Boot | None = None
            try:
                head = await invocation.head()
                async for _ in invocation.body():
                    pass
                if head.prelude is not None:
                    status, headers, _ = self.unpack(head.prelude)
                    boot = take_boot(headers)[1]
                    if status >= 500:
                        raise BackendBroke(f"{self.name}: the function answered a ping with {status}")
            except BackendError as error:
                if invocation.report is not None:
                    error.usage = self._judge(invocation.report, boot, ticket)[1]
                raise
        start, usage = self._judge(invocation.report, boot, ticket)
        return Pinged(usage.instance, start, usage.boot_s, boot.age if boot else None, usage=usage)

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
            yield Reply(400, [(b"content-type", b"application/json")], _NOT_JSON)
            return
        if self.options.response == "streamed":
            with self.attempt(call) as ticket:
                async with contextlib.AsyncExitStack() as held:
                    exchange = await self._outlasting(self._opened(payload), ticket, self._drained)
                    held.push_async_callback(exchange.leave)
                    yield await self._streamed(exchange.it, ticket, held)
            return
        with self.attempt(call) as ticket:
            answer = await self._outlasting(self._invoke(payload), ticket, self._unclaimed)
            if answer.status != 200:
                raise self._refusal(answer)
            reply = self._answer(answer, ticket)
        yield reply

    async def _outlasting(
        self, work: Coroutine[Any, Any, T], ticket: Ticket, unclaimed: Callable[[T, Ticket], None]
    ) -> T:
        """`work`; if the call goes away meanwhile, it is waited for all the same, because it is billed."""

        def afterwards(ended: T | BackendError) -> None:
            if isinstance(ended, BackendError):
                self._charge(ended, ended.usage, ticket)
            else:
                unclaimed(ended, ticket)

        try:
            return await outlasting(
                work, spawn=self.kit.spawn, name=f"{self.name}: invocation", limit_s=_LONGEST_S,
                afterwards=afterwards,
            )  # fmt: skip
        except asyncio.CancelledError:
            ticket.adopted = True
            raise

    def _unclaimed(self, answer: Answer, ticket: Ticket) -> None:
        """An invocation whose call had gone is over."""
        try:
            if answer.status != 200:
                raise self._refusal(answer)
            self._charge(None, self._answer(answer, ticket).usage, ticket)
        except BackendError as error:
            self._charge(error, error.usage, ticket)

    def _drained(self, opened: "_Opened", ticket: Ticket) -> None:
        self.kit.spawn(self._drain(opened, ticket), name=f"{self.name}: invocation")

    async def _drain(self, opened: "_Opened", ticket: Ticket) -> None:
        """A streamed invocation whose call had gone before it began to answer: its end says what it used."""
        invocation = Invocation(self.name, opened.it, self.credentials)
        boot: Boot | None = None
        try:
            async with timeout(_LONGEST_S):
                head = await invocation.head()
                if head.prelude is not None:
                    boot = take_boot(self.unpack(head.prelude)[1])[1]
                if not head.whole:
                    self._met(boot, self._judge(None, boot, ticket)[0], ticket)
                async for _ in invocation.body():
                    pass
        except (BackendError, TimeoutError):
            pass  # an error has an end, too
        finally:
            await invocation.close()
            await opened.leave()
            report = invocation.report
            self._charge(None, None if report is None else self._judge(report, boot, ticket)[1], ticket)

    def _charge(self, error: BackendError | None, usage: Usage | None, ticket: Ticket) -> None:
        if error is not None and error.work is Work.NOT_STARTED:
            self.table.undo(ticket)
        elif usage is None:
            self.lost(ticket)
        else:
            if not ticket.closed:
                self._end(ticket, usage)
            self.table.owe(Charge(ticket.route, ticket.kind, usage.usd or 0.0))

    async def _invoke(self, payload: bytes) -> Answer:
        """The signed exchange; once more, with fresh credentials, if AWS says that these have expired."""
        answer = await self._signed(payload, "RequestResponse")
        if answer.status in (400, 403) and error_type(answer) in EXPIRED:
            self._signer.forget()
            answer = await self._signed(payload, "RequestResponse")
        return answer

    async def _signed(self, payload: bytes, invocation: str) -> Answer:
        headers = await self._fields(self._url, payload, invocation)
        async with self.client.open("POST", self._url, headers=headers, body=payload) as exchange:
            try:
                body = await exchange.read(_ANSWER_LIMIT)
            except BackendBroke as error:
                # What it used stands in the head, which is here.
                report = read_log_result(dict(exchange.headers).get(b"x-amz-log-result", b""))
                error.usage = None if report is None else self._reported(report, "")
                raise
            return Answer(exchange.status, exchange.headers, body)

    async def _opened(self, payload: bytes) -> "_Opened":
        """A streamed invocation that Lambda has taken. Retried as `_invoke` does."""
        url = self._stream_url
        held = contextlib.AsyncExitStack()
        for again in (True, False):
            headers = await self._fields(url, payload, "RequestResponse")
            opening = self.client.open("POST", url, headers=headers, body=payload)
            exchange = await held.enter_async_context(opening)
            if exchange.status == 200:
                return _Opened(exchange, held.aclose)
            refused = Answer(exchange.status, exchange.headers, await exchange.read(PAYLOAD_LIMIT))
            await held.aclose()
            if not (again and refused.status in (400, 403) and error_type(refused) in EXPIRED):
                break
            self._signer.forget()
        raise self._refusal(refused)

    async def _fields(self, url: str, payload: bytes, invocation: str) -> Headers:
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"x-amz-invocation-type", invocation.encode()),
            (b"x-amz-log-type", b"Tail" if invocation == "RequestResponse" else b"None"),
        ]
        headers = self.added.onto(headers, self.credentials)
        return await self._signer.sign("POST", url, headers, payload)

    def _refusal(self, answer: Answer) -> BackendError:
        """What a status other than 200 means, by the error's type."""
        kind = error_type(answer)
        named = self.credentials.excerpt(f"{kind} {reason(answer)}")
        said = f"{self.name}: Lambda answered {answer.status} {named}".rstrip()
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
        self._end(ticket, usage)
        if parsed is None:
            assert fault is not None
            fault.usage = usage
            raise fault
        return Reply(*parsed, start=start, usage=usage)

    async def _streamed(self, exchange: Exchange, ticket: Ticket, held: contextlib.AsyncExitStack) -> Reply:
        """The head of a streamed answer. Raises BackendBroke, with its usage, for a function's error."""
        invocation = Invocation(self.name, exchange, self.credentials)
        held.push_async_callback(invocation.close)
        try:
            head = await invocation.head()
            if head.prelude is None:
                return self._flowing(Reply(200, [_BYTES]), head.rest, invocation, None, ticket)
            status, headers, body = self.unpack(head.prelude)
        except BackendBroke as error:
            if invocation.report is not None:
                error.usage = self._judge(invocation.report, None, ticket)[1]
                self._end(ticket, error.usage)
            raise
        headers, boot = take_boot(headers)
        if head.whole:
            start, usage = self._judge(invocation.report, boot, ticket)
            self._end(ticket, usage)
            return Reply(status, headers, body, start=start, usage=usage)
        return self._flowing(Reply(status, headers), head.rest, invocation, boot, ticket)

    def _flowing(
        self, reply: Reply, rest: bytes, invocation: Invocation, boot: Boot | None, ticket: Ticket
    ) -> Reply:
        """`reply` with its body on the way; what it used follows with the end."""
        start, usage = self._judge(None, boot, ticket)
        reply.start = start
        self._met(boot, start, ticket)

        async def relayed() -> AsyncIterator[bytes]:
            try:
                async with contextlib.aclosing(invocation.body(rest)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except AnswerTruncated as error:
                if invocation.report is not None:
                    error.usage = self._judge(invocation.report, boot, ticket)[1]
                    self._end(ticket, error.usage)
                raise
            reply.start, reply.usage = start, usage
            if invocation.report is not None:
                reply.start, reply.usage = self._judge(invocation.report, boot, ticket)
            self._end(ticket, reply.usage)

        reply.stream = relayed()
        return reply

    def _end(self, ticket: Ticket, usage: Usage) -> None:
        now = self.kit.clock.now()
        # The REPORT line of an environment's first invocation is what tells of its start.
        told = not usage.reported or bool(usage.boot_s)
        self.table.end(ticket, now, instance_id=usage.instance, boot_s=usage.boot_s, counted=told)

    def _met(self, boot: Boot | None, start: Start, ticket: Ticket) -> None:
        """The head has said who answers, though the rest, and the REPORT line with it, may not arrive.

        One that says that it was up before is no start of this invocation's.
        """
        if boot is not None:
            cold = start is Start.COLD
            self.table.meet(ticket, self.kit.clock.now(), boot.id, cold=cold, counted=cold)

    def _output(self, answer: Answer, function_error: bytes | None) -> tuple[int, Headers, bytes]:
        if function_error is not None:
            said = self.credentials.excerpt(described(answer.body))
            raise BackendBroke(f"{self.name}: the function failed: {said}")
        if self.options.envelope == "raw":
            return 200, [(b"content-type", b"application/json")], answer.body
        try:
            result = msgspec.json.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
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
        if report is None:
            return start, Usage(None, boot_s, None, instance)
        return start, self._reported(report, instance)

    def _reported(self, report: Report, instance: str) -> Usage:
        usd = invocation_usd(report, self.options.price, self.options.memory)
        told, boot_s = report.billed_s is not None, report.boot_s or 0.0
        return Usage(report.billed_s, boot_s, usd, instance, told, memory_gb=report.memory_gb)

    async def probe(self, replica: int) -> bool | None:
        """A DryRun: Lambda checks the signature, the permission and the function, and runs nothing.

        Emulators that do not know it answer 400, which says nothing about the function.
        """
        try:
            async with timeout(_PROBE_S):
                answer = await self._signed(b"{}", "DryRun")
                if self.options.provisioned is not None:
                    headers = await self._signer.sign("GET", self._provisioned_url, [], b"")
                    said = await self.client.exchange("GET", self._provisioned_url, headers=headers)
                    self.provisioned = read_provisioned(said)
        except (BackendError, TimeoutError):
            return False
        if answer.status in (200, 204):
            return True
        return False if answer.status in (401, 403, 404) else None


class _Opened(NamedTuple):
    """A streamed invocation, and how to be rid of it."""

    it: Exchange
    leave: Callable[[], Awaitable[None]]


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
