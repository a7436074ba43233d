"""The two messages against the official classes: the same bytes mean the same."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from backends import grpc_messages
from backends.grpc_messages import REQUEST, RESPONSE, Kind, Message
from backends.protobuf_wire import Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)


def parameter(kind: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values.map(lambda value: pb.InferParameter(**{kind: value}))


PARAMETERS = st.dictionaries(
    TEXT,
    st.one_of(
        parameter("bool_param", st.booleans()),
        parameter("int64_param", INT64),
        parameter("string_param", TEXT),
        parameter("double_param", st.floats()),
        parameter("uint64_param", st.integers(0, 2**64 - 1)),
    ),
    max_size=3,
)
SHAPES = st.lists(st.integers(0, 2**63 - 1), max_size=4)


def entries(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, name=TEXT, datatype=TEXT, shape=SHAPES, parameters=PARAMETERS)


WANTED = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor,
    name=TEXT,
    parameters=PARAMETERS,
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    inputs = draw(st.lists(entries(pb.ModelInferRequest.InferInputTensor), max_size=3))
    raw = draw(st.lists(st.binary(max_size=20), min_size=len(inputs), max_size=len(inputs)))
    return pb.ModelInferRequest(
        model_name=draw(TEXT),
        model_version=draw(TEXT),
        id=draw(TEXT),
        parameters=draw(PARAMETERS),
        inputs=inputs,
        outputs=draw(st.lists(WANTED, max_size=3)),
        raw_input_contents=raw,
    )


@st.composite
def responses(draw: st.DrawFn) -> Any:
    outputs = draw(st.lists(entries(pb.ModelInferResponse.InferOutputTensor), max_size=3))
    raw = draw(st.lists(st.binary(max_size=20), min_size=len(outputs), max_size=len(outputs)))
    return pb.ModelInferResponse(
        model_name=draw(TEXT),
        model_version=draw(TEXT),
        id=draw(TEXT),
        parameters=draw(PARAMETERS),
        outputs=outputs,
        raw_output_contents=raw,
    )


def plain(parameters: Any) -> dict[str, str]:
    """The repr tells bool from int and lets NaN equal itself."""
    return {name: repr(getattr(p, p.WhichOneof("parameter_choice"))) for name, p in parameters.items()}


def shown(parameters: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in parameters.items()}


def check(message: Message, official: Any, tensors: Any, raw: Any, wanted: Any) -> None:
    assert (message.model, message.version, message.id) == (
        official.model_name,
        official.model_version,
        official.id,
    )
    assert shown(message.parameters) == plain(official.parameters)
    found = [(t.name, t.datatype, list(t.shape), shown(t.parameters)) for t in message.tensors]
    assert found == [(t.name, t.datatype, list(t.shape), plain(t.parameters)) for t in tensors]
    assert list(map(bytes, message.data)) == list(raw)
    assert [(w.name, shown(w.parameters)) for w in message.wanted] == [
        (w.name, plain(w.parameters)) for w in wanted
    ]


@settings(deadline=None)
@given(requests())
def test_a_request_is_read_and_written_as_the_official_class_does(official: Any) -> None:
    message = grpc_messages.read(official.SerializeToString(), REQUEST)
    check(message, official, official.inputs, official.raw_input_contents, official.outputs)
    again = pb.ModelInferRequest.FromString(grpc_messages.write(message, REQUEST))
    check(message, again, again.inputs, again.raw_input_contents, again.outputs)


@settings(deadline=None)
@given(responses())
def test_a_response_is_read_and_written_as_the_official_class_does(official: Any) -> None:
    message = grpc_messages.read(official.SerializeToString(), RESPONSE)
    check(message, official, official.outputs, official.raw_output_contents, ())
    again = pb.ModelInferResponse.FromString(grpc_messages.write(message, RESPONSE))
    check(message, again, again.outputs, again.raw_output_contents, ())


def outcome(raw: bytes, kind: Kind) -> str:
    try:
        message = grpc_messages.read(raw, kind)
    except Malformed:
        return "malformed"
    tensors = [(t.name, t.datatype, t.shape, ordered(t.parameters)) for t in message.tensors]
    wanted = [(w.name, ordered(w.parameters)) for w in message.wanted]
    texts = (message.model, message.version, message.id)
    return repr((texts, ordered(message.parameters), tensors, wanted, list(map(bytes, message.data))))


def ordered(parameters: Any) -> list[tuple[str, str]]:
    """The order of a map is nobody's."""
    return sorted(shown(parameters).items())


@settings(max_examples=300, deadline=None)
@given(requests(), requests(), st.data())
def test_spoilt_bytes_mean_what_they_mean_to_the_official_class(
    one: Any, two: Any, data: st.DataObject
) -> None:
    """Also two messages in a row, which the format merges into one."""
    raw = bytearray(one.SerializeToString(deterministic=True))
    if data.draw(st.booleans()):
        raw += two.SerializeToString(deterministic=True)
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not raw:
            break
    try:
        official = pb.ModelInferRequest.FromString(bytes(raw))
    except DecodeError:
        assert outcome(bytes(raw), REQUEST) == "malformed"
        return
    assert outcome(bytes(raw), REQUEST) == outcome(official.SerializeToString(), REQUEST)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.ModelInferRequest(inputs=[{"shape": [1]}]), r"inputs\[0\] has no data"),
        (pb.ModelInferRequest(raw_input_contents=[b"x"]), "1 raw_input_contents for 0 inputs"),
        (
            pb.ModelInferRequest(inputs=[{"contents": {"int_contents": [1]}}], raw_input_contents=[b"x"]),
            r"inputs\[0\] has contents, and there are raw_input_contents too",
        ),
        (pb.ModelInferRequest(parameters={"x": {}}), "parameters has one without a value: 'x'"),
        (pb.ModelInferRequest(inputs=[{"shape": [1] * 257}]), r"inputs\[0\].shape has more than 256"),
        (
            pb.ModelInferRequest(parameters={str(n): {"bool_param": True} for n in range(1025)}),
            "more than 1024",
        ),
        (pb.ModelInferRequest(raw_input_contents=[b""] * 4097), "more than 4096 raw_input_contents"),
        (pb.ModelInferRequest(outputs=[{}] * 4097), "more than 4096 outputs"),
    ],
)
def test_what_cannot_be_is_said_where(message: Any, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        grpc_messages.read(message.SerializeToString(), REQUEST)
