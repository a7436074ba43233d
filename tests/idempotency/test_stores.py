"""What every store promises, what the one in a file promises beyond it, and what happens when it cannot."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from gateway.app import registries
from gateway.clock import FakeClock
from gateway.config.load import load
from gateway.errors import ConfigError, IdempotencyConflict, IdempotencyMismatch, KeysDown
from gateway.idempotency.keys import Claim, Keys
from gateway.idempotency.sqlite import LEASE_S, Sqlite
from gateway.idempotency.store import OVERHEAD, Kept, Memory, State, Store
from gateway.vocab import Call, WholeBody

A, B, C, ONE, TWO = (bytes([n]) * 32 for n in range(1, 6))
ANSWER = Kept(200, [(b"content-type", b"application/json")], b'{"n":1}')


def sqlite(
    path: Path, clock: FakeClock, owner: str = "me", *, max_bytes: int = 10_000, max_keys: int = 5
) -> Sqlite:
    return Sqlite(path, clock=clock, owner=owner, keep=60.0, max_bytes=max_bytes, max_keys=max_keys)


@asynccontextmanager
async def opened(
    kind: str, clock: FakeClock, folder: Path, *, max_bytes: int = 10_000, max_keys: int = 5
) -> AsyncIterator[Store]:
    store: Store
    if kind == "memory":
        store = Memory(clock=clock, keep=60.0, max_bytes=max_bytes, max_keys=max_keys)
    else:
        store = sqlite(folder / "keys", clock, max_bytes=max_bytes, max_keys=max_keys)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def settle(store: Store, key: bytes, ending: Kept | State | None, request: bytes = ONE) -> None:
    done = asyncio.Event()
    store.settle(key, request, ending, done.set)
    await asyncio.wait_for(done.wait(), 5)


async def carry_out(store: Store, key: bytes, ending: Kept | State | None) -> None:
    assert await store.claim(key, ONE, again=False) is State.FRESH
    await settle(store, key, ending)


kinds = pytest.mark.parametrize("kind", ["memory", "sqlite"])


@kinds
async def test_an_answer_is_there_until_its_time_is_over(kind: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(kind, clock, tmp_path) as store:
        await carry_out(store, A, ANSWER)
        assert await store.claim(A, ONE, again=False) == ANSWER
        assert await store.claim(A, TWO, again=True) is State.OTHER
        clock.advance(61.0)
        assert await store.claim(A, TWO, again=False) is State.FRESH


@kinds
@pytest.mark.parametrize("ending", [State.UNKNOWN, State.NOT_KEPT])
async def test_what_has_no_answer_is_told_and_may_be_taken_again_where_it_does_no_harm(
    kind: str, ending: State, tmp_path: Path
) -> None:
    async with opened(kind, FakeClock(), tmp_path) as store:
        await carry_out(store, A, ending)
        assert await store.claim(A, ONE, again=False) is ending
        assert await store.claim(A, ONE, again=True) is State.FRESH


@kinds
async def test_what_was_not_carried_out_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    async with opened(kind, FakeClock(), tmp_path) as store:
        await carry_out(store, A, None)
        assert await store.claim(A, TWO, again=False) is State.FRESH


@kinds
async def test_the_oldest_are_forgotten_where_there_are_too_many(kind: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(kind, clock, tmp_path, max_keys=2) as store:
        for key in (A, B, C):
            await carry_out(store, key, ANSWER)
            clock.advance(1.0)
        assert await store.claim(B, ONE, again=False) == await store.claim(C, ONE, again=False) == ANSWER
        assert await store.claim(A, ONE, again=False) is State.FRESH


@kinds
async def test_the_oldest_are_forgotten_where_they_are_too_large(kind: str, tmp_path: Path) -> None:
    clock = FakeClock()
    large = Kept(200, [], b"x" * 3000)
    async with opened(kind, clock, tmp_path, max_bytes=2 * (3000 + OVERHEAD)) as store:
        for key in (A, B, C):
            await carry_out(store, key, large)
            clock.advance(1.0)
        assert await store.claim(C, ONE, again=False) == large
        assert await store.claim(A, ONE, again=False) is State.FRESH


async def test_memory_is_accounted_for_to_the_last_byte() -> None:
    clock, chance = FakeClock(), Random(3)
    store = Memory(clock=clock, keep=5.0, max_bytes=20_000, max_keys=7)
    for _ in range(500):
        clock.advance(chance.random())
        key = bytes([chance.randrange(12)])
        if await store.claim(key, ONE, again=True) is State.FRESH:
            endings = (None, State.UNKNOWN, Kept(200, [(b"a", b"b")], b"x" * chance.randrange(9000)))
            await settle(store, key, chance.choice(endings))
        held = [entry.size for entry in store._entries.values()]
        assert store.size == sum(held) <= 20_000
        assert len(store) <= 7


async def test_answers_in_a_file_outlast_the_process(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened("sqlite", clock, tmp_path) as store:
        await carry_out(store, A, ANSWER)
    async with opened("sqlite", clock, tmp_path) as store:
        assert await store.claim(A, ONE, again=False) == ANSWER


async def test_a_call_that_runs_in_one_process_is_seen_from_another(tmp_path: Path) -> None:
    clock = FakeClock()
    mine, other = sqlite(tmp_path / "k", clock, "a"), sqlite(tmp_path / "k", clock, "b")
    await mine.open()
    await other.open()
    assert await mine.claim(A, ONE, again=False) is State.FRESH
    assert await other.claim(A, ONE, again=True) is State.RUNNING
    assert await other.claim(A, TWO, again=True) is State.OTHER
    await settle(mine, A, ANSWER)
    assert await other.claim(A, ONE, again=False) == ANSWER
    await mine.close()
    await other.close()


@pytest.mark.parametrize(("again", "state"), [(True, State.FRESH), (False, State.UNKNOWN)])
async def test_a_call_whose_process_died_is_unknown_once_its_lease_is_over(
    again: bool, state: State, tmp_path: Path
) -> None:
    clock = FakeClock()
    dead, heir = sqlite(tmp_path / "k", clock, "a"), sqlite(tmp_path / "k", clock, "b")
    await dead.open()
    await heir.open()
    assert await dead.claim(A, ONE, again=False) is State.FRESH
    await dead.close()
    assert await heir.claim(A, ONE, again=again) is State.RUNNING
    clock.advance(LEASE_S + 1)
    assert await heir.claim(A, ONE, again=again) is state
    await heir.close()


async def test_a_lease_is_renewed_while_its_process_lives(tmp_path: Path) -> None:
    clock = FakeClock()
    mine, other = sqlite(tmp_path / "k", clock, "a"), sqlite(tmp_path / "k", clock, "b")
    await mine.open()
    await other.open()
    await mine.claim(A, ONE, again=False)
    clock.advance(LEASE_S - 1)
    await mine._aside(lambda: mine._renew((A,)))
    clock.advance(LEASE_S - 1)
    assert await other.claim(A, ONE, again=False) is State.RUNNING
    await mine.close()
    await other.close()


async def test_a_claim_that_nobody_waits_for_any_more_is_given_back(tmp_path: Path) -> None:
    async with opened("sqlite", FakeClock(), tmp_path) as store:
        task = asyncio.get_running_loop().create_task(store.claim(A, ONE, again=False))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.claim(A, ONE, again=False) is State.FRESH


async def test_the_file_is_for_the_gateway_only(tmp_path: Path) -> None:
    async with opened("sqlite", FakeClock(), tmp_path) as store:
        await carry_out(store, A, ANSWER)
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database" * 100)
    for path in (tmp_path / "nowhere" / "k", tmp_path / "text"):
        store = sqlite(path, FakeClock())
        with pytest.raises(ConfigError, match="idempotency"):
            await store.open()
        await store.close()


async def test_without_its_store_a_call_with_a_key_is_refused_rather_than_carried_out_unguarded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened("sqlite", FakeClock(), tmp_path) as store:
        assert isinstance(store, Sqlite)
        await store._aside(lambda: store._db.execute("DROP TABLE keys"))
        for _ in range(3):
            with pytest.raises(KeysDown):
                await store.claim(A, ONE, again=True)
    assert caplog.text.count("are refused") == 1


def call(body: bytes = b"{}", *, idempotent: bool = True, key: bytes = b"k") -> Call:
    made = Call(
        protocol="kserve", operation="infer", method=b"POST", target=b"/v2/models/m/infer", headers=[],
        body=WholeBody(body),
    )  # fmt: skip
    made.idempotency_key, made.idempotent, made.deadline = key, idempotent, 2_000.0
    return made


def keys(store: Store, clock: FakeClock) -> Keys:
    return Keys(store, clock=clock, max_answer=1000, max_request=1000)


async def test_the_same_key_of_two_callers_is_two_keys() -> None:
    clock = FakeClock()
    table = keys(Memory(clock=clock, keep=60.0, max_bytes=10_000, max_keys=5), clock)
    assert isinstance(await table.enter(call(), "ann"), Claim)
    assert isinstance(await table.enter(call(b"[]"), "bob"), Claim)
    with pytest.raises(IdempotencyMismatch):
        await table.enter(call(b"[]"), "ann")


async def test_where_a_caller_ends_and_its_key_begins_cannot_be_moved() -> None:
    clock = FakeClock()
    table = keys(Memory(clock=clock, keep=60.0, max_bytes=10_000, max_keys=5), clock)
    assert isinstance(await table.enter(call(key=b"bc"), "a"), Claim)
    assert isinstance(await table.enter(call(b"[]", key=b"c"), "ab"), Claim)


async def test_two_workers_carry_a_call_out_once(tmp_path: Path) -> None:
    clock = FakeClock()
    stores = [sqlite(tmp_path / "k", clock, owner) for owner in "ab"]
    for store in stores:
        await store.open()
    first, second = (keys(store, clock) for store in stores)
    claim = await first.enter(call())
    assert isinstance(claim, Claim)
    waiting = asyncio.get_running_loop().create_task(second.enter(call()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    claim._close(ANSWER)
    assert await asyncio.wait_for(waiting, 5) == ANSWER
    for store in stores:
        await store.close()


async def test_a_key_of_unknown_fate_says_so_in_every_worker(tmp_path: Path) -> None:
    clock = FakeClock()
    stores = [sqlite(tmp_path / "k", clock, owner) for owner in "ab"]
    for store in stores:
        await store.open()
    first, second = (keys(store, clock) for store in stores)
    claim = await first.enter(call(idempotent=False))
    assert isinstance(claim, Claim)
    claim._close(State.UNKNOWN)
    await first.store._aside(lambda: None)  # type: ignore[attr-defined]
    with pytest.raises(IdempotencyConflict):
        await second.enter(call(idempotent=False))
    for store in stores:
        await store.close()


FILE = """
version: 1
backends: {fleet: {type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 1}}
routes: {m: {match: {model: m}, policy: spill_when_full, tiers: [{backend: fleet, when_full: shed}]}}
"""


def doubts(section: str) -> list[str]:
    loaded = load(FILE + section, *registries())
    return [problem.message for problem in loaded.warnings if problem.path.startswith("idempotency.")]


def test_check_says_that_memory_holds_in_one_process_to_those_who_chose_it() -> None:
    assert not doubts("")
    assert "--workers" in doubts("idempotency: {store: memory}")[0]


def test_check_says_when_the_file_cannot_be_made(tmp_path: Path) -> None:
    assert not doubts(f"idempotency: {{store: {{sqlite: {tmp_path}/keys}}}}")
    assert "will not start" in doubts(f"idempotency: {{store: {{sqlite: {tmp_path}/no/keys}}}}")[0]
