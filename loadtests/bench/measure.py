"""The rounds: every peer started once, then put under load in turn (A B C, A B C, …).

Knows the order of things; parsing, arithmetic and config live beside it.
"""

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loadtests.bench import procfs, wrk
from loadtests.bench.figures import Run, attribute
from loadtests.bench.machine import Cores
from loadtests.bench.peers import PEERS, Plan, Site, Skipped, find_nginx, nginx_user
from loadtests.bench.processes import NotAnswering, Server, free_ports, on_core, verify, wait_until_serving
from loadtests.bench.workload import Workload, upstream_config

_READY_WITHIN_S = 20.0
_SETTLE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One call of the bench."""

    peers: Sequence[str]
    connections: Sequence[int]
    rounds: int
    seconds: float
    warm_up_s: float
    workload: Workload
    wrk_binary: str
    cores: Cores


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A peer that runs, and its memory before the first request of load."""

    plan: Plan
    server: Server | None
    rss_idle_mib: float | None


@dataclass(kw_only=True)
class Measured:
    """Everything that came out."""

    runs: list[Run] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Peers that are here but did not serve, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    rss_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    """By peer: `idle`, before the load, and `after_load`."""


Tell = Callable[[str], None]
"""Where progress goes, a line at a time."""


@dataclass(frozen=True)
class Upstream:
    """The canned warm fleet, running."""

    port: int
    pid: int


class _Shares(NamedTuple):
    """Parts of a core over one run."""

    peer: float
    other_side: float
    foreign: float


def _rate(before: tuple[float, float], after: tuple[float, float], wall: float) -> tuple[float, float]:
    return (after[0] - before[0]) / wall, (after[1] - before[1]) / wall


class _Usage(NamedTuple):
    """CPU seconds spent so far, and when that was read."""

    at: float
    peer: float
    load: float
    """By the upstream and by every wrk that has ended."""
    gateway_core: tuple[float, float]
    """Work, interrupts."""
    load_core: tuple[float, float]

    @classmethod
    def now(cls, each: "Contestant", up: Upstream, cores: Cores) -> "_Usage":
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(
            at=time.perf_counter(),
            peer=procfs.tree_cpu_seconds(each.server.pid) if each.server else 0.0,
            load=procfs.tree_cpu_seconds(up.pid) + ended.ru_utime + ended.ru_stime,
            gateway_core=procfs.core_seconds(cores.gateway),
            load_core=procfs.core_seconds(cores.load),
        )

    def shares_since(self, before: "_Usage", *, nobody_between: bool, shared_core: bool) -> _Shares:
        wall = self.at - before.at
        peer, load = (self.peer - before.peer) / wall, (self.load - before.load) / wall
        work, interrupts = _rate(before.gateway_core, self.gateway_core, wall)
        load_work, load_interrupts = _rate(before.load_core, self.load_core, wall)
        if shared_core:
            peer_share, foreign = attribute(work, interrupts, peer + load)
            return _Shares(peer=peer_share - load, other_side=load, foreign=foreign)
        peer_share, foreign = attribute(work, interrupts, peer)
        other_side, load_foreign = attribute(load_work, load_interrupts, load)
        if nobody_between:  # then nobody was in the way on the other core
            return _Shares(peer=0.0, other_side=other_side, foreign=load_foreign)
        return _Shares(peer=peer_share, other_side=other_side, foreign=max(foreign, load_foreign))


