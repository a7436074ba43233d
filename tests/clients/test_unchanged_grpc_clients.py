"""NVIDIA's gRPC clients, pointed at Overspill instead of at Triton: the real package, the real server.

The same calls through a fleet with gRPC addresses, which passes bytes on, and through one without, which
transcodes: a client must not be able to tell.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from gateway.demo.models import DIGITS, WRITER, Trained, train, write
from gateway.demo.processes import Child, free_port, start_module
from gateway.demo.triton_process import why_not

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
]

CONFIG = """
version: 1
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}", grpc: "127.0.0.1:{grpc}"}}
backends:
  fleet: {{type: triton, replicas: ["{triton}"], max_in_flight: 4, price: {{usd_per_replica_hour: 0.79}}{more}}}
routes:
  digits:
    match: {{model: [digits, tiny-writer]}}
    tiers: [{{backend: fleet, when_full: {{queue: 5s, then: shed}}}}]
"""


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


@pytest.fixture(scope="module")
def triton(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    weights = tmp_path_factory.mktemp("weights") / "digits.npz"
    trained.model.save(weights)
    with start_module(
        "triton", "gateway.demo.triton_process", "--weights", str(weights), "--slots", "4"
    ) as child:
        child.wait_ready(120)
        yield child


def _gateway(triton: Child, folder: Path, more: str) -> Iterator[str]:
    http, admin, grpc = free_port(), free_port(), free_port()
    file = folder / "overspill.yaml"
    file.write_text(CONFIG.format(http=http, admin=admin, grpc=grpc, triton=triton.ready["http"], more=more))
    with Child("gateway", [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]) as child:
        child.wait_answer(f"http://127.0.0.1:{admin}/readyz", 60)
        yield f"127.0.0.1:{grpc}"
        assert child.stop() == 0


@pytest.fixture(scope="module")
def passed_on(triton: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    more = f', grpc: {{replicas: ["{triton.ready["grpc"]}"]}}'
    yield from _gateway(triton, tmp_path_factory.mktemp("passed_on"), more)


@pytest.fixture(scope="module")
def transcoded(triton: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _gateway(triton, tmp_path_factory.mktemp("transcoded"), "")


@pytest.fixture(params=["passed_on", "transcoded"])
def gateway(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def asked_of(module: Any, pixels: "np.ndarray[Any, Any]") -> tuple[list[Any], list[Any]]:
    given = module.InferInput("pixels", list(pixels.shape), "FP32")
    given.set_data_from_numpy(pixels)
    return [given], [module.InferRequestedOutput(name) for name in ("digit", "probabilities")]


def texts(module: Any, text: str, **settings: Any) -> list[Any]:
    given = [module.InferInput("text_input", [1], "BYTES")]
    given[0].set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    for name, (datatype, value) in settings.items():
        tensor = module.InferInput(name, [1], datatype)
        tensor.set_data_from_numpy(np.array([value]))
        given.append(tensor)
    return given


def test_the_synchronous_client_infers(gateway: str, triton: Child, trained: Trained) -> None:
    pixels = trained.images[:7]
    given, wanted = asked_of(triton_grpc, pixels)
    with triton_grpc.InferenceServerClient(gateway) as client:
        answer = client.infer(DIGITS, given, outputs=wanted, request_id="r-7")
    with triton_grpc.InferenceServerClient(triton.ready["grpc"]) as client:
        direct = client.infer(DIGITS, given, outputs=wanted, request_id="r-7")
    assert answer.get_response().id == "r-7"
    assert answer.get_response() == direct.get_response()
    assert answer.as_numpy("digit").tolist() == trained.model.answer(pixels).digit.tolist()


async def test_the_asynchronous_client_infers(gateway: str, trained: Trained) -> None:
    async with triton_aio.InferenceServerClient(gateway) as client:

        async def one(index: int) -> bool:
            pixels = trained.images[index : index + 1]
            given, wanted = asked_of(triton_aio, pixels)
            answer = await client.infer(DIGITS, given, outputs=wanted)
            digit: int = answer.as_numpy("digit")[0][0]
            return bool(digit == trained.model.answer(pixels).digit[0][0])

        assert all(await asyncio.gather(*(one(index) for index in range(40))))


def test_mistakes_come_back_as_triton_says_them(gateway: str, triton: Child) -> None:
    given, _ = asked_of(triton_grpc, np.zeros((1, 3), np.float32))
    seen = []
    for address in (gateway, triton.ready["grpc"]):
        with triton_grpc.InferenceServerClient(address) as client:
            with pytest.raises(InferenceServerException) as mistake:
                client.infer(DIGITS, given)
        seen.append((mistake.value.status(), mistake.value.message()))
    assert seen[0] == seen[1]
    assert seen[0][0] == "StatusCode.INVALID_ARGUMENT"


def test_a_decoupled_model_streams(passed_on: str) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(passed_on) as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        for number in range(2):
            given = texts(triton_grpc, "red blue", stream=("BOOL", True), max_tokens=("INT32", np.int32(5)))
            client.async_stream_infer(WRITER, given, request_id=str(number), enable_empty_final_response=True)
            tokens = []
            while True:
                result, error = heard.get(timeout=20)
                assert error is None
                response = result.get_response()
                assert response.id == str(number)
                if response.parameters["triton_final_response"].bool_param:
                    break
                tokens.append(result.as_numpy("text_output").ravel()[0].decode())
            assert tokens == list(write("red blue", 5))
        client.stop_stream()


async def test_the_asynchronous_client_streams(passed_on: str, trained: Trained) -> None:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        for number in range(5):
            given, wanted = asked_of(triton_aio, trained.images[number : number + 1])
            yield {"model_name": DIGITS, "inputs": given, "outputs": wanted, "request_id": str(number)}

    async with triton_aio.InferenceServerClient(passed_on) as client:
        heard = [pair async for pair in client.stream_infer(asked())]
    assert all(error is None for _, error in heard)
    digits = {result.get_response().id: result.as_numpy("digit")[0][0] for result, _ in heard}
    expected = trained.model.answer(trained.images[:5]).digit[:, 0]
    assert digits == {str(number): digit for number, digit in enumerate(expected)}


def test_the_clients_questions_are_answered(passed_on: str, triton: Child) -> None:
    with triton_grpc.InferenceServerClient(passed_on) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(DIGITS)
        assert client.is_model_ready(DIGITS, "1")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "overspill"
        assert client.get_model_metadata(DIGITS).inputs[0].name == "pixels"
        assert client.get_model_config(DIGITS).config.name == DIGITS
        assert client.get_inference_statistics(DIGITS).model_stats[0].name == DIGITS
        index = client.get_model_repository_index()
        with pytest.raises(InferenceServerException, match="repository control"):
            client.load_model(DIGITS)
    with triton_grpc.InferenceServerClient(triton.ready["grpc"]) as client:
        assert client.get_model_repository_index() == index
