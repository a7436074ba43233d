"""The gRPC protocol by itself: what is read of a message, what is refused, what a status becomes."""

from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import (
    AnswerTruncated,
    BackendBroke,
    BackendDown,
    BackendFull,
    BadCall,
    BodyTooLarge,
    ClientGone,
    Contended,
    DeadlinePassed,
    NoCapacity,
    NotOffered,
    OverspillError,
    Refused,
    UnknownRoute,
)
from gateway.protocols.base import Answer
from gateway.protocols.grpc import HEALTH_CHECK, SERVICE, STATUS_FIELD, Grpc
from gateway.vocab import Body, Call, Headers, WholeBody


class Fleet:
    def __init__(self, ready: bool = True, sole: str = "only") -> None:
        self._ready, self._sole = ready, sole

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return self._ready

    def route_of(self, protocol: str, model: str) -> str | None:
        return None

    def model_ready(self, model: str, version: str) -> bool:
        return self._ready and (model, version) in {("m", ""), ("m", "3")}

    def sole_route(self) -> str:
        return self._sole


class Request:
    method = b"POST"
    request_id = "r-1"
    traceparent = ""
    arrived = 10.0
    max_body = 1 << 20

    def __init__(self, name: str, message: bytes, headers: Headers | None = None) -> None:
        self.target = (name if name.startswith("/") else f"/{SERVICE}/{name}").encode()
        self.body: Body = WholeBody(message)
        self.headers: Headers = headers or []


async def read(name: str, message: Message | bytes, fleet: Fleet | None = None, **more: Any) -> Call | Answer:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return await Grpc(fleet or Fleet(), version="9").read(Request(name, data, **more))


async def called(name: str, message: Message | bytes, **more: Any) -> Call:
    call = await read(name, message, **more)
    assert isinstance(call, Call)
    return call


async def answered(name: str, message: Message | bytes, fleet: Fleet | None = None) -> bytes:
    answer = await read(name, message, fleet)
    assert isinstance(answer, Answer)
    assert answer.status == 200
    return answer.body


async def test_an_inference_names_its_model_and_version() -> None:
    message = pb.ModelInferRequest(
        model_name="m", model_version="3", id="x", raw_input_contents=[b"\xff" * 999]
    )
    call = await called("ModelInfer", message)
    assert (call.protocol, call.operation, call.model, call.version) == ("grpc", "infer", "m", "3")
    assert call.inference
    assert not call.stream
    assert call.body.whole() == message.SerializeToString()
    assert (await called("ModelStreamInfer", message)).stream


async def test_of_a_model_that_is_named_twice_the_last_counts_as_for_the_server() -> None:
    twice = pb.ModelInferRequest(model_name="first").SerializeToString()
    twice += pb.ModelInferRequest(model_name="last").SerializeToString()
    assert (
        (await called("ModelInfer", twice)).model
        == pb.ModelInferRequest.FromString(twice).model_name
        == "last"
    )


@pytest.mark.parametrize(
    ("name", "message", "operation"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest(name="m", version="1"), "metadata"),
        ("ModelConfig", pb.ModelConfigRequest(name="m", version="1"), "config"),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="m", version="1"), "stats"),
    ],
)
async def test_questions_about_a_model_are_no_work(name: str, message: Message, operation: str) -> None:
    call = await called(name, message)
    assert (call.operation, call.model, call.version, call.inference) == (operation, "m", "1", False)


async def test_questions_about_no_model_go_to_the_only_route() -> None:
    assert (await called("RepositoryIndex", b"")).route_hint == "only"
    assert (await called("ModelStatistics", b"")).route_hint == "only"
    with pytest.raises(NotOffered, match="several routes"):
        await read("RepositoryIndex", b"", Fleet(sole=""))


async def test_what_the_gateway_answers_by_itself() -> None:
    assert pb.ServerLiveResponse.FromString(await answered("ServerLive", b"")).live
    for ready in (True, False):
        fleet = Fleet(ready=ready)
        assert pb.ServerReadyResponse.FromString(await answered("ServerReady", b"", fleet)).ready is ready
        health = await answered(HEALTH_CHECK, b"", fleet)
        assert health == (b"\x08\x01" if ready else b"\x08\x02")  # SERVING, NOT_SERVING of health.proto
    metadata = pb.ServerMetadataResponse.FromString(await answered("ServerMetadata", b""))
    assert (metadata.name, metadata.version) == ("overspill", "9")
    assert "binary_tensor_data" in metadata.extensions
    for model, version, ready in (("m", "", True), ("m", "3", True), ("m", "4", False), ("n", "", False)):
        asked = pb.ModelReadyRequest(name=model, version=version)
        assert pb.ModelReadyResponse.FromString(await answered("ModelReady", asked)).ready is ready
    with pytest.raises(UnknownRoute, match="no service 'other'"):
        await read(HEALTH_CHECK, b"\x0a\x05other")


