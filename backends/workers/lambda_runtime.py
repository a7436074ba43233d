"""AWS Lambda as a container image without AWS's runtime: takes invocations itself, and streams answers.

    COPY kit.py lambda_runtime.py mymodel.py /app/
    ENV OVERSPILL_APP=mymodel:predict
    ENTRYPOINT ["python", "-u", "/app/lambda_runtime.py"]

Python's managed runtime returns an answer whole (`lambda_handler.py` is for that). This loop speaks Lambda's
runtime interface, by which an answer may be written as it comes: for functions with a URL whose InvokeMode
is RESPONSE_STREAM, and for a backend of the gateway with `response: streamed`. OVERSPILL_RESPONSE=buffered
has it return whole results instead, for everything else. Any base image with a Python will do.

Wire facts (AWS documentation, "Lambda runtime API" and "Building a custom runtime", response streaming):
- an invocation is asked for with GET …/invocation/next, and answered with POST …/invocation/ID/response;
- a streamed answer has `Lambda-Runtime-Function-Response-Mode: streaming` and comes in chunks; one that fails
  on the way says so in the trailer fields;
- one for a caller of HTTP has the content type below: a JSON object with status and fields, eight zero bytes,
  the body.
"""

import base64
import http.client
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

HTTP_RESPONSE = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = bytes(8)
_VERSION = "/2018-06-01/runtime"
_ERROR = "Lambda-Runtime-Function-Error-"


class Runtime:
    """The loop of one environment. `api`: host and port, as AWS_LAMBDA_RUNTIME_API has them."""

    def __init__(self, api: str, worker: kit.Worker, *, streamed: bool) -> None:
        self._connection = http.client.HTTPConnection(api)
        self._worker = worker
        self._streamed = streamed

    def close(self) -> None:
        """Take no more invocations."""
        self._connection.close()

    def run(self) -> None:
        """Answer invocations until Lambda ends the process."""
        while True:
            self.step()

    def step(self) -> None:
        """One invocation: wait for it, and answer it."""
        self._connection.request("GET", f"{_VERSION}/invocation/next")
        response = self._connection.getresponse()
        document = response.read()
        call = f"{_VERSION}/invocation/{response.headers['Lambda-Runtime-Aws-Request-Id']}"
        try:
            event = json.loads(document)
            if self._streamed:
                answer = self._worker.answer(*kit.read_event(event), age=self._worker.boot.age())
            else:
                whole = json.dumps(self._worker.handle(event)).encode()
        except Exception as error:
            self._post(f"{call}/error", json.dumps(_told(error)).encode(), type(error).__name__)
            return
        if self._streamed:
            self._stream(f"{call}/response", answer)
        else:
            self._post(f"{call}/response", whole)

    def failed_to_start(self, error: Exception) -> None:
        """Tell Lambda why this environment is of no use."""
        self._post(f"{_VERSION}/init/error", json.dumps(_told(error)).encode(), type(error).__name__)

    def _post(self, path: str, body: bytes, failed: str = "") -> None:
        headers = {"Content-Type": "application/json"}
        if failed:
            headers[_ERROR + "Type"] = f"Runtime.{failed}"
        self._connection.request("POST", path, body, headers)
        self._connection.getresponse().read()

    def _stream(self, path: str, answer: kit.Answer) -> None:
        status, fields, body = answer
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", HTTP_RESPONSE)
        self._connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
        self._connection.putheader("Trailer", f"{_ERROR}Type, {_ERROR}Body")
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()
        self._chunk(json.dumps(_prelude(status, fields)).encode() + PRELUDE_END)
        trailer = b""
        try:
            for piece in _pieces(body):
                self._chunk(piece)
        except Exception as error:
            told = base64.b64encode(json.dumps(_told(error)).encode()).decode()
            name = type(error).__name__
            trailer = f"{_ERROR}Type: Runtime.{name}\r\n{_ERROR}Body: {told}\r\n".encode()
        self._connection.send(b"0\r\n" + trailer + b"\r\n")
        self._connection.getresponse().read()

    def _chunk(self, data: bytes) -> None:
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))


def _pieces(body: bytes | Iterable[bytes]) -> Iterable[bytes]:
    return (piece for piece in ((body,) if isinstance(body, bytes) else body) if piece)


def _prelude(status: int, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """A result without its body."""
    result = kit.write_result(status, fields, b"")
    return {name: value for name, value in result.items() if name not in ("body", "isBase64Encoded")}


def _told(error: Exception) -> Mapping[str, Any]:
    return {"errorMessage": str(error), "errorType": type(error).__name__}


def main() -> None:
    """Run in Lambda, which says in the environment where its interface is."""
    api = os.environ["AWS_LAMBDA_RUNTIME_API"]
    streamed = os.environ.get("OVERSPILL_RESPONSE", "streamed") != "buffered"
    boot = kit.Boot()
    try:
        worker = kit.Worker(kit.from_environment(), boot)
    except Exception as error:
        Runtime(api, kit.Worker(_no_app, boot), streamed=streamed).failed_to_start(error)
        raise
    Runtime(api, worker, streamed=streamed).run()


def _no_app(*_: object) -> kit.Response:
    raise RuntimeError("there is no app")


if __name__ == "__main__":
    main()
