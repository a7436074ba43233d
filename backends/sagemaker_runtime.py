"""Amazon SageMaker's runtime API: one signed InvokeEndpoint per call, or its streaming form.

What every kind of SageMaker endpoint shares; what they cost and how they scale is told by `sagemaker.py`.
It never invokes twice, except after a refused signature: there is no idempotency key, and
`X-Amzn-SageMaker-Inference-Id` is only a label.

Wire facts (the service's API reference, "InvokeEndpoint" and "InvokeEndpointWithResponseStream", and
botocore's model of both):
- a container sees POST /invocations with the body, `content-type`, `accept` and the custom attributes:
  neither the call's path nor any other field of its reaches it;
- whatever else than 200 a container answers comes as 424 ModelError with `OriginalStatusCode`; 0 where it
  gave no answer within SageMaker's 60 s;
- nothing says whether an instance had to boot: the worker kit's two fields do, from within its result
  (`envelope: event`) or as `x-overspill-boot-id=…;x-overspill-boot-age=…` in the custom attributes that a
  container answers with. Without them it is unknown.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Literal, NamedTuple, Self
from urllib.parse import quote

import msgspec
from pydantic import Field, model_validator

from backends.aws_errors import EXPIRED, error_type
from backends.aws_event_stream import BadEventStream, Event, EventReader
from backends.aws_signer import AwsKeys, Signer, secrets_of
from backends.base import Kit
from backends.client import Answer, Exchange
from backends.elastic import Elastic, ElasticOptions, HttpUrl, check_envelope, retry_after, start_by_boot
from backends.envelope import encoded_size, overhead, to_event
from backends.instances import Boot, Span, Ticket, take_boot
from backends.pings import Pinged
from backends.sagemaker_errors import kind_of, model_fault
from backends.triton_binary import LENGTH, from_platform, to_platform
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Call, Headers, Rent, Reply, Start, Usage

BODY_LIMIT = 6 * 2**20
"""Bytes of an invocation's body (botocore's model of InvokeEndpoint)."""
_ANSWER_LIMIT = 64 * 2**20
_ERROR_LIMIT = 2**20

_AMZN = b"x-amzn-sagemaker-"
_ATTRIBUTES = _AMZN + b"custom-attributes"
_CLIENTS = frozenset(
    _AMZN + name for name in (b"custom-attributes", b"enable-explanations", b"prefix-aware-id", b"session-id")
)
"""Fields of the API that a client may set. Which model answers is for the file to say, not for a client."""
_TOLD = frozenset((b"content-type", _ATTRIBUTES, _AMZN + b"new-session-id", _AMZN + b"closed-session-id"))
_BOOT = re.compile(rb"x-overspill-boot-(id|age)=([^;,\s]+)[;,\s]*")
_LABEL_LIMIT = 64

Target = Field(default=None, pattern=r"^[\x21-\x7e]{1,1024}$")


class SageMakerOptions(ElasticOptions):
    """What the section of every SageMaker endpoint may say."""

    endpoint: str = Field(pattern=r"^[A-Za-z0-9](-*[A-Za-z0-9]){0,62}$")
    """Name of the endpoint."""
    region: str = Field(pattern=r"^[a-z0-9-]+$")
    """Region of the endpoint."""
    endpoint_url: HttpUrl | None = None
    """Address of the runtime API, for emulators and private endpoints."""
    credentials: AwsKeys | None = None
    """Keys to sign with."""
    envelope: Literal["event", "raw", "triton"] = "raw"
    """`event` sends the whole request as an API Gateway event, for a container with the worker kit; `raw`
    sends the body alone to whatever listens on /invocations; `triton` is `raw` for Triton's SageMaker mode,
    which takes infer requests only, binary tensors included."""
    target_model: str | None = Target
    """Model of a multi-model endpoint, as X-Amzn-SageMaker-Target-Model names it."""
    target_variant: str | None = Target
    """Production variant that has to answer."""
    target_container: str | None = Target
    """Host name of the container of a multi-container endpoint."""
    inference_component: str | None = Target
    """Inference component that has to answer."""

    @model_validator(mode="after")
    def _kit_answers_pings(self) -> Self:
        check_envelope(self, "event" if self.envelope == "event" else "raw")
        return self


class Told(NamedTuple):
    """What an answer said of the instance."""

    start: Start = Start.UNKNOWN
    boot_s: float | None = None
    instance: str = ""
    age: float | None = None


class SageMaker(Elastic):
    """One endpoint. `body_limit`: most bytes that an invocation may carry, each way."""

    body_limit = BODY_LIMIT
    options: SageMakerOptions

    def __init__(self, name: str, options: SageMakerOptions, kit: Kit, *, rent: Rent) -> None:
        keys = options.credentials
        super().__init__(name, options, kit, rent=rent, secrets=secrets_of(keys))
        self._signer = Signer(name, keys, self.credentials, service="sagemaker", region=options.region)
        domain = "amazonaws.com.cn" if options.region.startswith("cn-") else "amazonaws.com"
        base = options.endpoint_url or f"https://runtime.sagemaker.{options.region}.{domain}"
        self._url = f"{base.rstrip('/')}/endpoints/{quote(options.endpoint, safe='')}/invocations"
        targets = {
            "target-model": options.target_model,
            "target-variant": options.target_variant,
            "target-container-hostname": options.target_container,
            "inference-component": options.inference_component,
        }
        self._targets: Headers = [(_AMZN + k.encode(), v.encode()) for k, v in targets.items() if v]

    async def open(self) -> None:
        """Check the secrets and load the signer. Raises ConfigError when there are no credentials."""
        await super().open()
        await self._signer.open()

    @property
    def can_open(self) -> bool:
        """Only where the worker kit answers: to anything else a ping would be a wrong request."""
        return super().can_open and self.options.envelope == "event"

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for an invocation, or nothing that a container can tell from its body alone."""
        size = call.body.length or 0
        envelope = self.options.envelope
        if envelope == "event":
            size = encoded_size(size) + overhead(call)
        elif call.method != b"POST" or not call.inference:
            return f"{self.name}: `envelope: {envelope}` carries the body of POST requests only"
        elif envelope == "triton" and (call.protocol, call.operation) != ("kserve", "infer"):
            return f"{self.name}: `envelope: triton` carries KServe infer requests only"
        elif envelope == "raw" and any(name == LENGTH for name, _ in call.headers):
            return f"{self.name}: binary tensors need `envelope: triton` or `event`"
        if size > self.body_limit:
            return f"{self.name}: {size} bytes for SageMaker, {self.body_limit} are allowed"
        return None

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One invocation. It cannot be cancelled: one that is given up runs to its end."""
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        payload = await call.body.read(self.body_limit)
        streaming = call.stream and self.options.envelope != "event"
        with self.attempt(call) as ticket:
            async with AsyncExitStack() as held:
                exchange = await self._invoke(call, payload, held, streaming=streaming)
                if exchange.status != 200:
                    yield await self._refused(exchange, ticket, len(payload))
                elif streaming:
                    yield await self._streamed(exchange, ticket, len(payload))
                else:
                    body = await exchange.read(_ANSWER_LIMIT)
                    answer = Answer(exchange.status, exchange.headers, body)
                    yield self._answer(answer, ticket, len(payload) + len(body))

    # -- the request

    async def _invoke(self, call: Call, payload: bytes, held: AsyncExitStack, *, streaming: bool) -> Exchange:
        """One invocation. Raises BackendError."""
        if self.options.envelope == "event":
            payload = msgspec.json.encode(to_event(call, payload))
        url = f"{self._url}-response-stream" if streaming else self._url
        return await self._signed(url, self._fields(call, streaming=streaming), payload, held)

    async def _signed(self, url: str, fields: Headers, payload: bytes, held: AsyncExitStack) -> Exchange:
        """The signed exchange; once more, with fresh credentials, if AWS says that these have expired."""
        fields = self.added.onto(fields, self.credentials)
        for last in (False, True):
            signed = await self._signer.sign("POST", url, fields, payload)
            exchange = await held.enter_async_context(
                self.client.open("POST", url, headers=signed, body=payload, first=True)
            )
            if last or exchange.status not in (400, 403):
                break
            answer = Answer(exchange.status, exchange.headers, await exchange.read(_ERROR_LIMIT))
            if error_type(answer) not in EXPIRED:
                raise self._error(answer)
            self._signer.forget()
            await held.aclose()
        return exchange

    def _fields(self, call: Call, *, streaming: bool) -> Headers:
        label = call.request_id.encode()
        ours = [*self._targets]
        if 0 < len(label) <= _LABEL_LIMIT:
            ours.append((_AMZN + b"inference-id", label))
        if self.options.envelope == "event":
            return [(b"content-type", b"application/json"), *ours]
        headers = [
            f for f in call.headers if f[0] in _CLIENTS or f[0] in (b"content-type", b"accept", LENGTH)
        ]
        if self.options.envelope == "triton":
            headers = to_platform(headers, "sagemaker-triton")
        if streaming:
            headers = [(_AMZN + b"accept" if name == b"accept" else name, v) for name, v in headers]
        return headers + ours

    # -- the answer

    def _answer(self, answer: Answer, ticket: Ticket, moved: int) -> Reply:
        """The client's answer from a 200. `moved`: bytes both ways."""
        status, body = 200, answer.body
        headers, boot = _own_fields(answer.headers)
        if self.options.envelope == "event":
            status, headers, body = self._unpacked(body)
            headers, boot = take_boot(headers)
        else:
            headers = from_platform(headers)
        told = self._told(boot, ticket)
        return Reply(status, headers, body, start=told.start, usage=self._account(told, ticket, moved))

    def _unpacked(self, body: bytes) -> tuple[int, Headers, bytes]:
        try:
            result = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: the container's answer is not JSON") from None
        return self.unpack(result)

    async def _streamed(self, exchange: Exchange, ticket: Ticket, moved: int) -> Reply:
        """The head with the first event: what fails before it is an error, not half an answer."""
        headers, boot = _own_fields(exchange.headers)
        told = self._told(boot, ticket)
        parts = self._parts(exchange)
        try:
            first = await anext(parts, b"")
        except AnswerTruncated as error:
            raise BackendBroke(str(error)) from None
        reply = Reply(200, headers, start=told.start)
        reply.stream = self._relayed(first, parts, reply, told, ticket, moved=moved)
        return reply

    async def _relayed(
        self,
        first: bytes,
        parts: AsyncGenerator[bytes, None],
        reply: Reply,
        told: Told,
        ticket: Ticket,
        *,
        moved: int,
    ) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(parts):
            moved += len(first)
            if first:
                yield first
            async for part in parts:
                moved += len(part)
                yield part
        reply.usage = self._account(told, ticket, moved)

    async def _parts(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """The payloads of a stream. Raises AnswerTruncated for whatever ends it but its end."""
        reader = EventReader()
        async with contextlib.aclosing(exchange.chunks()) as chunks:
            async for chunk in chunks:
                try:
                    events = reader.feed(chunk)
                except BadEventStream as error:
                    raise AnswerTruncated(f"{self.name}: {error}") from None
                for event in events:
                    if part := self._part(event):
                        yield part
        if reader.partial:
            raise AnswerTruncated(f"{self.name}: the event stream broke off")

    def _part(self, event: Event) -> bytes:
        kind = event.headers.get(":message-type", "event")
        if kind == "event":
            return event.payload if event.headers.get(":event-type") == "PayloadPart" else b""
        name = event.headers.get(":exception-type") or event.headers.get(":error-code") or kind
        said = self.credentials.excerpt(event.payload)
        raise AnswerTruncated(f"{self.name}: the stream ended with {self.credentials.excerpt(name)}: {said}")

    async def _refused(self, exchange: Exchange, ticket: Ticket, moved: int) -> Reply:
        """The container's own refusal of the request, as it answered it. Anything else is raised."""
        body = await exchange.read(_ERROR_LIMIT)
        answer = Answer(exchange.status, exchange.headers, body)
        fault = model_fault(answer)
        if fault is None:
            raise self._error(answer)
        said = f"{self.name}: the container answered {fault.status or 'nothing in time'}"
        message = fault.message.encode()
        reply = Reply(fault.status, [(b"content-type", _type_of(message))], message)
        if fault.status in (429, 503):
            raise BackendFull(said, answer=reply)
        if 400 <= fault.status < 500 and self.options.envelope != "event":
            told = self._told(_own_fields(exchange.headers)[1], ticket)
            reply.start, reply.usage = told.start, self._account(told, ticket, moved)
            return reply
        raise BackendBroke(f"{said}: {self.credentials.excerpt(fault.message)}")

    def _error(self, answer: Answer) -> BackendError:
        kind = kind_of(answer)
        named = self.credentials.excerpt(error_type(answer))
        said = f"{self.name}: SageMaker answered {answer.status} {named}".rstrip()
        said = f"{said}: {self.credentials.excerpt(answer.body)}"
        if kind is BackendDenied and answer.status in (401, 403):
            self._signer.forget()
        return kind(said, retry_after=retry_after(answer.headers, self.kit.clock.wall()))

    # -- what it used

    def _told(self, boot: Boot | None, ticket: Ticket) -> Told:
        if boot is None:
            return Told()
        now = self.kit.clock.now()
        start = start_by_boot(boot, now - ticket.began, seen=self.table.knows(boot.id, now))
        return Told(start, {Start.WARM: 0.0, Start.COLD: boot.age}.get(start), boot.id, boot.age)

    def _account(self, told: Told, ticket: Ticket, moved: int) -> Usage:
        span = self.table.end(ticket, self.kit.clock.now(), instance_id=told.instance, boot_s=told.boot_s)
        return self.used(span, told, moved)

    def used(self, span: Span, told: Told, moved: int) -> Usage:
        """What an invocation that moved so many bytes used."""
        return self.usage(span, told.boot_s, told.instance, reported=False)

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One invocation, billed like any other."""
        async with AsyncExitStack() as held:
            exchange = await self._invoke(call, b"", held, streaming=False)
            if exchange.status != 200:
                await self._refused(exchange, ticket, 0)
            status, headers, _ = self._unpacked(await exchange.read(_ANSWER_LIMIT))
        if status >= 500:
            raise BackendBroke(f"{self.name}: the container answered a ping with {status}")
        told = self._told(take_boot(headers)[1], ticket)
        if told.start is Start.UNKNOWN:
            return Pinged()
        return Pinged(told.instance, told.start, told.boot_s or 0.0, told.age)


def _own_fields(headers: Headers) -> tuple[Headers, Boot | None]:
    """What of SageMaker's answer is for the client, and what the custom attributes told of the boot."""
    kept: Headers = []
    boot: Headers = []
    for name, value in headers:
        if name == _ATTRIBUTES:
            boot = [(b"x-overspill-boot-" + key, said) for key, said in _BOOT.findall(value)]
            rest = _BOOT.sub(b"", value).strip(b";, ")
            if rest:
                kept.append((name, rest))
        elif name == _AMZN + b"content-type":
            kept.append((b"content-type", value))
        elif name in _TOLD and not (name == b"content-type" and b"eventstream" in value):
            kept.append((name, value))
    return kept, take_boot(boot)[1]


def _type_of(body: bytes) -> bytes:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b"text/plain; charset=utf-8"
    return b"application/json"
