"""SageMaker container: /ping and /invocations on port 8080, calls told from their bodies.

    COPY kit.py server.py sagemaker_server.py mymodel.py /app/
    ENV OVERSPILL_APP=mymodel:predict OVERSPILL_PATH=/v2/models/mine/infer
    ENTRYPOINT ["python", "-u", "/app/sagemaker_server.py"]

SageMaker runs the image with the argument `serve`. What it hands over is a POST to /invocations without the
call's own path and fields, so the gateway says how they come, by `envelope` in the backend's section:

    event    the body is an API Gateway event with the whole request; the answer is its result. Any path
    triton   an infer request for OVERSPILL_PATH; the length of its JSON part is in the content type, as for
             Triton's own SageMaker mode, and so it is in the answer
    raw      any other body, for OVERSPILL_PATH

All of them are understood at once. The boot's two fields are within an event's result; else they are told
as custom attributes: `x-overspill-boot-id=…;x-overspill-boot-age=…`. The rest of the environment is that of
kit.py and server.py; SAGEMAKER_BIND_TO_PORT goes before PORT.

Wire facts: SageMaker developer guide, "Custom Inference Code with Hosting Services"; the content type is that
of Triton's sagemaker_server.cc.
"""

import json
import logging
import os
import re
from collections.abc import Mapping

try:
    from backends.workers import kit, server
except ImportError:  # in an image they lie beside this file
    import kit  # type: ignore[import-not-found, no-redef]
    import server  # type: ignore[import-not-found, no-redef]

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
LENGTH = "inference-header-content-length"
_BOOT = "x-overspill-boot-"
_BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="
_BINARY_TYPE = re.compile(r"application/vnd\.sagemaker-triton\.binary\+json;\s*json-header-size=(\d{1,12})")


class Invocations:
    """What stands between SageMaker and the worker. `path`: where calls go that do not say it themselves."""

    def __init__(self, worker: kit.Worker, path: str) -> None:
        self._worker = worker
        self._path = path

    def respond(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, *, age: float
    ) -> kit.Answer:
        """The answer as SageMaker takes it."""
        if (method, path) != ("POST", "/invocations"):
            return _json(404, {"error": "SageMaker asks GET /ping and POST /invocations"})
        event = _event(body)
        if event is not None:
            try:
                return _json(200, self._worker.handle(event))
            except ValueError as error:
                return _json(400, {"error": str(error)})
        if not self._path:
            return _json(400, {"error": "no event, and OVERSPILL_PATH does not say which path it is for"})
        fields = _own(headers)
        status, told, answer = self._worker.answer("POST", self._path, query, fields, body, age=age)
        return status, _shown(told), answer


def _event(body: bytes) -> Mapping[str, object] | None:
    """The event that the body is; None if it is anything else."""
    if body.lstrip()[:1] != b"{" or b'"requestContext"' not in body:
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    is_event = isinstance(document, dict) and {"requestContext", "rawPath"} <= document.keys()
    return document if is_event else None


def _own(headers: dict[str, str]) -> dict[str, str]:
    """Fields as a KServe server reads them."""
    match = _BINARY_TYPE.fullmatch(headers.get("content-type", "").strip())
    if match is None:
        return headers
    return {**headers, "content-type": "application/octet-stream", LENGTH: match[1]}


def _shown(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fields as SageMaker passes them on: the content type and the custom attributes."""
    own = dict(fields)
    attributes = [f"{name}={value}" for name, value in fields if name.startswith(_BOOT)]
    if ATTRIBUTES in own:
        attributes.insert(0, own[ATTRIBUTES])
    kept = [f for f in fields if f[0] not in (LENGTH, ATTRIBUTES) and not f[0].startswith(_BOOT)]
    if LENGTH in own:
        kept = [(k, _BINARY + own[LENGTH] if k == "content-type" else v) for k, v in kept]
    return [*kept, (ATTRIBUTES, ";".join(attributes))]


def _json(status: int, document: object) -> kit.Answer:
    return status, [("content-type", "application/json")], json.dumps(document).encode()


def make_server(app: kit.App, settings: server.Settings, path: str) -> server.Server:
    """A server for this app, with SageMaker's health path."""
    worker = kit.Worker(app, kit.Boot())
    respond = Invocations(worker, path).respond
    return server.Server(worker, settings._replace(health_path="/ping"), respond)


def main() -> None:
    """Serve until SageMaker stops the container."""
    logging.basicConfig()
    port = os.environ.get("SAGEMAKER_BIND_TO_PORT")
    settings = server.Settings.of({**os.environ, **({"PORT": port} if port else {})})
    server.serve(make_server(kit.from_environment(), settings, os.environ.get("OVERSPILL_PATH", "")))


if __name__ == "__main__":
    main()
