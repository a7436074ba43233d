"""Changing one member of a request and no other byte; tokens read out of answers; error answers' meanings."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.json_members import Renamed, inserted, members
from backends.openai_refusals import Meaning, meaning
from backends.openai_usage import StreamUsage, Tokens, asking_for_usage, omits_usage, usage_of

THERE = Renamed("model", 'org/there "x"')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a"}', b'{"model":NEW}'),
        (b' { "model" :\t"a\\"b" , "x":1.50}\n', b' { "model" :\tNEW , "x":1.50}\n'),
        (b'{"messages":[{"model":"inner"}],"model":"a"}', b'{"messages":[{"model":"inner"}],"model":NEW}'),
        (b'{"x":{"model":"inner"},"mod\\u0065l":"a"}', b'{"x":{"model":"inner"},"mod\\u0065l":NEW}'),
        (b'{"model":"a","model":"b"}', b'{"model":NEW,"model":NEW}'),
        (b'{"x":"\\"model\\": \\"no\\"","model":"a"}', b'{"x":"\\"model\\": \\"no\\"","model":NEW}'),
        (b'{"x \\"model":"no","model":"a"}', b'{"x \\"model":"no","model":NEW}'),
        (b'{"x":"\\u00e9 {[","model":"a"}', b'{"x":"\\u00e9 {[","model":NEW}'),
        (b'{"x":["model","a"],"model":"a"}', b'{"x":["model","a"],"model":NEW}'),
    ],
)
def test_only_the_models_name_is_changed(before: bytes, after: bytes) -> None:
    changed = THERE.apply(before)
    assert changed == after.replace(b"NEW", b'"org/there \\"x\\""')
    assert json.loads(changed)["model"] == 'org/there "x"'


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["model", '"model":']),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("model"), inner),
    max_leaves=12,
)


@given(
    rest=st.dictionaries(st.text() | st.sampled_from(["x", '"model"', "\\"]), ANYTHING),
    at=st.integers(0, 5),
    plain=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_whatever_else_is_in_the_request(
    rest: dict[str, Any], at: int, plain: bool, indent: int | None
) -> None:
    rest.pop("model", None)
    items = list(rest.items())
    document = dict([*items[:at], ("model", "a"), *items[at:]])
    text = json.dumps(document, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")
    changed = THERE.apply(text)
    assert json.loads(changed.decode("utf-8", "surrogatepass")) == {**document, "model": 'org/there "x"'}
    assert len(changed) == len(text) - len('"a"') + len(json.dumps('org/there "x"'))


def test_members_are_those_of_the_outermost_object() -> None:
    text = b'{"a":{"b":1},"c":[{"d":2}], "e" : "f"}'
    assert [(member.name, text[member.at : member.at + 1]) for member in members(text)] == [
        ("a", b"{"), ("c", b"["), ("e", b'"'),
    ]  # fmt: skip
    assert inserted(b"{ }", "x", b"1") == b'{"x":1 }'
    assert inserted(b' {"a":2}', "x", b"1") == b' {"x":1,"a":2}'


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (
            b'{"model":"a","stream":true}',
            b'{"stream_options":{"include_usage":true},"model":"a","stream":true}',
        ),
        (
            b'{"stream":true, "stream_options": null ,"x":1}',
            b'{"stream":true, "stream_options": {"include_usage":true} ,"x":1}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":false,"y":1.0}}',
            b'{"stream":true,"stream_options":{"include_usage":true,"y":1.0}}',
        ),
        (b'{"stream":true,"stream_options":{}}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
    ],
)
def test_a_stream_is_asked_what_it_used(body: bytes, asked: bytes) -> None:
    assert omits_usage(body)
    assert asking_for_usage(body) == asked
    assert not omits_usage(asked)


@pytest.mark.parametrize("body", [b"{}", b'{"stream":false}', b'{"stream":true,"stream_options":7}', b"["])
def test_other_requests_are_not(body: bytes) -> None:
    assert not omits_usage(body)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}', Tokens(10, 5)),
        (
            b'{"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}}',
            Tokens(10, 5, 8),
        ),
        (b'{"usage":{"prompt_tokens":10,"total_tokens":10},"data":[]}', Tokens(10, 0)),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":99}}}',
            Tokens(3, 4, 3),
        ),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":"many"}', None),
        (b"<html>", None),
    ],
)
def test_tokens_of_a_whole_answer(body: bytes, tokens: Tokens | None) -> None:
    assert usage_of(body) == tokens


TEXT = b'data: {"choices":[{"delta":{"content":"usage"}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("hide", [True, False])
def test_the_last_event_of_a_stream_tells(size: int, newline: bytes, hide: bool) -> None:
    sent = (TEXT + TEXT + LAST + DONE).replace(b"\n", newline)
    usage = StreamUsage(hide=hide)
    shown = b"".join(usage.feed(sent[at : at + size]) for at in range(0, len(sent), size)) + usage.finish()
    assert usage.tokens == Tokens(7, 2)
    assert shown == (sent if not hide else (TEXT + TEXT + DONE).replace(b"\n", newline))


def test_usage_beside_an_answer_is_never_hidden() -> None:
    usage = StreamUsage(hide=True)
    event = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    responses = (
        b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":1,"output_tokens":9}}}\n\n'
    )
    assert usage.feed(event) == event
    assert usage.tokens == Tokens(7, 2)
    assert usage.feed(responses) == responses
    assert usage.tokens == Tokens(1, 9)


def test_an_event_that_was_cut_off_is_shown_and_tells_what_it_can() -> None:
    usage = StreamUsage(hide=True)
    assert usage.feed(TEXT + LAST[:-9]) == TEXT
    assert usage.finish() == LAST[:-9]
    assert usage.tokens is None


def test_an_event_without_end_is_passed_on_and_not_kept() -> None:
    usage = StreamUsage(hide=True)
    shown = sum(len(usage.feed(b"x" * 100_000)) for _ in range(20))
    assert shown == 2_000_000
    assert usage.feed(LAST) == LAST
    assert usage.tokens is None


@pytest.mark.parametrize(
    ("status", "body", "means"),
    [
        (400, b'{"error":{"code":"context_length_exceeded"}}', Meaning.ANSWER),
        (422, b"", Meaning.ANSWER),
        (404, b'{"error":{"code":"model_not_found","param":"model"}}', Meaning.UNREADY),
        (404, b'{"object":"error","message":"The model `x` does not exist.","code":404}', Meaning.UNREADY),
        (404, b'{"error":{"param":"previous_response_id"}}', Meaning.ANSWER),
        (401, b"", Meaning.DENIED),
        (402, b"", Meaning.DENIED),
        (429, b'{"error":"Model is overloaded","error_type":"overloaded"}', Meaning.FULL),
        (429, b'{"error":{"code":"rate_limit_exceeded"}}', Meaning.FULL),
        (429, b'{"error":{"code":"insufficient_quota"}}', Meaning.DENIED),
        (503, b"queue is full", Meaning.FULL),
        (529, b"", Meaning.FULL),
        (424, b"", Meaning.BROKE),
        (500, b"", Meaning.BROKE),
    ],
)
def test_what_an_error_answer_means(status: int, body: bytes, means: Meaning) -> None:
    assert meaning(status, body) is means
