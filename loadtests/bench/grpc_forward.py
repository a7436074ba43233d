"""What gRPC pass-through costs: the gateway beside a bare `grpc.aio` byte forwarder, in the same run.

    python -m loadtests.bench.grpc_forward [--rounds N] [--seconds S] [--concurrency 1,32] [--json FILE]

Three ways to one played replica, each loaded in turn (A B C, A B C, …) by the same client: `direct`,
`forward` (every RPC handed on as bytes by one process that does nothing else) and `overspill`. The latency
added is that of the medians over `direct` at one call at a time; the CPU is that of the process in between,
user and system, per call. All programs are here: `--serve replica` and `--serve forward` start them.

Exit code 0: measured, whatever the figures say. 2: something did not serve.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import uvloop

from loadtests.bench import procfs
from loadtests.bench.machine import Cores, describe
from loadtests.bench.processes import NotAnswering, Server, free_ports, on_core

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = b"small"
REQUEST = b"\x0a\x05" + MODEL + b"\x3a\x80\x02" + bytes(256)
"""A ModelInferRequest: a model name, and 256 bytes of raw input contents."""
ANSWER = b"\x0a\x05" + MODEL + b"\x2a\x80\x02" + bytes(256)

ADDED_P50_MS = 0.8
CPU_RATIO = 1.5
"""What the project asks of itself."""

CONFIG = """\
version: 1
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}", grpc: "127.0.0.1:{grpc}"}}
access_log: {{path: {log}}}
backends:
  fleet:
    type: triton
    replicas: ["http://127.0.0.1:{health}"]
    grpc: {{replicas: ["127.0.0.1:{replica}"]}}
    max_in_flight: 256
    price: {{usd_per_replica_hour: 0.79}}
routes:
  small:
    match: {{model: small}}
    latency_budget: {{within: 250ms, objective: 99%}}
    tiers: [{{backend: fleet, when_full: {{queue: 1s, then: shed}}}}]
"""


class Run(NamedTuple):
    """One peer under load for some seconds."""

    peer: str
    concurrency: int
    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    """Of the process in between, per call; None for `direct`, which has none."""


# -- the programs in between and behind


class _Handlers:
    """One behaviour for every unary method: what `grpc.aio` calls a generic handler."""

    def __init__(self, behaviour: Callable[..., Any]) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(behaviour)

    def service(self, details: Any) -> Any:
        return self._handler


async def _serve(behaviour: Callable[..., Any], port: int) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_Handlers(behaviour),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def serve_replica(port: int, health_port: int) -> None:
    """The same answer to every call, and 200 to every HTTP request on the other port."""

    async def answer(message: bytes, context: Any) -> bytes:
        return ANSWER

    async def healthy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(healthy, "127.0.0.1", health_port):
        await _serve(answer, port)


async def serve_forward(port: int, upstream_port: int) -> None:
    """Hands every call on as bytes and does nothing else: what a Python forwarder cannot do with less."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{upstream_port}") as channel:
        upstream = channel.unary_unary(METHOD)

        async def forward(message: bytes, context: Any) -> bytes:
            answer: bytes = await upstream(message)
            return answer

        await _serve(forward, port)


# -- the load


