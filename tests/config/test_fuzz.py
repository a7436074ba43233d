"""Whatever the file holds: settings, or problems with a place. Never another error, never a crash."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.config.effective import effective
from gateway.config.load import load
from gateway.config.problems import ConfigProblems, Problem
from tests.config.plugins import GOOD, read, registries

SNIPPETS = [
    "", "~", "yes", "1:30", "010", "0x1F", "1_0", ".inf", "-.NaN", "1e9", "9" * 5000, "'", '"', "{", "}", "[", "]",
    "&a ", "*a", "<<: ", "? ", "- ", ": ", "\t", "\n", "\r", "\n---\n", "...", "!!binary ", "!x ", "%", "@", "`", "|", ">",
    "#", "\\", "\x00", "\x85", "\u2028", "\ufeff", "\U0001f525", "\ud800", "é", "version", "tiers", "null", "-1", "0ms",
    "9" * 400 + "s", "9" * 400 + "%", "9" * 400 + "GiB", "http://u:p@h", "\"\\0\"",
]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """The good file with a few pieces cut out, doubled or replaced."""
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        piece = draw(st.sampled_from([*SNIPPETS, text[start:end] * 2]))
        text = text[:start] + piece + text[end:]
    return text


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(SNIPPETS[:20]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def misplaced(draw: st.DrawFn) -> str:
    """The good file with the value at one place replaced by something of another shape."""
    document = yaml.safe_load(GOOD)
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or draw(st.booleans()):
            break
        node = node[key]
    node[key] = draw(values)
    return yaml.safe_dump(document, allow_unicode=True)


def never_another_error(text: str) -> None:
    problems: Sequence[Problem] = ()
    try:
        loaded = read(text)
    except ConfigProblems as error:
        problems = error.problems
    else:
        assert read(effective(loaded.settings)).settings.model_dump() == loaded.settings.model_dump()
        return
    last_line = sum(map(text.count, "\n\r\x85\u2028\u2029")) + 2
    assert problems
    for problem in problems:
        assert 1 <= problem.line <= last_line
        assert problem.column >= 1
        assert problem.path
        assert problem.message
        assert str(problem).isprintable()


@settings(deadline=None)
@given(st.text(max_size=200))
@example("version: 1\nbackends: {a: {type: fleet}}\nroutes: {a: {tiers: [{backend: a, weight: .nan}]}}")
@example("? {}\n: 1")
@example("&a [*a]")
@example("<<: 5")
@example("<<: &a {<<: *a}")
@example("version: 1\n<<: [{version: 1}, {version: 2}]")
@example("!!map {a: 1}")
@example("!!int x")
@example("a: !!float ''")
def test_random_text(text: str) -> None:
    never_another_error(text)


@settings(max_examples=150, deadline=None)
@given(mutations())
def test_a_good_file_with_mistakes(text: str) -> None:
    never_another_error(text)


@settings(max_examples=150, deadline=None)
@given(misplaced())
def test_a_good_file_with_a_wrong_shape(text: str) -> None:
    never_another_error(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100) | mutations().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    try:
        load(path, *registries(), resolve_secrets=False)
    except ConfigProblems as error:
        problems = error.problems
    else:
        return
    assert problems
    assert all(problem.line >= 1 for problem in problems)


@pytest.mark.parametrize("line", range(1, GOOD.count("\n") + 1))
def test_without_any_one_line(line: int) -> None:
    lines = GOOD.splitlines(keepends=True)
    never_another_error("".join(lines[: line - 1] + lines[line:]))
