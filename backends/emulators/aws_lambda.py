"""AWS Lambda's Invoke API on a local port.

Must never know a gateway or its client of this API: it is written from the service model in botocore and
AWS's documentation so that the two check each other. A handler that returns an iterator of bytes streams:
what it yields is what such a function writes, its HTTP head included. Left out: tenants, durable functions,
JSON logs. Function URLs are in aws_lambda_url.py.
"""

import base64
import inspect
import json
import math
import re
import traceback
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from backends.emulators import event_stream
from backends.emulators.aws_refusals import Refusal, refused, throttled
from backends.emulators.fleet import Slot
from backends.emulators.instance import BootFailed, FleetFull, FleetOptions, Handler, InstanceDied, RanOut
from backends.emulators.running import Running, Sink, written
from backends.emulators.server import IN_BODY, IN_HEAD, EmulatorServer
from backends.emulators.sigv4 import BadSignature, Keys, SignedRequest, verify
from backends.emulators.tariff import PerInvocation

PRELUDE_END = bytes(8)
"""Between the JSON object that a function which answers HTTP writes first, and the body."""
_LOG_TAIL = 4096
TIMER_S = 0.005
"""Timers may ring a little early: a run that was cut off may have lasted so much less than its limit."""
SYNC_LIMIT = 6 * 1024 * 1024
"""Bytes of a request, and of an answer that is not streamed."""
_EVENT_LIMIT = 1024 * 1024
_ARN = re.compile(r"(?:arn:aws:lambda:[a-z0-9-]+:)?(?:\d{12}:)?(?:function:)?([A-Za-z0-9_-]+)(?::([^:]+))?")


class LambdaOptions(NamedTuple):
    """The function; prices are those of x86 in us-east-1.

    versions:   qualifiers that exist beside $LATEST (versions and aliases)
    provisioned: provisioned concurrency of each of them, as it is reported; it is not billed here
    snapstart:  start-ups are restores from a snapshot, and are reported as such
    timeout_s:  after which an invocation is cut off and its environment is gone
    """

    function: str = "emulated"
    region: str = "us-east-1"
    account: str = "123456789012"
    versions: tuple[str, ...] = ()
    memory_mb: int = 1024
    timeout_s: float = 30.0
    keys: Keys = Keys("AKIAEMULATED", "emulated-secret")
    usd_per_gb_second: float = 0.0000166667
    usd_per_request: float = 0.0000002
    provisioned: int = 0
    snapstart: bool = False


class Context:
    """What a handler gets as its second argument."""

    def __init__(self, options: LambdaOptions, request_id: str, version: str) -> None:
        self.function_name = options.function
        self.function_version = version
        self.memory_limit_in_mb = str(options.memory_mb)
        self.aws_request_id = request_id
        self.invoked_function_arn = _arn(options)


class Asked(NamedTuple):
    """What an environment is given; a function that streams writes to the sink."""

    event: Any
    context: Context
    sink: Sink | None


class Result(NamedTuple):
    """How one invocation ended."""

    payload: bytes
    error: str | None
    log: str
    version: str
    instance: str = ""
    cold: bool = False
    """Whether the environment was started for it: its log says so then, and only then."""

    @property
    def tail(self) -> str:
        """The last 4 KiB of the log, as base64."""
        return base64.b64encode(self.log.encode()[-_LOG_TAIL:]).decode()


