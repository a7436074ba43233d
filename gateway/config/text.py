"""The text of a file, whatever else it may turn out to be. Knows nothing of what stands in it."""

import codecs
from pathlib import Path

from gateway.config.tree import MOST_CHARACTERS, NotYaml, Place, place_in


def read_text(path: Path) -> str:
    """The text of a file. Raises NotYaml where there is none to be had."""
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MOST_CHARACTERS + 1)  # a device would never end
    except FileNotFoundError:
        raise NotYaml(Place(1, 1), "there is no such file") from None
    except IsADirectoryError:
        raise NotYaml(Place(1, 1), "is a directory; give the file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise NotYaml(Place(1, 1), f"cannot be read: {reason}") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise NotYaml(Place(1, 1), "is UTF-16; save it as UTF-8")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        place, byte = place_in(before, len(before)), raw[error.start]
        raise NotYaml(place, f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
