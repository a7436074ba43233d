"""What is shown while the demo runs, on a terminal and without one."""

import io

import pytest
from rich.console import Console

from gateway.clock import FakeClock
from gateway.demo.figures import read
from gateway.demo.load import Sample
from gateway.demo.plan import BACKENDS, Plan
from gateway.demo.screen import Moment, Screen, dollars, share
from gateway.demo.tally import Tally
from gateway.vocab import Start

MONEY = read(
    """\
# TYPE overspill_cost_per_1k_requests_usd gauge
overspill_cost_per_1k_requests_usd{route="digits"} 0.0123
# TYPE overspill_in_flight gauge
overspill_in_flight{backend="fleet"} 3
"""
)


def tally(clock: FakeClock) -> Tally:
    seen = Tally(clock, "fleet")
    clock.advance(2.0)
    for latency in (0.05, 0.05, 0.05, 0.9):
        cold = latency > 0.5
        seen.left()
        seen.ended(
            Sample(
                0.0,
                latency,
                200,
                "runpod" if cold else "fleet",
                "spill_full" if cold else "warm",
                "cold" if cold else "warm",
                wrong=False,
            )
        )
    return seen


def drawn(*, terminal: bool) -> str:
    page = io.StringIO()
    console = Console(file=page, width=120, force_terminal=terminal)
    with Screen(console, Plan(seconds=20), tally(FakeClock())) as screen:
        screen.show(Moment("burst", 6.0), MONEY)
        screen.show(Moment("burst", 6.4), MONEY)
        screen.show(Moment("burst", 7.1), MONEY)
    return page.getvalue()


def test_without_a_terminal_there_is_one_plain_line_a_second() -> None:
    lines = drawn(terminal=False).splitlines()
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)
    for piece in ("6 s", "burst", "2 rps", "p50 50 ms", "p95 900 ms of 600 ms", "warm 75.0%", "cold 25.0%"):
        assert piece in lines[0]
    assert "spill 25%" in lines[0]
    assert "$/1,000 $0.0123" in lines[0]
    assert "warm 3 spill_full 1" in lines[0]


def test_on_a_terminal_there_is_a_table_with_every_backend_and_a_bar() -> None:
    page = drawn(terminal=True)
    for piece in ("route", "$ per 1,000", *BACKENDS, "6 / 20 s", "spill_full 1"):
        assert piece in page


def test_rates_speak_of_the_last_seconds_only() -> None:
    clock = FakeClock()
    seen = tally(clock)
    assert seen.rps() == pytest.approx(2.0)
    clock.advance(60.0)
    assert seen.rps() == 0.0
    assert seen.latency(0.95) == 0.0
    assert seen.starts(Start.COLD) == 1


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        (0.0, "$0.000000"),
        (0.00012345, "$0.000123"),
        (0.0123, "$0.0123"),
        (250.0, "$250.00"),
    ],
)
def test_money_never_comes_in_powers_of_ten(usd: float | None, text: str) -> None:
    assert dollars(usd) == text


def test_a_share_of_nothing_is_a_dash() -> None:
    assert share(0, 0) == "-"
