"""A thousand random tensors through every worker kit that needs no package of others: the warm answers."""

import base64
import http.client
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from wsgiref.util import setup_testing_defaults

import pytest

from backends.emulators.kserve import KServeApp
from backends.workers import (
    azure_function,
    cog_predictor,
    kit,
    kserve_v2,
    lambda_handler,
    lambda_runtime,
    modal_app,
    runpod_handler,
    sagemaker_server,
)
from tests.workers.support import (
    HERE,
    Question,
    RuntimeApi,
    an_event,
    ask,
    content,
    models,
    of_result,
    questions,
    running,
    serving,
)

Ask = Callable[[Question], tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions()


@pytest.fixture(scope="module")
def app() -> KServeApp:
    return KServeApp(models())


@contextmanager
def over_http(app: kit.App) -> Iterator[Ask]:
    with serving(app) as made:
        connection = http.client.HTTPConnection("127.0.0.1", made.port)

        def send(one: Question) -> tuple[int, dict[str, str], bytes]:
            said = ask(connection, "POST", one.target, one.body, one.headers)
            assert said.fields["x-overspill-boot-id"] == made.worker.boot.id
            return said.status, content(said.fields), said.body

        yield send
        connection.close()


@contextmanager
def over_http_from_v2_models(app: KServeApp) -> Iterator[Ask]:
    with over_http(kserve_v2.serve(*app.models.values())) as send:
        yield send


@contextmanager
def through_a_server_in_the_image(app: kit.App) -> Iterator[Ask]:
    with serving(app) as model:
        with over_http(kit.LocalServer(f"http://127.0.0.1:{model.port}")) as send:
            yield send


@contextmanager
def runpod(app: kit.App) -> Iterator[Ask]:
    handler = runpod_handler.make_handler(kit.Worker(app, kit.Boot()))
    yield lambda one: of_result(handler({"id": "1", "input": an_event(one)}))


@contextmanager
def aws_lambda(app: kit.App) -> Iterator[Ask]:
    handler = lambda_handler.make_handler(kit.Worker(app, kit.Boot()))
    yield lambda one: of_result(handler(an_event(one), None))


@contextmanager
def replicate(app: kit.App) -> Iterator[Ask]:
    predictor = cog_predictor.Predictor()
    predictor.worker = kit.Worker(app, kit.Boot())
    yield lambda one: of_result(json.loads(predictor.predict(event=json.dumps(an_event(one)))))


@contextmanager
def sagemaker_events(app: kit.App) -> Iterator[Ask]:
    with running(sagemaker_server.make_server(app, HERE, "")) as made:
        connection = http.client.HTTPConnection("127.0.0.1", made.port)

        def send(one: Question) -> tuple[int, dict[str, str], bytes]:
            said = ask(connection, "POST", "/invocations", json.dumps(an_event(one)).encode())
            assert said.status == 200
            return of_result(json.loads(said.body))

        yield send
        connection.close()


@contextmanager
def wsgi(app: kit.App) -> Iterator[Ask]:
    worker = kit.Worker(app, kit.Boot())

    def send(one: Question) -> tuple[int, dict[str, str], bytes]:
        environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "RAW_URI": one.target}
        setup_testing_defaults(environ)
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(one.body), str(len(one.body))
        for name, value in one.headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        began: list[Any] = []
        body = b"".join(worker.wsgi(environ, lambda *start: began.extend(start)))
        assert int(dict(began[1])["content-length"]) == len(body)
        return int(began[0].partition(" ")[0]), content(began[1]), body

    yield send


