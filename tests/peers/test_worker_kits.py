"""The worker kits inside their platforms' own servers: a thousand random tensors, the warm answers. Opt-in.

The packages are looked for in this interpreter, or in the one that OVERSPILL_PEERS_PYTHON names:
`runpod`, `functions-framework`, `cog`, `bentoml`, `azure-functions`, `uvicorn`, `modal`. What
each serves is put together by `python -m backends.workers`, with models of `kserve_v2.py`. Each is asked as
its platform would ask it, and by the backend that is made for it.
"""

import base64
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.aws_lambda import AwsLambda
from backends.bentoml import BentoMl
from backends.cloud_run import CloudRun
from backends.modal import Modal
from backends.replicate import Replicate
from backends.runpod import RunPod
from backends.workers.__main__ import Platform, put
from tests.peers.recipes import home_of
from tests.peers.servers import needs as needs_peer
from tests.peers.servers import peer
from tests.peers.test_runpod import PYTHON, free_port, needs, process, without_prefix
from tests.peers.test_scale_to_zero import replicates_api
from tests.support.endpoints import answer
from tests.support.provider import a_call, built
from tests.workers.support import (
    Question,
    an_event,
    ask,
    content,
    every_batch,
    of_result,
    questions,
)

pytestmark = pytest.mark.peers

MODEL = """
import json
from kserve_v2 import Model, TensorSpec, serve

class Identity(Model):
    def __init__(self, name, specs):
        self.name = name
        self.inputs = self.outputs = [TensorSpec(name, kind, tuple(shape)) for name, kind, shape in specs]

    def infer(self, inputs):
        return inputs

batches = json.load(open("batches.json"))
app = serve(*(Identity(f"batch-{place}", specs) for place, specs in enumerate(batches)))
"""
APP = {"OVERSPILL_APP": "mymodel:app"}


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions()


@pytest.fixture
def worker(tmp_path: Path) -> Callable[[Platform], Path]:
    """A folder with the kit for a platform, and the models."""

    def make(platform: Platform) -> Path:
        put(platform, tmp_path, kserve=True)
        specs = [[tensor[:3] for tensor in batch] for batch in every_batch()]
        (tmp_path / "batches.json").write_text(json.dumps(specs))
        (tmp_path / "mymodel.py").write_text(MODEL)
        return tmp_path

    return make


Worker = Callable[[Platform], Path]


