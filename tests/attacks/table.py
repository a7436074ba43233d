"""What a row of the attack corpus says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

INVOKE = b"/invoke/r/x"


@dataclass(frozen=True)
class Attack:
    """Bytes of one connection, and what is right.

    rule:     where it stands: the section of RFC 9110 or 9112, or of another text
    status:   what the first request gets; 200: it must be understood; 0: it must be waited for
    bodies:   of the requests that a handler may see, in their order
    stays:    may the connection carry another request after it?
    lenient:  which other servers take what is refused here, and why that is no reason to do so
    strict:   which other servers refuse what is taken here, and why that is no reason to do so
    """

    name: str
    data: bytes
    status: int
    rule: str
    bodies: tuple[bytes, ...] = ()
    stays: bool = False
    lenient: Mapping[str, str] = field(default_factory=dict)
    strict: Mapping[str, str] = field(default_factory=dict)


def post(*fields: bytes, body: bytes = b"", line: bytes = b"POST /invoke/r/x HTTP/1.1") -> bytes:
    """A request with these fields, each without its CRLF."""
    return b"\r\n".join([line, b"Host: x", *fields, b"", body])


def get(target: bytes = INVOKE, *fields: bytes) -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: x", *fields, b"", b""])


def chunked(body: bytes, *fields: bytes) -> bytes:
    """A request whose body is in chunks already."""
    return post(b"Transfer-Encoding: chunked", *fields, body=body)
