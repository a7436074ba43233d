"""Certificates and keys in files: read, held against each other, made into a context for TLS servers.

Knows files, PEM and OpenSSL. It must never know a port, a configuration file or a request, and never says a
word of what stands in a key.
"""

import re
import ssl
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.errors import ConfigError
from gateway.options import SecretRef

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_LONGEST = 4 * 2**20
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only. Those of TLS 1.3 all have both."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_OF_CERTIFICATE = frozenset(("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"))

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class BadFile(ConfigError):
    """A file that cannot be used. `field`: as which it was given, like `certificate`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Files(Protocol):
    """What a TLS server needs, and what it asks of its clients."""

    @property
    def certificate(self) -> Path: ...
    @property
    def key(self) -> SecretRef: ...
    @property
    def client_ca(self) -> Path | None: ...
    @property
    def client_certificates(self) -> str: ...
    @property
    def min_version(self) -> str: ...


class Pems(NamedTuple):
    """What stands in the files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def __repr__(self) -> str:
        return "Pems(…)"


class ServerCertificate(NamedTuple):
    """What a TLS server shows, ready for use.

    context:  for HTTP/1.1
    http2:    the same for HTTP/2
    expires:  Unix time, of the first in its chain that does
    """

    context: ssl.SSLContext
    http2: ssl.SSLContext
    pems: Pems
    expires: float


def key_file(key: SecretRef) -> Path:
    """Where the key stands; that it is a file has been checked."""
    assert key.file is not None
    return key.file


def load(files: Files) -> ServerCertificate:
    """All of it, from one state of the files. Raises BadFile."""
    before = read(files)
    expires = min(expiries(before.certificate, "certificate", files.certificate))
    if files.client_ca is not None and before.client_ca is not None:
        expiries(before.client_ca, "client_ca", files.client_ca)
    shown = ServerCertificate(_context(files, "http/1.1"), _context(files, "h2"), before, expires)
    if read(files) != before:
        raise BadFile("certificate", f"{files.certificate} or its key changed while they were read")
    return shown


def _context(files: Files, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[files.min_version]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])
    load_pair(context, files.certificate, key_file(files.key))
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise BadFile("client_ca", f"{files.client_ca} cannot be used: {_reason(error)}") from None
    context.verify_mode = _MODES[files.client_certificates]
    return context


def read(files: Files) -> Pems:
    """What stands in the files. Raises BadFile."""
    ca = None if files.client_ca is None else read_file("client_ca", files.client_ca)
    return Pems(read_file("certificate", files.certificate), read_file("key", key_file(files.key)), ca)


def read_file(field: str, path: Path) -> bytes:
    """All of one. Raises BadFile, which never shows what stands in it."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise BadFile(field, f"{path} cannot be read: {reason}") from None
    if not text.strip():
        raise BadFile(field, f"{path} is empty")
    return text


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Have a context show this certificate. Raises BadFile."""
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise BadFile(
            "key", f"{key} is encrypted; give a key that is not, in a file that is guarded"
        ) from None
    except ssl.SSLError as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise BadFile("key", f"{key} is not the key of {certificate}") from None
        if reason in _OF_CERTIFICATE:
            raise BadFile("certificate", f"{certificate} is too weak: {_reason(error)}") from None
        raise BadFile("key", f"{key} holds no private key that can be used: {_reason(error)}") from None
    except OSError as error:
        raise BadFile("certificate", f"{certificate} or {key} cannot be read: {error.strerror}") from None


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted  # or OpenSSL would ask for one at the terminal


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def expiries(pem: bytes, field: str, path: Path) -> list[float]:
    """When each certificate of a file expires, Unix time. Raises BadFile where there is none."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(not_after(b64decode(block)))
        except (NotBase64, ValueError, IndexError):
            raise BadFile(field, f"{path} holds something that is no certificate") from None
    if not found:
        raise BadFile(field, f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    return found


def not_after(der: bytes) -> float:
    """Until when a certificate is valid, Unix time (RFC 5280, 4.1: validity of the TBSCertificate).

    Raises ValueError or IndexError where it is none.
    """
    certificate = _sequence(der, 0)
    parts = list(_parts(der, *_sequence(der, certificate[0])))
    if parts[0][0] == _VERSION:
        del parts[0]
    tag, begin, end = parts[3]  # serial number, signature, issuer, validity
    if tag != _SEQUENCE:
        raise ValueError("no validity")
    tag, begin, end = list(_parts(der, begin, end))[1]
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _sequence(der: bytes, at: int) -> tuple[int, int]:
    tag, begin, end = _part(der, at)
    if tag != _SEQUENCE:
        raise ValueError("no sequence")
    return begin, end


def _parts(der: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at < end:
        part = _part(der, at)
        yield part
        at = part[2]


def _part(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, and where the content begins and ends (X.690, 8.1)."""
    tag, length = der[at], der[at + 1]
    begin = at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[begin : begin + size])
        begin += size
    if begin + length > len(der):
        raise ValueError("cut off")
    return tag, begin, begin + length
