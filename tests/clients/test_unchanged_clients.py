"""Clients that know nothing of Overspill, pointed at it instead of at Triton: the real packages, the real server.

`overspill serve` runs as its own process in front of the Triton from the nvidia-pytriton wheel.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
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
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}"}}
backends:
  fleet:
    type: triton
    replicas: ["{triton}"]
    max_in_flight: 4
    price: {{usd_per_replica_hour: 0.79}}
    openai: {{chat_template: last_user}}
routes:
  digits:
    match: {{model: digits}}
    latency_budget: {{within: 250ms, objective: 99%}}
    tiers: [{{backend: fleet, when_full: {{queue: 5s, then: shed}}}}]
  writer:
    match: {{model: tiny-writer}}
    tiers: [{{backend: fleet, when_full: {{queue: 5s, then: shed}}}}]
access_log: {{path: "{log}"}}
"""


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


@pytest.fixture(scope="module")
def triton(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    weights = tmp_path_factory.mktemp("weights") / "digits.npz"
    trained.model.save(weights)
    arguments = ["--weights", str(weights), "--slots", "4"]
    with start_module("triton", "gateway.demo.triton_process", *arguments) as child:
        child.wait_ready(120)
        yield child


@pytest.fixture(scope="module")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.jsonl"


@pytest.fixture(scope="module")
def gateway(triton: Child, access_log: Path) -> Iterator[str]:
    """`host:port` of the gateway."""
    http, admin = free_port(), free_port()
    file = access_log.with_name("overspill.yaml")
    file.write_text(CONFIG.format(http=http, admin=admin, triton=triton.ready["http"], log=access_log))
    with Child("gateway", [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]) as child:
        child.wait_answer(f"http://127.0.0.1:{admin}/readyz", 60)
        yield f"127.0.0.1:{http}"
        assert child.stop() == 0


@pytest.fixture
def chat(gateway: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{gateway}/v1", api_key="not-needed", max_retries=0) as client:
        yield client


def asked_of(module: Any, pixels: "np.ndarray[Any, Any]", *, binary: bool) -> tuple[list[Any], list[Any]]:
    """The inputs and the wanted outputs in the words of a client module."""
    given = module.InferInput("pixels", list(pixels.shape), "FP32")
    given.set_data_from_numpy(pixels, binary_data=binary)
    wanted = [module.InferRequestedOutput(name, binary_data=binary) for name in ("digit", "probabilities")]
    return [given], wanted


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_the_triton_client_infers(gateway: str, trained: Trained, binary: bool) -> None:
    pixels = trained.images[:7]
    given, wanted = asked_of(triton_http, pixels, binary=binary)
    with triton_http.InferenceServerClient(gateway) as client:
        answer = client.infer(DIGITS, given, outputs=wanted, request_id="r-7")
        later = client.async_infer(DIGITS, given, outputs=wanted).get_result()
    expected = trained.model.answer(pixels)
    for result in (answer, later):
        assert result.as_numpy("digit").tolist() == expected.digit.tolist()
        assert np.allclose(result.as_numpy("probabilities"), expected.probabilities, rtol=1e-5)
    assert answer.get_response()["id"] == "r-7"


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
async def test_the_asyncio_triton_client_infers(gateway: str, trained: Trained, binary: bool) -> None:
    async with triton_aio.InferenceServerClient(gateway) as client:

        async def one(index: int) -> bool:
            pixels = trained.images[index : index + 1]
            given, wanted = asked_of(triton_aio, pixels, binary=binary)
            answer = await client.infer(DIGITS, given, outputs=wanted)
            digit: int = answer.as_numpy("digit")[0][0]
            return bool(digit == trained.model.answer(pixels).digit[0][0])

        assert all(await asyncio.gather(*(one(index) for index in range(20))))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers_work(gateway: str, trained: Trained, algorithm: str) -> None:
    pixels = trained.images[:3]
    given, wanted = asked_of(triton_http, pixels, binary=True)
    with triton_http.InferenceServerClient(gateway) as client:
        answer = client.infer(
            DIGITS,
            given,
            outputs=wanted,
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
    assert answer.as_numpy("digit").tolist() == trained.model.answer(pixels).digit.tolist()


def test_the_triton_clients_questions_are_answered(gateway: str) -> None:
    with triton_http.InferenceServerClient(gateway) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(DIGITS)
        assert client.is_model_ready(DIGITS, "1")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata()["name"] == "overspill"
        assert client.get_model_metadata(DIGITS)["inputs"][0]["name"] == "pixels"
        assert client.get_model_config(DIGITS)["name"] == DIGITS
        assert client.get_inference_statistics(DIGITS)["model_stats"][0]["name"] == DIGITS


def test_mistakes_come_back_as_the_triton_clients_own_exceptions(gateway: str, trained: Trained) -> None:
    given, _ = asked_of(triton_http, trained.images[:1], binary=False)
    with triton_http.InferenceServerClient(gateway) as client:
        with pytest.raises(InferenceServerException, match="nobody"):
            client.infer("nobody", given)
        with pytest.raises(InferenceServerException, match=r"shape|dimension|batch"):
            bad, _ = asked_of(triton_http, np.zeros((1, 3), np.float32), binary=False)
            client.infer(DIGITS, bad)
        with pytest.raises(InferenceServerException, match="repository control"):
            client.load_model(DIGITS)
        with pytest.raises(InferenceServerException, match="shared memory"):
            client.register_system_shared_memory("a", "/a", 64)


def test_openai_chat(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(
        model=WRITER, messages=[{"role": "user", "content": "one two three"}], max_tokens=4
    )
    assert answer.choices[0].message.content == "".join(write("one two three", 4))
    assert answer.model == WRITER


def test_openai_chat_streamed(chat: openai.OpenAI) -> None:
    stream = chat.chat.completions.create(
        model=WRITER, messages=[{"role": "user", "content": "red blue"}], max_tokens=5, stream=True
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == "".join(write("red blue", 5))
    assert len([part for part in parts if part]) == 5


def test_openai_completions(chat: openai.OpenAI) -> None:
    answer = chat.completions.create(model=WRITER, prompt="left right", max_tokens=3)
    assert answer.choices[0].text == "".join(write("left right", 3))
    streamed = chat.completions.create(model=WRITER, prompt="left right", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_openai_models_and_mistakes(chat: openai.OpenAI) -> None:
    assert {model.id for model in chat.models.list()} >= {WRITER}
    with pytest.raises(openai.NotFoundError):
        chat.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError):
        chat.chat.completions.create(model=WRITER, messages=[{"role": "user", "content": "x"}], n=3)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(gateway: str, tmp_path: Path) -> None:
    body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    done = subprocess.run(
        ["curl", "-sS", "-i", "-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path / 'body.json'}",
         f"http://{gateway}/v2/models/digits/infer"],
        capture_output=True, text=True, timeout=30, check=True, env={**os.environ, "no_proxy": "*"},
    )  # fmt: skip
    assert "200 OK" in done.stdout
    assert "x-overspill-backend: fleet" in done.stdout
    streamed = subprocess.run(
        ["curl", "-sSN", "-d", '{"text_input": "up down", "max_tokens": 2, "stream": true}',
         f"http://{gateway}/v2/models/tiny-writer/generate_stream"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert streamed.stdout.count("data: ") == 2


WRITTEN_WITHIN_S = 10.0
"""The log is written every half second; the machine may have other things to do."""


def test_the_access_log_has_a_line_for_each_of_these_calls(gateway: str, access_log: Path) -> None:
    with triton_http.InferenceServerClient(gateway) as client:
        assert client.is_model_ready(DIGITS)
    lines: list[dict[str, object]] = []
    until = time.monotonic() + WRITTEN_WITHIN_S
    while not any(line["operation"] == "infer" for line in lines) and time.monotonic() < until:
        time.sleep(0.05)
        lines = [json.loads(line) for line in access_log.read_text().splitlines()]
    assert {
        line["backend"] for line in lines if line["outcome"] == "ok" and line["operation"] == "infer"
    } == {"fleet"}
    assert all(line["request_id"] for line in lines)
