"""The ready endpoints of a Kubernetes Service: its EndpointSlices, listed once and then watched.

Speaks the API itself, with the pod's own account. Knows nothing of replicas, indexes or slots.

Wire facts, from the Kubernetes documentation ("Efficient detection of changes", "EndpointSlices",
"Accessing the API from within a Pod"):
- a watch begins where a list ended (`resourceVersion`) and is lines of JSON, one event each; a bookmark only
  moves the version on; once the version is too old, the answer, or an event of type ERROR, says 410, and the
  list has to be read anew;
- `ready: null` counts as ready; an endpoint that terminates is not ready, and may serve on until it is gone;
- a Service has a slice for each kind of address and for each hundred endpoints; a slice without ports means
  all ports;
- the account's token is renewed about every hour, in the same file.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from pydantic import Field, field_validator, model_validator

from backends.client import Exchange, HttpClient
from gateway.errors import BackendBroke, BackendDenied, BackendError
from gateway.options import Options
from gateway.vocab import Headers

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its account."""
LIST_TIMEOUT_S = 10.0
WATCH_S = 300
"""Seconds after which the server is asked to end a watch, so that a dead connection is noticed."""
WATCH_SLACK_S = 30.0
AGAIN_S = 1.0
"""Pause before the next watch, and after a failure, doubled up to `AGAIN_MOST_S`."""
AGAIN_MOST_S = 30.0
LARGEST_LIST = 32 * 2**20
LARGEST_EVENT = 4 * 2**20

