"""Tokens that expire: had from their own host when they are needed, kept while they are good, shared by all.

A token is fetched once however many calls wait for it, and again when it is about to expire or has been
refused. What is sent for it goes to the token's host and nowhere else; neither that nor the token is ever
in a message. It must never know which backend a token opens, or who issues it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from backends.client import Answer, HttpClient, Upload
from backends.credentials import Credential
from gateway.clock import Clock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendUnready, ConfigError
from gateway.options import SecretRef
from gateway.vocab import Headers

EARLY_S = 60.0
"""A token that expires sooner than this is not used: clocks differ, and a request takes its time.

Less than the five minutes for which Google's metadata server still hands out the old one."""
PATIENCE_S = 10.0
"""Longest wait for a token."""
_LIMIT = 256 * 1024
_WORD = 64


class Token(NamedTuple):
    """A token as it was had. `lasts_s`: seconds until it expires; None for one that says nothing."""

    value: str
    lasts_s: float | None = None

    def __repr__(self) -> str:
        return "Token(…)"


class TokenSource(Protocol):
    """Where tokens come from."""

    def check(self) -> None:
        """Raise ConfigError now if no token can be had: at start, without asking anybody."""
        ...

    async def fetch(self) -> Token:
        """A new token. Raises BackendError whose `work` is NOT_STARTED."""
        ...

    async def close(self) -> None:
        """Give back every connection."""
        ...


class Tokens:
    """The one token of a backend.

    cover:  told each new token, so that nothing quotes it
    """

    def __init__(self, source: TokenSource, *, clock: Clock, cover: Callable[[str], None]) -> None:
        self._source = source
        self._clock = clock
        self._cover = cover
        self._value: str | None = None
        self._good_until = 0.0
        self._fetching = asyncio.Lock()
        self._fetches = 0
        self._failure: BackendError | None = None  # of the last fetch

    def check(self) -> None:
        """Raise ConfigError now if no token can be had."""
        self._source.check()

    async def close(self) -> None:
        """Give back every connection."""
        await self._source.close()

    def current(self) -> str | None:
        """The token that is there and good, if one is."""
        return self._value if self._clock.now() < self._good_until else None

    def refused(self, value: str) -> None:
        """It was not taken, and is not used again."""
        if value == self._value:
            self._value, self._good_until = None, 0.0

    async def value(self) -> str:
        """The token. Raises BackendError, whose `work` is NOT_STARTED, when none can be had."""
        if (value := self.current()) is not None:
            return value
        seen = self._fetches
        async with self._fetching:
            if (value := self.current()) is not None:
                return value  # fetched for another while this call waited
            if self._fetches != seen and self._failure is not None:
                raise type(self._failure)(str(self._failure))  # and so has its failure been
            return await self._fetch()

    async def _fetch(self) -> str:
        self._failure = None
        try:
            token = await self._source.fetch()
        except BackendError as error:
            self._fetches += 1
            self._failure = error.again()
            raise
        self._fetches += 1
        self._cover(token.value)
        self._value = token.value
        lasts = float("inf") if token.lasts_s is None else token.lasts_s
        # One that lasts for minutes only is used for most of them all the same.
        self._good_until = self._clock.now() + lasts - min(EARLY_S, lasts / 2)
        return token.value


class GivenToken:
    """A token or key by reference; something else keeps it fresh. Refused, it is read again."""

    def __init__(self, name: str, reference: SecretRef) -> None:
        self._credential = Credential(name, reference)

    def check(self) -> None:
        """Raise ConfigError if it is not there."""
        self._credential.check()

    async def fetch(self) -> Token:
        """What the reference holds now."""
        self._credential.forget()
        return Token(self._credential.value())

    async def close(self) -> None:
        """Nothing to give back."""


class TokenHost:
    """Asks one host for tokens, over connections of its own. Never follows a redirect.

    url:       where it is; messages name its host only
    metadata:  it is a machine's metadata service, which has a link-local address
    """

    def __init__(self, name: str, url: str, *, metadata: bool = False) -> None:
        self.url = url
        host = urlsplit(url).hostname or ""
        self.said = f"{name}: no token from {host}"
        self._client = HttpClient(name, max_in_flight=1, metadata=[host] if metadata else ())

    async def ask(self, method: str, url: str, headers: Headers, body: Upload = None) -> Answer:
        """Its answer, which is 200. Raises BackendDenied for a 4xx, else BackendUnready or BackendDown."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._client.exchange(method, url, headers=headers, body=body, limit=_LIMIT)
        except TimeoutError:
            raise BackendUnready(f"{self.said} within {PATIENCE_S:g} s") from None
        except BackendBroke:
            # To the backend itself nothing was sent.
            raise BackendUnready(f"{self.said}: the connection broke") from None
        if answer.status == 200:
            return answer
        said = f"{self.said}: it answered {answer.status}{_error_word(answer.body)}"
        if answer.status >= 500 or answer.status in (408, 429):
            raise BackendUnready(said)
        raise BackendDenied(said)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class _Grant(msgspec.Struct):
    access_token: str = ""
    id_token: str = ""
    expires_in: int | float | str | None = None


def read_grant(host: TokenHost, answer: Answer, key: str) -> Token:
    """The token in an OAuth 2.0 answer (RFC 6749 section 5.1). `key`: `access_token` or `id_token`.

    Some issuers write the seconds as text. Raises BackendDenied, quoting nothing.
    """
    try:
        grant = msgspec.json.decode(answer.body, type=_Grant)
        lasts = None if grant.expires_in is None else float(grant.expires_in)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise BackendDenied(f"{host.said}: its answer cannot be read") from None
    value: str = getattr(grant, key)
    return Token(sendable(host, value), lasts)


def sendable(host: TokenHost, value: str) -> str:
    """`value`, if it can be a field's. Raises BackendDenied."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise BackendDenied(f"{host.said}: its answer has none")
    return value


def _error_word(body: bytes) -> str:
    """The `error` of an OAuth answer, which is one of a few words: nothing else of it is quoted."""
    try:
        word = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get("error", b"")
        text = msgspec.json.decode(word, type=str) if word else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    fit = len(text) <= _WORD and text.replace("_", "").isalnum() and text.isascii() and text.islower()
    return f" {text}" if fit else ""


def checked(check: Callable[[], object]) -> None:
    """Run a check; its BackendDenied becomes ConfigError: at start it is the file's fault."""
    try:
        check()
    except BackendDenied as error:
        raise ConfigError(str(error)) from None
