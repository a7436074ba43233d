"""A thousand random tensors, three ways, through a whole gateway: the real Triton's bytes from every side.

Triton serves one identity model per datatype; the same models run behind the worker kit of each provider that
can be had in this process. Asked directly, through the gateway's fleet and through each rented backend, in
JSON, with binary tensors and over gRPC, every answer must be the same.
"""

import asyncio
import os
import random
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from aiohttp import web
from tritonclient.grpc import service_pb2 as pb

from backends.base import Backend
from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.kserve import KServeApp, TensorSpec
from backends.emulators.modal import ModalEmulator
from backends.emulators.runpod import RunPodEmulator
from backends.http_endpoint import HttpEndpoint
from backends.sagemaker import SageMakerServerless
from backends.workers import kit, lambda_handler, modal_app, runpod_handler, sagemaker_server
from gateway.app import Gateway
from gateway.demo.triton_process import why_not
from tests.grpc_codec.support import DATATYPES, Identity, Tensor, as_request, random_tensor
from tests.serverless.test_against_emulators import _secrets as _secrets
from tests.serverless.test_against_emulators import section
from tests.serverless.test_kserve_through_workers import fits_json, in_json, official
from tests.support.gateways import port_of, running
from tests.support.own_models import Addresses, own_models
from tests.workers.support import HERE
from tests.workers.support import running as at_work
from tests.workers.support import serving as listening

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
    pytest.mark.skipif("OVERSPILL_PEERS" not in os.environ, reason="takes minutes; make test-peers runs it"),
]

THOUSAND = 1000
RENTED = ("runpod", "modal", "aws_lambda", "http", "sagemaker")
OPTIONS = FleetOptions(cap=8, idle_after_s=600.0, boot=BootTimes(fast_s=0.0, slow_s=0.0, spread=0.0))
INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL = """
import sys

sys.path.insert(0, "@site-packages@")  # the server starts its interpreter without ours

import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([same(request.inputs()[0])]) for request in requests]

def same(tensor):
    if "@datatype@" == "BF16":
        return pb_utils.Tensor.from_dlpack("x", tensor.to_dlpack())
    return pb_utils.Tensor("x", tensor.as_numpy())
"""


def model_of(tensor: Tensor) -> str:
    return f"identity-{tensor.datatype.lower()}"


@pytest.fixture(scope="module")
def tensors() -> list[Tensor]:
    """As vectors, for Triton wants to know how many dimensions there are."""
    source = random.Random(11)
    drawn = [random_tensor(source, "x") for _ in range(THOUSAND)]
    return [tensor._replace(shape=(tensor.elements(),)) for tensor in drawn]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    repository = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        folder = repository / f"identity-{datatype.lower()}"
        (folder / "1").mkdir(parents=True)
        text = MODEL.replace("@site-packages@", sysconfig.get_path("purelib"))
        (folder / "1" / "model.py").write_text(text.replace("@datatype@", datatype))
        (folder / "config.pbtxt").write_text(configuration(datatype))
    with own_models(repository, tmp_path_factory.mktemp("backends")) as addresses:
        yield addresses


def configuration(datatype: str) -> str:
    one = f'[{{name: "x", data_type: TYPE_{"STRING" if datatype == "BYTES" else datatype}, dims: [-1]}}]'
    return f'backend: "python"\ninput {one}\noutput {one}\n'


class OfDatatype(Identity):
    def __init__(self, datatype: str) -> None:
        super().__init__([])
        self.name = f"identity-{datatype.lower()}"
        self.inputs = self.outputs = (TensorSpec("x", datatype, (-1,)),)


