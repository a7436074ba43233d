"""gRPC's messages in the bytes of a stream ("gRPC over HTTP2", Length-Prefixed-Message), packed or not.

A message is a flag, four bytes of length, and that many bytes. Knows nothing of what is in them.
"""

import zlib

from gateway.errors import BadCall, BodyTooLarge, NotOffered

PREFIX_SIZE = 5
_PLAIN = 0
_PACKED = 1
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""The codings that can be unpacked, as zlib's `wbits`; gRPC's deflate has zlib's own head."""


def prefixed(message: bytes) -> bytes:
    """A message as it goes over the wire, not packed."""
    return b"\x00%b%b" % (len(message).to_bytes(4, "big"), message)


class Packed(bytes):
    """A message that is to be unpacked before it is used."""

    __slots__ = ()


class MessageReader:
    """The messages of one direction of a call. Packed ones stay so until they are wanted (`unpacked`): of
    those that wait, what is held is what the window let through.

    most:    bytes of one message, unpacked
    coding:  what packed messages are packed with; b"identity": none may be
    """

    __slots__ = ("_coding", "_most", "_rest", "_wanted")

    def __init__(self, most: int, coding: bytes = b"identity") -> None:
        self._most = most
        self._coding = coding
        self._rest = bytearray()  # not a list of parts: they may be of one byte each
        self._wanted = PREFIX_SIZE  # bytes that have to be here before anything can be done

    @property
    def between(self) -> bool:
        """Is nothing of a message here that is not complete?"""
        return not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with these bytes, maybe `Packed`.

        Raises BodyTooLarge, BadCall, NotOffered.
        """
        if not self._rest and len(data) >= PREFIX_SIZE:
            end = PREFIX_SIZE + int.from_bytes(data[1:PREFIX_SIZE], "big")
            if end == len(data):  # nearly always
                return [self._message(data[0], data[PREFIX_SIZE:])]
        self._rest += data
        if len(self._rest) < self._wanted:
            return []
        whole, place = memoryview(self._rest), 0
        self._rest = bytearray()
        found: list[bytes] = []
        self._wanted = PREFIX_SIZE
        while len(whole) - place >= PREFIX_SIZE:
            start = place + PREFIX_SIZE
            size = int.from_bytes(whole[place + 1 : start], "big")
            if size > self._most:
                raise BodyTooLarge(_too_large(size, self._most))
            if len(whole) < start + size:
                self._wanted = PREFIX_SIZE + size
                break
            found.append(self._message(whole[place], bytes(whole[start : start + size])))
            place = start + size
        self._rest += whole[place:]
        return found

    def _message(self, flag: int, data: bytes) -> bytes:
        if len(data) > self._most:
            raise BodyTooLarge(_too_large(len(data), self._most))
        if flag == _PLAIN:
            return data
        bits = _WINDOW_BITS.get(self._coding)
        if flag != _PACKED or bits is None:
            if flag == _PACKED and self._coding != b"identity":
                coding = self._coding[:32].decode("ascii", "replace")
                raise NotOffered(
                    f"messages packed with {coding!r} cannot be read; there are gzip and deflate"
                )
            raise BadCall("a message has a flag that means nothing here")
        return Packed(data)

    def unpacked(self, message: bytes) -> bytes:
        """A message as it is meant. Raises BodyTooLarge, BadCall."""
        if not isinstance(message, Packed):
            return message
        unpacking = zlib.decompressobj(_WINDOW_BITS[self._coding])
        try:
            message = unpacking.decompress(message, self._most + 1)
        except zlib.error:
            raise BadCall("a message cannot be unpacked") from None
        if len(message) > self._most:
            raise BodyTooLarge(_too_large(None, self._most))
        if not unpacking.eof:
            raise BadCall("a packed message is cut short")
        return message


def _too_large(size: int | None, most: int) -> str:
    """In the words in which gRPC's own libraries say it: clients know them."""
    if size is None:
        return f"Received message larger than max, {most} bytes, when it is unpacked"
    return f"Received message larger than max ({size} vs. {most})"
