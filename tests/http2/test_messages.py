"""gRPC's messages: the same however the bytes are cut; packed ones are never larger than they may be."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadCall, BodyTooLarge, NotOffered
from gateway.http2.messages import MessageReader, prefixed

PACK: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}


def packed(message: bytes, coding: bytes = b"gzip") -> bytes:
    return b"\x01" + prefixed(PACK[coding](message))[1:]


def read(reader: MessageReader, *pieces: bytes) -> list[bytes]:
    return [reader.unpacked(message) for piece in pieces for message in reader.feed(piece)]


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=8),
    st.lists(st.integers(0, 400), max_size=20),
    st.sampled_from([b"gzip", b"deflate"]),
)
def test_any_split_of_any_messages_gives_the_same_messages(
    messages: list[tuple[bytes, bool]], places: list[int], coding: bytes
) -> None:
    data = b"".join(packed(text, coding) if small else prefixed(text) for text, small in messages)
    cuts = sorted(min(place, len(data)) for place in places)
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    reader = MessageReader(1 << 20, coding)
    assert read(reader, *pieces) == [text for text, _ in messages]
    assert reader.between


@given(st.binary(min_size=1, max_size=40), st.integers(1, 44))
def test_a_message_that_is_not_complete_is_known_to_be_so(text: bytes, place: int) -> None:
    reader = MessageReader(100)
    whole = prefixed(text)
    got = read(reader, whole[: min(place, len(whole) - 1)])
    assert not got
    assert not reader.between


@pytest.mark.parametrize("coding", PACK)
def test_a_bomb_is_refused_before_it_has_grown(coding: bytes) -> None:
    reader = MessageReader(1 << 20, coding)
    with pytest.raises(BodyTooLarge):
        read(reader, packed(bytes(64 << 20), coding))


def test_bombs_that_wait_stay_packed() -> None:
    reader = MessageReader(8 << 20, b"gzip")
    bomb = packed(bytes(8 << 20))
    waiting = reader.feed(bomb * 20)
    assert sum(map(len, waiting)) <= len(bomb) * 20
    assert reader.unpacked(waiting[7]) == bytes(8 << 20)


@pytest.mark.parametrize("cut", [1, 4, 12])
def test_a_packed_message_that_is_cut_short_is_refused(cut: int) -> None:
    whole = gzip.compress(b"hello" * 100)[:-cut]
    reader = MessageReader(1 << 20, b"gzip")
    with pytest.raises(BadCall):
        read(reader, b"\x01" + prefixed(whole)[1:])


@pytest.mark.parametrize(
    ("data", "coding", "error"),
    [
        (b"\x02" + bytes(4), b"identity", BadCall),
        (b"\x01" + bytes(4), b"identity", BadCall),
        (b"\x01" + bytes(4), b"snappy", NotOffered),
        (b"\x01\x00\x00\x00\x03abc", b"gzip", BadCall),
        (b"\x01\x00\x00\x00\x00", b"gzip", BadCall),
        (b"\x00\x00\x00\x00\x65", b"identity", BodyTooLarge),
        (b"\x00\xff\xff\xff\xff", b"identity", BodyTooLarge),
        (prefixed(bytes(101)), b"identity", BodyTooLarge),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, coding: bytes, error: type[Exception]) -> None:
    for pieces in ([data], [data[place : place + 1] for place in range(len(data))]):
        with pytest.raises(error):
            read(MessageReader(100, coding), *pieces)
