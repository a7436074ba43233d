"""Windows, in both directions and on both sides: never exceeded, never forgotten, fair, and nothing lost or doubled."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.http2.connection import MOST_IDLE_FRAMES
from gateway.http2.limits import Limits
from tests.http2.played import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    Carried,
    Frame,
    Side,
    frame,
    goaway,
    head,
    reset,
    settings,
    window_update,
)

WINDOW = 65535
INITIAL, LARGEST = 4, 5
SIDES = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])


def begun(side: Side, number: int) -> Carried:
    """A stream of whoever makes streams on this connection."""
    if side.client:
        return side.begin(number)
    side.hear(head(number, last=True))
    return side.all[number]


class Reader:
    """The other side: its windows, and what came of every stream."""

    def __init__(self) -> None:
        self.shared = self.initial = WINDOW
        self.windows: dict[int, int] = {}
        self.largest = 16384
        self.data: dict[int, bytes] = {}
        self.ends: dict[int, int] = {}

    def take(self, frames: list[Frame]) -> None:
        for each in frames:
            if each.kind == HEADERS and each.stream in self.ends:
                self.ends[each.stream] += bool(each.flags & END_STREAM)
            if each.kind != DATA:
                continue
            size = len(each.payload)
            assert size <= self.largest
            assert not size or size <= min(self.shared, self.windows[each.stream]), "a window was exceeded"
            self.shared -= size
            self.windows[each.stream] -= size
            assert not self.ends[each.stream], "content after the end"
            self.data[each.stream] += each.payload
            self.ends[each.stream] += bool(each.flags & END_STREAM)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.just(0), st.just(0)),
        st.tuples(st.just("send"), st.integers(0, 5), st.sampled_from([0, 1, 9, 16384, 16385, 70_000, 200_000])),
        st.tuples(st.just("end"), st.integers(0, 5), st.integers(0, 1)),
        st.tuples(st.just("grow"), st.integers(0, 5), st.integers(1, 100_000)),
        st.tuples(st.just("shared"), st.just(0), st.integers(1, 100_000)),
        st.tuples(st.just("initial"), st.just(0), st.sampled_from([0, 1, 10, 65535, 200_000])),
        st.tuples(st.just("largest"), st.just(0), st.sampled_from([16384, 30_000])),
        st.tuples(st.just("pause"), st.just(0), st.booleans()),
        st.tuples(st.just("reset"), st.integers(0, 5), st.just(0)),
    ),
    max_size=40,
)  # fmt: skip


class Play:
    """A side that says what a test makes it say, and its reader, who holds it to the rules at every step."""

    def __init__(self, *, client: bool) -> None:
        self.side = Side(client=client).settle()
        self.reader = Reader()
        self.streams: list[Carried] = []
        self.said: dict[int, bytes] = {}
        self.done: set[int] = set()
        self.gone: set[int] = set()

    def step(self, what: str, place: int, value: int) -> None:
        side, reader = self.side, self.reader
        stream = self.streams[place % len(self.streams)] if self.streams else None
        if what == "open" and len(self.streams) < 6:
            number = 2 * len(self.streams) + 1
            self.streams.append(begun(side, number))
            reader.windows[number], reader.data[number], reader.ends[number] = reader.initial, b"", 0
            self.said[number] = b""
        elif what == "shared":
            reader.shared += value
            side.data_received(window_update(0, value))
        elif what == "initial":
            for number in reader.windows:
                reader.windows[number] += value - reader.initial
            reader.initial = value
            side.data_received(settings([(INITIAL, 77), (INITIAL, value)]))
        elif what == "largest":
            side.data_received(settings([(LARGEST, value)]))
            reader.largest = max(reader.largest, value)
        elif what == "pause":
            if value:
                side.pause_writing()
            else:
                side.resume_writing()
        elif stream is not None:
            self.on(stream, what, value)
        reader.take(side.said())

    def on(self, stream: Carried, what: str, value: int) -> None:
        number = stream.number
        if number in self.gone:
            return
        if what == "send" and number not in self.done:
            data = bytes([number]) * (value // 2) + bytes([len(self.said[number]) % 251]) * (
                value - value // 2
            )
            self.said[number] += data
            stream.send(data)
        elif what == "end" and number not in self.done:
            self.done.add(number)
            if value:
                stream.send(b"", last=True)
            else:
                stream.send_fields(b"\x88", last=True)
        elif what == "grow":
            self.reader.windows[number] += value
            self.side.data_received(window_update(number, value))
        elif what == "reset":
            self.gone.add(number)
            self.side.data_received(reset(number))

    def stuck(self) -> list[int]:
        """Streams that have something to say, room to say it, and do not."""
        if self.side.paused or self.reader.shared <= 0:
            return []
        return [
            number
            for number, said in self.said.items()
            if number not in self.gone
            and self.reader.windows[number] > 0
            and len(self.reader.data[number]) < len(said)
        ]


@SIDES
@given(steps=STEPS)
@hypothesis_settings(deadline=None, max_examples=150)
def test_any_order_of_things_keeps_the_windows_and_loses_nothing(
    client: bool, steps: list[tuple[str, int, int]]
) -> None:
    play = Play(client=client)
    for what, place, value in steps:
        play.step(what, place, value)
        assert not play.stuck()
        for number, got in play.reader.data.items():
            assert play.said[number].startswith(got)
    play.step("pause", 0, 0)
    play.step("shared", 0, 2**30)
    play.step("initial", 0, 2**29)
    for number in set(play.said) - play.gone:
        assert play.reader.data[number] == play.said[number]
        stream = play.side.all[number]
        assert stream.ended == (number in play.done)
        assert not stream.waiting
        assert play.reader.ends[number] == (number in play.done)
        assert (number in play.side.streams) == (client or number not in play.done)
    assert not play.side.transport.closing


@SIDES
def test_a_window_that_settings_make_negative_lets_nothing_through_until_it_is_positive_again(
    client: bool,
) -> None:
    side = Side(client=client).settle()
    stream = begun(side, 1)
    side.said()
    stream.send(bytes(60_000))
    side.said()
    assert not [each for each in side.hear(settings([(INITIAL, 1000)])) if each.kind == DATA]  # -59000
    stream.send(bytes(10))
    assert not side.hear(window_update(1, 59_000))
    sent = side.hear(window_update(1, 4))
    assert [len(each.payload) for each in sent] == [4]
    stream.send(b"", last=True)
    sent = side.hear(window_update(1, 100))
    assert [(len(each.payload), each.flags) for each in sent] == [(6, END_STREAM)]


@SIDES
def test_an_end_without_content_needs_no_room(client: bool) -> None:
    side = Side(client=client).settle()
    stream = begun(side, 1)
    stream.send(bytes(WINDOW))
    side.said()
    side.hear(settings([(INITIAL, 0)]))
    stream.send(b"", last=True)
    ends = [each for each in side.said() if each.kind == DATA]
    assert [(len(each.payload), each.flags) for each in ends] == [(0, END_STREAM)]


@SIDES
def test_streams_that_wait_share_what_room_there_is(client: bool) -> None:
    side = Side(client=client).settle((INITIAL, 1 << 20))
    streams = [begun(side, number) for number in (1, 3, 5, 7)]
    for stream in streams:
        stream.send(bytes(500_000))
    side.said()
    counts = dict.fromkeys((1, 3, 5, 7), 0)
    sizes = [9_000, 33_000, 20_000, 70_000, 1_000] * 8
    for size in sizes:
        for each in side.hear(window_update(0, size)):
            counts[each.stream] += len(each.payload)
    assert sum(counts.values()) == sum(sizes)
    assert max(counts.values()) < 1.3 * min(counts.values())


@SIDES
def test_a_transport_that_is_full_gets_nothing_until_it_has_room(client: bool) -> None:
    side = Side(client=client).settle()
    stream = begun(side, 1)
    side.said()
    side.pause_writing()
    stream.send(bytes(1000))
    assert not side.said()
    assert stream.waiting == 1000
    side.resume_writing()
    assert [len(each.payload) for each in side.said()] == [1000]


async def test_who_waits_for_room_is_told_of_it_and_of_the_end() -> None:
    side = Side().settle()
    stream = begun(side, 1)
    stream.send(bytes(WINDOW + 1))
    waiting = asyncio.ensure_future(stream.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    side.hear(window_update(0, 10), window_update(1, 10))
    assert await waiting
    stream.send(bytes(1000))
    waiting = asyncio.ensure_future(stream.drained())
    await asyncio.sleep(0)
    side.hear(reset(1))
    assert not await waiting


@SIDES
def test_room_on_the_connection_comes_back_though_nobody_takes_what_came(client: bool) -> None:
    limits = Limits(window=1 << 20, shared=1 << 20)
    side = Side(limits, client=client).settle()
    for number in (1, 3, 5, 7):
        if client:
            side.begin(number)
        else:
            side.hear(head(number))
    back: dict[int, int] = {}
    for _ in range(60):
        for number in (1, 3, 5, 7):
            for each in side.hear(frame(DATA, 0, number, bytes(16_000))):
                assert each.kind == WINDOW_UPDATE
                back[each.stream] = back.get(each.stream, 0) + each.number
    assert set(back) == {0}
    assert back[0] >= 60 * 4 * 16_000 - (1 << 19)
    assert len(side.all[1].data) == 60 * 16_000
    side.all[1].taken(60 * 16_000)
    assert [(each.stream, each.number) for each in side.said()] == [(1, 60 * 16_000)]


@SIDES
def test_more_than_a_stream_may_send_ends_the_stream_and_more_than_all_may_the_connection(
    client: bool,
) -> None:
    limits = Limits(window=20_000, shared=70_000)
    side = Side(limits, client=client).settle()
    side.begin(1) if client else side.hear(head(1))
    side.hear(frame(DATA, 0, 1, bytes(20_000)))
    assert [(each.kind, each.number) for each in side.hear(frame(DATA, 0, 1, b"x"))] == [(RST_STREAM, 3)]
    assert side.all[1].cuts == [3]
    side = Side(Limits(window=1 << 20, shared=70_000, frame=1 << 20), client=client).settle()
    side.begin(1) if client else side.hear(head(1))
    ended = side.hear(frame(DATA, 0, 1, bytes(70_001)))
    assert [(each.kind, each.second) for each in ended] == [(GOAWAY, 3)]
    assert side.transport.closing


def test_padding_counts_and_comes_back() -> None:
    side = Side(Limits(window=1000)).settle()
    side.hear(head(1))
    for _ in range(20):
        said = side.hear(frame(DATA, 0x8, 1, bytes([200]) + b"x" + bytes(200)))
        side.all[1].taken(1)
        said += side.said()
        assert all(each.kind == WINDOW_UPDATE for each in said)
    assert side.all[1].data == b"x" * 20


def test_nobody_makes_it_look_at_all_that_waits_for_each_frame() -> None:
    side = Side().settle((INITIAL, 0))
    for place in range(4000):
        begun(side, 2 * place + 1).send(bytes(100))
    side.said()
    began = time.perf_counter()
    for _ in range(20_000):
        side.data_received(window_update(0, 1))
    assert time.perf_counter() - began < 2.0
    assert not side.said()
    began = time.perf_counter()
    side.data_received(settings([(INITIAL, place % 2) for place in range(10_000)] + [(INITIAL, 0)]))
    assert time.perf_counter() - began < 1.0
    for place in range(MOST_IDLE_FRAMES):
        side.data_received(settings([(INITIAL, 1 + place % 2)]))
    assert side.transport.closing
    assert time.perf_counter() - began < 3.0


def test_streams_lost_while_they_wait_are_not_served() -> None:
    side = Side(client=True).settle((INITIAL, 10))
    streams = [begun(side, number) for number in (1, 3, 5)]
    for stream in streams:
        stream.send(bytes(100))
    side.said()
    side.hear(goaway(1), reset(1))
    assert side.heard == [("left", 1, 0)]
    side.data_received(window_update(0, 1000))
    side.data_received(settings([(INITIAL, 50)]))
    assert {each.stream for each in side.said() if each.kind in {DATA, HEADERS}} <= {3, 5}


def test_who_reads_nothing_may_not_ask_for_more() -> None:
    side = Side().settle()
    side.pause_writing()
    side.transport.unread = 5 << 20
    assert [(each.kind, each.second) for each in side.hear(head(1, last=True))] == [(GOAWAY, 11)]
    assert side.transport.closing