@pytest.mark.parametrize(
    "name",
    ["RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings", "SystemSharedMemoryRegister",
     "CudaSharedMemoryStatus"],
)  # fmt: skip
async def test_what_is_refused_over_http_is_refused_here(name: str) -> None:
    with pytest.raises(Refused):
        await read(name, b"")


async def test_tensors_in_shared_memory_are_refused_but_text_about_them_is_not() -> None:
    region = pb.InferParameter(string_param="region")
    given_ = pb.ModelInferRequest(model_name="m")
    given_.inputs.add(name="x").parameters["shared_memory_region"].CopyFrom(region)
    wanted = pb.ModelInferRequest(model_name="m")
    wanted.outputs.add(name="y").parameters["shared_memory_region"].CopyFrom(region)
    for message in (given_, wanted):
        with pytest.raises(Refused, match="shared memory"):
            await read("ModelInfer", message)
    text = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"\x14\0\0\0shared_memory_region"])
    text.inputs.add(name="shared_memory_region").contents.bytes_contents.append(b"shared_memory_region")
    assert (await called("ModelInfer", text)).model == "m"


async def test_a_model_must_be_named_and_a_version_must_be_a_number() -> None:
    with pytest.raises(BadCall, match="names no model"):
        await read("ModelInfer", pb.ModelInferRequest(id="x"))
    with pytest.raises(BadCall, match="must be a number"):
        await read("ModelInfer", pb.ModelInferRequest(model_name="m", model_version="latest"))
    with pytest.raises(BadCall, match="UTF-8"):
        await read("ModelInfer", b"\x0a\x01\xff")


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No reader but the server's own can be right about every message; ours never fails in another way."""
    with pytest.raises((StopIteration, BadCall)):
        read("ModelInfer", data).send(None)


@given(
    st.text(min_size=1, max_size=300).filter(lambda text: "\0" not in text),
    st.lists(st.binary(max_size=300), max_size=4),
    st.dictionaries(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1), max_size=4),
)
def test_the_model_is_the_one_that_protobuf_reads(
    model: str, raw: list[bytes], numbers: dict[str, int]
) -> None:
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for name, value in numbers.items():
        message.parameters[name].int64_param = value
    coroutine = read("ModelInfer", message)
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    assert done.value.value.model == model


async def test_the_fields_of_a_request_are_read_as_over_http() -> None:
    headers: Headers = [
        (b"authorization", b"Bearer x"), (b"x-custom", b"1"), (b"x-overspill-priority", b"critical"),
        (b"x-overspill-deadline-ms", b"250"), (b"idempotency-key", b"k"),
    ]  # fmt: skip
    call = await called("ModelInfer", pb.ModelInferRequest(model_name="m"), headers=headers)
    assert call.headers == [(b"x-custom", b"1"), (b"idempotency-key", b"k")]
    assert (call.priority, call.deadline, call.deadline_is_clients) == ("critical", 10.25, True)


async def test_messages_that_follow_are_of_the_same_model() -> None:
    check = Grpc(Fleet()).follows(pb.ModelInferRequest(model_name="m").SerializeToString())
    check(pb.ModelInferRequest(model_name="m", id="2").SerializeToString())
    with pytest.raises(BadCall, match="one stream per model"):
        check(pb.ModelInferRequest(model_name="n").SerializeToString())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadCall("x"), 3), (Refused("x"), 7), (UnknownRoute("x"), 5), (BodyTooLarge("x"), 8), (NotOffered("x"), 12),
        (Contended("x"), 8), (NoCapacity("x"), 14), (DeadlinePassed("x"), 4), (ClientGone("x"), 1),
        (BackendFull("x"), 14), (BackendDown("x"), 14), (BackendBroke("x"), 13), (AnswerTruncated("x"), 13),
        (OverspillError("x"), 13),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_error_has_its_code(error: OverspillError, code: int) -> None:
    status, headers, body = Grpc(Fleet()).error(error)
    assert (status, dict(headers)[STATUS_FIELD], body) == (error.status, b"%d" % code, b"x")
