"""The kept inputs of each target, `corpus/TARGET/NAME`: where fuzzing begins, and what the tests replay."""

from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def kept(target: str) -> Mapping[str, bytes]:
    """By file name."""
    return {path.name: path.read_bytes() for path in sorted((FOLDER / target).iterdir())}
