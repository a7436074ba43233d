"""Field sections: what the reader makes of them is what HPACK says, remembered or not, and hostile ones cost little."""

import time
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.fields import FAR_OVER, FieldReader, Fields, field, named
from gateway.http2.frames import Broken, ErrorCode

NAMES = st.sampled_from([b":path", b"te", b"accept", b"x", b"x-long-name", b"content-type"]) | st.binary(
    max_size=9
)
VALUES = st.sampled_from([b"", b"trailers", b"gzip, deflate", b"a" * 900]) | st.binary(max_size=40)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8)
SECTIONS = st.lists(
    st.tuples(FIELDS, st.booleans(), st.none() | st.integers(0, 4096), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)


def keep(fields: Fields, size: int) -> tuple[Fields, int]:
    return list(fields), size


def reader(most: int = 1 << 20) -> FieldReader[tuple[Fields, int]]:
    return FieldReader(keep, most=most)


@given(SECTIONS)
def test_it_reads_what_another_encoder_writes_and_remembers_no_wrong_thing(sections: list[Any]) -> None:
    ours, encoder, other = reader(), Encoder(), Decoder(max_header_list_size=1 << 20)
    for fields, huffman, size, times in sections:
        for _ in range(times):
            if size is not None:
                encoder.header_table_size = size
            section = encoder.encode(fields, huffman=huffman)
            expected = [(bytes(name), bytes(value)) for name, value in other.decode(section, raw=True)]
            assert expected == [(name, value) for name, value, _ in fields]
            got, total = ours.read(section)
            assert got == expected
            assert total == sum(len(name) + len(value) + 32 for name, value in expected)


@given(st.lists(st.binary(max_size=60), max_size=12))
def test_it_takes_and_refuses_the_same_bytes_as_another_decoder(sections: list[bytes]) -> None:
    ours, other = reader(), Decoder(max_header_list_size=1 << 20)
    for section in sections:
        theirs: Any
        try:
            theirs = [(bytes(n), bytes(v)) for n, v in other.decode(section, raw=True)]
        except Exception:
            theirs = None
        try:
            mine: Any = ours.read(section)[0]
        except Broken:
            mine = None
        if mine is not None or theirs is not None:
            assert mine == theirs or (mine is None and _stricter(section))
        if mine is None or theirs is None:
            return  # the connection is over


def _stricter(section: bytes) -> bool:
    """More than two changes of the table's size, or a number of more bytes than anyone needs."""
    return sum(0x20 <= octet < 0x40 for octet in section) > 2 or any(octet >= 0x80 for octet in section)


EXAMPLES = {
    "C.2.1": ["400a637573746f6d2d6b65790d637573746f6d2d686561646572"],
    "C.2.2": ["040c2f73616d706c652f70617468"],
    "C.2.3": ["100870617373776f726406736563726574"],
    "C.2.4": ["82"],
    "C.3": [
        "828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ],
    "C.4": [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ],
}  # fmt: skip
MEANT = {
    "C.2.1": [[("custom-key", "custom-header")]],
    "C.2.2": [[(":path", "/sample/path")]],
    "C.2.3": [[("password", "secret")]],
    "C.2.4": [[(":method", "GET")]],
}
_WEB = [
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"),
     ("cache-control", "no-cache")],
    [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com"),
     ("custom-key", "custom-value")],
]  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_rfc_7541(name: str) -> None:
    ours = reader()
    for section, meant in zip(EXAMPLES[name], MEANT.get(name, _WEB), strict=True):
        got, _ = ours.read(bytes.fromhex(section))
        assert [(n.decode(), v.decode()) for n, v in got] == meant


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300), st.booleans()), max_size=5))
def test_what_is_written_is_read_by_another_decoder(fields: list[tuple[bytes, bytes, bool]]) -> None:
    section = b"".join(field(name, value, secret=secret) for name, value, secret in fields) + named(
        31, b"v" * 200
    )
    found = Decoder().decode(section, raw=True)
    assert [(bytes(n), bytes(v)) for n, v in found] == [
        *((name, value) for name, value, _ in fields), (b"content-type", b"v" * 200),
    ]  # fmt: skip


def test_a_section_over_the_limit_is_read_to_its_end_and_the_table_stays_in_step() -> None:
    ours, encoder = reader(most=200), Encoder()
    large = [(b"first", b"1"), (b"large", b"x" * 300), (b"after", b"2")]
    got, size = ours.read(encoder.encode(large))
    assert got == [(b"first", b"1")]
    assert size == sum(len(name) + len(value) + 32 for name, value in large)
    again = encoder.encode([(b"after", b"2")])
    assert len(again) == 1  # from the table
    assert ours.read(again)[0] == [(b"after", b"2")]


def test_a_section_far_over_the_limit_breaks_the_connection() -> None:
    entered = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000  # and then one byte for each time it is said again
    with pytest.raises(Broken) as broken:
        reader(most=8192).read(entered + b"\xbe" * (FAR_OVER * 8192 // 4000 + 1))
    assert broken.value.code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "section",
    [
        b"\x80", b"\xff\x80\x80\x80\x80\x80\x80\x00", b"\xbe", b"\x40", b"\x40\x05ab", b"\x3f\xe2\x1f", b"\x82\x20",
        b"\x20\x20\x20", b"\x00\x81\x00\x00", b"\x00\x85\xff\xff\xff\xff\xff\x00", b"\xff\xff\xff\xff\xff\xff", b"\x3f",
        b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)  # fmt: skip
def test_a_malformed_section_breaks_the_connection(section: bytes) -> None:
    with pytest.raises(Broken) as broken:
        reader().read(section)
    assert broken.value.code is ErrorCode.COMPRESSION_ERROR


def test_a_section_of_nothing_but_table_sizes_costs_no_time() -> None:
    began = time.perf_counter()
    for _ in range(100):
        with pytest.raises(Broken):
            reader().read(b"\x20" * 500_000)
    assert time.perf_counter() - began < 2.0  # 50 million of them would be minutes


def test_the_same_section_means_something_else_after_the_table_has_changed() -> None:
    ours = reader()
    ours.read(b"\x40\x01a\x01b")
    assert ours.read(b"\xbe")[0] == [(b"a", b"b")]
    assert ours.read(b"\xbe")[0] == [(b"a", b"b")]
    ours.read(b"\x40\x01c\x01d")
    assert ours.read(b"\xbe")[0] == [(b"c", b"d")]
    ours.read(b"\x20\x82")  # the table is emptied
    with pytest.raises(Broken):
        ours.read(b"\xbe")