@contextlib.contextmanager
def upstream(settings: Settings, directory: Path) -> Iterator[Upstream]:
    """The canned warm fleet on the load core; on a free port. Raises NotAnswering."""
    binary = find_nginx()
    if binary is None:
        raise NotAnswering("the upstream needs nginx: apt-get install nginx-light")
    directory.mkdir()
    [port] = free_ports(1)
    config = directory / "upstream.conf"
    config.write_text(upstream_config(directory, port=port, user=nginx_user()))
    argv = [binary, "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with Server(argv, core=settings.cores.load, log=directory / "output") as server:
        wait_until_serving(server, port, settings.workload, within_s=_READY_WITHIN_S)
        yield Upstream(port, server.pid)


def site(directory: Path, *, upstream_port: int, workload: Workload) -> Site:
    """A fresh directory and two free ports for one peer."""
    directory.mkdir()
    port, admin_port = free_ports(2)
    return Site(
        directory=directory, port=port, admin_port=admin_port, upstream_port=upstream_port, workload=workload
    )


def measure(settings: Settings, tell: Tell) -> Measured:
    """Start everything, run every round, end everything. Raises NotAnswering when the upstream fails."""
    measured = Measured()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overspill-bench-")))
        up = stack.enter_context(upstream(settings, root / "upstream"))
        script = root / "post.lua"
        script.write_text(wrk.script(settings.workload))
        contestants = []
        for name in settings.peers:
            place = site(root / name, upstream_port=up.port, workload=settings.workload)
            plan = PEERS[name](place)
            if isinstance(plan, Skipped):
                tell(f"{name}: skipped, {plan.why}")
                measured.skipped.append(plan)
                continue
            try:
                contestants.append(_start(plan, place, settings, stack))
            except NotAnswering as error:
                tell(f"{name}: did not start, {error}")
                measured.failed[name] = str(error)
        for each in contestants:
            measured.versions[each.plan.name] = each.plan.version
            _warm_up(each, settings, script)
        for number in range(1, settings.rounds + 1):
            for each in contestants:
                for connections in settings.connections:
                    run = _run(each, up, settings, script, connections=connections, number=number)
                    measured.runs.append(run)
                    tell(_line(run))
        for each in contestants:
            if each.server is not None and each.rss_idle_mib is not None:
                after = procfs.tree_rss_mib(each.server.pid)
                measured.rss_mib[each.plan.name] = {"idle": each.rss_idle_mib, "after_load": after}
    return measured


def _start(plan: Plan, place: Site, settings: Settings, stack: contextlib.ExitStack) -> Contestant:
    if not plan.argv:
        return Contestant(plan=plan, server=None, rss_idle_mib=None)
    server = stack.enter_context(
        Server(plan.argv, core=settings.cores.gateway, log=place.directory / "output", env=plan.env)
    )
    wait_until_serving(server, plan.port, settings.workload, within_s=_READY_WITHIN_S)
    time.sleep(_SETTLE_S)
    return Contestant(plan=plan, server=server, rss_idle_mib=procfs.tree_rss_mib(server.pid))


def _generate(
    each: Contestant, settings: Settings, script: Path, *, connections: int, seconds: float
) -> wrk.WrkFigures:
    url = f"http://127.0.0.1:{each.plan.port}{settings.workload.path}"
    argv = wrk.command(settings.wrk_binary, script, url=url, connections=connections, seconds=seconds)
    with on_core(settings.cores.load):
        return wrk.run(argv, limit_s=seconds + 20)


def _warm_up(each: Contestant, settings: Settings, script: Path) -> None:
    """Open the upstream connections and let the interpreter specialise; the figures are thrown away,
    and a failure here will show again in the rounds.
    """
    with contextlib.suppress(wrk.WrkFailed):
        _generate(each, settings, script, connections=max(settings.connections), seconds=settings.warm_up_s)


def _run(
    each: Contestant, up: Upstream, settings: Settings, script: Path, *, connections: int, number: int
) -> Run:
    before = _Usage.now(each, up, settings.cores)
    figures, faults = None, []
    try:
        figures = _generate(each, settings, script, connections=connections, seconds=settings.seconds)
    except wrk.WrkFailed as error:
        faults.append(str(error))
    after = _Usage.now(each, up, settings.cores)
    if figures is not None:
        faults += [f"{count} {kind} errors" for kind, count in figures.errors.items()]
        if figures.bytes < figures.requests * len(settings.workload.answer):
            faults.append("fewer bytes came back than the answers have")
    if each.server is not None and each.server.ended:
        faults.append("the process ended")
    elif (wrong := verify(each.plan.port, settings.workload)) is not None:
        faults.append(f"after the load: {wrong}")
    requests = figures.requests if figures else 0
    shares = after.shares_since(before, nobody_between=each.server is None, shared_core=settings.cores.shared)
    peer_cpu = after.peer - before.peer
    return Run(
        peer=each.plan.name,
        connections=connections,
        round=number,
        requests=requests,
        requests_per_s=figures.requests_per_s if figures else 0.0,
        p50_ms=figures.p50_us / 1000 if figures else 0.0,
        p99_ms=figures.p99_us / 1000 if figures else 0.0,
        faults=tuple(faults),
        cpu_us_per_request=peer_cpu * 1e6 / requests if each.server and requests else None,
        peer_share=shares.peer if each.server else None,
        other_side_share=shares.other_side,
        foreign_share=shares.foreign,
    )


def _line(run: Run) -> str:
    cpu = "" if run.cpu_us_per_request is None else f"  {run.cpu_us_per_request:6.1f} us CPU"
    return (
        f"round {run.round}  {run.peer:<10} {run.connections:>3} conn  {run.requests_per_s:9,.0f}/s"
        f"  p50 {run.p50_ms:.3f} ms  p99 {run.p99_ms:.3f} ms{cpu}  {run.verdict}"
    )
