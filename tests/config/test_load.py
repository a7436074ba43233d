"""From a file to Settings: what is read, and what a file that cannot be read says."""

import os
from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.config.schema import Address, parse_address
from tests.config.plugins import GOOD, FleetOptions, RentedOptions, SkewedOptions, problems, read, registries


def problem_of(path: Path) -> str:
    with pytest.raises(ConfigProblems) as raised:
        load(path, *registries())
    (problem,) = raised.value.problems
    assert problem.file == str(path)
    return str(problem).removeprefix(f"{path}:")


def test_the_settings_hold_the_plugins_own_options() -> None:
    settings = read(GOOD).settings
    fleet, burst = settings.backends["fleet"], settings.backends["burst"]
    assert isinstance(fleet, FleetOptions)
    assert fleet.replicas == ("http://triton-0:8000", "http://triton-1:8000")
    assert isinstance(burst, RentedOptions)
    assert burst.memory == 2**30
    assert burst.cold_start is not None
    assert burst.cold_start.idle_after == 30.0
    embed = settings.routes["embed"]
    assert embed.policy.type == "skewed"
    assert isinstance(embed.policy.options, SkewedOptions)
    assert embed.policy.options.skew == 0.2
    assert embed.match.models == ("minilm", "minilm-*")
    assert embed.tiers[0].patience == 0.04
    assert embed.latency_budget is not None
    assert embed.latency_budget.within == 0.25
    assert settings.listen.http == Address("0.0.0.0", 8000)


def test_what_is_left_out_has_its_default() -> None:
    settings = read(GOOD).settings
    invoke = settings.routes["invoke"]
    assert invoke.policy.type == "cheapest_in_budget"
    assert invoke.match.models == ()
    assert (invoke.timeout, invoke.stall_timeout, invoke.idempotent) == (60.0, 60.0, True)
    assert settings.access_log is None
    assert settings.drain_timeout == 30.0
    assert settings.limits.body == 64 * 2**20


def test_a_good_file_of_which_nothing_is_doubtful_has_no_warnings() -> None:
    assert read(GOOD).warnings == []


def test_settings_cannot_be_changed() -> None:
    settings = read(GOOD).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.drain_timeout = 1.0  # type: ignore[misc]


def test_a_missing_file(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "none.yaml") == "1:1: (file): there is no such file"


def test_a_directory(tmp_path: Path) -> None:
    assert problem_of(tmp_path) == "1:1: (file): is a directory; give the file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    assert problem_of(path) == "1:1: (file): cannot be read: Permission denied"


def test_an_impossible_path() -> None:
    with pytest.raises(ConfigProblems, match="not a path"):
        load(Path("a\0b"), *registries())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1:1: (file): is empty; a configuration begins with `version: 1`"),
        (b"\xef\xbb\xbf", "1:1: (file): is empty; a configuration begins with `version: 1`"),
        (b"version: 1\nx: \0", "2:4: (file): character U+0000 cannot stand in YAML; is this a text file?"),
        (b"version: 1\n\xc3\xa4: \xff", "2:4: (file): byte 0xff is not UTF-8; save the file as UTF-8"),
        ("version: 1".encode("utf-16"), "1:1: (file): is UTF-16; save it as UTF-8"),
        (b"\x7fELF\x02\x01\x01", "1:1: (file): character U+007F cannot stand in YAML; is this a text file?"),
        (b"just text", "1:1: (file): is not a mapping; a configuration begins with `version: 1`"),
        (b"~", "1:1: (file): is not a mapping; a configuration begins with `version: 1`"),
        (b"%YAML 9", "1:8: (file): is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    assert problem_of(path).startswith(expected)


def test_a_byte_order_mark_is_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert len(load(path, *registries(), resolve_secrets=False).settings.backends) == 2


def test_windows_line_ends_do_not_move_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"version: 1\r\nbackends: {}\r\nroutes: {a: {tiers: []}}\r\nfoo: 1\r\n")
    with pytest.raises(ConfigProblems) as raised:
        load(path, *registries())
    assert [problem.line for problem in raised.value.problems] == [2, 3, 4]


def test_a_pipe_can_be_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, GOOD.encode())
    os.close(writer)
    try:
        assert load(Path(f"/dev/fd/{reader}"), *registries(), resolve_secrets=False).settings.version == 1
    finally:
        os.close(reader)


def test_a_device_without_end() -> None:
    with pytest.raises(ConfigProblems):
        load(Path("/dev/zero"), *registries())


def test_brackets_without_end_are_refused_and_not_followed() -> None:
    """The YAML composer recurses in C: this ended the process."""
    (problem,) = problems("[" * 100_000)
    assert problem == "1:51: (file): is nested deeper than 50 levels"


def test_aliases_that_unfold_without_end_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert "holds more than 50,000 values" in problem


def test_merges_that_unfold_without_end_are_refused() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert "holds more than 50,000 values" in problem


def test_problems_come_in_the_order_of_the_file_and_each_once() -> None:
    with pytest.raises(ConfigProblems) as raised:
        read("version: 3\nroutes: {a: {tiers: [{}, {}]}}\nbackends: {b: {}}\nx: 1\n")
    places = [(problem.line, problem.column) for problem in raised.value.problems]
    assert places == sorted(places)
    assert len(set(raised.value.problems)) == len(places)
    assert str(raised.value) == "\n".join(map(str, raised.value.problems))


def test_a_problem_shows_no_control_characters() -> None:
    text = 'version: "\\e[31m\\r\\u2028"\n'
    assert problems(text)[-1] == r"1:10: version: is the text `\u001b[31m\u000d\u2028`; it must be 1"


def test_a_long_value_is_cut() -> None:
    assert len(problems(f"version: {'x' * 5000}\n")[-1]) < 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("[::]:65535", ("::", 65535)),
        ("gateway-0.internal:80", ("gateway-0.internal", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8000",
        "8000",
        "a:65536",
        "a:",
        "::1:80",
        "[::1]",
        "[a]:1",
        "http://a:1",
        "a b:1",
        "a:-1",
        "a:1\n",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.2:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert parse_address(text).loopback is loopback
