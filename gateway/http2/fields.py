"""Field sections of HTTP/2: HPACK (RFC 7541) to names and values, and back.

Clients say the same again and again. A section that is byte for byte one of those before means the same as
long as nothing was entered into the table meanwhile, so what was made of it then serves again. What is
written refers to the static table only: the other side keeps nothing, and the same bytes serve everywhere.

The table and Huffman's code are the `hpack` package's. The walk through a section is ours: a field takes no
longer in a long section than in a short one, and a section that is over a limit is read to its end all the
same, so that the call is refused and not the connection.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from gateway.http2.frames import Broken, ErrorCode

T = TypeVar("T")
Fields = list[tuple[bytes, bytes]]

ENTRY_SIZE = 32
"""What each field counts beside its name and value (RFC 9113, 6.5.2)."""
TABLE_SIZE = 4096
"""Of the other side's table, which nobody asks to be larger."""
FAR_OVER = 16
"""Times its limit that a section may have and still is read."""
_KEPT = 64
_KEPT_BYTES = 1024
"""Sections that are remembered, and the largest."""
_LONGEST_NUMBER = 2**31
_MOST_SIZE_UPDATES = 2
"""In one section: the smallest size meanwhile, and the last one (RFC 7541, 4.2)."""
_ONE_BYTE = 0x7F
_INDEXED, _ENTERED, _SIZE_UPDATE, _HUFFMAN = 0x80, 0x40, 0x20, 0x80


class FieldReader(Generic[T]):
    """What the other side of one connection says, in order: every section must pass through here.

    made:  makes what is wanted of the fields and their size, and must not change: it is used again. Fields
           beyond the limit are not among them, and what they name is counted
    most:  bytes of a section's fields by RFC 9113, 6.5.2; far beyond it the connection is broken
    """

    def __init__(self, made: Callable[[Fields, int], T], *, most: int) -> None:
        self._table = HeaderTable()
        self._made = made
        self._most = most
        self._known: dict[bytes, T] = {}

    def read(self, section: bytes) -> T:
        """What was made of this section. Raises Broken."""
        known = self._known.get(section)
        if known is not None:
            return known
        try:
            fields, size, changed = self._walk(section)
        except (HPACKError, IndexError) as error:
            raise Broken(ErrorCode.COMPRESSION_ERROR, f"a field section cannot be read: {error}") from None
        made = self._made(fields, size)
        if changed:
            self._known.clear()  # the table is another one: the same bytes may mean something else
        elif len(section) <= _KEPT_BYTES:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[section] = made
        return made

    def _walk(self, section: bytes) -> tuple[Fields, int, bool]:
        """The fields up to the limit, the size of all, and whether the table is another one now."""
        table, fields, total, changed = self._table, [], 0, False
        place, end, updates = 0, len(section), 0
        while place < end:
            first = section[place]
            if first & _INDEXED:
                index, place = _number(section, place, 0x7F)
                name, value = table.get_by_index(index)
            elif first & 0xE0 == _SIZE_UPDATE:
                size, place = _number(section, place, 0x1F)
                updates += 1
                if total or size > TABLE_SIZE or updates > _MOST_SIZE_UPDATES:
                    raise Broken(
                        ErrorCode.COMPRESSION_ERROR,
                        "a table's size changes late, often, or beyond the limit",
                    )
                table.maxsize = size
                changed = True
                continue
            else:
                entered = first & _ENTERED
                index, place = _number(section, place, 0x3F if entered else 0x0F)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, place = _text(section, place)
                value, place = _text(section, place)
                if entered:
                    table.add(name, value)
                    changed = True
            total += len(name) + len(value) + ENTRY_SIZE
            if total <= self._most:
                fields.append((name, value))
            elif total > FAR_OVER * self._most:
                raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "a field section is far over the limit")
        return fields, total, changed


def _number(section: bytes, place: int, mask: int) -> tuple[int, int]:
    """An integer whose first bits are those of the mask (RFC 7541, 5.1), and where it ends."""
    value = section[place] & mask
    place += 1
    if value < mask:
        return value, place
    shift = 0
    while True:
        octet = section[place]
        place += 1
        value += (octet & 0x7F) << shift
        if value > _LONGEST_NUMBER or shift > 35:
            raise Broken(ErrorCode.COMPRESSION_ERROR, "a number in a field section is too large")
        if octet < 0x80:
            return value, place
        shift += 7


def _text(section: bytes, place: int) -> tuple[bytes, int]:
    """A string (RFC 7541, 5.2), and where it ends."""
    packed = section[place] & _HUFFMAN
    size, place = _number(section, place, 0x7F)
    end = place + size
    if end > len(section):
        raise Broken(ErrorCode.COMPRESSION_ERROR, "a field section ends inside a string")
    text = section[place:end]
    return (decode_huffman(text) if packed else text), end


def field(name: bytes, value: bytes, *, secret: bool = False) -> bytes:
    """One field, spelled out (RFC 7541, 6.2.2). `secret`: nobody on the way may enter it (6.2.3)."""
    first = 0x10 if secret else 0x00
    if len(name) < _ONE_BYTE and len(value) < _ONE_BYTE:
        return b"%c%c%b%c%b" % (first, len(name), name, len(value), value)
    return bytes((first,)) + _spelled(name) + _spelled(value)


def named(index: int, value: bytes) -> bytes:
    """One field whose name is an entry of the static table (RFC 7541, appendix A)."""
    return _counted(index, 0x0F) + _spelled(value)


def _spelled(data: bytes) -> bytes:
    return _counted(len(data), 0x7F) + data


def _counted(value: int, most: int) -> bytes:
    """An integer in the bits of `most`, those before them 0 (RFC 7541, 5.1)."""
    if value < most:
        return bytes((value,))
    encoded = bytearray((most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
