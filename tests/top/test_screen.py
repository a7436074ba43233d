"""What is shown fits, whatever the size, and nothing in it acts upon the terminal."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from gateway.top.screen import BACKENDS_LEAVE, ROUTES_LEAVE, clean, lines, plain
from gateway.top.snapshot import Missing
from gateway.top.watch import View, Watch
from tests.top.answers import RUNNING, backend, look, route


def view(*names: str, hostile: str = "") -> View:
    watch = Watch()
    for at in (0.0, 2.0):
        routes = [
            route(name, requests=100 + int(at) * 10, requests_by_backend={"fleet": 90 + 5 * int(at)})
            for name in names or ("chat",)
        ]
        config: dict[str, Any] = RUNNING
        if hostile:
            problem = {"path": hostile, "message": hostile}
            config = {"running": {"revision": hostile}, "rejected": {"at": hostile, "problems": [problem]}}
        backends = [
            backend(), backend("rented", instances={"idle": 1, "opening": 2}), backend(hostile or "third"),
        ]  # fmt: skip
        watch.take(look(at, routes, backends, config))
    return watch.view


def texts(shown: View, width: int, height: int | None = None) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines(shown, width, height, title="t")]


def test_a_wide_terminal_shows_every_column() -> None:
    rows = texts(view(), 200)
    assert all(head in rows[1] for head in (*ROUTES_LEAVE, "req/s", "spill", "p95", "budget"))
    backends = next(row for row in rows if row.startswith("backend"))
    assert all(head in backends for head in (*BACKENDS_LEAVE, "busy", "ready"))
    line = rows[2]
    for text in ("chat", "10.0", "0.0%", "120ms", "400ms", "500ms", "99.0%/99%", "0.31", "2.50/10.00"):
        assert text in line


def kept(width: int, leave: tuple[str, ...], start: str) -> list[bool]:
    row = next(row for row in texts(view(), width) if row.startswith(start))
    return [f" {head} " in f"{row} " for head in leave]


@pytest.mark.parametrize(("leave", "start"), [(ROUTES_LEAVE, "route"), (BACKENDS_LEAVE, "backend")])
def test_columns_leave_in_the_stated_order(leave: tuple[str, ...], start: str) -> None:
    fewest = len(leave)
    for width in range(200, 39, -1):
        shown = kept(width, leave, start)
        assert shown == sorted(shown), f"at {width}: {shown}"
        assert sum(shown) <= fewest
        fewest = sum(shown)
    assert fewest < len(leave)


def test_sixty_columns_still_show_what_matters() -> None:
    rows = texts(view("a-route-with-quite-a-long-name"), 60)
    assert all(cell_len(row) <= 60 for row in rows)
    head = next(row for row in rows if row.startswith("route"))
    assert all(word in head for word in ("req/s", "spill", "p95", "budget"))


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=30),
    width=st.integers(1, 250),
    height=st.integers(1, 60),
)
def test_nothing_is_wider_or_longer_than_the_terminal(names: list[str], width: int, height: int) -> None:
    rows = texts(view(*names), width, height)
    assert len(rows) <= height
    assert all(cell_len(row) <= width for row in rows)


def test_rows_that_do_not_fit_are_counted() -> None:
    rows = texts(view(*(f"route-{n}" for n in range(50))), 100, 24)
    assert len(rows) <= 24
    assert any("more" in row for row in rows)
    assert any(row.startswith("backend") for row in rows), "backends keep a place"


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202eevil\u2066\x00[red]x[/red]\ud800"


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300))
def test_clean_leaves_nothing_that_a_terminal_acts_upon(text: str) -> None:
    assert not {unicodedata.category(mark)[0] for mark in clean(text)} & {"C"}
    assert len(clean(text)) <= 200


@pytest.mark.parametrize("width", [60, 200])
def test_hostile_names_reach_no_terminal(width: int) -> None:
    shown = view(HOSTILE, hostile=HOSTILE)
    for text in (plain(shown, width, title=HOSTILE), "".join(texts(shown, width, 40))):
        assert not [mark for mark in text if unicodedata.category(mark)[0] == "C" and mark != "\n"]
    assert "[red]x[/red]" in plain(shown, 200, title="t"), "text is text, not markup"


def test_before_the_first_answer_it_waits_and_says_why() -> None:
    watch = Watch()
    assert "waiting" in texts(watch.view, 80)[0]
    watch.take(Missing(0.0, 1_800_000_000.0, "Connection refused\x1b[2J"))
    assert texts(watch.view, 80)[1] == "not reachable since 08:00:00Z: Connection refused?[2J"


def test_what_is_late_or_missed_stands_out() -> None:
    watch = Watch()
    slow = route(latency_s={"p50": 0.2, "p95": 0.7, "p99": 1.0})
    watch.take(look(0.0, [slow]))
    styles = {
        cell.text.strip(): cell.style for line in lines(watch.view, 200, None, title="t") for cell in line
    }
    assert (styles["700ms"], styles["200ms"]) == ("red", "")


def test_plain_text_has_no_keys_and_no_trailing_space() -> None:
    text = plain(view(), 200, title="t")
    assert "quit" not in text
    assert all(row == row.rstrip() for row in text.splitlines())
