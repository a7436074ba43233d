"""Fuzz target: what callers show, keys and tokens, and the key sets of issuers.

Nothing gets in that an independent look at it would refuse: a key letter by letter, a token by its own sum.
"""

import hmac
import json
import logging
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Coroutine
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from gateway.auth.jwks import SharedSecret, read_jwks
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.key_file import KeyEntry, hash_of, id_in, write_keys
from gateway.auth.keys import KeyRing
from gateway.clock import FakeClock
from gateway.config.auth import TokenIssuer
from gateway.errors import Unauthorised
from loadtests.fuzz.target import Target

T = TypeVar("T")

ISSUER = "https://login.example.com/"
SECRET = "a secret for fuzzing, not for use"
KEY = "ovs_fuzz_" + "0123456789abcdefghijABCDEFGHIJ0123456789ab"


class Credentials(Target):
    """A text is refused as Unauthorised, or it is the one key, or a token with a right sum."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "keys.yaml")
        write_keys([KeyEntry.model_validate({"id": "fuzz", "hash": hash_of(KEY)})], path)
        clock = FakeClock()
        self._keys = KeyRing(path, clock)
        options = TokenIssuer.model_validate(
            {
                "issuer": ISSUER,
                "audience": "overspill",
                "secret": {"env": "NOT_READ"},
                "routes_claim": "routes",
            }
        )
        self._tokens = Tokens([Issuer(options, SharedSecret(lambda: SECRET))], clock)
        self._log = logging.getLogger("overspill.auth")
        self._level = self._log.level
        self._log.setLevel(logging.CRITICAL)

    def close(self) -> None:
        """Its folder, and what it had silenced."""
        self._log.setLevel(self._level)
        self._folder.cleanup()

    def __call__(self, data: bytes) -> None:
        """The text of a credential, and the same bytes as a key set."""
        text = data.decode("ascii", "replace")
        key_id = id_in(text)
        assert key_id is None or text.startswith(f"ovs_{key_id}_")
        try:
            assert self._keys.verify(text).name == "fuzz"
        except Unauthorised:
            assert text != KEY
        else:
            assert text == KEY
        self._token(text)
        with suppress(ValueError):
            assert read_jwks(data)

    def _token(self, text: str) -> None:
        try:
            identity = _at_once(self._tokens.verify(text))
        except Unauthorised:
            return
        head, claims, sum_shown = text.split(".")
        said = hmac.new(SECRET.encode(), f"{head}.{claims}".encode(), sha256).digest()
        assert _decoded(sum_shown) == said
        assert json.loads(_decoded(head))["alg"] == "HS256"
        read = json.loads(_decoded(claims))
        assert read["iss"] == ISSUER
        assert "overspill" in read["aud"]
        assert identity.routes is not None


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _at_once(work: Coroutine[object, None, T]) -> T:
    """What a coroutine that waits for nothing returns."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited for something")
