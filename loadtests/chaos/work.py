"""What is asked and what is answered: bytes that both ends can work out, and a note of every execution.

An answer is a function of its request's bytes alone, so that whoever asked knows whether it is right, to the
byte. Must never know a fault or a gateway.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

NOTES = "OVERSPILL_CHAOS_NOTES"
"""Environment variable with the file in which a worker notes what it executes."""

_REPEATED = 24


def question(name: str, chance: Random) -> bytes:
    """The body of the request that is called `name`: between 0.1 and 2 KB, drawn."""
    text = chance.randbytes(chance.randrange(16, 1024)).hex()
    return json.dumps({"id": name, "text": text}).encode()


def name_of(body: bytes) -> str:
    """What `question` called it. Raises ValueError for anything else."""
    try:
        return str(json.loads(body)["id"])
    except (KeyError, TypeError) as error:
        raise ValueError("not a question of this suite") from error


def answer_to(body: bytes) -> bytes:
    """The one right answer: its name, and the digest of every byte asked, often enough to be cut in two."""
    digest = hashlib.sha256(body).hexdigest()
    return json.dumps({"id": name_of(body), "digest": [digest] * _REPEATED}).encode()


class Notes:
    """A file with a line for each execution that began and one for each that ended. It survives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def began(self, name: str) -> None:
        """Work on that request has begun."""
        os.write(self._fd, f"+{name}\n".encode())

    def ended(self, name: str) -> None:
        """All of its answer was written."""
        os.write(self._fd, f"-{name}\n".encode())

    def met(self, name: str) -> None:
        """That request met a fault."""
        os.write(self._fd, f"!{name}\n".encode())

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def executions(path: Path) -> Counter[str]:
    """How often each request was begun, by what `Notes` wrote; nothing where there is no file."""
    return _noted(path, "+")


def faults_met(path: Path) -> int:
    """How many requests met a fault there."""
    return _noted(path, "!").total()


def _noted(path: Path, sign: str) -> Counter[str]:
    if not path.exists():
        return Counter()
    return Counter(line[1:] for line in path.read_text().splitlines() if line.startswith(sign))


def app(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """The same work as the worker kit's kind of app. KeyError without the file's name in the environment."""
    notes = Notes(Path(os.environ[NOTES]))
    try:
        name = name_of(body)
        notes.began(name)
        answer = answer_to(body)
        notes.ended(name)
    finally:
        notes.close()
    return 200, [("content-type", "application/json")], answer
