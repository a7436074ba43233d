"""Client certificates as identities: which name in a verified certificate stands for whom.

That a certificate is genuine and in force was checked with the connection. Knows its fields as Python's `ssl`
gives them (`SSLSocket.getpeercert`), no request and no socket.
"""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.config.auth import ClientCertificate
from gateway.errors import Unauthorised
from gateway.identity import Identity, plain_name

Certificate = Mapping[str, Any]


class CertificateNames:
    """The names that stand for somebody, each exactly as it is written in the file."""

    def __init__(self, known: Iterable[ClientCertificate], clock: Clock) -> None:
        self._clock = clock
        self._known = {
            _same(*each.named): Identity(
                plain_name(each.named[1]), "certificate", each.tenant,
                None if each.routes is None else tuple(each.routes), each.priority,
            )
            for each in known
        }  # fmt: skip

    def verify(self, certificate: Certificate) -> Identity:
        """Whose certificate this is: by its alternative names first. Raises Unauthorised."""
        for named in _names(certificate):
            identity = self._known.get(named)
            if identity is not None:
                break
        else:
            raise Unauthorised("the client certificate names nobody who is known here", invalid=True)
        if isinstance(until := certificate.get("notAfter"), str):
            expires = float(ssl.cert_time_to_seconds(until))
            if self._clock.wall() >= expires:  # a connection can outlive what it was opened with
                raise Unauthorised("the client certificate has expired", invalid=True)
            return identity._replace(expires_at=expires)
        return identity


def _names(certificate: Certificate) -> Iterator[tuple[str, str]]:
    for kind, name in certificate.get("subjectAltName", ()):
        yield _same(kind, name)
    for part in certificate.get("subject", ()):
        for kind, name in part:
            if kind == "commonName":
                yield _same(kind, name)


def _same(kind: str, name: str) -> tuple[str, str]:
    """DNS names are the same in capitals (RFC 4343); the others are not."""
    return kind, name.lower() if kind == "DNS" else name
