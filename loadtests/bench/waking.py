"""How long this machine takes to wake somebody who sleeps: the floor below every figure of a paced load.

Two processes send each other eight bytes over loopback, with pauses in between in which both sleep. What a
gateway adds to an event is at least one such way. On virtual machines waking another core goes through the
hypervisor: a bare round trip across cores was seen at 0.14 ms (p50) and 0.78 ms (p99), on one core at 0.04
and 0.13. Knows no gateway and no load.

`python -m loadtests.bench.waking CALLER ANSWERER` prints both percentiles, in ms, for two cores or one.
"""

import os
import socket
import subprocess
import sys
import time
from typing import NamedTuple

_TIMES = 500
_PAUSE_S = 0.001
_LIMIT_S = 60.0


class Waking(NamedTuple):
    """Milliseconds of a round trip."""

    p50_ms: float
    p99_ms: float


def waking(caller: int, answerer: int) -> Waking:
    """Round trips between two cores, or on one; in processes of their own, so that nobody here is moved."""
    argv = [sys.executable, "-m", __name__, str(caller), str(answerer)]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=True).stdout
    return Waking(*map(float, said.split()))


def _echo(peer: socket.socket) -> None:
    while data := peer.recv(8):
        peer.send(data)


def _call(peer: socket.socket) -> list[float]:
    took = []
    for _ in range(_TIMES):
        time.sleep(_PAUSE_S)
        began = time.perf_counter()
        peer.send(b"12345678")
        peer.recv(8)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def main(caller: int, answerer: int) -> None:
    """Measure and print."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    for peer in (here, there):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    child = os.fork()
    if not child:
        here.close()
        os.sched_setaffinity(0, {answerer})
        _echo(there)
        os._exit(0)
    there.close()
    os.sched_setaffinity(0, {caller})
    with here:
        took = _call(here)
    os.waitpid(child, 0)
    print(took[len(took) // 2], took[int(len(took) * 0.99)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
