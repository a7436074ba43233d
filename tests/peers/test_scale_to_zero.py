"""BentoML, MLServer, KServe's model server and cog, each behind the backend that is made for it. Opt-in.

Each is looked for where `recipes.py` installs it. What a platform does in front of them (holding requests,
scaling to zero, Replicate's own API) is in none of them: that is shown by the stand-ins of tests/serverless.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from backends.bentoml import BentoMl
from backends.kserve import KServe
from backends.replicate import Replicate
from backends.seldon import Seldon
from backends.workers import cog_predictor, kit
from gateway.errors import BackendBroke, BackendFull, BackendUnready
from gateway.vocab import Start
from tests.peers.recipes import home_of, missing
from tests.peers.test_runpod import free_port, process
from tests.support.endpoints import answer, failure
from tests.support.gateways import port_of, running
from tests.support.provider import a_call, built

pytestmark = pytest.mark.peers

BENTO = """
import time
import bentoml

@bentoml.service(traffic={"timeout": 2, "max_concurrency": 1})
class Echo:
    @bentoml.api
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds
"""
MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

class Twice(MLModel):
    async def load(self):
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        values = [2 * value for value in given.data]
        output = ResponseOutput(name="y", shape=given.shape, datatype=given.datatype, data=values)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
KSERVE_SERVER = """
import sys
from kserve import InferRequest, InferResponse, InferOutput, Model
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer

class Twice(Model):
    def __init__(self, name, ready):
        super().__init__(name)
        self.ready = ready

    def predict(self, payload, headers=None, response_headers=None):
        (given,) = payload.inputs
        if given.name == "boom":
            raise RuntimeError("boom")
        output = InferOutput("y", given.shape, given.datatype, [2 * value for value in given.data])
        return InferResponse("id", self.name, [output])

models = ModelRepository()
models.update(Twice("twice", True))
models.update(Twice("asleep", False))
plane = DataPlane(model_registry=models)
extension = ModelRepositoryExtension(model_registry=models)
server = RESTServer("kserve.model_server:app", plane, extension, int(sys.argv[1]))
server.config.host = "127.0.0.1"  # the SDK has no option for it and would listen everywhere
server.run()
"""
TENSORS = b'{"inputs":[{"name":"x","shape":[3],"datatype":"INT64","data":[1,2,3]}]}'
DOUBLED = [2, 4, 6]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "peer-secret")


def python_of(name: str) -> str:
    """The interpreter that has this peer; the test is skipped where none does."""
    if (why := missing(name)) is not None:
        pytest.skip(why)
    return str(home_of(name) / "bin" / "python")


async def ready(url: str, path: str) -> None:
    """Wait until it says so: it accepts connections before."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            async with session.get(url + path) as said:
                if said.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_a_full_bento_pushes_back_and_a_slow_one_is_broken(tmp_path: Path) -> None:
    python, port = python_of("bentoml"), free_port()
    (tmp_path / "service.py").write_text(BENTO)
    arguments = ("-m", "bentoml", "serve", "service:Echo", "-p", str(port), "--host", "127.0.0.1")
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(tmp_path)}
    async with process(port, *arguments, cwd=tmp_path, python=python, **quiet) as url:
        await ready(url, "/readyz")
        options = {**BentoMl.example(url), "path": "/sleep", "health": {"path": "/readyz"}}
        async with built(BentoMl, options) as (backend, _):
            assert await backend.probe(0) is True
            reply = await answer(backend, a_call(b'{"seconds": 0}'))
            assert (reply.status, json.loads(reply.body or b""), reply.start) == (200, 0.0, Start.UNKNOWN)
            assert (await answer(backend, a_call(b'{"seconds": "x"}'))).status == 400
            assert type(await failure(backend, a_call(b'{"seconds": 9}'))) is BackendBroke  # its time-out
            came = await asyncio.gather(
                *(answer(backend, a_call(b'{"seconds": 1}')) for _ in range(3)), return_exceptions=True
            )
    kinds = sorted(type(one).__name__ for one in came)
    assert kinds == [BackendFull.__name__, BackendFull.__name__, "Reply"]


SPILL = """
backends:
  first: {{type: bentoml, url: "{first}", path: /sleep, max_in_flight: 8, price: {{usd_per_second: 0.0001}}}}
  second: {{type: bentoml, url: "{second}", path: /sleep, max_in_flight: 8, price: {{usd_per_second: 0.0001}}}}
routes:
  sleep:
    match: {{model: sleep}}
    policy: spill_when_full
    tiers: [{{backend: first, when_full: spill}}, {{backend: second}}]
"""


async def test_the_429_of_a_full_bento_sends_the_call_elsewhere(tmp_path: Path) -> None:
    """The gateway allows more calls than the service does: only BentoML's own answer tells it."""
    python = python_of("bentoml")
    (tmp_path / "service.py").write_text(BENTO)
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(tmp_path)}
    async with AsyncExitStack() as stack:
        urls = []
        for _ in range(2):
            port = free_port()
            arguments = ("-m", "bentoml", "serve", "service:Echo", "-p", str(port), "--host", "127.0.0.1")
            server = process(port, *arguments, cwd=tmp_path, python=python, **quiet)
            urls.append(await stack.enter_async_context(server))
            await ready(urls[-1], "/readyz")
        gateway = await stack.enter_async_context(running(SPILL.format(first=urls[0], second=urls[1])))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def ask(seconds: float) -> tuple[int, str]:
            url = f"http://127.0.0.1:{port_of(gateway)}/v2/models/sleep/generate"
            async with session.post(url, json={"seconds": seconds}) as said:
                assert await said.json(content_type=None) == seconds
                return said.status, said.headers["x-overspill-backend"]

        assert await ask(0) == (200, "first")
        assert sorted(await asyncio.gather(ask(1), ask(1))) == [(200, "first"), (200, "second")]


