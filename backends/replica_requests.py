"""The heads of requests to warm replicas, in wire form, and what a list of replicas' addresses may say.

Knows calls and connections; it must never know what a server answers.
"""

import contextlib
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from backends.credentials import AddedFields, Credentials
from backends.replica_connections import ReplicaConnections
from gateway.errors import BackendDenied
from gateway.kept_fields import KeptFields
from gateway.options import SecretRef
from gateway.vocab import Call, Headers


def _addresses(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        parts = urlsplit(url)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError(f"{url!r} is not a replica address; write it like http://server-0:8000")
    if len(set(urls)) != len(urls):
        raise ValueError("the same replica is listed twice; its slots would be counted twice")
    return urls


ReplicaUrls = Annotated[tuple[str, ...], AfterValidator(_addresses)]
"""Base URLs of replicas, each listed once; https for TLS."""


class RequestHeads:
    """Writes the heads of requests, with the fields that the file adds to each.

    Needs `open` where any of those is a secret.

    bearer:  sent as `Authorization: Bearer …` in place of a client's own
    """

    def __init__(
        self,
        name: str,
        added: Mapping[str, str | SecretRef],
        *,
        bearer: SecretRef | None = None,
        more: Headers | None = None,
    ) -> None:
        self.added: Headers = []
        """What the file adds to each request."""
        self._added = AddedFields(added)
        self._more = [(b"accept-encoding", b"identity"), *(more or [])]
        secrets = {f"header {field}": reference for field, reference in self._added.secret.items()}
        if bearer is not None:
            secrets["bearer"] = bearer
        self._bearer = bearer is not None
        self.credentials = Credentials(name, secrets)
        self._tail = b""
        self._replaced: frozenset[bytes] = frozenset()
        if not secrets:
            self._write()

    def open(self) -> None:
        """Read the secrets. Raises ConfigError, naming the reference; nothing here does so afterwards."""
        self.credentials.check()
        self._write()

    def renew(self) -> None:
        """A secret was refused: all of them are read again."""
        self.credentials.forget()
        with contextlib.suppress(BackendDenied):  # where there is no other, the one that was refused stays
            self._write()

    def head(self, call: Call, connections: ReplicaConnections, target: bytes) -> bytes:
        """Request line and fields of a call, without the empty line and without framing.

        `target` follows the replica's own base.
        """
        headers = call.headers
        if type(headers) is not KeptFields:
            lines = self._lines(call, connections, target)
        else:
            before = headers.known.get(connections)
            if before is not None and before[0] is self._replaced and before[1:3] == (call.method, target):
                lines = before[3]
            else:
                lines = self._lines(call, connections, target)
                headers.keep(connections, (self._replaced, call.method, target, lines))
        return b"%bx-request-id: %b\r\ntraceparent: %b\r\n%b" % (
            lines,
            call.request_id.encode("ascii"),
            call.traceparent.encode("ascii"),
            self._tail,
        )

    def _lines(self, call: Call, connections: ReplicaConnections, target: bytes) -> bytes:
        replaced = self._replaced
        fields = b"".join([n + b": " + v + b"\r\n" for n, v in call.headers if n not in replaced])
        return b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b" % (
            call.method,
            connections.base,
            target,
            connections.authority,
            fields,
        )

    def question(self, connections: ReplicaConnections, path: bytes) -> bytes:
        """The same of a GET of the gateway's own."""
        place = (connections.base, path, connections.authority, self._tail)
        return b"GET %b%b HTTP/1.1\r\nhost: %b\r\n%b" % place

    def _write(self) -> None:
        fields = list(self._more)
        if self._bearer:
            fields.append((b"authorization", b"Bearer " + self.credentials["bearer"].encode()))
        self.added = self._added.onto([], self.credentials)
        fields = self._added.onto(fields, self.credentials)
        self._replaced = frozenset(name for name, _ in fields)
        self._tail = b"".join(b"%b: %b\r\n" % field for field in fields)
