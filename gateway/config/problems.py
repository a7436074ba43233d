"""What is wrong with a file, as data: one Problem per mistake, each with its place.

Knows nothing of YAML or of the models. Texts made here are printed to terminals and logs, so they never
carry control characters, and never more of a value than is needed to recognise it.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from gateway.errors import ConfigError

Path = tuple[str | int, ...]
"""Where in the file: keys and list positions, from the top."""

FILE = "(file)"
"""The path of a problem with the file as a whole."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
USER_IN_URL = re.compile(r"://[^/?#\s@]+@")
_LONGEST_QUOTE = 60
_LONGEST_MESSAGE = 600


class Problem(NamedTuple):
    """One mistake (or, in a list of warnings, one doubt)."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    path: str
    """Like `routes.embed.tiers[1].backend`, or `(file)`."""
    message: str
    """What is wrong, and what would be right."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.path}: {self.message}"


class ConfigProblems(ConfigError):
    """The file cannot be used. Holds every problem found, in the order of the file; never none."""

    def __init__(self, problems: Iterable[Problem], warnings: Iterable[Problem] = ()) -> None:
        self.problems: Sequence[Problem] = in_order(problems)
        self.warnings: Sequence[Problem] = in_order(warnings)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By place in the file, each said once."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column, problem.path))


def dotted(path: Path) -> str:
    """`("routes", "embed", "tiers", 1)` as `routes.embed.tiers[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
    return text or FILE


def quoted(text: str) -> str:
    """A piece of the file in backticks: printable and short."""
    shown = printable(text)
    return f"`{shown if len(shown) <= _LONGEST_QUOTE else shown[: _LONGEST_QUOTE - 1] + '…'}`"


def printable(text: str) -> str:
    """One line without control characters and without credentials in URLs, whatever the file held."""
    shown = USER_IN_URL.sub("://…@", text)
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in shown)


def tidy(message: str) -> str:
    """A message of unknown origin, made safe to print."""
    line = printable(" ".join(message.split()))
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


def suggestion(wrong: str, known: Iterable[str], noun: str) -> str:
    """`did you mean `x`? known keys: …`: what to write instead of `wrong`."""
    names = sorted(known)
    if not names:
        return f"there are no {noun} here"
    close = get_close_matches(wrong, names, n=1, cutoff=0.6)
    guess = f"did you mean {quoted(close[0])}? " if close else ""
    return f"{guess}known {noun}: {', '.join(names)}"
