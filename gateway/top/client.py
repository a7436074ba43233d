"""Asks the admin port over HTTP, one question after the other on one connection, and says why if it cannot.

Knows paths and a token; never how anything is shown. The token is sent to that one address and shown nowhere.
"""

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from gateway.clock import Clock
from gateway.top.snapshot import Missing, Snapshot, snapshot

PATIENCE_S = 3.0
"""For each answer."""
LARGEST = 64 * 2**20


class NotUsable(ValueError):
    """An address or a token that cannot be used; the message says what would be right."""


class AdminClient:
    """One admin port. NotUsable for what is no address of one."""

    def __init__(self, url: str, clock: Clock, *, token: str | None = None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1 or parts.username:
            raise NotUsable("--url must be the admin port's address, like http://127.0.0.1:8002")
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise NotUsable("the token must be printable ASCII on one line")
        self._clock = clock
        self._base = parts.path.rstrip("/")
        self._fields = {} if token is None else {"authorization": f"Bearer {token}"}
        if parts.scheme == "https":
            try:
                trust = ssl.create_default_context(cafile=ca)
            except (OSError, ssl.SSLError) as error:
                raise NotUsable(f"--ca-file cannot be used: {error}") from None
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, port, timeout=PATIENCE_S, context=trust
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=PATIENCE_S)

    def poll(self) -> Snapshot | Missing:
        """One look. It never fails: what went wrong is told in words."""
        try:
            self._get("/livez")
            routes, backends = self._json("/admin/routes"), self._json("/admin/backends")
            config, metrics = self._json("/admin/config"), self._get("/metrics", "text/plain")
            at, wall = self._clock.now(), self._clock.wall()
            return snapshot(routes, backends, config, metrics.decode("utf-8", "replace"), at=at, wall=wall)
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
        except ValueError as error:
            why = str(error)
        self.close()
        return Missing(self._clock.now(), self._clock.wall(), why)

    def close(self) -> None:
        """Give the connection back; the next poll makes another."""
        self._connection.close()

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._get(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _get(self, path: str, accept: str = "application/json") -> bytes:
        self._connection.request("GET", self._base + path, headers={"accept": accept, **self._fields})
        answer = self._connection.getresponse()
        body = answer.read(LARGEST)
        if answer.status in {401, 403}:
            self.close()
            raise ValueError("the admin port asks for a token; see --token-file and OVERSPILL_ADMIN_TOKEN")
        if answer.status != 200:
            raise ValueError(f"it answered {answer.status} to {path}; is this the admin port?")
        return body
