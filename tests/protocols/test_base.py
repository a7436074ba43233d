"""Targets and header fields: what every protocol refuses, drops and hands on."""

import pytest

from gateway.errors import BadCall, MethodNotAllowed, NoCapacity, OverspillError, UnknownRoute
from gateway.protocols.base import HeaderReader, Protocols, Target, error_fields, parse_target, remember
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.vocab import HOP_BY_HOP, Call, Headers, WholeBody
from tests.support.requests import FakeFleet, FakeRequest


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        (b"/", Target(b"/", b"", ("",))),
        (b"/a/b", Target(b"/a/b", b"", ("a", "b"))),
        (b"/a/b/", Target(b"/a/b/", b"", ("a", "b", ""))),
        (b"/a?", Target(b"/a", b"?", ("a",))),
        (b"/a?x=/../%2f?", Target(b"/a", b"?x=/../%2f?", ("a",))),
        (b"/my%20model", Target(b"/my%20model", b"", ("my model",))),
        (b"/%C3%A9", Target(b"/%C3%A9", b"", ("é",))),
        (b"/%252e%252e", Target(b"/%252e%252e", b"", ("%2e%2e",))),
        (b"/a..b/...", Target(b"/a..b/...", b"", ("a..b", "..."))),
    ],
)
def test_an_origin_form_target_is_split_and_decoded_once(target: bytes, parsed: Target) -> None:
    assert parse_target(target) == parsed


@pytest.mark.parametrize(
    "target",
    [
        b"", b"*", b"a/b", b"http://host/v2", b"host:443",
        b"/a/../b", b"/a/./b", b"/..", b"/.", b"/a/%2e%2e/b", b"/a/.%2E/b", b"/a/%2e/b",
        b"/a%2fb", b"/a%2Fb", b"/a%5cb", b"/a\\b",
        b"/a b", b"/a\x00b", b"/a\nb", b"/a\x7fb", b"/a%00b", b"/a%0ab", b"/a%7f", b"/a?\r\nx: y",
        b"/a#b", b"/a?b#c", b"/caf\xc3\xa9", b"/a?\xff", b"/%ff", b"/%c3%28",
        b"/a%", b"/a%2", b"/a%zz", b"/a%+1", b"/a?x=%", b"/a?x=%g0", b"/%\xd9\xa1",
    ],
)  # fmt: skip
def test_a_target_that_readers_may_disagree_on_is_refused(target: bytes) -> None:
    with pytest.raises(BadCall) as caught:
        parse_target(target)
    assert caught.value.status == 400


def test_an_encoded_slash_is_decoded_only_where_asked_for() -> None:
    assert parse_target(b"/v1/models/org%2Fm", slash_in_segment=True).segments == ("v1", "models", "org/m")
    with pytest.raises(BadCall):
        parse_target(b"/v1/models/%2e%2e", slash_in_segment=True)


def test_the_memory_of_targets_is_bounded_in_number_and_size() -> None:
    table: dict[bytes, int] = {}
    for number in range(3000):
        assert remember(table, b"/%d" % number, number) == number
    assert len(table) <= 1024
    assert table[b"/2999"] == 2999
    remember(table, b"/" + b"x" * 5000, 1)
    assert max(map(len, table)) < 300


def take(headers: Headers, note: tuple[bytes, ...] = ()) -> tuple[Call, list[tuple[bytes, bytes]]]:
    call = Call(
        protocol="raw",
        operation="",
        method=b"GET",
        target=b"/",
        headers=[],
        body=WholeBody(b""),
        arrived=100.0,
    )
    return call, list(HeaderReader(note).take(headers, call))


@pytest.mark.parametrize(
    "name",
    [
        *sorted(HOP_BY_HOP), b"host", b"content-length", b"expect", b"authorization", b"accept-encoding",
        b"x-request-id", b"traceparent", b"proxy-anything", b"x-overspill-route", b"x-overspill-",
    ],
)  # fmt: skip
def test_fields_of_the_connection_and_of_the_gateway_do_not_go_on(name: bytes) -> None:
    call, _ = take([(b"a", b"1"), (name, b"x"), (b"b", b"2")])
    assert call.headers == [(b"a", b"1"), (b"b", b"2")]


def test_end_to_end_fields_go_on_in_order_with_their_repetitions() -> None:
    kept = [
        (b"accept", b"*/*"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"tracestate", b"t"),
        (b"idempotency-key", b"k"), (b"content-type", b"application/json"), (b"x-forwarded-for", b"10.0.0.1"),
    ]  # fmt: skip
    call, noted = take(kept)
    assert call.headers == kept
    assert noted == []


def test_noted_fields_are_handed_over_and_go_on() -> None:
    call, noted = take([(b"a", b"1"), (b"accept", b"x"), (b"accept", b"y")], note=(b"accept",))
    assert noted == [(b"accept", b"x"), (b"accept", b"y")]
    assert call.headers == [(b"a", b"1"), (b"accept", b"x"), (b"accept", b"y")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"connection", b"x-hop, keep-alive"), (b"x-hop", b"1"), (b"a", b"1")],
        [(b"x-hop", b"1"), (b"a", b"1"), (b"connection", b"X-Hop")],
        [(b"connection", b"close"), (b"x-hop", b"1"), (b"connection", b" x-hop ,"), (b"a", b"1")],
    ],
)
def test_fields_named_by_connection_do_not_go_on_wherever_they_stand(headers: Headers) -> None:
    call, noted = take(headers, note=(b"x-hop",))
    assert call.headers == [(b"a", b"1")]
    assert noted == []


