"""`python -m loadtests.soak.rude_grpc PORT --key KEY`: unary calls over gRPC, some given up at once.

What was answered is counted; nothing of it is judged here.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter

import grpc.aio
import uvloop

from loadtests.bench.grpc_forward import METHOD, REQUEST
from loadtests.bench.load_figures import MARK

_PATIENCE_S = 20.0
_AT_ONCE_S = 0.003
CALLERS, GIVEN_UP = 4, 0.3


async def call(port: int, *, key: str, seconds: float, chance: random.Random) -> Counter[str]:
    """So many callers on one connection, for so long."""
    did: Counter[str] = Counter()
    ends = time.perf_counter() + seconds
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(METHOD)

        async def caller() -> None:
            while time.perf_counter() < ends:
                limit_s = _AT_ONCE_S if chance.random() < GIVEN_UP else _PATIENCE_S
                try:
                    await infer(REQUEST, timeout=limit_s, metadata=(("x-api-key", key),))
                except grpc.aio.AioRpcError as error:
                    did[error.code().name.lower()] += 1
                else:
                    did["answered"] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
    return did


def main() -> None:
    """The command line; its last line says what was done, how often."""
    options = argparse.ArgumentParser(prog="python -m loadtests.soak.rude_grpc", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("--key", required=True)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    did = uvloop.run(call(asked.port, key=asked.key, seconds=asked.seconds, chance=random.Random(asked.seed)))
    told = {"requests": did.pop("answered", 0), "connect": 0, "timeout": 0, "did": did}
    sys.stdout.write(MARK + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