_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class KubernetesOptions(Options):
    """A Service whose ready endpoints are the replicas."""

    service: str = Field(pattern=_NAME)
    """Name of the Service."""
    namespace: str | None = Field(default=None, pattern=_NAME)
    """Its namespace; the gateway's own where nothing is said."""
    port: int | str = "http"
    """Name or number of the port, as the EndpointSlices have it."""
    api_server: str | None = None
    """URL of the API; found in the environment of a pod."""
    account: Path = ACCOUNT
    """Folder with `token`, `ca.crt` and `namespace` of the account to ask with. It must be allowed to `list`
    and `watch` `endpointslices`."""

    @field_validator("api_server")
    @classmethod
    def _keeps_the_token(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
        if not parts.hostname or parts.username or parts.query or not (parts.scheme == "https" or local):
            raise ValueError(f"{url!r} is not the address of an API; write it like https://10.0.0.1:6443")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _some_port(self) -> Self:
        if isinstance(self.port, int) and not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not from 1 to 65535")
        return self


class _Tolerant(msgspec.Struct, rename="camel", gc=False):
    """Fields that are not named here are passed over."""


class _Conditions(_Tolerant):
    ready: bool | None = None
    terminating: bool | None = None


class _Endpoint(_Tolerant):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None


class _Port(_Tolerant):
    name: str | None = None
    port: int | None = None


class _Meta(_Tolerant):
    name: str = ""
    resource_version: str = ""


class _Slice(_Tolerant):
    metadata: _Meta
    address_type: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(_Tolerant):
    metadata: _Meta
    items: list[_Slice] | None = None


class _Status(_Tolerant):
    code: int = 0
    reason: str = ""


class _Event(_Tolerant):
    type: str
    object: msgspec.Raw


_list = msgspec.json.Decoder(_List)
_slice = msgspec.json.Decoder(_Slice)
_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(_Status)


def ready_addresses(slices: Mapping[str, _Slice], port: int | str) -> list[str]:
    """HOST:PORT of every endpoint that may get new calls, of one kind of address: IPv4 if there is any."""
    by_kind: dict[str, set[str]] = {"IPv4": set(), "IPv6": set()}
    for each in slices.values():
        number = _port_of(each, port)
        if number is None or each.address_type not in by_kind:
            continue
        for endpoint in each.endpoints or ():
            conditions = endpoint.conditions or _Conditions()
            if conditions.ready is not False and not conditions.terminating and endpoint.addresses:
                address = _address(endpoint.addresses[0])
                if address is not None:
                    by_kind[each.address_type].add(f"{address}:{number}")
    return sorted(by_kind["IPv4"] or by_kind["IPv6"])


def _port_of(each: _Slice, port: int | str) -> int | None:
    ports = each.ports or ()
    if isinstance(port, int):
        return port if not ports or any(known.port == port for known in ports) else None
    return next((known.port for known in ports if known.name == port), None)


def _address(text: str) -> str | None:
    """As it stands in a URL; None for what is no address of a host."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return f"[{address.compressed}]" if address.version == 6 else address.compressed


class _TooOld(Exception):
    """The version that a watch was to begin from is gone."""


class KubernetesDiscovery:
    """Lists and watches the EndpointSlices of one Service."""

    def __init__(self, name: str, options: KubernetesOptions, *, chance: Random) -> None:
        self._name = name
        self._options = options
        self._chance = chance
        self._client: HttpClient | None = None
        self._slices: dict[str, _Slice] = {}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def run(self, found: Callable[[Sequence[str]], None], failed: Callable[[str], None]) -> None:
        """Say what there is, for ever. Returns only by cancellation."""
        wait = AGAIN_S
        while True:
            try:
                version = await self._list()
                wait = AGAIN_S
                found(ready_addresses(self._slices, self._options.port))
                await self._watch(version, found)
            except _TooOld:
                pass  # read the list anew
            except TimeoutError:
                failed(f"the Kubernetes API did not answer in {LIST_TIMEOUT_S:g} s")
            except (
                BackendError, LookupError, OSError, RecursionError, UnicodeDecodeError, msgspec.MsgspecError
            ) as error:  # fmt: skip
                failed(f"the Kubernetes API cannot be asked: {error}")
            await asyncio.sleep(wait * (0.8 + 0.4 * self._chance.random()))
            wait = min(AGAIN_MOST_S, 2.0 * wait)

    async def _list(self) -> str:
        """Read all slices; the version to watch from."""
        client = self._here()
        async with asyncio.timeout(LIST_TIMEOUT_S):
            answer = await client.exchange("GET", self._url(), headers=self._fields(), limit=LARGEST_LIST)
        _check(answer.status)
        whole = _list.decode(answer.body)
        self._slices = {each.metadata.name: each for each in whole.items or ()}
        return whole.metadata.resource_version

    async def _watch(self, version: str, found: Callable[[Sequence[str]], None]) -> None:
        """Follow the changes. Raises _TooOld, TimeoutError, BackendError; never returns."""
        while True:
            more = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
            url = self._url(**more, timeoutSeconds=str(WATCH_S))
            try:
                async with (
                    asyncio.timeout(WATCH_S + WATCH_SLACK_S),
                    self._here().open("GET", url, headers=self._fields()) as exchange,
                ):
                    _check(exchange.status)
                    async for line in _lines(exchange):
                        version = self._take(line) or version
                        found(ready_addresses(self._slices, self._options.port))
            except TimeoutError:
                pass  # it died unseen: go on from the same version
            await asyncio.sleep(AGAIN_S * (0.8 + 0.4 * self._chance.random()))

    def _take(self, line: bytes) -> str:
        """Carry out one event; the version after it. Raises _TooOld, BackendBroke, MsgspecError."""
        event = _event.decode(line)
        if event.type == "ERROR":
            status = _status.decode(event.object)
            if status.code == 410:
                raise _TooOld
            raise BackendBroke(f"its watch ended with {status.code} {status.reason}")
        each = _slice.decode(event.object)
        if event.type == "DELETED":
            self._slices.pop(each.metadata.name, None)
        elif event.type in {"ADDED", "MODIFIED"}:
            self._slices[each.metadata.name] = each
        return each.metadata.resource_version

    def _url(self, **more: str) -> str:
        namespace = self._options.namespace or self._read("namespace")
        query = {"labelSelector": f"kubernetes.io/service-name={self._options.service}", **more}
        path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace)}/endpointslices"
        return f"{self._server()}{path}?{urlencode(query)}"

    def _server(self) -> str:
        if self._options.api_server is not None:
            return self._options.api_server
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        if not host:
            raise LookupError("KUBERNETES_SERVICE_HOST is not set: outside a cluster give api_server")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def _fields(self) -> Headers:
        token = self._read("token").encode("ascii", "replace")
        return [(b"authorization", b"Bearer " + token), (b"accept", b"application/json")]

    def _read(self, name: str) -> str:
        """One file of the account. Raises LookupError, which names the file and nothing in it."""
        path = self._options.account / name
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise LookupError(f"{path} cannot be read: {why}") from None

    def _here(self) -> HttpClient:
        if self._client is None:
            tls = None
            if self._server().startswith("https:"):
                tls = ssl.create_default_context(cadata=self._read("ca.crt"))
            self._client = HttpClient(f"{self._name} (Kubernetes)", max_in_flight=1, tls=tls)
        return self._client


def _check(status: int) -> None:
    if status == 410:
        raise _TooOld
    if status in {401, 403}:
        raise BackendDenied(
            f"it answered {status}: the account must be allowed to list and watch endpointslices"
        )
    if status != 200:
        raise BackendBroke(f"it answered {status}")


async def _lines(exchange: Exchange) -> AsyncIterator[bytes]:
    """Lines as they come. Raises BackendError."""
    rest = b""
    async for part in exchange.chunks():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > LARGEST_EVENT:
            raise BackendBroke(f"an event is over {LARGEST_EVENT} bytes")