def test_many_different_field_names_are_still_told_apart() -> None:
    reader = HeaderReader()
    call, _ = take([])
    for number in range(3000):
        reader.take([(b"x-%d" % number, b""), (b"x-overspill-%d" % number, b""), (b"host", b"")], call)
        assert call.headers == [(b"x-%d" % number, b"")]


@pytest.mark.parametrize(("value", "deadline"), [(b"250", 100.25), (b"0.5", 100.0005), (b"60000", 160.0)])
def test_the_clients_deadline_counts_from_arrival(value: bytes, deadline: float) -> None:
    call, _ = take([(b"x-overspill-deadline-ms", value)])
    assert call.deadline == pytest.approx(deadline)
    assert call.deadline_is_clients


@pytest.mark.parametrize(
    "value",
    [b"", b"0", b"0.0", b"-5", b"+5", b"1e3", b"inf", b"nan", b"1_0", b" 5", b"5ms", b"1.2.3", b"9" * 20],
)
def test_a_deadline_that_is_no_positive_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadCall, match="deadline"):
        take([(b"x-overspill-deadline-ms", value)])


def test_without_a_deadline_field_there_is_no_deadline() -> None:
    call, _ = take([])
    assert call.deadline == float("inf")
    assert not call.deadline_is_clients
    assert call.priority == "default"


@pytest.mark.parametrize("value", ["critical", "default", "best_effort"])
def test_the_priority_is_one_of_three(value: str) -> None:
    call, _ = take([(b"x-overspill-priority", value.encode())])
    assert call.priority == value


@pytest.mark.parametrize("value", [b"", b"Critical", b"high", b"1"])
def test_another_priority_is_refused(value: bytes) -> None:
    with pytest.raises(BadCall, match="priority"):
        take([(b"x-overspill-priority", value)])


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (BadCall("x"), {}),
        (MethodNotAllowed("x", allow="GET"), {b"allow": b"GET"}),
        (NoCapacity("x"), {b"retry-after": b"1"}),
        (NoCapacity("x", retry_after=2.2), {b"retry-after": b"3"}),
        (BadCall("x", retry_after=0.01), {b"retry-after": b"1"}),
    ],
)
def test_error_answers_say_what_is_allowed_and_when_to_come_back(
    error: OverspillError, fields: dict[bytes, bytes]
) -> None:
    assert dict(error_fields(error)) == {b"content-type": b"application/json", **fields}


def dispatcher() -> Protocols:
    raw = Raw()
    return Protocols([Kserve(FakeFleet()), OpenAI(lambda: ["m"]), raw], fallback=raw)


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        (b"/v2/models/m", "kserve"),
        (b"/v2/models/m?x=1", "kserve"),
        (b"/invoke/r", "raw"),
        (b"/invoke/r/v1/chat/completions", "raw"),
    ],
)
async def test_the_first_part_of_the_path_picks_the_protocol(target: bytes, protocol: str) -> None:
    protocols = dispatcher()
    for _ in range(2):  # the second time from memory
        call = await protocols.read(FakeRequest(b"GET", target))
        assert isinstance(call, Call)
        assert call.protocol == protocol


@pytest.mark.parametrize("target", [b"/", b"/v3", b"/v2x/models/m", b"/v10/models", b"//v2/models/m", b"/V2"])
async def test_a_path_of_no_protocol_is_unknown(target: bytes) -> None:
    with pytest.raises(UnknownRoute):
        await dispatcher().read(FakeRequest(b"GET", target))


@pytest.mark.parametrize("target", [b"*", b"http://h/v2/models/m", b"/../v2/models/m", b"/x%"])
async def test_an_odd_target_of_no_protocol_is_malformed(target: bytes) -> None:
    with pytest.raises(BadCall) as caught:
        await dispatcher().read(FakeRequest(b"GET", target))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("target", "body", "event"),
    [
        (b"/v2/models/m/infer", b'{"error":"no"}', b'data: {"error":"no"}\n\n'),
        (b"/v2?x", b'{"error":"no"}', b'data: {"error":"no"}\n\n'),
        (
            b"/v1/completions",
            b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"bad_request"}}',
            b'data: {"error":{"message":"no","type":"invalid_request_error","param":null,"code":"bad_request"}}\n\n',
        ),
        (
            b"/nowhere",
            b'{"error":{"reason":"bad_request","message":"no"}}',
            b'event: error\ndata: {"error":{"reason":"bad_request","message":"no"}}\n\n',
        ),
        (
            b"\xff garbage",
            b'{"error":{"reason":"bad_request","message":"no"}}',
            b'event: error\ndata: {"error":{"reason":"bad_request","message":"no"}}\n\n',
        ),
    ],
)
def test_an_error_has_the_shape_of_the_targets_protocol(target: bytes, body: bytes, event: bytes) -> None:
    protocols = dispatcher()
    assert protocols.error(target, BadCall("no")) == (400, [(b"content-type", b"application/json")], body)
    assert protocols.stream_error(target, BadCall("no")) == b"\n\n" + event  # whatever was cut before it


def test_an_error_without_a_message_still_says_something() -> None:
    assert b"no capacity" in dispatcher().error(b"/v2", NoCapacity())[2]
