"""`overspill top` beside a real gateway: live on a terminal, once in a pipe."""

import json
import signal
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.top.live import GatewayProcess, gateway, piped, top

LOOK = ("--interval", "200ms")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def routes_shown(frame: list[str]) -> bool:
    return any(line.startswith("chat") for line in frame) and any(line.startswith("fleet") for line in frame)


@pytest.mark.parametrize("end", [b"q", b"\x03"])
def test_it_shows_the_gateway_and_ends_with_the_terminal_as_it_was(
    running: GatewayProcess, end: bytes
) -> None:
    with top("--url", running.url, *LOOK) as shown:
        frame = shown.shows(routes_shown, "routes and backends")
        assert "500ms" in next(line for line in frame if line.startswith("chat"))
        assert "0/8" in next(line for line in frame if line.startswith("fleet"))
        assert termios.tcgetattr(shown.slave) != shown.before
        shown.press(end)
        assert shown.ended() == 0
        assert termios.tcgetattr(shown.slave) == shown.before
        assert shown.raw.count("\x1b[?1049h") == shown.raw.count("\x1b[?1049l") == 1
        assert shown.raw.rindex("\x1b[?25h") > shown.raw.rindex("\x1b[?25l"), "the cursor is back"
        assert "Traceback" not in shown.raw


def test_a_signal_ends_it_with_the_terminal_as_it_was(running: GatewayProcess) -> None:
    with top("--url", running.url, *LOOK) as shown:
        shown.shows(routes_shown, "routes and backends")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() == 0
        assert termios.tcgetattr(shown.slave) == shown.before
        assert "\x1b[?1049l" in shown.raw


def test_it_follows_the_size_of_the_terminal_at_once(running: GatewayProcess) -> None:
    with top("--url", running.url, "--interval", "1h", columns=200) as shown:
        shown.shows(lambda frame: any("queue" in line for line in frame), "all columns at 200")
        for columns, rows in ((60, 20), (200, 40), (60, 6)):
            shown.forget()
            shown.resize(columns, rows)
            frame = shown.shows(
                lambda frame: any(line.startswith("route") for line in frame), f"a frame of {columns}"
            )
            assert max(map(len, frame)) <= columns
            assert len(frame) <= rows
            assert any("queue" in line for line in frame) is (columns == 200)
        shown.press(b"q")
        assert shown.ended() == 0


def test_it_outlives_the_gateway(tmp_path: Path) -> None:
    with gateway(tmp_path) as made, top("--url", made.url, *LOOK) as shown:
        shown.shows(routes_shown, "routes and backends")
        made.stop()
        frame = shown.shows(
            lambda frame: any("not reachable since" in line for line in frame), "that it is gone"
        )
        assert routes_shown(frame), "what was known stays"
        made.start()
        shown.forget()
        shown.shows(
            lambda frame: routes_shown(frame) and "not reachable since" not in "".join(frame), "it is back"
        )
        shown.press(b"q")
        assert shown.ended() == 0


def test_q_ends_it_while_nothing_answers() -> None:
    with top("--url", "http://127.0.0.1:1", *LOOK) as shown:
        shown.shows(lambda frame: any("not reachable since" in line for line in frame), "why")
        shown.press(b"q")
        assert shown.ended() == 0


def test_in_a_pipe_it_prints_once(running: GatewayProcess) -> None:
    for options in ((), ("--once",)):
        done = piped("--url", running.url, *LOOK, *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert "queue" in done.stdout, "every column"
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("chat")]
        assert "0.0" in line, "requests per second, of two looks"


def test_as_json_it_is_one_object(running: GatewayProcess) -> None:
    found = json.loads(piped("--url", running.url, *LOOK, "--json").stdout)
    assert [each["name"] for each in found["routes"]] == ["chat"]
    assert found["routes"][0]["requests_per_s"] == 0.0
    assert found["routes"][0]["limit_usd"] == 10.0
    assert {each["name"]: each["usd"] for each in found["backends"]} == {"fleet": None, "rented": 0.0}


def test_once_without_an_answer_is_status_1() -> None:
    done = piped("--url", "http://127.0.0.1:1", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not reachable" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--url", "localhost"), "--url must be"),
        (("--url", "http://user@127.0.0.1:1"), "--url must be"),
        (("--url", "http://127.0.0.1:x"), "--url must be"),
        (("--interval", "1"), "duration"),
        (("--interval", "1ms"), "--interval must be"),
        (("--token-file", "/nowhere"), "--token-file /nowhere"),
    ],
)
def test_a_wrong_option_is_status_2_and_says_what_would_be_right(options: tuple[str, ...], told: str) -> None:
    done = piped(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_token_is_sent_and_shown_nowhere(tmp_path: Path) -> None:
    token = "a-long-token-of-many-characters-0123456789"
    kept = tmp_path / "token"
    kept.write_text(token + "\n")
    more = f"auth: {{admin: {{token: {{file: '{kept}'}}}}}}\n"
    with gateway(tmp_path, more) as made:
        refused = piped("--url", made.url, "--once", *LOOK)
        assert refused.returncode == 1
        assert "asks for a token" in refused.stderr
        for done in (
            piped("--url", made.url, *LOOK, "--token-file", str(kept)),
            piped("--url", made.url, *LOOK, OVERSPILL_ADMIN_TOKEN=token),
        ):
            assert done.returncode == 0, done.stderr
            assert "chat" in done.stdout
            assert token not in done.stdout + done.stderr
