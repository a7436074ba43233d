"""The real Triton from the wheel: it starts, answers real clients rightly, and leaves nothing behind."""

import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.demo.models import DIGITS, WRITER, Trained, train, write
from gateway.demo.processes import CannotStart, Child, start_module
from gateway.demo.triton_process import SHARED_MEMORY, why_not

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
]

PACE = 0.03


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


@pytest.fixture(scope="module")
def triton(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    weights = tmp_path_factory.mktemp("demo") / "digits.npz"
    trained.model.save(weights)
    with start_module(
        "triton",
        "gateway.demo.triton_process",
        "--weights",
        str(weights),
        "--slots",
        "2",
        "--pace",
        "30ms",
    ) as child:
        child.wait_ready(120)
        yield child


def ask(url: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status), reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code), error.read()


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_the_triton_client_gets_the_models_own_answer(triton: Child, trained: Trained, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http")
    pixels = trained.images[:5]
    asked = http.InferInput("pixels", list(pixels.shape), "FP32")
    asked.set_data_from_numpy(pixels, binary_data=binary)
    wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "digit")]
    with http.InferenceServerClient(triton.ready["http"].removeprefix("http://")) as client:
        answer = client.infer(DIGITS, [asked], outputs=wanted)
    expected = trained.model.answer(pixels)
    assert answer.as_numpy("digit").tolist() == expected.digit.tolist()
    assert np.allclose(answer.as_numpy("probabilities"), expected.probabilities, rtol=1e-5)


def test_questions_about_the_model_are_not_restricted(triton: Child) -> None:
    base = f"{triton.ready['http']}/v2/models/{DIGITS}"
    for question in ("", "/config", "/stats", "/ready"):
        status, body = ask(base + question)
        assert status == 200, (question, body)
    assert ask(f"{base}-unknown")[0] == 404


def test_the_pace_is_a_floor_of_the_service_time(triton: Child) -> None:
    before = _compute_ns(triton)
    body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [1.0] * 64}]}
    assert ask(f"{triton.ready['http']}/v2/models/{DIGITS}/infer", body)[0] == 200
    assert _compute_ns(triton) - before >= PACE * 1e9


def _compute_ns(triton: Child) -> int:
    _, body = ask(f"{triton.ready['http']}/v2/models/{DIGITS}/stats")
    statistics: dict[str, Any] = json.loads(body)["model_stats"][0]["inference_stats"]
    return int(statistics["compute_infer"]["ns"])


@pytest.mark.parametrize("extra", [{"max_tokens": 3}, {"parameters": {"max_tokens": 3, "temperature": 0.2}}])
def test_the_writer_answers_in_one_piece(triton: Child, extra: dict[str, Any]) -> None:
    status, body = ask(
        f"{triton.ready['http']}/v2/models/{WRITER}/generate", {"text_input": "one two", **extra}
    )
    assert status == 200
    assert json.loads(body)["text_output"] == "".join(write("one two", 3))


def test_the_writer_streams_one_event_per_token(triton: Child) -> None:
    asked = {"text_input": "one two", "stream": True, "max_tokens": 4}
    status, body = ask(f"{triton.ready['http']}/v2/models/{WRITER}/generate_stream", asked)
    assert status == 200
    events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event]
    assert [json.loads(event)["text_output"] for event in events] == write("one two", 4)


def test_it_ends_when_told_and_leaves_no_process_and_no_shared_memory(
    trained: Trained, tmp_path: Path
) -> None:
    trained.model.save(tmp_path / "digits.npz")
    arguments = ["--weights", str(tmp_path / "digits.npz"), "--slots", "1", "--no-writer"]
    child = start_module("triton", "gateway.demo.triton_process", *arguments)
    try:
        child.wait_ready(120)
        assert len(group(child.pid)) > 2  # this process, tritonserver, and the model's own
        ours = {f"{SHARED_MEMORY}{child.pid}-"}
        assert shared_memory(ours)
    finally:
        code = child.stop(grace=30)
    assert code == 0
    assert group(child.pid) == []
    assert shared_memory(ours) == []


def test_a_server_that_cannot_start_is_reported_at_once(trained: Trained, tmp_path: Path) -> None:
    trained.model.save(tmp_path / "digits.npz")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--weights", str(tmp_path / "digits.npz"), "--http-port", port]
        child = start_module("triton", "gateway.demo.triton_process", *arguments)
        with pytest.raises(CannotStart, match=r"triton ended with exit code 1(?s:.*)ended by itself"):
            child.wait_ready(60)
    assert group(child.pid) == []


def test_it_can_be_ended_while_it_starts(trained: Trained, tmp_path: Path) -> None:
    trained.model.save(tmp_path / "digits.npz")
    child = start_module("triton", "gateway.demo.triton_process", "--weights", str(tmp_path / "digits.npz"))
    give_up = time.monotonic() + 60
    while len(group(child.pid)) < 2:  # until tritonserver itself has been started
        assert child.alive
        assert time.monotonic() < give_up
        time.sleep(0.05)
    code = child.stop(grace=30)
    assert code == 0
    assert group(child.pid) == []
    assert shared_memory({f"{SHARED_MEMORY}{child.pid}-"}) == []


def group(leader: int) -> list[int]:
    """Processes of a process group that still run."""
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, members_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(members_group) == leader and state not in "ZX":
                members.append(int(folder.name))
    return members


def shared_memory(prefixes: set[str]) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(tuple(prefixes))]
