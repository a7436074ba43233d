"""A function URL of AWS Lambda on a local port.

Must never know a gateway or its client: it is written from AWS's documentation. The request becomes an
event of format 2.0, the function's result the answer; with RESPONSE_STREAM what it writes is passed on as
it comes. There is no log tail here. Unverified and chosen here: the bodies of 403 and 502.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from aiohttp import web

from backends.emulators.aws_lambda import (
    PRELUDE_END,
    SYNC_LIMIT,
    Context,
    LambdaEmulator,
    Result,
)
from backends.emulators.aws_refusals import Refusal, refused
from backends.emulators.running import Running
from backends.emulators.server import IN_HEAD
from backends.emulators.sigv4 import BadSignature, SignedRequest, verify

_PIECE = 64 * 1024
_TEXT = ("text/", "application/json", "application/javascript", "application/xml")
_NOT_RELAYED = frozenset({"connection", "content-length", "transfer-encoding", "date", "server"})


class LambdaUrlEmulator(LambdaEmulator):
    """One function at `{url}`.

    auth:  AWS_IAM checks signatures; NONE lets everybody in
    mode:  BUFFERED, or RESPONSE_STREAM
    """

    def __init__(
        self,
        make_handler: Callable[[str], Callable[[Any, Any], Any]],
        *,
        auth: Literal["AWS_IAM", "NONE"] = "AWS_IAM",
        mode: Literal["BUFFERED", "RESPONSE_STREAM"] = "BUFFERED",
        **server: Any,
    ) -> None:
        super().__init__(make_handler, **server)
        self.auth, self.mode = auth, mode

    def routes(self) -> Iterable[web.RouteDef]:
        """Any method on any path."""
        return [web.route("*", "/{path:.*}", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        request_id = self.new_uuid()
        if (failure := self.front_failure(request)) is not None:
            return failure
        try:
            body = await request.read()
            self._let_in(request, body)
            if len(body) > SYNC_LIMIT:
                raise Refusal("RequestTooLargeException", f"Request must be smaller than {SYNC_LIMIT} bytes")
            self._throttle_on_cue()
            event, context = _event(request, body, request_id), Context(self.function, request_id, "$LATEST")
            running = Running(lambda sink: self._run(event, context, sink), self.spawn)
            await running.begun()
            if not running.streamed:
                response = _answer(result := await running.task)
            elif self.mode == "BUFFERED":
                response = _whole([piece async for piece in running.pieces()])
                result = await running.task
            else:
                return await self._relay(request, running)
            if result.error is None:
                response[IN_HEAD] = result.instance
            return response
        except Refusal as refusal:
            response = refused(refusal)
            response.headers["x-amzn-RequestId"] = request_id
            return response

    def _let_in(self, request: web.Request, body: bytes) -> None:
        if self.auth == "NONE":
            return
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = SignedRequest(request.method, path, query, headers, body)
        options = self.function
        try:
            verify(signed, options.keys, region=options.region, service="lambda", wall=self.clock.wall())
        except BadSignature as error:
            kind = "AccessDeniedException" if error.kind.startswith("MissingAuth") else error.kind
            raise Refusal(kind, "Forbidden") from None

    async def _relay(self, request: web.Request, running: Running[Result]) -> web.StreamResponse:
        """The head as soon as it is whole, then whatever comes; cut off where the function failed."""
        held = b""
        response: web.StreamResponse | None = None
        stays: asyncio.Task[bool] | None = None
        broken = False
        async for piece in running.pieces():
            held += piece
            if response is None and PRELUDE_END in held:
                head, _, held = held.partition(PRELUDE_END)
                document = json.loads(head)
                status, fields = int(document.get("statusCode", 200)), _fields(document)
                response = web.StreamResponse(status=status, headers=fields)
                response.enable_chunked_encoding()
                if self._gone(request):
                    break
                await response.prepare(request)
                stays = self.stays(request)
                broken = self.cues.take("cut") is not None
            if response is not None and held:
                await self._sends(request, response, held)
                held = b""
            if broken:
                self.hang_up(request)
        result = await running.task
        if response is None:
            return web.Response(status=502, text="Internal Server Error")
        if stays is not None:
            self.tell(result.instance, stays)
        if broken or result.error is not None:
            self.hang_up(request)
        if not self._gone(request):
            await response.write_eof()
        return response


def streamed(handler: Callable[[Any, Any], Mapping[str, Any]]) -> Callable[[Any, Any], Iterator[bytes]]:
    """A handler that streams what `handler` returns, as the web adapters for Lambda do."""

    def write(event: Any, context: Any) -> Iterator[bytes]:
        result = dict(handler(event, context))
        text = result.pop("body", "")
        body = base64.b64decode(text) if result.pop("isBase64Encoded", False) else text.encode()
        yield json.dumps(result).encode()
        yield PRELUDE_END
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]

    return write


def _event(request: web.Request, body: bytes, request_id: str) -> dict[str, Any]:
    path, _, query = request.raw_path.partition("?")
    kind = request.headers.get("content-type", "")
    text = kind.startswith(_TEXT)
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        low = name.lower()
        headers[low] = f"{headers[low]},{value}" if low in headers else value
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "stage": "$default",
            "requestId": request_id,
            "http": {"method": request.method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
        },
        "body": body.decode() if text else base64.b64encode(body).decode(),
        "isBase64Encoded": not text,
    }


def _answer(result: Result) -> web.Response:
    """What the URL makes of a function's result. A function's failure is a 502 without details."""
    if result.error is not None:
        return web.Response(status=502, text="Internal Server Error")
    document = json.loads(result.payload)
    if not isinstance(document, dict) or "statusCode" not in document:
        return web.Response(body=result.payload, content_type="application/json")
    text = document.get("body") or ""
    body = base64.b64decode(text) if document.get("isBase64Encoded") else text.encode()
    return web.Response(status=int(document["statusCode"]), headers=_fields(document), body=body)


def _whole(pieces: list[bytes]) -> web.Response:
    head, _, body = b"".join(pieces).partition(PRELUDE_END)
    document = json.loads(head)
    return web.Response(status=int(document.get("statusCode", 200)), headers=_fields(document), body=body)


def _fields(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    fields = [(name, str(value)) for name, value in (document.get("headers") or {}).items()]
    fields = [(name, value) for name, value in fields if name.lower() not in _NOT_RELAYED]
    return fields + [("set-cookie", cookie) for cookie in document.get("cookies") or []]
