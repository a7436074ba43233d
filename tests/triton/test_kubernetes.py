"""The ready endpoints of a Service, from an API server that lists, watches, forgets and fails as told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends import kubernetes
from backends.kubernetes import KubernetesDiscovery, KubernetesOptions, ready_addresses
from tests.support.provider import Received, Wire, providing, refusing_url, until

TOKEN = "token-never-shown"
PORTS = [{"name": "http", "port": 8000}, {"name": "grpc", "port": 8001}]


def endpoint(address: str, **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "nodeName": "n", "zone": None}


def slice_of(name: str, *endpoints: dict[str, Any], version: int = 1, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "resourceVersion": str(version), "labels": {}, "managedFields": [{"x": 1}]}
    return {"metadata": meta, "addressType": "IPv4", "endpoints": list(endpoints), "ports": PORTS, **more}


def parsed(*slices: dict[str, Any]) -> dict[str, Any]:
    return {each["metadata"]["name"]: kubernetes._slice.decode(json.dumps(each)) for each in slices}


A, B = endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=True)

CASES: list[tuple[str, list[dict[str, Any]], int | str, list[str]]] = [
    ("all that are ready", [slice_of("s", A, B)], "http", ["10.0.0.1:8000", "10.0.0.2:8000"]),
    ("of several slices, once", [slice_of("s", A), slice_of("t", A, B)], 8000, ["10.0.0.1:8000", "10.0.0.2:8000"]),
    ("not the unready", [slice_of("s", A, endpoint("10.0.0.2", ready=False))], "http", ["10.0.0.1:8000"]),
    ("unknown counts as ready", [slice_of("s", endpoint("10.0.0.1", ready=None))], "http", ["10.0.0.1:8000"]),
    ("no conditions too", [slice_of("s", {"addresses": ["10.0.0.1"]})], "grpc", ["10.0.0.1:8001"]),
    (
        "not what terminates, though it serves on",
        [slice_of("s", endpoint("10.0.0.1", ready=False, serving=True, terminating=True), B)],
        "http",
        ["10.0.0.2:8000"],
    ),
    ("no such port", [slice_of("s", A)], "metrics", []),
    ("no such number", [slice_of("s", A)], 9000, []),
    ("a number, where all ports are meant", [slice_of("s", A, ports=None)], 9000, ["10.0.0.1:9000"]),
    ("one kind of address", [slice_of("s", A), slice_of("t", endpoint("fd00::1"), addressType="IPv6")], "http", ["10.0.0.1:8000"]),
    ("the other alone", [slice_of("t", endpoint("fd00:0::1"), addressType="IPv6")], "http", ["[fd00::1]:8000"]),
    ("no names", [slice_of("s", endpoint("host.example"), addressType="FQDN")], "http", []),
    ("no addresses that are none", [slice_of("s", endpoint("1.2.3.4:5/x"))], "http", []),
    ("nothing at all", [slice_of("s", endpoints=None)], "http", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("slices", "port", "addresses"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_gets_new_calls(slices: list[dict[str, Any]], port: int | str, addresses: list[str]) -> None:
    assert ready_addresses(parsed(*slices), port) == addresses


class Api:
    """An API server of which the test plays the store."""

    def __init__(self) -> None:
        self.version = 10
        self.slices = {"s": slice_of("s", A)}
        self.lists: list[Received] = []
        self.watches: list[Received] = []
        self.before_answer: Callable[[Received, Wire], Awaitable[bool]] | None = None
        self.events: asyncio.Queue[str | None] = asyncio.Queue()

    async def answer(self, request: Received, wire: Wire) -> None:
        if self.before_answer is not None and await self.before_answer(request, wire):
            return
        if "watch=1" not in request.target:
            self.lists.append(request)
            meta = {"resourceVersion": str(self.version)}
            await wire.json(
                200, {"kind": "EndpointSliceList", "metadata": meta, "items": list(self.slices.values())}
            )
            return
        self.watches.append(request)
        await wire.head(200, {"transfer-encoding": "chunked", "content-type": "application/json"})
        while (line := await self.events.get()) is not None:
            for part in (line[:7], line[7:]):  # an event may come in pieces
                data = part.encode()
                await wire.write(b"%x\r\n%b\r\n" % (len(data), data))
        await wire.write(b"0\r\n\r\n")

    def say(self, kind: str, thing: dict[str, Any]) -> None:
        self.events.put_nowait(json.dumps({"type": kind, "object": thing}) + "\n")


class Watching:
    def __init__(self, api: Api, task: "asyncio.Task[None]") -> None:
        self.api = api
        self.task = task
        self.found: list[Sequence[str]] = []
        self.failed: list[str] = []

    async def sees(self, *addresses: str) -> None:
        await until(lambda: bool(self.found) and list(self.found[-1]) == [f"{a}:8000" for a in addresses])


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "namespace").write_text("inference")
    return tmp_path


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "AGAIN_S", 0.01)
    monkeypatch.setattr(kubernetes, "AGAIN_MOST_S", 0.02)


@asynccontextmanager
async def watching(api: Api, account: Path, url: str | None = None) -> AsyncIterator[Watching]:
    async with providing(api.answer) as server:
        options = KubernetesOptions.model_validate(
            {"service": "triton", "api_server": url or server.url, "account": str(account)}
        )
        discovery = KubernetesDiscovery("fleet", options, chance=Random(1))
        seen: Watching
        task = asyncio.get_running_loop().create_task(
            discovery.run(lambda found: seen.found.append(found), lambda why: seen.failed.append(why))
        )
        seen = Watching(api, task)
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await discovery.close()


async def test_it_lists_once_and_then_follows_what_changes(account: Path) -> None:
    api = Api()
    async with watching(api, account) as seen:
        await seen.sees("10.0.0.1")
        await until(lambda: bool(api.watches))
        api.say("MODIFIED", slice_of("s", A, B, version=11))
        await seen.sees("10.0.0.1", "10.0.0.2")
        api.say("ADDED", slice_of("t", endpoint("10.0.0.3"), version=12))
        await seen.sees("10.0.0.1", "10.0.0.2", "10.0.0.3")
        api.say("DELETED", slice_of("s", version=13))
        await seen.sees("10.0.0.3")
        assert (len(api.lists), len(api.watches), seen.failed) == (1, 1, [])
        asked = api.lists[0]
        assert asked.target.startswith("/apis/discovery.k8s.io/v1/namespaces/inference/endpointslices?")
        assert "labelSelector=kubernetes.io%2Fservice-name%3Dtriton" in asked.target
        assert asked.fields["authorization"] == f"Bearer {TOKEN}"
        assert "resourceVersion=10" in api.watches[0].target


async def test_a_watch_that_ends_goes_on_where_it_was_bookmarks_included(account: Path) -> None:
    api = Api()
    async with watching(api, account) as seen:
        api.say("MODIFIED", slice_of("s", B, version=11))
        api.say("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": "57"}})
        api.events.put_nowait(None)
        await until(lambda: len(api.watches) == 2)
        assert "resourceVersion=57" in api.watches[1].target
        await seen.sees("10.0.0.2")
        assert len(api.lists) == 1


@pytest.mark.parametrize("how", ["an event", "a status"])
async def test_a_version_that_is_too_old_is_read_anew(account: Path, how: str) -> None:
    api = Api()
    gone = asyncio.Event()

    async def expired(request: Received, wire: Wire) -> bool:
        if how == "a status" and "watch=1" in request.target and not gone.is_set():
            gone.set()
            await wire.json(410, {"kind": "Status", "code": 410})
            return True
        return False

    api.before_answer = expired
    async with watching(api, account) as seen:
        await until(lambda: len(seen.found) >= 1)
        api.slices["s"] = slice_of("s", B)
        api.version = 99
        if how == "an event":
            api.say("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
            api.events.put_nowait(None)
        await seen.sees("10.0.0.2")
        await until(lambda: bool(api.watches) and "resourceVersion=99" in api.watches[-1].target)
        assert seen.failed == []


@pytest.mark.parametrize(
    ("status", "says"), [(403, "must be allowed to list and watch"), (500, "it answered 500"), (200, "JSON is malformed")]
)  # fmt: skip
async def test_a_failure_is_said_and_tried_again_and_the_token_is_read_anew(
    account: Path, status: int, says: str
) -> None:
    api = Api()
    refused = 0

    async def refusing(request: Received, wire: Wire) -> bool:
        nonlocal refused
        if request.fields["authorization"] == "Bearer renewed":
            return False
        refused += 1
        await wire.answer(status, b"<html>")
        return True

    api.before_answer = refusing
    async with watching(api, account) as seen:
        await until(lambda: refused > 1)
        assert seen.found == []
        assert says in seen.failed[0]
        (account / "token").write_text("renewed")
        await seen.sees("10.0.0.1")
        assert not any(TOKEN in why for why in seen.failed)


async def test_an_api_that_is_not_there_and_an_account_that_is_missing_are_said(account: Path) -> None:
    async with watching(Api(), account, await refusing_url()) as seen:
        await until(lambda: bool(seen.failed))
        assert "cannot connect" in seen.failed[0]
    (account / "token").unlink()
    async with watching(Api(), account) as seen:
        await until(lambda: bool(seen.failed))
        assert f"{account / 'token'} cannot be read" in seen.failed[0]


async def test_a_connection_that_breaks_is_a_failure_and_read_anew(account: Path) -> None:
    api = Api()
    broken = False

    async def breaking(request: Received, wire: Wire) -> bool:
        nonlocal broken
        if "watch=1" in request.target and not broken:
            broken = True
            await wire.head(200, {"transfer-encoding": "chunked"})
            await wire.reset()
            return True
        return False

    api.before_answer = breaking
    async with watching(api, account) as seen:
        await until(lambda: len(api.lists) == 2)
        await until(lambda: bool(api.watches))
        assert len(seen.failed) == 1
        await seen.sees("10.0.0.1")
