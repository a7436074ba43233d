"""Requests and bodies for tests of everything that stands behind the listener."""

from collections.abc import AsyncIterator, Iterable

from gateway.errors import BodyTooLarge
from gateway.vocab import Body, Headers, WholeBody


class ArrivingBody:
    """A body that is not all here yet: it counts how many bytes a reader made it fetch.

    `declared` None is a chunked body; `chunks_of` is how much arrives at once.
    """

    def __init__(self, data: bytes, *, declared: int | None = None, chunks_of: int = 16) -> None:
        self._data = data
        self._declared = declared
        self._step = chunks_of
        self.fetched = 0

    @property
    def length(self) -> int | None:
        return len(self._data) if self.fetched >= len(self._data) else self._declared

    @property
    def repeatable(self) -> bool:
        return True

    def whole(self) -> bytes | None:
        return self._data if self.fetched >= len(self._data) else None

    def _fetch(self, size: int) -> None:
        while self.fetched < min(size, len(self._data)):
            self.fetched += self._step

    async def prefix(self, size: int) -> bytes:
        self._fetch(size)
        return self._data[:size]

    async def settle(self) -> None:
        self._fetch(len(self._data))

    async def read(self, limit: int) -> bytes:
        if len(self._data) > limit:
            raise BodyTooLarge("too large")
        self._fetch(len(self._data))
        return self._data

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), self._step):
            self.fetched = start + self._step
            yield self._data[start : start + self._step]


class FakeRequest:
    """What the listener would hand over."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        body: bytes | Body = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        arrived: float = 100.0,
        max_body: int = 1 << 20,
    ) -> None:
        self.method = method
        self.target = target
        self.headers: Headers = list(headers)
        self.body: Body = WholeBody(body) if isinstance(body, bytes) else body
        self.request_id = "req-1"
        self.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        self.arrived = arrived
        self.max_body = max_body


class FakeFleet:
    """What a protocol asks the gateway about its backends, set by the test."""

    def __init__(
        self, *, live: bool = True, ready: bool = True, models: Iterable[tuple[str, str]] = (), sole: str = ""
    ) -> None:
        self._live = live
        self._ready = ready
        self._models = set(models)
        self._sole = sole

    def live(self) -> bool:
        return self._live

    def ready(self) -> bool:
        return self._ready

    def route_of(self, protocol: str, model: str) -> str | None:
        return None

    def model_ready(self, model: str, version: str) -> bool:
        return (model, version) in self._models

    def sole_route(self) -> str:
        return self._sole
