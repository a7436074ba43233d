"""Uploads that trickle: a body whose bytes come too seldom holds nothing for ever."""

import pytest

from gateway.body import RATE_OVER_S, IncomingBody


class Levers:
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def invite(self) -> None: ...


def body() -> IncomingBody:
    return IncomingBody(Levers(), length=None, buffer=1 << 20, limit=1 << 30)


def judged(come: int, every: float, rate: int, *, seconds: float = 120.0) -> float | None:
    """When a body of which so many bytes come each time is cut off; None: it is not."""
    upload, looks = body(), 0.5
    due, now = every, 0.0
    while now < seconds:
        if now >= due:
            upload.feed(b"x" * come)
            due += every
        if upload.trickles(now, rate):
            return now
        now += looks
    return None


@pytest.mark.parametrize(
    ("come", "every", "rate", "cut"),
    [
        (1, 29.0, 1024, True),  # within `body_timeout`, and for ever
        (1, 0.5, 1024, True),
        (511, 0.5, 1024, True),
        (520, 0.5, 1024, False),
        (20_000, 5.0, 1024, False),
        (1, 29.0, 0, False),
    ],
)
def test_a_rate_over_ten_seconds_is_asked_for(come: int, every: float, rate: int, cut: bool) -> None:
    assert judged(come, every, rate) == (RATE_OVER_S if cut else None)


def test_a_fast_beginning_buys_ten_seconds_and_no_more() -> None:
    upload = body()
    upload.feed(b"x" * 100)
    assert not upload.trickles(0.0, 1024)
    upload.feed(b"x" * 10_000_000)
    assert not upload.trickles(10.0, 1024)
    assert upload.trickles(20.0, 1024)


def test_time_in_which_the_gateway_did_not_read_does_not_count() -> None:
    upload = body()
    assert not upload.trickles(0.0, 1024)
    assert not upload.trickles(9.5, 1024, awaited=False)
    assert not upload.trickles(10.0, 1024)
    assert not upload.trickles(19.5, 1024)
    assert upload.trickles(20.0, 1024)
