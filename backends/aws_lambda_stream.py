"""A streamed invocation of Lambda: the function's bytes as they arrive, and how it ended.

Knows the two layers of a streamed answer, and nothing of prices, keys or calls.

Wire facts (AWS documentation, "InvokeWithResponseStream" and "Response streaming"; botocore's model):
- the answer is an event stream: `PayloadChunk` events, whose payload is the function's bytes, then one
  `InvokeComplete`, JSON with `ErrorCode` and `ErrorDetails` of a function that failed, and `LogResult`;
  an exception in place of an event, or an end without `InvokeComplete`, means that it broke off;
- a function that answers HTTP writes a JSON object with statusCode, headers and cookies first, then eight
  zero bytes, then the body. One that does not stream gives its whole result in the same frames.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import msgspec

from backends.aws_errors import described, environment_died
from backends.aws_event_stream import BadEventStream, Event, EventReader
from backends.aws_report import Report, read_log_result
from backends.client import Exchange
from backends.credentials import Credentials
from gateway.errors import AnswerTruncated, BackendBroke

PRELUDE_END = bytes(8)
"""What separates the prelude from the body."""
_LONGEST_HEAD = 7 * 2**20  # of a prelude, or of a whole result: 6 MB are allowed for one


class Head(NamedTuple):
    """What came before the body.

    prelude:  the JSON object of a function that answers HTTP; None if its bytes are the answer themselves
    rest:     bytes of the body that came with it
    whole:    the function has ended, so `prelude` is its whole result, body included
    """

    prelude: object
    rest: bytes = b""
    whole: bool = False


class _Complete(msgspec.Struct):
    error_code: str | None = msgspec.field(default=None, name="ErrorCode")
    error_details: str | None = msgspec.field(default=None, name="ErrorDetails")
    log_result: str | None = msgspec.field(default=None, name="LogResult")


class Invocation:
    """One streamed invocation. Ask for the `head` first, then read the `body`."""

    def __init__(self, name: str, exchange: Exchange, credentials: Credentials) -> None:
        self._name = name
        self._exchange = exchange
        self._credentials = credentials
        self._payload = self._chunks()
        self._ended = False
        self.report: Report | None = None
        """What Lambda's log says of it, once it has ended."""
        self.died = False
        """Whether its environment is gone, by its error."""

    async def head(self) -> Head:
        """Raises BackendBroke if the function failed, or if its answer broke off, before its first byte."""
        held = b""
        try:
            async for chunk in self._payload:
                held += chunk
                if not held.startswith(b"{"):
                    return Head(None, held)
                end = held.find(PRELUDE_END, max(0, len(held) - len(chunk) - len(PRELUDE_END)))
                if end >= 0:
                    prelude = self._decoded(held[:end])
                    if isinstance(prelude, dict):
                        prelude.setdefault("statusCode", 200)
                    return Head(prelude, held[end + len(PRELUDE_END) :])
                if len(held) > _LONGEST_HEAD:
                    raise BackendBroke(f"{self._name}: the function's answer has no end to its head")
        except AnswerTruncated as error:
            raise BackendBroke(str(error)) from error
        return Head(self._decoded(held), whole=True)

    async def body(self, first: bytes = b"") -> AsyncGenerator[bytes, None]:
        """`first`, and the rest. Raises AnswerTruncated if the function failed on the way."""
        if first:
            yield first
        async with contextlib.aclosing(self._payload) as payload:
            async for chunk in payload:
                yield chunk

    async def close(self) -> None:
        """Nothing more will be read."""
        await self._payload.aclose()

    def _decoded(self, document: bytes) -> Any:
        try:
            return msgspec.json.decode(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self._name}: the function's answer is not JSON") from None

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """The function's bytes."""
        async with contextlib.aclosing(self._events()) as events:
            async for event in events:
                if chunk := self._heard(event):
                    yield chunk
        if not self._ended:
            raise AnswerTruncated(f"{self._name}: the answer ended before the invocation")

    def _heard(self, event: Event) -> bytes:
        """The function's bytes in an event."""
        if event.headers.get(":message-type", "event") != "event":
            kind = event.headers.get(":exception-type") or event.headers.get(":error-code") or "an error"
            said = self._credentials.excerpt(f"{kind} {described(event.payload)}")
            raise AnswerTruncated(f"{self._name}: Lambda broke off the answer: {said}")
        if event.headers.get(":event-type") == "InvokeComplete":
            self._complete(event.payload)
        return event.payload if event.headers.get(":event-type") == "PayloadChunk" else b""

    async def _events(self) -> AsyncGenerator[Event, None]:
        reader = EventReader()
        async with contextlib.aclosing(self._exchange.chunks()) as chunks:
            async for data in chunks:
                try:
                    events = reader.feed(data)
                except BadEventStream as error:
                    raise AnswerTruncated(f"{self._name}: {error}") from None
                for event in events:
                    yield event

    def _complete(self, payload: bytes) -> None:
        """The invocation's end. Raises AnswerTruncated for a function's error."""
        self._ended = True
        try:
            complete = msgspec.json.decode(payload or b"{}", type=_Complete)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise AnswerTruncated(f"{self._name}: the end of the invocation cannot be read") from None
        self.report = read_log_result((complete.log_result or "").encode("ascii", "replace"))
        if complete.error_code:
            document = (complete.error_details or "").encode()
            self.died = environment_died(document)
            details = described(document)
            said = details if details != "no details" else complete.error_details or ""
            said = self._credentials.excerpt(f"{complete.error_code} {said}")
            raise AnswerTruncated(f"{self._name}: the function failed: {said}")