class Side(NamedTuple):
    """Where questions go: an HTTP and a gRPC address, and the field that names a backend there."""

    http: str
    grpc: Any
    session: aiohttp.ClientSession
    backend: str | None = None

    async def over_http(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        fields = {name.decode(): value.decode() for name, value in request.headers}
        if self.backend is not None:
            fields["x-backend"] = self.backend
        fields["accept-encoding"] = "identity"
        async with self.session.post(
            self.http + request.target.decode(), data=request.body, headers=fields
        ) as answer:
            if self.backend is not None and answer.status != 429:
                assert answer.headers["x-overspill-backend"] == self.backend
            names = ("content-type", "inference-header-content-length")
            about = {name: answer.headers[name] for name in names if name in answer.headers}
            return answer.status, about, await answer.read()

    async def over_grpc(self, message: bytes) -> Any:
        metadata = () if self.backend is None else (("x-backend", self.backend),)
        call = self.grpc.unary_unary(INFER)(message, metadata=metadata, timeout=20)
        answer = pb.ModelInferResponse.FromString(await call)
        if self.backend is not None:
            assert dict(await call.trailing_metadata())["x-overspill-backend"] == self.backend
        return answer


class Asked(NamedTuple):
    """One tensor in three forms; JSON only where it can carry it."""

    tensor: Tensor
    message: bytes
    binary: Any
    json: list[Any]


def asked(tensor: Tensor) -> Asked:
    name = model_of(tensor)
    message = as_request([tensor], outputs=[{"name": "x"}])
    message.model_name = name
    target = f"/v2/models/{name}/infer".encode()
    in_words = [in_json(target, [tensor]), official(target, [tensor], binary=False)]
    return Asked(
        tensor,
        message.SerializeToString(),
        official(target, [tensor], binary=True),
        in_words if fits_json(tensor) else [],
    )


async def taken(ask: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
    """Asked again while there is no slot: RunPod takes 2,000 calls in ten seconds, and so does its emulator."""
    while True:
        try:
            said = await ask(request)
        except grpc.aio.AioRpcError as refused:
            if refused.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        else:
            if not isinstance(said, tuple) or said[0] != 429:
                return said
        await asyncio.sleep(0.5)


async def answers(side: Side, questions: list[Asked]) -> list[list[Any]]:
    """What it says to each form of each; a few at once."""
    at_once = asyncio.Semaphore(4)

    async def one(asked: Asked) -> list[Any]:
        async with at_once:
            said: list[Any] = [await taken(side.over_grpc, asked.message)]
            return said + [await taken(side.over_http, request) for request in (asked.binary, *asked.json)]

    return await asyncio.gather(*map(one, questions))


@asynccontextmanager
async def sagemakers_address(port: int) -> AsyncIterator[str]:
    """SageMaker's own part: what is invoked by name arrives at the container's /invocations."""

    async def forward(request: web.Request) -> web.Response:
        url = f"http://127.0.0.1:{port}/invocations"
        fields = {"content-type": request.headers["content-type"]}
        async with aiohttp.ClientSession() as session:
            async with session.post(url, data=await request.read(), headers=fields) as said:
                told = {"content-type": said.headers["content-type"]}
                return web.Response(status=said.status, body=await said.read(), headers=told)

    application = web.Application(client_max_size=1 << 25)
    application.router.add_post("/endpoints/embed/invocations", forward)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def rented(app: KServeApp) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """The section of each backend, and what it calls: its provider's emulator, with the kit inside."""
    async with AsyncExitStack() as stack:
        emulators = {
            "runpod": RunPodEmulator(
                lambda _: runpod_handler.make_handler(kit.Worker(app, kit.Boot())), options=OPTIONS
            ),
            "modal": ModalEmulator(lambda _: modal_app.make_asgi(app), options=OPTIONS),
            "aws_lambda": LambdaEmulator(
                lambda _: lambda_handler.make_handler(kit.Worker(app, kit.Boot())), options=OPTIONS
            ),
        }
        found: dict[str, dict[str, Any]] = {}
        for name, emulator in emulators.items():
            made: tuple[type[Backend], dict[str, Any]] = section(await stack.enter_async_context(emulator))
            found[name] = made[1]
        server = stack.enter_context(listening(app))
        found["http"] = dict(HttpEndpoint.example(f"http://127.0.0.1:{server.port}"))
        container = stack.enter_context(at_work(sagemaker_server.make_server(app, HERE, "")))
        url = await stack.enter_async_context(sagemakers_address(container.port))
        found["sagemaker"] = {**SageMakerServerless.example(url), "envelope": "event"}
        yield found


@asynccontextmanager
async def gateway(triton: Addresses) -> AsyncIterator[Gateway]:
    fleet = {
        "type": "triton", "replicas": [triton.http], "grpc": {"replicas": [triton.grpc]}, "max_in_flight": 4,
        "price": {"usd_per_replica_hour": 1},
    }  # fmt: skip
    app = KServeApp([OfDatatype(datatype) for datatype in DATATYPES])
    async with rented(app) as sections:
        assert sorted(sections) == sorted(RENTED)
        route = {
            "match": {"model": [f"identity-{datatype.lower()}" for datatype in DATATYPES]},
            "policy": {"type": "pinned", "header": "x-backend"},
            "tiers": [{"backend": name} for name in ("fleet", *RENTED)],
        }
        document = {"backends": {"fleet": fleet, **sections}, "routes": {"all": route}}
        async with running(yaml.safe_dump(document), grpc=True) as made:
            yield made


@pytest.fixture(scope="module")
def questions(tensors: list[Tensor]) -> list[Asked]:
    assert {tensor.datatype for tensor in tensors} == set(DATATYPES)
    assert sum(not tensor.raw for tensor in tensors) > 50
    assert max(len(tensor.raw) for tensor in tensors) > 100_000
    assert sum(bytes(range(256)) in tensor.raw for tensor in tensors if tensor.datatype == "BYTES") > 20
    found = [asked(tensor) for tensor in tensors]
    assert sum(bool(one.json) for one in found) > THOUSAND / 2
    return found


@pytest.fixture(scope="module")
def warm(triton: Addresses, questions: list[Asked]) -> list[list[Any]]:
    """Triton's own answers, without a gateway."""

    async def asked_directly() -> list[list[Any]]:
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(triton.grpc) as channel:
            return await answers(Side(triton.http, channel, session), questions)

    found = asyncio.run(asked_directly())
    for one, said in zip(questions, found, strict=True):
        assert said[0].raw_output_contents == [one.tensor.raw]
        assert {answer[0] for answer in said[1:]} == {200}
    return found


@pytest.mark.parametrize("backend", ["fleet", *RENTED])
async def test_every_side_answers_as_the_real_triton(
    backend: str, triton: Addresses, questions: list[Asked], warm: list[list[Any]]
) -> None:
    async with gateway(triton) as made, aiohttp.ClientSession() as session:
        assert made.grpc_address is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{made.grpc_address.port}") as channel:
            side = Side(f"http://127.0.0.1:{port_of(made)}", channel, session, backend)
            for one, said, expected in zip(questions, await answers(side, questions), warm, strict=True):
                assert said == expected, one.tensor[:3]
