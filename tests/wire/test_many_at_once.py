"""Many connections that come at once: counted in turns of the event loop, not in seconds."""

import asyncio
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from gateway.clock import SystemClock
from gateway.connection import ListenerLimits
from gateway.listener import Listener
from tests.support.wire import Scripted

MANY = 64
TURNS = MANY // 4 + 4
"""Four in a turn, and a few turns for the sockets to become readable; one in a turn would be 64."""


class OneDoor:
    """A socket that belongs to the test, like those of workers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.open = True

    def wanted(self) -> Sequence[socket.socket]:
        return [self.socket] if self.open else []

    def close(self) -> None:
        self.open = False


def new_listener() -> Listener:
    return Listener(Scripted(), limits=ListenerLimits(), clock=SystemClock(), chance=random.Random(1))


@contextmanager
def clients(port: int) -> Iterator[None]:
    """So many that the system has connected and nobody has accepted: no turn of the loop passes here."""
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


async def turns_until_all_are_in(listener: Listener) -> int:
    turns = 0
    while listener.connections < MANY:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 10 * MANY, f"{listener.connections} of {MANY} after {turns} turns"
    return turns


@pytest.mark.parametrize("with_doors", [False, True])
async def test_several_are_accepted_in_a_turn_of_the_loop(with_doors: bool) -> None:
    doors = OneDoor() if with_doors else None
    listener = new_listener()
    _, port = await listener.open("127.0.0.1", 0, doors=doors)
    try:
        with clients(port):
            assert await turns_until_all_are_in(listener) <= TURNS
    finally:
        await listener.drain(0.2)
        if doors is not None:
            doors.socket.close()


async def test_after_the_drain_nothing_listens_there() -> None:
    """Every copy of the socket is closed: one that was left would take connections that nobody serves."""
    listener = new_listener()
    _, port = await listener.open("127.0.0.1", 0)
    await listener.drain(0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


async def test_a_door_that_is_left_keeps_its_queue_for_others() -> None:
    doors = OneDoor()
    listener = new_listener()
    _, port = await listener.open("127.0.0.1", 0, doors=doors)
    await listener.drain(0.2)
    with doors.socket, socket.create_connection(("127.0.0.1", port), timeout=5):
        await asyncio.sleep(0.05)
        assert listener.connections == 0
        doors.socket.settimeout(5)
        accepted, _ = doors.socket.accept()
        accepted.close()
