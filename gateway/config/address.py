"""What an address to listen at looks like in the file. Knows text and numbers, never a socket."""

import ipaddress
import re
from typing import Annotated, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_ADDRESS = re.compile(r"(\[[^\]]+\]|[^\[\]:]+):(\d{1,5})")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")


class Address(NamedTuple):
    """Where to listen. `host` carries no brackets; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """`127.0.0.1:8000`, `localhost:8000` or `[::1]:8000`."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str) and (match := _ADDRESS.fullmatch(value)):
        host, port = match[1].strip("[]"), int(match[2])
        if port <= 65535 and (_is_ipv6(host) if match[1].startswith("[") else _HOST.fullmatch(host)):
            return Address(host, port)
    raise ValueError(f"{value!r} is not an address; write HOST:PORT like 127.0.0.1:8000, IPv6 as [::1]:8000")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


ListenAddress = Annotated[
    Address,
    PlainValidator(parse_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r":\d{1,5}$", "examples": ["127.0.0.1:8000"]}),
]