def check_http(port: int, asked: list[Question]) -> None:
    """Every question over HTTP as it is, and the boot's fields with each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    ids = set()
    for one in asked:
        said = ask(connection, "POST", one.target, one.body, one.headers)
        assert (said.status, content(said.fields), said.body) == one.warm, one.target
        ids.add(said.fields["x-overspill-boot-id"])
    assert len(ids) == 1
    ping = ask(connection, "POST", "/.overspill/ping")
    assert (ping.status, ping.body, ping.fields["x-overspill-boot-id"]) == (204, b"", ids.pop())
    connection.close()


async def check_backend(kind: Any, url: str, asked: list[Question], **more: Any) -> None:
    """What a gateway would hand on, where it is no error, which a backend may judge."""
    async with built(kind, {**kind.example(url), **more}) as (backend, _):
        for one in asked:
            if one.warm[0] != 200:
                continue
            headers = [(name.encode(), value.encode()) for name, value in one.headers.items()]
            call = a_call(one.body, target=one.target.encode(), headers=headers)
            reply = await answer(backend, call)
            fields = {name.decode(): value.decode() for name, value in reply.headers}
            assert (reply.status, content(fields), reply.body) == one.warm, one.target


async def test_the_functions_framework_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("functions_framework")
    port = free_port()
    arguments = ["-m", "functions_framework", "--source", "main.py", "--target", "serve"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    async with process(port, *arguments, cwd=worker(Platform.CLOUD_RUN), **APP) as url:
        check_http(port, asked)
        await check_backend(CloudRun, url, asked)


async def test_bentoml_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("bentoml")
    port = free_port()
    arguments = ["-m", "bentoml", "serve", "service:service", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": "."}
    async with process(port, *arguments, cwd=worker(Platform.BENTOML), **APP, **quiet) as url:
        check_http(port, asked)
        await check_backend(BentoMl, url, asked)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert ask(connection, "GET", "/livez").status == 200, "BentoML's own paths stay"
        connection.close()


async def test_an_asgi_server_serves_what_modal_is_given(worker: Worker, asked: list[Question]) -> None:
    needs("uvicorn")
    folder, port = worker(Platform.MODAL), free_port()
    lines = ["import kit, mymodel", "from modal_app import make_asgi", "app = make_asgi(mymodel.app)"]
    (folder / "asgi.py").write_text("\n".join(lines))
    arguments = ["-m", "uvicorn", "asgi:app", "--host", "127.0.0.1", "--port", str(port)]
    async with process(port, *arguments, cwd=folder) as url:
        check_http(port, asked)
        await check_backend(Modal, url, asked)


def test_the_modal_sdk_takes_both_apps(worker: Worker) -> None:
    needs("modal")
    code = "import modal, modal_app, modal_server; print(type(modal_app.app) is type(modal_server.app) is modal.App)"
    done = subprocess.run([PYTHON, "-c", code], cwd=worker(Platform.MODAL), capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"True\n", 0), done.stderr


async def test_the_runpod_sdk_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("runpod")
    port = free_port()
    options = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    folder = worker(Platform.RUNPOD)
    async with process(port, "runpod_handler.py", *options, cwd=folder, **APP) as server:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for one in asked:
            body = json.dumps({"input": an_event(one)}).encode()
            said = ask(connection, "POST", "/runsync", body, {"content-type": "application/json"})
            document = json.loads(said.body)
            assert document["status"] == "COMPLETED"
            assert of_result(document["output"]) == one.warm
        connection.close()
        async with without_prefix(server, "/v2/abc123") as url:
            await check_backend(RunPod, url, asked)


async def test_cog_serves_it(worker: Worker, asked: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cog")
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "peer-secret")
    port, folder = free_port(), worker(Platform.REPLICATE)
    own = {"PORT": str(port), "COG_PREDICT_TYPE_STUB": "cog_predictor.py:Predictor"}
    path = f"{Path(PYTHON).parent}:{os.environ['PATH']}"  # it starts plain `python`
    async with process(
        port, "-m", "cog.server.http", "--host", "127.0.0.1", cwd=folder, PATH=path, **own, **APP
    ) as container:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(300):
            if json.loads(ask(connection, "GET", "/health-check", None).body)["status"] == "READY":
                break
            threading.Event().wait(0.1)
        for one in asked:
            body = json.dumps({"input": {"event": json.dumps(an_event(one))}}).encode()
            kind = {"content-type": "application/json"}
            while (said := ask(connection, "POST", "/predictions", body, kind)).status == 409:
                pass  # it frees a slot a moment after the answer that had it
            document = json.loads(said.body)
            assert document["status"] == "succeeded", document
            assert of_result(json.loads(document["output"])) == one.warm
        connection.close()
        async with replicates_api(container) as url:
            await check_backend(Replicate, url, asked)


SERVERLESS = """
service: demo
provider: {name: aws, runtime: python3.11, region: us-east-1, environment: {OVERSPILL_APP: "mymodel:app"}}
plugins: [serverless-offline]
custom:
  serverless-offline: {host: 127.0.0.1, httpPort: HTTP_PORT, lambdaPort: LAMBDA_PORT, noPrependStageInUrl: true}
functions:
  embed: {handler: lambda_handler.handler}
"""


async def test_serverless_offline_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs_peer("serverless_offline")
    folder, own, http_port = worker(Platform.LAMBDA), free_port(), free_port()
    text = SERVERLESS.replace("LAMBDA_PORT", str(own)).replace("HTTP_PORT", str(http_port))
    (folder / "serverless.yml").write_text(text)
    (folder / "node_modules").symlink_to(home_of("serverless_offline") / "node_modules")
    quiet = {"SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off", "CI": "1"}
    command = ("serverless", "offline", "start")
    async with peer("serverless_offline", own, *command, cwd=folder, **quiet) as url:
        await check_backend(AwsLambda, url, asked, function="demo-dev-embed")


DRIVE = """
import base64, json
import azure.functions as functions
import function_app

(function,) = function_app.app.get_functions()
assert function.get_function_name() == "call"
assert [b.route for b in function.get_bindings() if hasattr(b, "route")] == ["{*path}"]
serve = function.get_user_function()
for one in json.load(open("questions.json")):
    request = functions.HttpRequest(
        "POST", "https://burst.azurewebsites.net" + one["target"],
        headers=one["headers"], body=base64.b64decode(one["body"]),
    )
    response = serve(request)
    print(json.dumps([
        response.status_code, dict(response.headers), base64.b64encode(response.get_body()).decode()
    ]))
"""


def test_azures_package_takes_the_function_and_its_answers(worker: Worker, asked: list[Question]) -> None:
    needs("azure.functions")
    folder = worker(Platform.AZURE_PYTHON)
    documents = [
        {"target": one.target, "headers": one.headers, "body": base64.b64encode(one.body).decode()}
        for one in asked
    ]
    (folder / "questions.json").write_text(json.dumps(documents))
    (folder / "drive.py").write_text(DRIVE)
    done = subprocess.run(
        [PYTHON, "drive.py"], cwd=folder, env={**os.environ, **APP}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(status, content(fields), base64.b64decode(body)) for status, fields, body in answers] == [
        one.warm for one in asked
    ]
    assert all("x-overspill-boot-id" in fields for _, fields, _ in answers)
