"""For each kind of load: what answers it, what makes it, and how one answer is told to be right.

Knows no proxy and no figures of the kernel; the rounds are in `measure`.
"""

import contextlib
import http.client
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtests.bench import wrk
from loadtests.bench.load_figures import LoadFigures, NoFigures
from loadtests.bench.peers.nginx import find_nginx, nginx_user
from loadtests.bench.peers.plan import Plan
from loadtests.bench.processes import NotAnswering, Server, exchange, free_ports
from loadtests.bench.sse_load import PATIENCE_S, http_request
from loadtests.bench.turns import generator
from loadtests.bench.workload import Kind, Workload, upstream_config

_BESIDE_S = 30.0
"""A generator may take so much longer than the run."""


@dataclass(frozen=True)
class Load:
    """One run that is ready to go.

    go:   runs it; raises NoFigures
    pid:  of the generator, which stays after the run; None for one that ends with it
    """

    go: Callable[[], LoadFigures]
    pid: int | None = None


class Driver(Protocol):
    """One kind of load.

    port:         where the upstream answers
    health_port:  where it answers HTTP probes; the same but for gRPC
    """

    port: int
    health_port: int

    def start_upstream(self, directory: Path, core: int) -> Server:
        """Start it. Raises NotAnswering where a tool is missing."""
        ...

    def verify(self, plan: Plan) -> str | None:
        """What is wrong with the answer of this peer; None when it is right."""
        ...

    def load(
        self, plan: Plan, directory: Path, *, connections: int, seconds: float
    ) -> AbstractContextManager[Load]:
        """A generator that is ready; `directory` is for its files. Raises NoFigures."""
        ...


def _asked(plan: Plan, workload: Workload, body: bytes) -> tuple[int, bytes] | str:
    """The answer of a peer, or why there is none."""
    fields = {**workload.headers, **plan.headers}
    try:
        return exchange(plan.port, "POST", workload.path, body, fields)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"


