"""KServe v2: what each path asks, which requests are refused before they cost anything, and how."""

import json

import pytest

from gateway.errors import (
    BadCall,
    MethodNotAllowed,
    NotOffered,
    OverspillError,
    Refused,
    UnknownRoute,
)
from gateway.protocols.base import Answer
from gateway.protocols.kserve import Kserve
from gateway.vocab import Body, Call, Headers
from tests.support.requests import FakeFleet, FakeRequest

ONE = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
INFER = json.dumps({"inputs": [ONE]}).encode()


def kserve(fleet: FakeFleet | None = None) -> Kserve:
    return Kserve(fleet or FakeFleet(), version="1.2")


async def call(
    method: bytes, target: bytes, body: bytes | Body = b"", headers: Headers | None = None, **limits: int
) -> Call:
    read = await kserve().read(FakeRequest(method, target, body, headers or [], **limits))
    assert isinstance(read, Call)
    return read


async def answer(target: bytes, fleet: FakeFleet | None = None) -> Answer:
    read = await kserve(fleet).read(FakeRequest(b"GET", target))
    assert isinstance(read, Answer)
    return read


# -- paths


@pytest.mark.parametrize(
    ("method", "target", "body", "operation", "model", "version", "inference", "stream"),
    [
        (b"POST", b"/v2/models/m/infer", INFER, "infer", "m", "", True, False),
        (b"POST", b"/v2/models/m/versions/3/infer", INFER, "infer", "m", "3", True, False),
        (b"POST", b"/v2/models/m/infer?a=b", INFER, "infer", "m", "", True, False),
        (b"POST", b"/v2/models/m/generate", b"{}", "generate", "m", "", True, False),
        (b"POST", b"/v2/models/m/versions/1/generate", b"{}", "generate", "m", "1", True, False),
        (b"POST", b"/v2/models/m/generate_stream", b"{}", "generate_stream", "m", "", True, True),
        (b"GET", b"/v2/models/m", b"", "metadata", "m", "", False, False),
        (b"GET", b"/v2/models/m/versions/2", b"", "metadata", "m", "2", False, False),
        (b"GET", b"/v2/models/m/config", b"", "config", "m", "", False, False),
        (b"GET", b"/v2/models/m/versions/2/config", b"", "config", "m", "2", False, False),
        (b"GET", b"/v2/models/m/stats", b"", "stats", "m", "", False, False),
        (b"GET", b"/v2/models/m/versions/2/stats", b"", "stats", "m", "2", False, False),
        (b"POST", b"/v2/models/my%20model/infer", INFER, "infer", "my model", "", True, False),
        (b"POST", b"/v2/models/stats/infer", INFER, "infer", "stats", "", True, False),
        (b"POST", b"/v2/models/versions/infer", INFER, "infer", "versions", "", True, False),
    ],
)
async def test_a_path_names_operation_model_and_version(
    method: bytes,
    target: bytes,
    body: bytes,
    operation: str,
    model: str,
    version: str,
    inference: bool,
    stream: bool,
) -> None:
    read = await call(method, target, body)
    assert (read.protocol, read.operation, read.model, read.version) == ("kserve", operation, model, version)
    assert (read.inference, read.stream) == (inference, stream)
    assert (read.method, read.target) == (method, target)
    assert read.body.whole() == body


async def test_a_call_carries_what_the_request_carried() -> None:
    headers = [(b"content-type", b"application/json"), (b"host", b"h"), (b"x-overspill-deadline-ms", b"100")]
    read = await call(b"POST", b"/v2/models/m/infer", INFER, headers)
    assert read.headers == [(b"content-type", b"application/json")]
    assert read.request_id == "req-1"
    assert read.traceparent.startswith("00-")
    assert (read.arrived, read.deadline) == (100.0, 100.1)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        (b"GET", b"/v2/models/m/infer", "POST"),
        (b"HEAD", b"/v2/health/live", "GET"),
        (b"HEAD", b"/v2/models/m", "GET"),
        (b"POST", b"/v2/health/ready", "GET"),
        (b"POST", b"/v2/models/m/config", "GET"),
        (b"PUT", b"/v2/models/m/generate", "POST"),
        (b"POST", b"/v2", "GET"),
        (b"POST", b"/v2/models/m/ready", "GET"),
        (b"OPTIONS", b"/v2/models/stats", "GET"),
    ],
)
async def test_another_method_is_405_and_says_which_fits(method: bytes, target: bytes, allow: str) -> None:
    protocol = kserve()
    for _ in range(2):
        with pytest.raises(MethodNotAllowed) as caught:
            await protocol.read(FakeRequest(method, target))
    status, headers, _ = protocol.error(caught.value)
    assert status == 405
    assert (b"allow", allow.encode()) in headers


