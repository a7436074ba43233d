"""Changing single members of a JSON object and no other byte of it.

Pure: bytes in, bytes out. It knows JSON; it must never know what the members mean. The text is taken to
be JSON: whoever accepted the request has checked it.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rb"[\[\]{}]|(" + _STRING + rb")(?:[ \t\r\n]*(:)[ \t\r\n]*)?", re.DOTALL)
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)


class Member(NamedTuple):
    """A member of the outermost object: its name, and where its value begins."""

    name: str
    at: int


def members(data: bytes) -> Iterator[Member]:
    """The members of the outermost object, in order, repeated names included."""
    depth = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        elif depth == 1 and token[2]:
            text = token[1]
            name = json.loads(text) if b"\\" in text else text[1:-1].decode("utf-8", "replace")
            yield Member(name, token.end())


class Renamed:
    """Puts another string into one member of many objects. The member's name is of small letters."""

    def __init__(self, member: str, value: str) -> None:
        self._member = member
        self._value = json.dumps(value).encode("ascii")
        self._named = re.compile(b'"' + re.escape(member.encode("ascii")) + rb'"[ \t\r\n]*:[ \t\r\n]*')

    def apply(self, data: bytes) -> bytes:
        """`data` with that value in every top-level member of that name that holds a string.

        There must be one: whoever accepted the request has looked.
        """
        parts = []
        done = 0
        for at in self._places(data):
            value = _WHOLE_STRING.match(data, at)
            if value is not None:
                parts += [data[done:at], self._value]
                done = value.end()
        return b"".join([*parts, data[done:]]) if parts else data

    def _places(self, data: bytes) -> list[int]:
        # The name is spelled otherwise only by \u, which for small letters goes on as 006 or 007. So where
        # the plain spelling occurs once, and nothing of the kind, that is the place: no need to walk to it.
        if b"\\u006" not in data and b"\\u007" not in data:
            found = self._named.finditer(data)
            first = next(found, None)
            if first is not None and next(found, None) is None:
                return [first.end()]
        return [member.at for member in members(data) if member.name == self._member]


def inserted(data: bytes, name: str, value: bytes) -> bytes:
    """`data` with one member more, in front of the others."""
    brace = data.index(b"{") + 1
    separator = b"" if data[brace:].lstrip()[:1] == b"}" else b","
    return b'%b"%b":%b%b%b' % (data[:brace], name.encode("ascii"), value, separator, data[brace:])


def replaced(data: bytes, at: int, length: int, value: bytes) -> bytes:
    """`data` with another value of the member whose value begins at `at` and has `length` bytes."""
    return data[:at] + value + data[at + length :]