class AzureRequest(NamedTuple):
    """What Azure's worker hands over, as its package describes it."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    def get_body(self) -> bytes:
        return self.body


class AzureResponse:
    def __init__(self, body: bytes, *, status_code: int, headers: dict[str, str]) -> None:
        self.told = status_code, content(headers), body


@contextmanager
def azure(app: kit.App) -> Iterator[Ask]:
    function = azure_function.make_function(kit.Worker(app, kit.Boot()), AzureResponse)

    def send(one: Question) -> tuple[int, dict[str, str], bytes]:
        told: tuple[int, dict[str, str], bytes] = function(
            AzureRequest("POST", "https://burst.azurewebsites.net" + one.target, one.headers, one.body)
        ).told
        return told

    yield send


@contextmanager
def a_runtime(app: kit.App, *, streamed: bool) -> Iterator[tuple[RuntimeApi, lambda_runtime.Runtime]]:
    """The connection is closed first: the interface above serves one at a time."""
    with RuntimeApi().serving() as api:
        runtime = lambda_runtime.Runtime(api.address, kit.Worker(app, kit.Boot()), streamed=streamed)
        try:
            yield api, runtime
        finally:
            runtime.close()


@contextmanager
def lambda_streamed(app: kit.App) -> Iterator[Ask]:
    with a_runtime(app, streamed=True) as (api, runtime):

        def send(one: Question) -> tuple[int, dict[str, str], bytes]:
            api.events.put(an_event(one))
            runtime.step()
            assert api.path == "/2018-06-01/runtime/invocation/the-id/response"
            assert api.fields["Content-Type"] == lambda_runtime.HTTP_RESPONSE
            head, _, body = api.body.partition(bytes(8))
            prelude = json.loads(head)
            return prelude["statusCode"], content(prelude["headers"]), body

        yield send


@contextmanager
def lambda_whole(app: kit.App) -> Iterator[Ask]:
    with a_runtime(app, streamed=False) as (api, runtime):

        def send(one: Question) -> tuple[int, dict[str, str], bytes]:
            api.events.put(an_event(one))
            runtime.step()
            return of_result(json.loads(api.body))

        yield send


KITS = [
    over_http, over_http_from_v2_models, through_a_server_in_the_image, runpod, aws_lambda, lambda_streamed,
    lambda_whole, sagemaker_events, replicate, wsgi, azure,
]  # fmt: skip


@pytest.mark.parametrize("worker", KITS, ids=lambda worker: worker.__name__)
def test_the_warm_answers_come_from_every_kit(worker: Any, app: KServeApp, asked: list[Question]) -> None:
    with worker(app) as send:
        for one in asked:
            assert send(one) == one.warm, one.target


async def test_the_warm_answers_come_over_asgi(app: KServeApp, asked: list[Question]) -> None:
    asgi = modal_app.make_asgi(app)
    for one in asked:
        sent: list[kit.Message] = []
        parts: list[kit.Message] = [{"type": "http.request", "body": one.body, "more_body": False}]
        headers = [(name.encode(), value.encode()) for name, value in one.headers.items()]
        path = urlsplit(one.target).path
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "headers": headers,
        }

        async def receive(parts: list[kit.Message] = parts) -> kit.Message:
            return parts.pop()

        async def send(message: kit.Message, sent: list[kit.Message] = sent) -> None:
            sent.append(message)

        await asgi(scope, receive, send)
        fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body = b"".join(message["body"] for message in sent[1:])
        assert (sent[0]["status"], content(fields), body) == one.warm


LENGTH = sagemaker_server.LENGTH


def test_infer_requests_come_to_sagemaker_as_to_tritons_own_mode(
    app: KServeApp, asked: list[Question]
) -> None:
    """Without their path; the length of the JSON part is in the content type, both ways."""
    worker = kit.Worker(app, kit.Boot())
    binary = 0
    for one in asked:
        headers = dict(one.headers)
        if LENGTH in headers:
            kind = f"application/vnd.sagemaker-triton.binary+json;json-header-size={headers.pop(LENGTH)}"
            headers["content-type"] = kind
        respond = sagemaker_server.Invocations(worker, one.target).respond
        status, told, body = respond("POST", "/invocations", "", headers, one.body, age=0.5)
        fields = content(told)
        size = fields["content-type"].partition("json-header-size=")[2]
        if size:
            binary += 1
            fields = {"content-type": "application/octet-stream", LENGTH: size}
        assert (status, fields, body) == one.warm
        boot = f"x-overspill-boot-id={worker.boot.id};x-overspill-boot-age=0.500"
        assert dict(told)[sagemaker_server.ATTRIBUTES] == boot
        assert not any(name.startswith("x-overspill") for name, _ in told)
    assert binary > 50


def test_sagemaker_asks_for_health_and_an_unknown_request_is_told_what_is_missing() -> None:
    with running(sagemaker_server.make_server(lambda *_: (200, {}, b""), HERE, "")) as made:
        connection = http.client.HTTPConnection("127.0.0.1", made.port)
        assert ask(connection, "GET", "/ping").status == 200
        assert ask(connection, "POST", "/elsewhere").status == 404
        said = ask(connection, "POST", "/invocations", b'{"inputs": []}')
        assert (said.status, b"OVERSPILL_PATH" in said.body) == (400, True)
        broken = b'{"requestContext": {}, "rawPath": "/"}'
        said = ask(connection, "POST", "/invocations", broken)
        assert (said.status, b"not an HTTP event" in said.body) == (400, True)
        connection.close()


def test_a_containers_own_attributes_stay() -> None:
    worker = kit.Worker(lambda *_: (200, {sagemaker_server.ATTRIBUTES: "a=b"}, b""), kit.Boot())
    _, told, _ = sagemaker_server.Invocations(worker, "/x").respond(
        "POST", "/invocations", "", {}, b"", age=1
    )
    assert dict(told)[sagemaker_server.ATTRIBUTES].startswith("a=b;x-overspill-boot-id=")


def test_what_fails_in_lambda_is_told_to_lambda() -> None:
    def fails(*_: object) -> kit.Response:
        raise ValueError("boom")

    def fails_later(*_: object) -> kit.Response:
        return 200, {}, pieces()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("later")

    event = an_event(Question("/x", {}, b"", (0, {}, b"")))
    for streamed in (True, False):
        with a_runtime(fails, streamed=streamed) as (api, runtime):
            api.events.put(event)
            runtime.step()
            assert api.path.endswith("/invocation/the-id/error")
            assert json.loads(api.body) == {"errorMessage": "boom", "errorType": "ValueError"}
            assert api.fields["Lambda-Runtime-Function-Error-Type"] == "Runtime.ValueError"
            api.events.put({"not": "an event"})
            runtime.step()
            assert b"not an HTTP event" in api.body
    with a_runtime(fails_later, streamed=True) as (api, runtime):
        api.events.put(event)
        runtime.step()
        assert api.body.endswith(bytes(8) + b"first")
        assert api.trailer["Lambda-Runtime-Function-Error-Type"] == "Runtime.ValueError"
        told = json.loads(base64.b64decode(api.trailer["Lambda-Runtime-Function-Error-Body"]))
        assert told == {"errorMessage": "later", "errorType": "ValueError"}
        runtime.failed_to_start(RuntimeError("no weights"))
        assert api.path == "/2018-06-01/runtime/init/error"
