"""`python -m loadtests.bench.grpc_load PORT CALLS`: unary calls, so many at once, and how long each takes.

Each of up to 16 connections carries its share of them. Every answer is compared with what the upstream says.
Knows nothing about what is in between.
"""

import argparse
import asyncio
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence

import grpc.aio
import uvloop

from loadtests.bench.grpc_forward import ANSWER, METHOD, REQUEST
from loadtests.bench.load_figures import LoadFigures, Percentiles
from loadtests.bench.turns import take_turn

CONNECTIONS = 16
PATIENCE_S = 10.0
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)  # otherwise equal channels share one


async def load(
    port: int, calls: int, seconds: float, metadata: Sequence[tuple[str, str]] = ()
) -> LoadFigures:
    """Call for so long, each time with that metadata; one failed call ends its caller, for the run is void
    already.
    """
    took_us: array[float] = array("d")
    errors: Counter[str] = Counter()
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OWN_CONNECTION)
        for _ in range(min(calls, CONNECTIONS))
    ]
    began = time.perf_counter()
    ends = began + seconds

    async def caller(channel: grpc.aio.Channel) -> None:
        infer = channel.unary_unary(METHOD)
        while (since := time.perf_counter()) < ends:
            try:
                answer = await infer(REQUEST, timeout=PATIENCE_S, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                errors[error.code().name.lower()] += 1
                return
            if answer != ANSWER:
                errors["another answer"] += 1
                return
            took_us.append((time.perf_counter() - since) * 1e6)

    async with asyncio.TaskGroup() as group:
        for number in range(calls):
            group.create_task(caller(channels[number % len(channels)]))
    elapsed_s = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    return LoadFigures(
        duration_us=elapsed_s * 1e6,
        requests=len(took_us),
        latency=Percentiles.of(took_us),
        errors=dict(errors),
    )


def main() -> None:
    """The command line: waits for a line on standard input, loads, prints its figures, waits for the end."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.grpc_load", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("calls", type=int, help="at once")
    options.add_argument("--seconds", type=float, default=5.0, help="no call begins later (5)")
    options.add_argument(
        "--header", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="of every call; once for each",
    )  # fmt: skip
    asked = options.parse_args()
    metadata = [(name, value) for name, value in asked.header]
    take_turn(
        lambda: uvloop.run(load(asked.port, asked.calls, asked.seconds, metadata)), sys.stdin, sys.stdout
    )


if __name__ == "__main__":
    main()
