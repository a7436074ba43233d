"""The corpus at the listener: the same answer however the bytes come, and whatever frames the body."""

from collections.abc import Iterator
from contextlib import suppress

import httptools
import pytest

from loadtests.fuzz.memory_wire import Heard, MemoryListener
from tests.attacks import framing, heads
from tests.attacks.table import Attack, get, post

ATTACKS = {attack.name: attack for attack in [*framing.ATTACKS, *heads.ATTACKS]}


@pytest.fixture(scope="module")
def listener() -> Iterator[MemoryListener]:
    memory = MemoryListener()
    yield memory
    memory.close()


def check(attack: Attack, heard: Heard) -> None:
    assert heard.statuses[:1] == ([attack.status] if attack.status else []), attack.rule
    assert tuple(each.body for each in heard.understood) == attack.bodies, attack.rule
    assert heard.closed is not attack.stays
    assert all(each.target != b"/invoke/r/smuggled" for each in heard.understood)


def test_every_attack_has_a_name_of_its_own() -> None:
    assert len(ATTACKS) == len(framing.ATTACKS) + len(heads.ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_answer_is_the_one_that_the_rule_asks_for(name: str, listener: MemoryListener) -> None:
    check(ATTACKS[name], listener.hear([ATTACKS[name].data]))


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if len(attack.data) < 2000])
def test_it_is_the_same_wherever_the_bytes_are_split(name: str, listener: MemoryListener) -> None:
    data = ATTACKS[name].data
    whole = listener.hear([data])
    assert listener.hear([data[place : place + 1] for place in range(len(data))]) == whole
    for place in range(1, len(data)):
        assert listener.hear([data[:place], data[place:]]) == whole


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_the_same_behind_a_good_request(name: str, listener: MemoryListener) -> None:
    """A connection that has been well used is trusted no more than a new one; nor is a head seen before."""
    attack, first = ATTACKS[name], post(b"Content-Length: 2", body=b"ok")
    for pieces in ([first, attack.data], [first, first, attack.data], [first + attack.data]):
        heard = listener.hear(pieces)
        before = sum(piece.count(first) for piece in pieces)
        assert heard.statuses[:before] == [200] * before
        rest = Heard(heard.understood[before:], heard.refused, heard.statuses[before:], heard.closed)
        check(attack, rest)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.status >= 400])
def test_what_follows_a_refused_request_is_never_read(name: str, listener: MemoryListener) -> None:
    heard = listener.hear([ATTACKS[name].data, framing.SMUGGLED, framing.SMUGGLED])
    assert not heard.understood
    assert len(heard.statuses) == 1


_BODY_FIELDS = (
    b"A: b\x00c",
    b"A : b",
    b"A: b\r\n c",
    b"A: b\rc",
    b"Host: y",
    b"A B: c",
    b"Expect: a-pony",
    b": c",
)


@pytest.mark.parametrize("field", _BODY_FIELDS)
def test_a_bad_field_is_refused_in_the_same_way_whatever_frames_the_body(
    field: bytes, listener: MemoryListener
) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello") + b"0\r\n\r\n"
    plain = post(field, b"Content-Length: 5", body=b"hello")
    in_one = post(field, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    in_many = post(field, b"Transfer-Encoding: chunked", body=chunks)
    told = [
        listener.hear(pieces)
        for data in (plain, in_one, in_many, get(b"/invoke/r/x", field))
        for pieces in ([data], [data[place : place + 1] for place in range(len(data))])
    ]
    assert told == told[:1] * len(told)
    assert told[0].statuses == [400]
    assert not told[0].understood


@pytest.mark.parametrize("size", [0, 1, 2, 255, 4096])
def test_a_body_is_the_same_whatever_frames_it(size: int, listener: MemoryListener) -> None:
    body = bytes(place % 251 for place in range(size))
    ways = [post(b"Content-Length: %d" % size, body=body)]
    for step in (1, 3, max(1, size)):
        parts = [body[place : place + step] for place in range(0, size, step)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        ways.append(post(b"Transfer-Encoding: chunked", body=framed))
    for data in ways:
        for pieces in ([data], [data[place : place + 7] for place in range(0, len(data), 7)]):
            heard = listener.hear([*pieces, get()])
            assert [each.body for each in heard.understood] == [body, b""]
            assert not heard.closed


class _Lone:
    """What the parser alone makes of it: does it get to a message's end?"""

    complete = 0

    def on_message_complete(self) -> None:
        self.complete += 1


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_taken_that_the_strict_parser_alone_refuses(name: str, listener: MemoryListener) -> None:
    lone, attack = _Lone(), ATTACKS[name]
    parser = httptools.HttpRequestParser(lone)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(attack.data)
    assert len(listener.hear([attack.data]).understood) <= lone.complete
