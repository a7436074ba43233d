"""The small file that keeps the estimates across restarts: written whole or not at all, read with suspicion.

Standard library only. It never knows what the estimates mean: it carries one JSON document. It raises
nothing: whatever is wrong with the file, the gateway serves on, from its priors.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FORMAT: Final = "overspill-estimates"
VERSION: Final = 1
_MOST_BYTES: Final = 64 << 20


def write(path: Path, document: Mapping[str, Any]) -> str | None:
    """Replace the file in one step, so that no reader and no crash ever meets half of it.

    Returns None, or what went wrong; the old file is untouched then.
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, **document}, separators=(",", ":"))
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        return f"{path}: the estimates could not be saved: {error.strerror or error}"
    return None


def read(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(document, None); (None, None) when there is no file yet; (None, what is wrong with it)."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, refusal(path, error.strerror or str(error))
    if len(raw) > _MOST_BYTES:
        return None, refusal(path, f"it is larger than {_MOST_BYTES >> 20} MiB")
    try:
        document = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return None, refusal(path, f"it is not JSON ({error})")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None, refusal(path, f'it does not say "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        return None, refusal(
            path, f"it is of version {document.get('version')!r}, this program reads {VERSION}"
        )
    return document, None


def refusal(path: Path, problem: str) -> str:
    """The sentence that is logged."""
    return f"{path}: the estimates were not restored: {problem}. They start from their priors."


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
