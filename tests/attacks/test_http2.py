"""The corpus of HTTP/2 at the whole gateway, over a socket: each gets what the corpus says, and leaves nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.app import Gateway
from tests.attacks.http2_others import DIFFERENT
from tests.attacks.http2_table import ATTACKS, FLOODS, HELLO, Attack, call, opening
from tests.attacks.http2_wire import Outcome, ask
from tests.grpc_ingress.support import SERVICE, SHED, Replica, echo, file, fleet, logged, replica
from tests.http2.played import PREFACE, frame, settings, window_update
from tests.support.gateways import running
from tests.support.wire import Peer, eventually


@asynccontextmanager
async def attacked(top: str = "", **more: Any) -> AsyncIterator[tuple[Gateway, int, Replica]]:
    async with (
        replica(**more) as played,
        running(file({"fleet": fleet(played)}, SHED, top=top), grpc=True) as gateway,
    ):
        assert gateway.grpc_address is not None
        yield gateway, gateway.grpc_address.port, played
        server = gateway.grpc
        assert server is not None
        await eventually(lambda: not server.connections and not server.calls, "all have left")
        assert gateway.ledger.open_records == 0
        assert all(capacity.in_flight == 0 for capacity in gateway.capacities.values())


async def ask_each(port: int) -> dict[str, Outcome]:
    room = asyncio.Semaphore(8)

    async def one(attack: Attack) -> Outcome:
        async with room:
            return await ask(port, attack.data, stream=attack.stream, wait=attack.kind in {"call", "stream"})

    told = await asyncio.gather(*map(one, ATTACKS))
    return {attack.name: each for attack, each in zip(ATTACKS, told, strict=True)}


def test_names_are_names() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 120


async def test_the_gateway_answers_as_the_corpus_says_and_records_every_call(tmp_path: Path) -> None:
    async with attacked(f"access_log: {{path: {tmp_path / 'log'}}}") as (_, port, played):
        told = await ask_each(port)
        for attack in ATTACKS:
            outcome = told[attack.name]
            assert outcome.kind(attack.stream) == attack.kind, (attack.name, outcome)
            if attack in FLOODS:  # what was not read yet may cost the client the reason
                continue
            assert outcome.ends == attack.ends, (attack.name, outcome)
            assert (outcome.resets.get(attack.stream) or None) == attack.resets, (attack.name, outcome)
            assert outcome.statuses.get(attack.stream) == attack.status, (attack.name, outcome)
        arrived = [name for name, _, _ in played.seen if name == "ModelInfer"]
        assert 3 <= len(arrived) <= sum(attack.calls for attack in ATTACKS)
    records = logged(tmp_path / "log")
    assert len(records) == sum(attack.calls for attack in ATTACKS)


async def test_what_grpcs_own_server_serves_and_the_gateway_does_not_is_named_and_the_other_way_round() -> (
    None
):
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_registered_method_handlers("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE.strip("/"), {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        room = asyncio.Semaphore(32)

        async def one(attack: Attack) -> str:
            async with room:
                outcome = await ask(port, attack.data, wait=attack.kind in {"call", "stream"}, patience=1.0)
                return outcome.kind(attack.stream)

        theirs = await asyncio.gather(*map(one, ATTACKS))
    finally:
        await server.stop(None)
    named = {name: kinds for kinds, names in DIFFERENT.items() for name in names}
    assert named.keys() <= {attack.name for attack in ATTACKS}
    for attack, kind in zip(ATTACKS, theirs, strict=True):
        if kind not in {attack.kind, "passed over"}:
            assert named.get(attack.name) == (attack.kind, kind), attack.name


async def test_floods_cost_little_time() -> None:
    async with attacked() as (_, port, _):
        for attack in FLOODS:
            began = time.perf_counter()
            assert (await ask(port, attack.data)).ends in {attack.ends, -1}
            assert time.perf_counter() - began < 2.0, attack.name


@pytest.mark.parametrize("first", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5], b"dribble"])
async def test_who_does_not_say_hello_in_time_is_cut_off(first: bytes) -> None:
    async with attacked("limits: {head_timeout: 1s}") as (gateway, port, _):
        peer = await Peer.connect(port)
        server = gateway.grpc
        assert server is not None
        await eventually(lambda: server.connections == 1, "it is there")
        if first == b"dribble":
            for octet in PREFACE + frame(4, 0, 0, bytes(600)):
                if not server.connections:
                    break
                peer.send(bytes([octet]))
                await asyncio.sleep(0.05)
        else:
            peer.send(first)
        await eventually(lambda: server.connections == 0, "it is cut off")


async def test_a_message_that_stops_in_the_middle_is_refused_in_time() -> None:
    async with attacked("limits: {body_timeout: 1s}") as (_, port, _):
        outcome = await ask(port, HELLO + opening() + frame(0, 0, 1, b"\0\0\0"), wait=True)
        assert outcome.statuses == {1: 4}


async def test_a_client_that_does_not_take_its_answer_is_cut_off_in_time() -> None:
    async def large(message: bytes, context: Any) -> bytes:
        return bytes(1 << 20)

    async with attacked("limits: {write_timeout: 1s}", infer=large) as (_, port, _):
        began = time.perf_counter()
        outcome = await ask(port, HELLO + settings([(4, 100)]) + call() + window_update(1, 1), wait=True)
        assert outcome.resets == {1: 8}
        assert time.perf_counter() - began < 4.0
