"""The admin port's own credential: one token, shown as a bearer token, or as the password in a browser.

Knows fields of a request as text, and no server. The token is read from where it is kept whenever it is
asked for, so that one that was replaced is good at once, and the one before it is not.
"""

import hmac
import logging
from base64 import b64decode
from hashlib import sha256

from gateway.config.auth import SHORTEST_SECRET, Auth, AuthSection
from gateway.options import SecretRef

log = logging.getLogger("overspill.auth")

OPEN = frozenset(("/livez", "/readyz"))
"""Paths for everybody: those who ask whether a process lives have no credentials."""
CHALLENGES = ('Bearer realm="overspill admin"', 'Basic realm="overspill admin", charset="UTF-8"')
_LONGEST = 8192
_OURS = frozenset(("same-origin", "none"))


def admin_token(token: SecretRef) -> str:
    """The token. Raises LookupError, naming the reference, when it cannot be had or is too short."""
    text = token.resolve()
    if len(text) < SHORTEST_SECRET or not text.isascii() or not text.isprintable() or " " in text:
        where = token.env if token.env is not None else token.file
        raise LookupError(
            f"the admin token in {where} must have at least {SHORTEST_SECRET} characters, all of them "
            "printable ASCII without spaces"
        )
    return text


class AdminDoor:
    """Who may use the admin port, as the file says at the moment."""

    def __init__(self, auth: AuthSection) -> None:
        self._token: SecretRef | None = None
        self._digest: bytes | None = None
        self._failing = False
        self.follow(auth)

    def follow(self, auth: AuthSection) -> None:
        """Go by this section from now on."""
        admin = auth.admin if isinstance(auth, Auth) else None
        token = None if admin is None else admin.token
        if token != self._token:
            self._token, self._digest = token, None

    def admits(self, path: str, authorization: str | None) -> bool:
        """May a request for this path with this `Authorization` field go on?"""
        if self._token is None or path in OPEN:
            return True
        given = _given(authorization)
        expected = self._expected(self._token)
        # Compared in any case, and by digests, which are of one length: time tells nothing about the token.
        same = hmac.compare_digest(sha256(given.encode("utf-8", "replace")).digest(), expected or bytes(32))
        return same and expected is not None

    def foreign(self, method: str, fetch_site: str | None) -> bool:
        """Does a page of another site have a browser send this, with the password that the browser knows?

        fetch_site:  the request's `Sec-Fetch-Site` (W3C Fetch Metadata), which pages cannot set
        """
        return method not in {"GET", "HEAD"} and fetch_site is not None and fetch_site not in _OURS

    def _expected(self, token: SecretRef) -> bytes | None:
        """Digest of the token; of the last good one where it cannot be read now, None without one."""
        try:
            self._digest = sha256(admin_token(token).encode()).digest()
            self._failing = False
        except LookupError as error:
            if not self._failing:  # said once, not for every request
                log.error("auth.admin: %s", error)
            self._failing = True
        return self._digest


def _given(authorization: str | None) -> str:
    """What was shown: a bearer token, or the password of whatever user."""
    if authorization is None or len(authorization) > _LONGEST:
        return ""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
        except ValueError:
            return ""
    return ""