async def load(port: int, concurrency: int, seconds: float) -> list[float]:
    """Seconds that each call took. Raises where one is not answered rightly."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(METHOD)
        ends = time.perf_counter() + seconds

        async def caller() -> None:
            while (began := time.perf_counter()) < ends:
                if await infer(REQUEST) != ANSWER:
                    raise NotAnswering(f"a wrong answer on port {port}")
                took.append(time.perf_counter() - began)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(caller())
    return took


def _loaded(port: int, concurrency: int, seconds: float, core: int) -> list[float]:
    with on_core(core):
        return uvloop.run(load(port, concurrency, seconds))


def _await_serving(server: Server, port: int, core: int) -> None:
    ends = time.monotonic() + 20
    while True:
        try:
            _loaded(port, 1, 0.05, core)
            return
        except* (grpc.RpcError, NotAnswering) as errors:
            trouble = str(errors.exceptions[0])
        if server.ended or time.monotonic() > ends:
            raise server.trouble(f"port {port} does not serve: {trouble}")
        time.sleep(0.1)


def run(peer: str, port: int, server: Server | None, *, concurrency: int, seconds: float, core: int) -> Run:
    """One peer, loaded once."""
    cpu = procfs.tree_cpu_seconds(server.pid) if server else 0.0
    took = sorted(_loaded(port, concurrency, seconds, core))
    spent = procfs.tree_cpu_seconds(server.pid) - cpu if server else None
    return Run(
        peer=peer,
        concurrency=concurrency,
        calls=len(took),
        seconds=seconds,
        p50_ms=1000 * took[len(took) // 2],
        p99_ms=1000 * took[len(took) * 99 // 100],
        cpu_us=None if spent is None else 1e6 * spent / len(took),
    )


def measure(
    *, rounds: int, seconds: float, concurrencies: Sequence[int], cores: Cores, tell: Callable[[str], None]
) -> list[Run]:
    """Start everything, load each peer in turn, end everything. Raises NotAnswering."""
    replica, health, forward, http, admin, front = free_ports(6)
    runs = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overspill-grpc-")))
        text = CONFIG.format(
            http=http, admin=admin, grpc=front, log=folder / "access.log", health=health, replica=replica
        )
        file = folder / "overspill.yaml"
        file.write_text(text)

        def start(name: str, arguments: list[str], core: int, port: int) -> Server:
            server = Server([sys.executable, "-m", *arguments], core=core, log=folder / name)
            stack.enter_context(server)
            _await_serving(server, port, cores.load)
            return server

        this = "loadtests.bench.grpc_forward"
        start("replica", [this, "--serve", "replica", str(replica), str(health)], cores.load, replica)
        forwarding = [this, "--serve", "forward", str(forward), str(replica)]
        serving = ["gateway.cli", "serve", "-c", str(file)]
        between = {
            "direct": (replica, None),
            "forward": (forward, start("forward", forwarding, cores.gateway, forward)),
            "overspill": (front, start("overspill", serving, cores.gateway, front)),
        }
        for port, _ in between.values():  # connections open, the interpreter specialised
            _loaded(port, max(concurrencies), 1.0, cores.load)
        for number in range(1, rounds + 1):
            for peer, (port, server) in between.items():
                for concurrency in concurrencies:
                    one = run(peer, port, server, concurrency=concurrency, seconds=seconds, core=cores.load)
                    runs.append(one)
                    tell(_line(number, one))
    return runs


# -- what it says


class Figures(NamedTuple):
    """Medians over the rounds."""

    added_p50_ms: float | None
    """By the gateway, over `direct`, at one call at a time; None where that was not measured."""
    forward_added_p50_ms: float | None
    cpu_ratio: float
    """CPU per call of the gateway, in parts of the forwarder's, at the highest concurrency."""


def figures(runs: Sequence[Run]) -> Figures:
    """Medians over rounds."""

    def median(peer: str, concurrency: int, of: Callable[[Run], float | None]) -> float | None:
        values = [
            value
            for one in runs
            if one.peer == peer and one.concurrency == concurrency and (value := of(one)) is not None
        ]
        return statistics.median(values) if values else None

    def added(peer: str) -> float | None:
        with_it, without = (median(name, 1, lambda one: one.p50_ms) for name in (peer, "direct"))
        return None if with_it is None or without is None else with_it - without

    most = max(one.concurrency for one in runs)
    ours, bare = (median(name, most, lambda one: one.cpu_us) for name in ("overspill", "forward"))
    assert ours is not None
    assert bare
    return Figures(added("overspill"), added("forward"), ours / bare)


def _line(number: int, one: Run) -> str:
    cpu = "" if one.cpu_us is None else f"  {one.cpu_us:6.0f} us CPU"
    rate = one.calls / one.seconds
    return (
        f"round {number}  {one.peer:<10} {one.concurrency:>3} at once  {rate:7,.0f}/s"
        f"  p50 {one.p50_ms:.3f} ms  p99 {one.p99_ms:.3f} ms{cpu}"
    )


def summary(found: Figures) -> str:
    """One line for each figure, with what was asked for."""
    lines = []
    if found.added_p50_ms is not None and found.forward_added_p50_ms is not None:
        lines.append(
            f"added at p50, one call at a time: {found.added_p50_ms:.3f} ms (asked: at most {ADDED_P50_MS});"
            f" the bare forwarder adds {found.forward_added_p50_ms:.3f} ms"
        )
    lines.append(f"CPU per call: {found.cpu_ratio:.2f} x the bare forwarder's (asked: at most {CPU_RATIO})")
    return "\n".join(lines)


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench, or one of its programs; the exit code."""
    options = argparse.ArgumentParser(
        prog="python -m loadtests.bench.grpc_forward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=5, help="times that every peer is loaded (5)")
    options.add_argument("--seconds", type=float, default=5.0, help="length of one run (5)")
    options.add_argument("--concurrency", type=_counts, default=[1, 32], help="comma-separated (1,32)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every run and the figures")
    options.add_argument("--serve", nargs=3, metavar=("WHAT", "PORT", "PORT"), help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.serve:
        what = {"replica": serve_replica, "forward": serve_forward}[asked.serve[0]]
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(what(int(asked.serve[1]), int(asked.serve[2])))
        return 0
    cores = Cores.choose()
    try:
        runs = measure(
            rounds=asked.rounds,
            seconds=asked.seconds,
            concurrencies=asked.concurrency,
            cores=cores,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except NotAnswering as error:
        print(error, file=sys.stderr)
        return 2
    found = figures(runs)
    if asked.json:
        document = {
            "machine": describe(cores),
            "runs": [one._asdict() for one in runs],
            "figures": found._asdict(),
        }
        asked.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