@pytest.mark.parametrize("kind", [Seldon, KServe])
async def test_mlserver_answers_under_its_own_name_of_the_model(tmp_path: Path, kind: Any) -> None:
    python, port = python_of("mlserver"), free_port()
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0,
    }  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    model = {"name": "twice", "implementation": "twice_model.Twice"}
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    (tmp_path / "twice_model.py").write_text(MLSERVER_MODEL)
    arguments = (str(Path(python).parent / "mlserver"), "start", ".")
    async with process(port, *arguments, cwd=tmp_path, python=python, PYTHONPATH=".") as url:
        await ready(url, "/v2/models/twice/ready")
        options = {**kind.example(url), "model": "twice"}
        async with built(kind, options) as (backend, _):
            reply = await answer(backend, a_call(TENSORS))
            assert reply.status == 200
            assert json.loads(reply.body or b"")["outputs"][0]["data"] == DOUBLED
            assert (await answer(backend, a_call(b'{"inputs":1}'))).status == 422
        async with built(kind, {**options, "model": "nope"}) as (backend, _):
            assert type(await failure(backend, a_call(TENSORS))) is BackendUnready


async def test_kserves_model_server_says_what_it_has(tmp_path: Path) -> None:
    python, port = python_of("kserve"), free_port()
    (tmp_path / "serve.py").write_text(KSERVE_SERVER)
    async with process(port, "serve.py", str(port), cwd=tmp_path, python=python) as url:
        await ready(url, "/v2/models/twice/ready")
        options = {**KServe.example(url), "model": "twice", "health": {"path": "/v2/health/live"}}
        async with built(KServe, options) as (backend, _):
            assert await backend.probe(0) is True
            reply = await answer(backend, a_call(TENSORS))
            assert json.loads(reply.body or b"")["outputs"][0]["data"] == DOUBLED
            assert type(await failure(backend, a_call(TENSORS.replace(b'"x"', b'"boom"')))) is BackendBroke
        for model in ("nope", "asleep"):
            async with built(KServe, {**options, "model": model}) as (backend, _):
                assert type(await failure(backend, a_call(TENSORS))) is BackendUnready, model


@asynccontextmanager
async def replicates_api(target: str) -> AsyncIterator[str]:
    """cog serves one container's API: without the address of a deployment, without polling, 200 for 201."""

    async def forward(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer peer-secret"
        fields, body = {"content-type": "application/json"}, await request.read()
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.post(target + "/predictions", data=body, headers=fields) as a:
                    if a.status == 409:  # it frees its slot a moment after the answer; Replicate queues
                        continue
                    status = 201 if a.status == 200 else a.status
                    return web.Response(status=status, body=await a.read(), content_type="application/json")

    application = web.Application(client_max_size=1 << 25)
    application.router.add_post("/v1/deployments/acme/minilm/predictions", forward)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


MODEL = """
def predict(method, path, query, headers, body):
    if path == "/boom":
        raise ValueError("boom")
    return 200, {"content-type": "application/x", "x-path": f"{method} {path}?{query}"}, body[::-1]
"""


async def test_cog_runs_our_predictions(tmp_path: Path) -> None:
    python, port = python_of("cog"), free_port()
    for module in (kit, cog_predictor):
        assert module.__file__ is not None
        shutil.copy(module.__file__, tmp_path)
    (tmp_path / "mymodel.py").write_text(MODEL)
    (tmp_path / "cog.yaml").write_text('predict: "cog_predictor.py:Predictor"\n')
    environment = {
        "PORT": str(port), "COG_PREDICT_TYPE_STUB": "cog_predictor.py:Predictor",
        "OVERSPILL_APP": "mymodel:predict",
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",  # it starts plain `python`
    }  # fmt: skip
    arguments = ("-m", "cog.server.http", "--host", "127.0.0.1")
    async with process(port, *arguments, cwd=tmp_path, python=python, **environment) as container:
        await _set_up(container)
        async with replicates_api(container) as url:
            async with built(Replicate, Replicate.example(url)) as (backend, _):
                data = bytes(range(256)) * 20
                reply = await answer(backend, a_call(data, target=b"/v2/x?a=1"))
                assert (reply.status, reply.body) == (200, data[::-1])
                assert dict(reply.headers)[b"x-path"] == b"POST /v2/x?a=1"
                assert reply.usage is not None
                assert reply.usage.reported
                assert reply.usage.instance
                assert "boom" in str(await failure(backend, a_call(target=b"/boom")))


async def _set_up(container: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def is_ready() -> bool:
            async with session.get(container + "/health-check") as said:
                return bool((await said.json(content_type=None))["status"] == "READY")

        async with asyncio.timeout(60):
            while not await is_ready():
                await asyncio.sleep(0.1)
