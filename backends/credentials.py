"""Secrets as backends use them: read by reference, kept out of every message, read again when refused.

Knows the leaves only. It must never know what a secret is for.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from gateway.errors import BackendDenied, ConfigError
from gateway.options import SecretRef
from gateway.vocab import Headers

_EXCERPT = 200
_COVERED = 4


class Credential:
    """One secret. Read with the first use; `forget` makes the next use read it again (rotation)."""

    def __init__(self, backend: str, reference: SecretRef) -> None:
        self._backend = backend
        self._reference = reference
        self._value: str | None = None

    def __repr__(self) -> str:
        return f"Credential({self._backend!r})"

    def value(self) -> str:
        """The secret. Raises BackendDenied, naming the reference, when it cannot be had or be sent."""
        if self._value is None:
            try:
                value = self._reference.resolve()
            except LookupError as error:
                raise BackendDenied(f"{self._backend}: {error}") from None
            if not value.isprintable():
                where = self._reference.env or self._reference.file
                raise BackendDenied(f"{self._backend}: the secret in {where} is not one line of text")
            self._value = value
        return self._value

    def check(self) -> None:
        """Raise ConfigError now if the secret cannot be used: at start, not with the first call."""
        try:
            self.value()
        except BackendDenied as error:
            raise ConfigError(str(error)) from None

    def forget(self) -> None:
        """Read it again with the next use: the one that was used has been refused."""
        self._value = None


class Credentials:
    """All secrets of one backend, by what they are used for."""

    def __init__(self, backend: str, references: Mapping[str, SecretRef]) -> None:
        self._by_use = {use: Credential(backend, reference) for use, reference in references.items()}
        self._covered: deque[str] = deque(maxlen=_COVERED)

    def __repr__(self) -> str:
        return f"Credentials({sorted(self._by_use)})"

    def cover(self, value: str) -> None:
        """Keep this out of excerpts too: a token that was had for these secrets."""
        if value not in self._covered:
            self._covered.append(value)

    def __getitem__(self, use: str) -> str:
        return self._by_use[use].value()

    def check(self) -> None:
        """Raise ConfigError if any of them cannot be used."""
        for credential in self._by_use.values():
            credential.check()

    def forget(self) -> None:
        """Read all of them again with the next use."""
        for credential in self._by_use.values():
            credential.forget()

    def excerpt(self, text: str | bytes) -> str:
        """The beginning of a foreign text, on one line, without any secret that it may echo."""
        if isinstance(text, bytes):
            text = text[: 16 * _EXCERPT].decode("utf-8", "replace")
        for value in self._known():
            text = text.replace(value, "…")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= _EXCERPT else line[: _EXCERPT - 1] + "…"

    def _known(self) -> Iterable[str]:
        return [*self._covered, *(c._value for c in self._by_use.values() if c._value)]


class AddedFields:
    """The `headers` of a backend's section: fields added to every request sent there."""

    def __init__(self, fields: Mapping[str, str | SecretRef]) -> None:
        self._plain = {name.lower(): value for name, value in fields.items() if isinstance(value, str)}
        self.secret = {name.lower(): value for name, value in fields.items() if isinstance(value, SecretRef)}
        """References of the secret ones, by field name."""

    def onto(self, headers: Headers, credentials: Credentials) -> Headers:
        """`headers` with these fields in place of any of the same name."""
        added = {**self._plain, **{name: credentials[f"header {name}"] for name in self.secret}}
        pairs = [(name.encode("latin-1"), value.encode()) for name, value in added.items()]
        names = {name for name, _ in pairs}
        return [field for field in headers if field[0] not in names] + pairs
