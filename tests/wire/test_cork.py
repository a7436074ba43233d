"""What is written in one turn of the event loop leaves together, in order, and none of it is lost."""

import asyncio

import pytest

from gateway.cork import LARGEST, MOST, STRAIGHT, Cork


class Line(asyncio.WriteTransport):
    """Notes what it was given, in one list with the others."""

    def __init__(self, name: str, sent: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.name, self.sent = name, sent
        self.closing = self.broken = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.broken:
            raise RuntimeError("not now")
        self.sent.append((self.name, bytes(data)))

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


@pytest.fixture
def sent() -> list[tuple[str, bytes]]:
    return []


async def test_what_one_turn_writes_leaves_at_its_end_each_line_in_one_piece(
    sent: list[tuple[str, bytes]],
) -> None:
    cork, one, two = Cork(), Line("one", sent), Line("two", sent)
    cork.write(one, b"a")
    cork.write(two, b"b")
    cork.write(one, b"c")
    assert sent == []
    await asyncio.sleep(0)
    assert sent == [("one", b"ac"), ("two", b"b")]


async def test_tasks_that_were_ready_in_the_same_turn_share_it(sent: list[tuple[str, bytes]]) -> None:
    cork = Cork()
    left: list[int] = []

    async def answer(number: int) -> None:
        cork.write(Line(str(number), sent), b"x")
        left.append(len(sent))

    await asyncio.gather(*(answer(number) for number in range(8)))
    assert left == [0] * 8  # nothing had left before the last of them wrote
    assert [name for name, _ in sent] == [str(number) for number in range(8)]


async def test_who_is_alone_writes_straight_out_until_it_is_tried_again(
    sent: list[tuple[str, bytes]],
) -> None:
    cork, line = Cork(), Line("one", sent)
    cork.write(line, b"held")
    await asyncio.sleep(0)
    for number in range(STRAIGHT):
        cork.write(line, b"straight")
        assert len(sent) == number + 2
    cork.write(line, b"held again")
    assert len(sent) == STRAIGHT + 1
    await asyncio.sleep(0)
    assert sent[-1] == ("one", b"held again")


async def test_a_large_piece_goes_at_once_and_all_that_was_before_it_goes_first(
    sent: list[tuple[str, bytes]],
) -> None:
    cork, one, two = Cork(), Line("one", sent), Line("two", sent)
    cork.write(one, b"head")
    cork.write(two, b"other")
    cork.write(one, large := bytes(LARGEST))
    assert sent == [("one", b"head" + large), ("two", b"other")]
    await asyncio.sleep(0)
    assert len(sent) == 2


async def test_no_more_than_so_many_wait_for_each_other(sent: list[tuple[str, bytes]]) -> None:
    cork = Cork()
    for number in range(MOST):
        assert sent == []
        cork.write(Line(str(number), sent), b"x")
    assert len(sent) == MOST


async def test_nothing_reaches_a_line_that_was_given_up_meanwhile(sent: list[tuple[str, bytes]]) -> None:
    cork, gone, there = Cork(), Line("gone", sent), Line("there", sent)
    cork.write(gone, b"x")
    cork.write(there, b"y")
    gone.abort()
    await asyncio.sleep(0)
    assert sent == [("there", b"y")]


async def test_one_that_cannot_write_takes_nobody_elses_bytes_with_it(
    sent: list[tuple[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    cork, broken, there = Cork(), Line("broken", sent), Line("there", sent)
    broken.broken = True
    cork.write(broken, b"x")
    cork.write(there, b"y")
    await asyncio.sleep(0)
    assert sent == [("there", b"y")]
    assert broken.closing
    assert "would not write" in caplog.text


async def test_flushed_before_a_line_is_closed_its_last_words_are_sent_once(
    sent: list[tuple[str, bytes]],
) -> None:
    cork, one, two = Cork(), Line("one", sent), Line("two", sent)
    cork.write(one, b"last words")
    cork.write(two, b"y")
    cork.flush()
    one.closing = True
    await asyncio.sleep(0)
    assert sent == [("one", b"last words"), ("two", b"y")]


def test_where_nothing_is_held_no_loop_is_needed(sent: list[tuple[str, bytes]]) -> None:
    cork = Cork(at_once=True)
    for _ in range(2 * STRAIGHT):
        cork.write(Line("one", sent), b"x")
    assert len(sent) == 2 * STRAIGHT
