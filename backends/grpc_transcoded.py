"""A gRPC call on a backend that speaks HTTP only: one attempt, put into KServe's REST words on the way.

Puts `grpc_codec` (pure) around an attempt of any backend. Knows no slots and no retries: a failure of the
inner attempt passes through, its answer in the words of gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from backends.grpc_codec import JSON_SIZE, HttpInfer, error_message, from_http, to_http
from gateway.errors import BackendBroke, BackendError, BadCall, NotOffered
from gateway.vocab import Body, Call, Headers, Reply, Start, WholeBody

Inner = Callable[[Call], AbstractAsyncContextManager[Reply]]
T = TypeVar("T")

MOST_IN_PLACE = 16 * 1024
"""Bytes of a message that are transcoded on the event loop. Typed contents, and tensors as JSON text, take up
to a microsecond for each; a larger message is given to a thread, so that other calls go on meanwhile."""

MOST_ANSWER = 64 * 2**20
"""Bytes of an answer: it has to be whole before it can be put into another form."""

_NOT_FOR_HTTP = frozenset((b"content-type", b"te", b"user-agent"))
_INVALID_ARGUMENT = (b"grpc-status", b"3")
_UNIMPLEMENTED = (b"grpc-status", b"12")


class _Sized:
    """The body of a call that is only asked about: how long it is, and nothing in it."""

    __slots__ = ("length",)
    repeatable = True

    def __init__(self, length: int | None) -> None:
        self.length = length

    def whole(self) -> bytes | None:
        return None

    async def prefix(self, size: int) -> bytes:
        return b""

    async def settle(self) -> None: ...

    async def read(self, limit: int) -> bytes:
        return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""


def unfit(call: Call, cannot_carry: Callable[[Call], str | None], *, name: str, owned: bool) -> str | None:
    """Why a gRPC call could not run on a backend that speaks HTTP only, or None.

    Asked at every decision, so nothing is transcoded for it: the tensors, which are nearly all of a large
    call, take as many bytes in both forms. An owned backend is let say itself what it lacks: clients then
    learn that they ask for something that is not served, and not that there is no room.
    """
    if call.operation != "infer":
        return None if owned else f"{name}: {call.operation} goes to backends that speak gRPC only"
    asked = HttpInfer(b"/v2/models/%b/infer" % call.model.encode(), [(JSON_SIZE, b"0")], b"")
    return cannot_carry(_as_http(call, asked, _Sized(call.body.length)))


def _as_http(call: Call, asked: HttpInfer, body: Body) -> Call:
    headers: Headers = [
        field
        for field in call.headers
        if field[0] not in _NOT_FOR_HTTP
        and not field[0].endswith(b"-bin")
        and not field[0].startswith(b"grpc-")
    ]
    other = Call(
        protocol="kserve",
        operation="infer",
        method=b"POST",
        target=asked.target,
        headers=[*headers, *asked.headers],
        body=body,
        model=call.model,
        version=call.version,
        arrived=call.arrived,
        request_id=call.request_id,
        traceparent=call.traceparent,
    )
    other.route = call.route
    other.deadline = call.deadline
    other.deadline_is_clients = call.deadline_is_clients
    other.idempotent = call.idempotent
    other.priority = call.priority
    other.size = call.size
    return other


class TranscodedAttempt:
    """One gRPC call as one HTTP call. `send` makes the inner attempt."""

    def __init__(self, call: Call, send: Inner) -> None:
        self._call = call
        self._send = send
        self._inner: AbstractAsyncContextManager[Reply] | None = None
        self._http: Call | None = None
        self._inner_reply: Reply | None = None
        self._reply: Reply | None = None

    async def __aenter__(self) -> Reply:
        if self._call.operation != "infer":
            why = f"{self._call.operation} needs a backend with gRPC addresses, and this one has none"
            return Reply(501, [], why.encode(), start=Start.WARM)
        message = self._call.body.whole()
        assert message is not None, "a unary request is one message"
        try:
            asked = await _apart(len(message), lambda: to_http(message))
        except NotOffered as error:
            return Reply(501, [_UNIMPLEMENTED], str(error).encode())
        except BadCall as error:
            return Reply(400, [_INVALID_ARGUMENT], str(error).encode())
        self._http = _as_http(self._call, asked, WholeBody(asked.body))
        inner = self._send(self._http)
        try:
            reply = self._inner_reply = await inner.__aenter__()
        except BackendError as error:
            raise _in_grpc(error) from None
        try:
            self._reply = await _transcode(reply)
        except BaseException as error:
            await inner.__aexit__(type(error), error, error.__traceback__)
            raise
        self._inner = inner
        return self._reply

    async def __aexit__(self, *raised: object) -> None:
        inner, reply = self._inner, self._inner_reply
        if inner is None:
            return
        if self._call.lost is not None and self._http is not None:
            self._http.lost = self._call.lost
        await inner.__aexit__(*raised)  # type: ignore[arg-type]
        assert self._reply is not None
        assert reply is not None
        self._reply.usage, self._reply.start = reply.usage, reply.start


async def _apart(size: int, work: Callable[[], T]) -> T:
    """What `work`, on `size` bytes, returns or raises: from a thread where they are many."""
    return work() if size <= MOST_IN_PLACE else await asyncio.to_thread(work)


async def _transcode(reply: Reply) -> Reply:
    body = reply.body
    if body is None:
        assert reply.stream is not None
        parts, size = [], 0
        async for part in reply.stream:
            parts.append(part)
            size += len(part)
            if size > MOST_ANSWER:
                raise BackendBroke(
                    f"the answer is over {MOST_ANSWER} bytes, the most that becomes one message"
                )
        body = b"".join(parts)
    if reply.status == 200:
        whole, headers = body, reply.headers
        message = await _apart(len(whole), lambda: from_http(headers, whole))
        return Reply(200, [], message, start=reply.start, usage=reply.usage)
    text = error_message(body).encode()
    return Reply(reply.status, _retry_after(reply), text, start=reply.start, usage=reply.usage)


def _in_grpc(error: BackendError) -> BackendError:
    """The same error; what the backend said with it becomes the text of a status."""
    answer = error.answer
    if answer is not None:
        text = error_message(answer.body or b"").encode()
        error.answer = Reply(
            answer.status, _retry_after(answer), text, start=answer.start, usage=answer.usage
        )
    return error


def _retry_after(reply: Reply) -> Headers:
    return [field for field in reply.headers if field[0] == b"retry-after"]
