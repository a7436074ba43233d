"""Each file in golden/ is an input, a line of dashes, and what must come of it.

Either the effective configuration, followed by its warnings, or the problems. Places are `LINE:COLUMN`.
"""

from pathlib import Path

import pytest

from gateway.config.effective import effective
from gateway.config.problems import ConfigProblems
from tests.config.plugins import read

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"))
SEPARATOR = "\n----------\n"


def outcome(text: str) -> str:
    """What comes of a text, as the golden files write it."""
    try:
        loaded = read(text)
    except ConfigProblems as error:
        return "".join(f"{problem}\n" for problem in error.problems).replace("f.yaml:", "")
    warnings = "".join(f"warning: {warning}\n" for warning in loaded.warnings)
    return effective(loaded.settings) + warnings.replace("f.yaml:", "")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    given, separator, expected = path.read_text(encoding="utf-8").partition(SEPARATOR)
    assert separator, f"{path.name} has no separator"
    assert outcome(given + "\n") == expected


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) > 10