@pytest.mark.parametrize(
    "target",
    [
        b"/v2/models", b"/v2/models/", b"/v2/models//infer", b"/v2/models/m/", b"/v2/models/m/infer/",
        b"/v2/models/m/predict", b"/v2/models/m/versions", b"/v2/models/m/infer/x", b"/v2/health",
        b"/v2/health/live/", b"/v2/health/startup", b"/v2/nowhere", b"/v2//health/live",
        b"/v2/models/m/%69nfer", b"/v2/mod%65ls/m/infer", b"/v2/models/m/version%73/1/infer",
        b"/v2/models/m/versions/%31/infer", b"/v2/he%61lth/live",
    ],
)  # fmt: skip
async def test_a_path_outside_the_grammar_is_404(target: bytes) -> None:
    with pytest.raises(UnknownRoute):
        await call(b"POST", target, INFER)


@pytest.mark.parametrize("version", [b"latest", b"-1", b"1.0", b"", b"%D9%A1"])
async def test_a_version_is_a_number(version: bytes) -> None:
    with pytest.raises(BadCall):
        await call(b"POST", b"/v2/models/m/versions/" + version + b"/infer", INFER)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"/v2/systemsharedmemory/status"),
        (b"POST", b"/v2/systemsharedmemory/region/r/register"),
        (b"POST", b"/v2/cudasharedmemory/unregister"),
        (b"POST", b"/v2/repository/index"),
        (b"POST", b"/v2/repository/models/m/load"),
        (b"POST", b"/v2/repository/models/m/unload"),
        (b"GET", b"/v2/trace/setting"),
        (b"POST", b"/v2/logging"),
        (b"GET", b"/v2/models/m/trace/setting"),
        (b"POST", b"/v2/models/m/versions/1/trace/setting"),
    ],
)
async def test_what_belongs_to_one_server_is_refused_with_a_reason(method: bytes, target: bytes) -> None:
    with pytest.raises(Refused, match="not offered"):
        await call(method, target)


# -- answered by the gateway


@pytest.mark.parametrize(
    ("target", "fleet", "status"),
    [
        (b"/v2/health/live", FakeFleet(live=True, ready=False), 200),
        (b"/v2/health/live", FakeFleet(live=False), 400),
        (b"/v2/health/ready", FakeFleet(ready=True), 200),
        (b"/v2/health/ready", FakeFleet(ready=False), 400),
    ],
)
async def test_health_is_200_or_as_in_triton_400_with_no_body(
    target: bytes, fleet: FakeFleet, status: int
) -> None:
    assert await answer(target, fleet) == Answer(status, [], b"")


@pytest.mark.parametrize(
    ("target", "ready"),
    [
        (b"/v2/models/m/ready", True),
        (b"/v2/models/m/versions/2/ready", True),
        (b"/v2/models/m/versions/3/ready", False),
        (b"/v2/models/unknown/ready", False),
    ],
)
async def test_a_models_readiness_is_answered_without_asking_a_replica(target: bytes, ready: bool) -> None:
    got = await answer(target, FakeFleet(models=[("m", ""), ("m", "2")]))
    if ready:
        assert isinstance(got, Answer)
        assert got._replace(seen_by=None) == Answer(200, [], b"")
    else:
        assert (got.status, json.loads(got.body)) == (400, {"error": "Model version not ready"})


@pytest.mark.parametrize("target", [b"/v2", b"/v2/", b"/v2?x=1"])
async def test_server_metadata_lists_only_extensions_that_work(target: bytes) -> None:
    got = await answer(target)
    metadata = json.loads(got.body)
    assert got.status == 200
    assert (metadata["name"], metadata["version"]) == ("overspill", "1.2")
    assert {"binary_tensor_data", "generate"} <= set(metadata["extensions"])
    assert not {"system_shared_memory", "cuda_shared_memory", "model_repository"} & set(
        metadata["extensions"]
    )


async def test_an_answer_may_be_changed_without_changing_the_next() -> None:
    protocol = kserve()
    first = await protocol.read(FakeRequest(b"GET", b"/v2"))
    assert isinstance(first, Answer)
    first.headers.append((b"x", b"y"))
    second = await protocol.read(FakeRequest(b"GET", b"/v2"))
    assert second.headers == [(b"content-type", b"application/json")]


async def test_statistics_of_all_models_go_to_the_only_route() -> None:
    request = FakeRequest(b"GET", b"/v2/models/stats")
    read = await kserve(FakeFleet(sole="embed")).read(request)
    assert isinstance(read, Call)
    assert (read.operation, read.model, read.route_hint, read.inference) == ("stats", "", "embed", False)
    with pytest.raises(NotOffered, match="per model"):
        await kserve(FakeFleet(sole="")).read(request)


# -- errors


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (BadCall('with "quotes" and é'), 400, 'with "quotes" and é'),
        (Refused("no"), 403, "no"),
        (OverspillError(), 500, "internal error"),
    ],
)
def test_errors_are_one_text_under_error(error: OverspillError, status: int, text: str) -> None:
    got, headers, body = kserve().error(error)
    assert (got, json.loads(body)) == (status, {"error": text})
    assert (b"content-type", b"application/json") in headers
