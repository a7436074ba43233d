"""The worker kits inside their platforms' own servers: a thousand random tensors, the warm answers. Opt-in.

The packages are looked for in this interpreter, or in the one that OVERSPILL_PEERS_PYTHON names:
`runpod`, `functions-framework`, `cog`, `bentoml`, `azure-functions`, `uvicorn`, `modal`. What
each serves is put together by `python -m backends.workers`, with models of `kserve_v2.py`.
"""

import base64
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.workers.__main__ import Platform, put
from tests.peers.test_runpod_and_lambda import PYTHON, free_port, needs, process
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


async def test_the_functions_framework_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("functions_framework")
    port = free_port()
    arguments = ["-m", "functions_framework", "--source", "main.py", "--target", "serve"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    async with process(port, *arguments, cwd=worker(Platform.CLOUD_RUN), **APP):
        check_http(port, asked)


async def test_bentoml_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("bentoml")
    port = free_port()
    arguments = ["-m", "bentoml", "serve", "service:service", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": "."}
    async with process(port, *arguments, cwd=worker(Platform.BENTOML), **APP, **quiet):
        check_http(port, asked)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert ask(connection, "GET", "/livez").status == 200, "BentoML's own paths stay"
        connection.close()


async def test_an_asgi_server_serves_what_modal_is_given(worker: Worker, asked: list[Question]) -> None:
    needs("uvicorn")
    folder, port = worker(Platform.MODAL), free_port()
    lines = ["import kit, mymodel", "from modal_app import make_asgi", "app = make_asgi(mymodel.app)"]
    (folder / "asgi.py").write_text("\n".join(lines))
    arguments = ["-m", "uvicorn", "asgi:app", "--host", "127.0.0.1", "--port", str(port)]
    async with process(port, *arguments, cwd=folder):
        check_http(port, asked)


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
    async with process(port, "runpod_handler.py", *options, cwd=folder, **APP):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for one in asked:
            body = json.dumps({"input": an_event(one)}).encode()
            said = ask(connection, "POST", "/runsync", body, {"content-type": "application/json"})
            document = json.loads(said.body)
            assert document["status"] == "COMPLETED"
            assert of_result(document["output"]) == one.warm
        connection.close()


async def test_cog_serves_it(worker: Worker, asked: list[Question]) -> None:
    needs("cog")
    port, folder = free_port(), worker(Platform.REPLICATE)
    own = {"PORT": str(port), "COG_PREDICT_TYPE_STUB": "cog_predictor.py:Predictor"}
    path = f"{Path(PYTHON).parent}:{os.environ['PATH']}"  # it starts plain `python`
    async with process(
        port, "-m", "cog.server.http", "--host", "127.0.0.1", cwd=folder, PATH=path, **own, **APP
    ):
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
