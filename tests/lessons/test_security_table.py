"""The README's table of threats holds: each has a control, and a test that exists."""

import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent.parent
README = TESTS.parent / "README.md"
CONCERNS = (
    "Who may call",
    "TLS",
    "Requests",
    "Slow clients and bombs",
    "What the gateway calls (SSRF)",
    "Secrets",
    "Money",
    "Figures and pages",
    "Supply chain, container, change",
)
_TEST = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*)\.py::(test_\w+)`")


class Row(NamedTuple):
    """One threat."""

    concern: str
    threat: str
    control: str
    test: str


def read(text: str) -> list[Row]:
    """The rows of the table below "## Security"."""
    _, _, after = text.partition("\n## Security\n")
    section = after.split("\n## ", 1)[0]
    rows, concern = [], ""
    for line in section.splitlines():
        if not line.startswith("|") or line.startswith("|---"):
            continue
        threat, control, test = (cell.strip() for cell in line.strip("|").split("|"))
        if threat.startswith("**"):
            concern = threat.strip("*")
        elif threat != "Threat":
            rows.append(Row(concern, threat, control, test))
    return rows


def resolved(test: str) -> object:
    """The function that a cell names. Fails where it names none."""
    named = _TEST.fullmatch(test)
    assert named, f"{test} names no test as `folder/test_file.py::test_name`"
    module = importlib.import_module("tests." + named[1].replace("/", "."))
    found = getattr(module, named[2], None)
    assert inspect.isfunction(found), f"{module.__name__} has no {named[2]}"
    return found


ROWS = read(README.read_text(encoding="utf-8"))


def test_the_table_covers_every_concern() -> None:
    assert tuple(dict.fromkeys(row.concern for row in ROWS)) == CONCERNS
    assert len(ROWS) >= 25
    assert len({row.threat for row in ROWS}) == len(ROWS)


def test_every_threat_has_a_control_and_a_test_that_exists() -> None:
    assert ROWS, "the README has no section Security with a table"
    for row in ROWS:
        assert row.control, row.threat
        resolved(row.test)


def test_a_test_that_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="has no test_nothing"):
        resolved("`pool/test_breaker.py::test_nothing`")
    with pytest.raises(AssertionError, match="names no test"):
        resolved("none")


def test_a_table_is_read_row_by_row() -> None:
    text = "# X\n## Security\n\n| Threat | Control | Test |\n|---|---|---|\n| **A** | | |\n| b | c | `d` |\n\n## Y\n| e |"
    assert read(text) == [Row("A", "b", "c", "`d`")]