class LambdaEmulator(EmulatorServer):
    """One function. `make_handler` returns what Lambda calls: a function of event and context."""

    PROVIDER_CUES = ("rate",)
    """rate: throttled for the caller's rate, not for concurrency"""

    def __init__(
        self,
        make_handler: Callable[[str], Callable[[Any, Any], Any]],
        *,
        options: FleetOptions,
        function: LambdaOptions | None = None,
        **server: Any,
    ) -> None:
        self.function = function or LambdaOptions()
        tariff = PerInvocation(
            memory_mb=self.function.memory_mb,
            usd_per_gb_second=self.function.usd_per_gb_second,
            usd_per_request=self.function.usd_per_request,
        )
        super().__init__(lambda name: _of_one_argument(make_handler(name)), tariff, options=options, **server)

    def routes(self) -> Iterable[web.RouteDef]:
        """Invoke, InvokeWithResponseStream, GetProvisionedConcurrencyConfig."""
        base = "/functions/{name:[^/]+}"
        return [
            web.post(f"/2015-03-31{base}/invocations", self._invoke),
            web.post(f"/2021-11-15{base}/response-streaming-invocations", self._invoke_streaming),
            web.get(f"/2019-09-30{base}/provisioned-concurrency", self._provisioned),
        ]

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        request_id = self.new_uuid()
        if (failure := self.front_failure(request)) is not None:
            return failure
        try:
            response = await self._checked(request, request_id)
        except Refusal as refusal:
            response = refused(refusal)
        response.headers["x-amzn-RequestId"] = request_id
        return response

    async def _invoke_streaming(self, request: web.Request) -> web.StreamResponse:
        request_id = self.new_uuid()
        if (failure := self.front_failure(request)) is not None:
            return failure
        try:
            checked = await self._event(request, request_id)
            if isinstance(checked, web.Response):
                return checked
            running = Running(lambda sink: self._run(*checked, sink), self.spawn)
            await running.begun()
        except Refusal as refusal:
            response = refused(refusal)
            response.headers["x-amzn-RequestId"] = request_id
            return response
        stream = web.StreamResponse(
            headers={"Content-Type": "application/vnd.amazon.eventstream", "x-amzn-RequestId": request_id}
        )
        stream.enable_chunked_encoding()
        if not self._gone(request):
            await stream.prepare(request)
        broken = self.cues.take("cut") is not None
        heard, stays = b"", None
        async for piece in running.pieces():
            if await self._sends(request, stream, event_stream.payload_chunk(piece)):
                heard += b"" if PRELUDE_END in heard else piece
            if PRELUDE_END in heard and stays is None:
                stays = self.stays(request)
            headed = PRELUDE_END in heard or not heard.startswith(b"{")
            if broken and headed:
                self.hang_up(request)
        result = await running.task
        if stays is not None or (stream.prepared and result.cold and not broken):
            self.tell(result.instance, stays or self.stays(request))
        if broken or self._gone(request):
            return stream
        complete: dict[str, str] = {}
        if result.error is not None:
            complete = {"ErrorCode": result.error, "ErrorDetails": result.payload.decode()}
        elif not running.streamed:
            await stream.write(event_stream.payload_chunk(result.payload))
        if request.headers.get("x-amz-log-type") == "Tail":
            complete["LogResult"] = result.tail
        await stream.write(event_stream.invoke_complete(_json(complete)))
        await stream.write_eof()
        return stream

    async def _provisioned(self, request: web.Request) -> web.StreamResponse:
        try:
            self._authenticate(request, await request.read())
            if self._find(request) == "$LATEST":
                raise Refusal("InvalidParameterValueException", "Provisioned concurrency needs a version")
            if not self.function.provisioned:
                text = "No Provisioned Concurrency Config found for this function"
                raise Refusal("ProvisionedConcurrencyConfigNotFoundException", text)
        except Refusal as refusal:
            return refused(refusal)
        names = ("Requested", "Available", "Allocated")
        counts = {f"{name}ProvisionedConcurrentExecutions": self.function.provisioned for name in names}
        return web.Response(body=_json({**counts, "Status": "READY"}), content_type="application/json")

    async def _checked(self, request: web.Request, request_id: str) -> web.Response:
        checked = await self._event(request, request_id)
        if isinstance(checked, web.Response):
            return checked
        if request.headers.get("x-amz-invocation-type") == "Event":
            self.spawn(self._in_background(*checked))
            return web.Response(status=202)
        return self._answer(request, await self._run(*checked))

    async def _event(self, request: web.Request, request_id: str) -> tuple[Any, Context] | web.Response:
        """What the function is to be given; the answer, where it is not to run. Raises Refusal."""
        body = await request.read()
        self._authenticate(request, body)
        version = self._find(request)
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if kind not in ("RequestResponse", "Event", "DryRun"):
            raise Refusal("InvalidParameterValueException", f"unknown invocation type {kind}")
        limit = _EVENT_LIMIT if kind == "Event" else SYNC_LIMIT
        if len(body) > limit:
            text = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            raise Refusal("RequestTooLargeException", text)
        try:
            event = json.loads(body) if body else {}
        except ValueError as error:
            text = f"Could not parse request body into json: {error}"
            raise Refusal("InvalidRequestContentException", text) from None
        if kind == "DryRun":
            return web.Response(status=204)
        self._throttle_on_cue()
        return event, Context(self.function, request_id, version)

    def _authenticate(self, request: web.Request, body: bytes) -> None:
        client_id = request.headers.get("x-amzn-requestid")
        if client_id is not None and not _is_uuid(client_id):
            raise Refusal("InvalidParameterValueException", "x-amzn-RequestId must be a UUID")
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = SignedRequest(request.method, path, query, headers, body)
        options = self.function
        try:
            verify(signed, options.keys, region=options.region, service="lambda", wall=self.clock.wall())
        except BadSignature as error:
            raise Refusal(error.kind, str(error)) from None

    def _find(self, request: web.Request) -> str:
        """The version that is meant."""
        name = unquote(request.match_info["name"])
        match = _ARN.fullmatch(name)
        qualifier = request.query.get("Qualifier") or (match[2] if match else None) or "$LATEST"
        known = match is not None and match[1] == self.function.function
        if not known or qualifier not in ("$LATEST", *self.function.versions):
            arn = _arn(self.function, name=match[1] if match else name)
            suffix = "" if qualifier == "$LATEST" else f":{qualifier}"
            raise Refusal("ResourceNotFoundException", f"Function not found: {arn}{suffix}")
        return qualifier

    def _throttle_on_cue(self) -> None:
        if self.cues.take("throttle"):
            raise throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
        if self.cues.take("rate"):
            raise throttled("CallerRateLimitExceeded")

    async def _run(self, event: Any, context: Context, sink: Sink | None = None) -> Result:
        try:
            async with self.fleet.slot(wait=False) as slot:
                payload, error = await self._in_slot(slot, Asked(event, context, sink))
                log, version = self._log(slot, context, error), context.function_version
                return Result(payload, error, log, version, slot.instance.id, slot.cold)
        except FleetFull:
            raise throttled("ReservedFunctionConcurrentInvocationLimitExceeded") from None
        except BootFailed as failed:
            self.fleet.charge(failed.boot_s, 0.0)
            text = f"RequestId: {context.aws_request_id} Error: Runtime exited with error: exit status 1"
            payload = _json({"errorType": "Runtime.ExitError", "errorMessage": text})
            log = f"INIT_REPORT Init Duration: {failed.boot_s * 1000:.2f} ms\tPhase: init\tStatus: error\n"
            return Result(payload, "Unhandled", log, "$LATEST", failed.instance, cold=True)

    async def _in_slot(self, slot: Slot, asked: "Asked") -> tuple[bytes, str | None]:
        """Payload and the kind of function error. A function's failure is an answer like any other."""
        context = asked.context
        named = f"RequestId: {context.aws_request_id} Error:"
        try:
            output = await slot.run(asked, timeout_s=self.function.timeout_s)
        except RanOut:
            text = f"{named} Task timed out after {self.function.timeout_s:.2f} seconds"
            return _json({"errorType": "Sandbox.Timedout", "errorMessage": text}), "Unhandled"
        except InstanceDied:
            text = f"{named} Runtime exited with error: signal: killed"
            return _json({"errorType": "Runtime.ExitError", "errorMessage": text}), "Unhandled"
        except Exception as error:
            return _function_error(error, context), "Unhandled"
        try:
            payload = output if isinstance(output, bytes) else _json(output)
        except (TypeError, ValueError) as error:
            text = f"Unable to marshal response: {error}"
            document = {"errorMessage": text, "errorType": "Runtime.MarshalError"}
            return _json(document | {"requestId": context.aws_request_id, "stackTrace": []}), "Unhandled"
        if len(payload) > SYNC_LIMIT:
            text = f"Response payload size exceeded maximum allowed payload size ({SYNC_LIMIT} bytes)."
            document = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": text}
            return _json(document), "Unhandled"
        return payload, None

    async def _in_background(self, event: Any, context: Context) -> None:
        try:
            await self._run(event, context)
        except Refusal:
            # AWS would try again for hours; an emulated fleet that is full drops the event.
            return

    def _log(self, slot: Slot, context: Context, error: str | None) -> str:
        """The lines that Lambda itself writes; REPORT is the one that matters."""
        request_id = context.aws_request_id
        run_ms = slot.run_s * 1000
        lines = [
            f"START RequestId: {request_id} Version: {context.function_version}",
            f"END RequestId: {request_id}",
            f"REPORT RequestId: {request_id}\tDuration: {run_ms:.2f} ms\t"
            f"Billed Duration: {math.floor(slot.billed_s * 1000 + 0.5)} ms\t"
            f"Memory Size: {self.function.memory_mb} MB\t"
            f"Max Memory Used: {min(90, self.function.memory_mb)} MB\t",
        ]
        if slot.cold:
            what = "RESTORE" if self.function.snapstart else "INIT"
            lines.insert(0, f"{what}_START Runtime Version: python:3.11.v100\tRuntime Version ARN: emulated")
            boot_ms = f"{slot.init_s * 1000:.2f} ms\t"
            if self.function.snapstart:
                lines[-1] += f"Restore Duration: {boot_ms}Billed Restore Duration: {boot_ms}"
            else:
                lines[-1] += f"Init Duration: {boot_ms}"
        if error is not None and slot.run_s >= self.function.timeout_s - TIMER_S:
            lines[-1] += "Status: timeout\t"
        return "\n".join(lines) + "\n"

    def _answer(self, request: web.Request, result: Result) -> web.Response:
        headers = {"X-Amz-Executed-Version": result.version, "Content-Type": "application/json"}
        if result.error is not None:
            headers["X-Amz-Function-Error"] = result.error
        if request.headers.get("x-amz-log-type") == "Tail":
            headers["X-Amz-Log-Result"] = result.tail
        response = web.Response(status=200, headers=headers, body=result.payload)
        if result.cold or result.error is None:
            # A log tail tells of a start; else only the function can have said who it is.
            response[IN_HEAD if result.cold else IN_BODY] = result.instance
        return response


def _of_one_argument(handler: Callable[[Any, Any], Any]) -> Handler:
    if inspect.iscoroutinefunction(handler):

        async def waiting(asked: Asked) -> Any:
            return await handler(asked.event, asked.context)

        return waiting
    return lambda asked: written(handler(asked.event, asked.context), asked.sink)


def _function_error(error: Exception, context: Context) -> bytes:
    return _json(
        {
            "errorMessage": str(error),
            "errorType": type(error).__name__,
            "requestId": context.aws_request_id,
            "stackTrace": traceback.format_tb(error.__traceback__),
        }
    )


def _arn(options: LambdaOptions, *, name: str | None = None) -> str:
    return f"arn:aws:lambda:{options.region}:{options.account}:function:{name or options.function}"


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
