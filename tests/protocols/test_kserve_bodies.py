"""KServe v2 bodies: what is checked before a slot is taken, and what goes on unread."""

import json

import pytest

from gateway.errors import BadCall, BodyTooLarge, Refused
from gateway.protocols.kserve import Kserve
from gateway.vocab import Body, Call, Headers
from tests.support.requests import ArrivingBody, FakeFleet, FakeRequest

ONE = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
INFER = json.dumps({"inputs": [ONE]}).encode()


async def call(target: bytes, body: bytes | Body, headers: Headers | None = None, **limits: int) -> Call:
    read = await Kserve(FakeFleet()).read(FakeRequest(b"POST", target, body, headers or [], **limits))
    assert isinstance(read, Call)
    return read


async def infer(body: bytes | Body, headers: Headers | None = None, **limits: int) -> Call:
    return await call(b"/v2/models/m/infer", body, headers, **limits)


def binary(json_part: bytes) -> Headers:
    return [(b"inference-header-content-length", b"%d" % len(json_part))]


# -- JSON bodies

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[]", b"null", b"1", b'"x"', b"{}x", b"{}{}", b"\xef\xbb\xbf" + INFER,
        INFER[:-1], INFER + b"}", INFER + b"\x00", b'{"inputs":[{}],}', b'{"inputs":[{},]}', b"{'inputs':[{}]}",
        b'{"inputs":[{"a":tru}]}', b'{"inputs":[{"a":01}]}', b'{"inputs":[{"a":1.}]}', b'{"inputs":[{"a":+1}]}',
        b'{"inputs":[{"a":"\\q"}]}', b'{"inputs":[{"a":"\\u12"}]}', b'{"inputs":[{"a":"\n"}]}',
        b'{"x":"\\x41","inputs":[{}]}', b'{"inputs":[{}] /* */}', b'{"x":' + DEEP, b'{"inputs":' + DEEP,
        b'{"x":' + DEEP + b"]" * 100_000 + b',"inputs":[{}]}', b'{"x":' + b'{"a":' * 100_000,
        b'{"inputs":[{"data":[nan]}]}', b'{"inputs":[{"data":[1NaN]}]}', b'{"inputs":[NaN',
        b'{"inputs":[{"data":["\xff"]}]}', b'{"inputs":[{"data":["\xc3"]}]}', b'{"\xff":1,"inputs":[{}]}',
    ],
)  # fmt: skip
async def test_malformed_json_is_400(body: bytes) -> None:
    for operation in (b"infer", b"generate", b"generate_stream"):
        with pytest.raises(BadCall) as caught:
            await call(b"/v2/models/m/" + operation, body)
        assert caught.value.status == 400
        assert str(caught.value)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"inputs":[]}', b'{"inputs":null}', b'{"inputs":{}}', b'{"input":[1]}']
)
async def test_an_infer_request_has_inputs(body: bytes) -> None:
    with pytest.raises(BadCall, match="inputs"):
        await infer(body)


@pytest.mark.parametrize(
    "body",
    [
        INFER,
        b' {"inputs":[{"data":[[1.5e-3,-2]]}]} \n',
        b'{"inputs":[{"data":[NaN,-NaN,Infinity,-Infinity,Inf,-Inf]}]}',
        b'{"inputs":[{"data":["NaN"]}],"parameters":{"x":NaN}}',
        '{"inputs":[{"data":["é"]}]}'.encode(),
        b'{"inputs":[{"data":["caf\\u00e9 \\ud83d\\ude00"]}]}',
        b'{"inputs":[{}],"inputs":[{}]}',
        b'{"inputs":[{}],"id":"1","outputs":[{"name":"y"}]}',
        b'{"inputs":[{"data":' + b"[" * 50 + b"]" * 50 + b"}]}",
        b'{"inputs":[{"data":[123456789012345678901234567890,1e999]}]}',
    ],
)
async def test_json_that_triton_reads_goes_on_unchanged(body: bytes) -> None:
    assert (await infer(body)).body.whole() == body


@pytest.mark.parametrize(
    "tokens", [(b"16", 16), (b"[[16]]", None), (b"0", None), (b"true", None), (b'"16"', None)]
)
async def test_a_generate_requests_token_limit_is_noted_if_it_is_a_number(
    tokens: tuple[bytes, int | None],
) -> None:
    read = await call(b"/v2/models/m/generate", b'{"text_input":"x","max_tokens":%b}' % tokens[0])
    assert read.max_tokens == tokens[1]


async def test_a_body_that_is_still_arriving_is_read_up_to_the_limit() -> None:
    body = ArrivingBody(INFER)
    read = await infer(body)
    assert read.body.whole() == INFER
    with pytest.raises(BodyTooLarge):
        await infer(ArrivingBody(INFER), max_body=10)


# -- binary tensors

TENSORS = json.dumps(
    {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "b", "shape": [1], "datatype": "FP32", "data": [1]},
            {
                "name": "c",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": 5, "other": "x"},
            },
        ]
    }
).encode()


async def test_binary_tensors_follow_the_json_part() -> None:
    body = TENSORS + b"\x00\xff" * 6 + b"\x80"
    read = await infer(body, binary(TENSORS))
    assert read.body.whole() == body
    assert read.headers == binary(TENSORS)


