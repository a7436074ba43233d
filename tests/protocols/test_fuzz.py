"""Whatever bytes come in, a protocol answers with a Call, an Answer or a BadCall, and never with a surprise."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadCall
from gateway.protocols.base import Answer, Protocols
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.vocab import HOP_BY_HOP, Call
from tests.support.requests import ArrivingBody, FakeFleet, FakeRequest

SEGMENTS = st.sampled_from(
    [b"v2", b"v1", b"invoke", b"models", b"m", b"versions", b"1", b"infer", b"generate", b"generate_stream",
     b"ready", b"config", b"stats", b"health", b"live", b"chat", b"completions", b"embeddings", b"", b"..",
     b"%2e", b"%2f", b"%", b"%C3%A9", b"repository", b"systemsharedmemory", b"trace", b"setting"]
)  # fmt: skip
TARGETS = st.one_of(
    st.binary(max_size=60),
    st.lists(SEGMENTS | st.binary(max_size=6), max_size=7).map(lambda parts: b"/" + b"/".join(parts)),
    st.sampled_from(
        [b"/v2/models/m/infer", b"/v2/models/m/generate", b"/v1/chat/completions", b"/invoke/r/x?y", b"/v2/"]
    ),
)
NAMES = st.sampled_from(
    [b"host", b"connection", b"te", b"accept", b"content-encoding", b"inference-header-content-length",
     b"x-overspill-deadline-ms", b"x-overspill-priority", b"x-overspill-other", b"authorization", b"a"]
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=20),
    st.integers(-2, 80).map(lambda number: b"%d" % number),
    st.sampled_from([b"gzip", b"identity", b"a, host", b"keep-alive", b"critical", b"text/event-stream"]),
)
KEYS = st.sampled_from(
    ["inputs", "outputs", "name", "data", "parameters", "binary_data_size", "shared_memory_region", "model",
     "stream", "max_tokens", "x"]
)  # fmt: skip
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSONS.map(lambda value: json.dumps(value).encode()),
    st.tuples(JSONS, st.binary(max_size=8)).map(lambda pair: json.dumps(pair[0]).encode() + pair[1]),
)


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"TRACE", b"OPTIONS"]),
    target=TARGETS,
    headers=st.lists(st.tuples(NAMES | st.binary(max_size=20), VALUES), max_size=6),
    body=BODIES,
    arriving=st.booleans(),
)
def test_every_request_is_understood_or_refused(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes, arriving: bool
) -> None:
    raw = Raw()
    protocols = Protocols([Kserve(FakeFleet()), OpenAI(lambda: ["m"]), raw], fallback=raw)

    async def read() -> Call | Answer:
        whole = ArrivingBody(body, chunks_of=7) if arriving else body
        return await protocols.read(FakeRequest(method, target, whole, headers))

    try:
        result = asyncio.run(read())
    except BadCall as error:
        status, _, text = protocols.error(target, error)
        assert 400 <= status < 600
        assert "error" in json.loads(text)
        return
    if isinstance(result, Call):
        _check(result)
    else:
        assert result.status in {200, 400}


def _check(call: Call) -> None:
    names = {name for name, _ in call.headers}
    assert not names & (HOP_BY_HOP | {b"host", b"authorization", b"content-length"})
    assert not any(name.startswith((b"x-overspill-", b"proxy-")) for name in names)
    assert call.target.startswith(b"/")
    assert not call.target.startswith(b"//")
    assert call.target.isascii()
    path = call.target.partition(b"?")[0].lower()
    assert b"/../" not in path + b"/"
    assert b"%2e%2e/" not in path + b"/"
    assert b"%2f" not in path
    assert call.deadline > call.arrived