class HttpDriver:
    """wrk, and an nginx with canned answers."""

    def __init__(self, workload: Workload, wrk_binary: str) -> None:
        self.workload = workload
        self._wrk = wrk_binary
        [self.port] = free_ports(1)
        self.health_port = self.port

    def start_upstream(self, directory: Path, core: int) -> Server:
        """An nginx, or our own server of tensors."""
        if self.workload.answer_headers:
            argv = [sys.executable, "-m", "loadtests.bench.tensor_upstream", str(self.port)]
            return Server(argv, core=core, log=directory / "output")
        binary = find_nginx()
        if binary is None:
            raise NotAnswering("the upstream needs nginx: apt-get install nginx-light")
        config = directory / "upstream.conf"
        config.write_text(upstream_config(directory, port=self.port, user=nginx_user()))
        argv = [binary, "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
        return Server(argv, core=core, log=directory / "output")

    def verify(self, plan: Plan) -> str | None:
        """The upstream's answer byte for byte, or with its mark where the peer writes answers anew."""
        answer = _asked(plan, self.workload, self.workload.request)
        if isinstance(answer, str):
            return answer
        status, body = answer
        if status != 200:
            return f"status {status}: {body[:200]!r}"
        right = self.workload.mark in body if plan.rewrites else body == self.workload.answer
        return None if right else f"another body: {body[:200]!r}"

    @contextlib.contextmanager
    def load(self, plan: Plan, directory: Path, *, connections: int, seconds: float) -> Iterator[Load]:
        """A wrk with a script of its own for every peer, because of the fields that some need."""
        script = wrk.write_script(directory, self.workload, plan.headers)
        url = f"http://127.0.0.1:{plan.port}{self.workload.path}"
        argv = wrk.command(self._wrk, script, url=url, connections=connections, seconds=seconds)

        def go() -> LoadFigures:
            found = wrk.run(argv, limit_s=seconds + _BESIDE_S)
            if not plan.rewrites and found.bytes < found.requests * len(self.workload.answer):
                raise NoFigures("fewer bytes came back than the answers have")
            return found

        yield Load(go)


class SseDriver:
    """Streams whose events say when they left."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        [self.port] = free_ports(1)
        self.health_port = self.port

    def start_upstream(self, directory: Path, core: int) -> Server:
        """Our own server of event streams."""
        argv = [sys.executable, "-m", "loadtests.bench.sse_upstream", str(self.port)]
        argv += ["--interval", str(self.workload.interval_s)]
        return Server(argv, core=core, log=directory / "output")

    def verify(self, plan: Plan) -> str | None:
        """A stream of one event comes back, with its moment and its end."""
        short = json.dumps({**json.loads(self.workload.request), "max_tokens": 1}).encode()
        answer = _asked(plan, self.workload, short)
        if isinstance(answer, str):
            return answer
        status, body = answer
        if status != 200:
            return f"status {status}: {body[:200]!r}"
        right = body.count(b"t=") == 1 and b"[DONE]" in body
        return None if right else f"another stream: {body[:200]!r}"

    @contextlib.contextmanager
    def load(self, plan: Plan, directory: Path, *, connections: int, seconds: float) -> Iterator[Load]:
        """So many readers."""
        file, each = directory / "request", self.workload
        file.write_bytes(http_request(each.path, {**each.headers, **plan.headers}, each.request))
        arguments = [str(plan.port), str(connections), "--seconds", str(seconds), "--request", str(file)]
        arguments += ["--events", str(each.events), "--interval", str(each.interval_s)]
        limit_s = seconds + 2 * each.events * each.interval_s + PATIENCE_S + _BESIDE_S
        with generator("loadtests.bench.sse_load", *arguments) as turn:
            yield Load(lambda: turn.go(limit_s=limit_s), turn.pid)


def _grpc_arguments(plan: Plan, calls: int, seconds: float) -> list[str]:
    arguments = [str(plan.port), str(calls), "--seconds", str(seconds)]
    for name, value in plan.headers.items():
        arguments += ["--header", name, value]
    return arguments


class GrpcDriver:
    """Unary calls to a bare grpc.aio server."""

    def __init__(self) -> None:
        self.port, self.health_port = free_ports(2)

    def start_upstream(self, directory: Path, core: int) -> Server:
        """A server with one answer for every call, and a port for HTTP probes."""
        if importlib.util.find_spec("grpc") is None:
            raise NotAnswering("the gRPC workload needs grpcio: pip install -e '.[grpc]'")
        argv = [sys.executable, "-m", "loadtests.bench.grpc_forward", "--serve", "replica"]
        argv += [str(self.port), str(self.health_port)]
        return Server(argv, core=core, log=directory / "output")

    def verify(self, plan: Plan) -> str | None:
        """A moment of calls, in a process of their own: the bench itself does not import gRPC."""
        try:
            with generator("loadtests.bench.grpc_load", *_grpc_arguments(plan, 1, 0.01)) as turn:
                found = turn.go(limit_s=_BESIDE_S)
        except NoFigures as error:
            return str(error)
        if found.errors:
            return ", ".join(found.errors)
        return None if found.requests else "no call was answered"

    @contextlib.contextmanager
    def load(self, plan: Plan, directory: Path, *, connections: int, seconds: float) -> Iterator[Load]:
        """So many calls at once."""
        with generator("loadtests.bench.grpc_load", *_grpc_arguments(plan, connections, seconds)) as turn:
            yield Load(lambda: turn.go(limit_s=seconds + _BESIDE_S), turn.pid)


def driver_for(workload: Workload) -> Driver:
    """The driver of this workload. Raises NotAnswering where its load generator is missing."""
    if workload.kind is Kind.SSE:
        return SseDriver(workload)
    if workload.kind is Kind.GRPC:
        return GrpcDriver()
    wrk_binary = shutil.which("wrk")
    if wrk_binary is None:
        raise NotAnswering("the load generator is missing: apt-get install wrk")
    return HttpDriver(workload, wrk_binary)
