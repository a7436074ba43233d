"""The bundled KServe v2 server beside the real Triton: the same requests, the same bytes in the answers."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from backends.emulators.kserve import KServeServer
from gateway.demo.apps import serve
from gateway.demo.models import Trained, train
from gateway.demo.processes import Child, start_module
from gateway.demo.triton_process import why_not

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
]

INFER = "/v2/models/digits/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


@pytest.fixture(scope="module")
def triton(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weights = tmp_path_factory.mktemp("weights") / "digits.npz"
    trained.model.save(weights)
    arguments = ["--weights", str(weights), "--slots", "1", "--no-writer"]
    with start_module("triton", "gateway.demo.triton_process", *arguments) as child:
        yield started(child)


def started(child: Child) -> str:
    return str(child.wait_ready(120)["http"])


class Question:
    """One request, and what of its answer must be the same."""

    def __init__(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        self.method, self.path, self.body = method, path, body
        self.headers = {"Accept-Encoding": "identity"} | {k.replace("_", "-"): v for k, v in headers.items()}

    async def ask(self, session: aiohttp.ClientSession, url: str) -> tuple[int, str | None, bytes]:
        options: dict[str, Any] = {"data": self.body or None, "headers": self.headers}
        async with session.request(self.method, url + self.path, **options) as answer:
            return answer.status, answer.headers.get(LENGTH), await answer.read()


async def compare(trained: Trained, triton: str, questions: list[Question]) -> None:
    async with KServeServer(serve(trained.model)) as server, aiohttp.ClientSession() as session:
        for question in questions:
            theirs = await question.ask(session, triton)
            ours = await question.ask(session, server.url)
            assert ours == theirs, f"{question.method} {question.path} {question.body[:200]!r}"


def pixels(trained: Trained, place: int, **more: Any) -> dict[str, Any]:
    data = trained.images[place].tolist()
    return {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": data} | more


async def test_answers_in_json_are_the_same_bytes(trained: Trained, triton: str) -> None:
    bodies = [json.dumps({"id": str(n), "inputs": [pixels(trained, n)]}).encode() for n in range(100)]
    await compare(trained, triton, [Question("POST", INFER, body) for body in bodies])


async def test_binary_answers_are_the_same_bytes(trained: Trained, triton: str) -> None:
    questions = []
    for place in range(20):
        raw = trained.images[place].astype("<f4").tobytes()
        entry = pixels(trained, place, parameters={"binary_data_size": len(raw)})
        del entry["data"]
        for more in (
            {},
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "digit", "parameters": {"binary_data": True}}]},
            {"outputs": [{"name": "probabilities", "parameters": {"classification": 3}}]},
        ):
            head = json.dumps({"inputs": [entry], **more}).encode()
            questions.append(Question("POST", INFER, head + raw, **{LENGTH: str(len(head))}))
        questions.append(Question("POST", INFER, raw, **{LENGTH: "0"}))
    await compare(trained, triton, questions)


async def test_mistakes_get_the_same_answer(trained: Trained, triton: str) -> None:
    good = pixels(trained, 0)
    documents: list[Any] = [
        {}, [], {"inputs": {}}, {"inputs": []}, {"inputs": [good, good]}, {"id": 1, "inputs": [good]},
        {"inputs": [good | {"name": "z"}]}, {"inputs": [good | {"datatype": "FOO"}]},
        {"inputs": [good | {"datatype": "INT32", "data": [1] * 64}]}, {"inputs": [good | {"shape": [64]}]},
        {"inputs": [good | {"shape": [1, 65]}]}, {"inputs": [good | {"data": ["a"] * 64}]},
        {"inputs": [good | {"data": [[1.5] * 64]}]}, {"inputs": [good], "outputs": [{"name": "nope"}]},
        {"inputs": [good], "parameters": {"timeout": "x"}}, {"inputs": [{"name": "pixels"}]},
    ]  # fmt: skip
    bodies = [json.dumps(document).encode() for document in documents]
    bodies += [b"{bad", b" ", b'{"a":1,}', b"[1 2]", b'{"a":}', b'{"a":tru}', b'{"a":"x', b"{} {}"]
    questions = [Question("POST", INFER, body) for body in bodies]
    questions += [
        Question("POST", INFER, b"{}", **{LENGTH: "9"}),
        Question("POST", INFER, b"12345", **{LENGTH: "0"}),
    ]
    await compare(trained, triton, questions)


async def test_questions_get_the_same_answer(trained: Trained, triton: str) -> None:
    paths = [
        "/v2/health/live", "/v2/health/ready", "/v2/health/other", "/v2/", "/", "/v2/models",
        "/v2/models/digits", "/v2/models/digits/versions/1", "/v2/models/digits/versions/9",
        "/v2/models/digits/ready", "/v2/models/nope/ready", "/v2/models/digits/versions/9/ready",
        "/v2/models/digits/versions/x/ready", "/v2/models/nope", "/v2/models/nope/config", "/v2/nope",
        "/v2/models/digi%74s", INFER,
    ]  # fmt: skip
    questions = [Question("GET", path) for path in paths]
    questions += [
        Question("POST", path, b"{}") for path in ("/v2/health/ready", "/v2/models/digits", INFER + "/")
    ]
    questions += [
        Question("POST", path, b"{}") for path in ("/v2/models/nope/infer", "/v2/models/nope/generate")
    ]
    await compare(trained, triton, questions)


async def test_real_triton_compresses_what_ours_compresses(trained: Trained, triton: str) -> None:
    body = json.dumps({"inputs": [pixels(trained, 0)]}).encode()
    async with KServeServer(serve(trained.model)) as server, aiohttp.ClientSession() as session:
        encodings = await asyncio.gather(
            *(
                encoding(session, url, body, accepted)
                for url in (triton, server.url)
                for accepted in ("gzip", "br")
            )
        )
    assert encodings == ["gzip", None, "gzip", None]


async def encoding(session: aiohttp.ClientSession, url: str, body: bytes, accepted: str) -> str | None:
    async with session.post(url + INFER, data=body, headers={"Accept-Encoding": accepted}) as answer:
        assert answer.status == 200
        return answer.headers.get("content-encoding")