async def test_of_a_large_binary_body_only_the_json_part_is_waited_for() -> None:
    size = 500_000
    part = b'{"inputs":[{"name":"a","parameters":{"binary_data_size":%d}}]}' % size
    body = ArrivingBody(part + bytes(size), declared=len(part) + size)
    await infer(body, binary(part))
    assert body.fetched < len(part) + 64


async def test_a_chunked_binary_body_is_not_counted_before_it_has_ended() -> None:
    body = ArrivingBody(TENSORS + bytes(100), declared=None)
    await infer(body, binary(TENSORS))
    assert body.fetched < len(TENSORS) + 64


async def test_raw_mode_reads_nothing() -> None:
    body = ArrivingBody(b"\xff" * 1000, declared=1000)
    await infer(body, [(b"inference-header-content-length", b"0")])
    assert body.fetched == 0


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+5", b"1e2", b"0x10", b" 5", b"5 ", b"5,5", b"1.0", b"9" * 30]
)
async def test_the_json_parts_length_is_a_plain_decimal(value: bytes) -> None:
    with pytest.raises(BadCall, match="inference-header-content-length"):
        await infer(TENSORS + bytes(13), [(b"inference-header-content-length", value)])


async def test_the_json_parts_length_is_given_once() -> None:
    with pytest.raises(BadCall, match="more than once"):
        await infer(TENSORS + bytes(13), binary(TENSORS) * 2)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (TENSORS + bytes(13), len(TENSORS) + 14),  # beyond the body
        (TENSORS + bytes(13), len(TENSORS) - 1),  # cuts the JSON
        (TENSORS + bytes(13), len(TENSORS) + 1),  # takes in a tensor byte
        (TENSORS + bytes(12), len(TENSORS)),  # a tensor is short
        (TENSORS + bytes(14), len(TENSORS)),  # a byte too many
        (INFER + b"x", len(INFER)),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":-1}}]}', 62),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":"1"}}]}1', 63),
        (b'{"inputs":[{"name":"a","parameters":{"binary_data_size":1.5}}]}1', 63),
        (b'{"inputs":[{"name":"a","parameters":[]}]}', 41),
        (b'{"inputs":[{}]}', 15),
        (b'{"inputs":[]}', 13),
        (b"{}", 2),
    ],
)
async def test_lengths_that_do_not_add_up_are_400(body: bytes, length: int) -> None:
    headers = [(b"inference-header-content-length", b"%d" % length)]
    with pytest.raises(BadCall) as whole:
        await infer(body, headers)
    assert whole.value.status == 400
    with pytest.raises(BadCall):
        await infer(ArrivingBody(body, declared=len(body)), headers)


async def test_a_chunked_body_that_ends_inside_its_json_part_is_400() -> None:
    with pytest.raises(BadCall, match="only"):
        await infer(ArrivingBody(b'{"inputs"', declared=None), [(b"inference-header-content-length", b"50")])


# -- shared memory

REGION = b'"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"a",%b}]}' % REGION,
        b'{"inputs":[{"name":"a","data":[1]}],"outputs":[{"name":"y",%b}]}' % REGION,
        b'{"inputs":[{"name":"a",%b}],"inputs":[{"name":"a","data":[1]}]}' % REGION,
        b'{"inputs":[{"name":"a","parameters":{"shared_memory_region" \n:\t"r"}}]}',
        b'{"inputs":[{"name":"a","parameters":{"shared\\u005fmemory_region":"r"}}]}',
        b'{"inputs":[{"name":"a","parameters":{"\\u0073hared_memory\\u005Fregion":"r"}}]}',
        b'{"inputs":[{"name":"shared_memory_region","parameters":{"shared_memor\\u0079_region":"r"}}]}',
    ],
)
async def test_shared_memory_in_a_tensor_is_refused_however_it_is_spelt(body: bytes) -> None:
    with pytest.raises(Refused, match="shared memory"):
        await infer(body)
    with pytest.raises(Refused, match="shared memory"):
        await infer(body, binary(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"a","data":["shared_memory_region"]}]}',
        b'{"inputs":[{"name":"a","data":["\\"shared_memory_region\\": 1"]}]}',
        b'{"inputs":[{"name":"shared_memory_region","data":[1]}]}',
        b'{"inputs":[{"name":"a","data":["\\u005f\\u0061\\u00e9"]}]}',
    ],
)
async def test_words_about_shared_memory_are_only_words(body: bytes) -> None:
    assert (await infer(body)).body.whole() == body


# -- content-encoding


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
async def test_a_compressed_infer_request_goes_on_unread(encoding: bytes) -> None:
    body = ArrivingBody(b"\x1f\x8b....", declared=6)
    read = await infer(body, [(b"content-encoding", encoding), (b"inference-header-content-length", b"999")])
    assert body.fetched == 0
    assert (b"content-encoding", encoding) in read.headers


async def test_identity_is_no_compression() -> None:
    with pytest.raises(BadCall):
        await infer(b"{", [(b"content-encoding", b"identity")])
    await infer(INFER, [(b"content-encoding", b"identity")])


async def test_generate_takes_no_compression() -> None:
    with pytest.raises(BadCall, match="content-encoding"):
        await call(b"/v2/models/m/generate", b"{}", [(b"content-encoding", b"gzip")])
