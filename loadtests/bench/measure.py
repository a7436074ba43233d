"""The rounds: every peer started once, then put under load in turn (A B C, A B C, …).

Knows the order of things; parsing, arithmetic and config live beside it.
"""

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loadtests.bench import procfs
from loadtests.bench.drivers import Driver, driver_for
from loadtests.bench.figures import Run, attribute
from loadtests.bench.load_figures import LoadFigures, NoFigures
from loadtests.bench.machine import Cores
from loadtests.bench.peers import PEERS
from loadtests.bench.peers.plan import CHILD_COMES_S, Peer, Plan, Site, Skipped
from loadtests.bench.processes import NotAnswering, Server, free_ports, on_core, wait_until_serving
from loadtests.bench.workload import Kind, Workload

_READY_WITHIN_S = 60.0
_SETTLE_S = 0.5
_CHILD_GOES_S = 60.0
_MOST_WARM_UPS = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One call of the bench, for one workload. `known`: where the peers' names are looked up."""

    peers: Sequence[str]
    connections: Sequence[int]
    rounds: int
    seconds: float
    warm_up_s: float
    workload: Workload
    cores: Cores
    known: Mapping[str, Peer] = field(default_factory=lambda: PEERS)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A peer that runs, and its memory before the first request of load."""

    plan: Plan
    directory: Path
    server: Server | None
    rss_idle_mib: float | None


@dataclass(kw_only=True)
class Measured:
    """Everything that came out of one workload."""

    workload: Workload
    runs: list[Run] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Peers that are here but did not serve, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    rss_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    """By peer: `idle`, before the load, and `after_load`."""
    remarks: list[str] = field(default_factory=list)
    """What a reader of the figures must know beside them."""


Tell = Callable[[str], None]
"""Where progress goes, a line at a time."""


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
    """By the upstream, by the generator if it runs, and by those that have ended."""
    gateway_core: tuple[float, float]
    """Work, interrupts."""
    load_core: tuple[float, float]

    @classmethod
    def now(cls, each: "Contestant", up: Server, generator: int | None, cores: Cores) -> "_Usage":
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = procfs.tree_cpu_seconds(generator) if generator is not None else 0.0
        return cls(
            at=time.perf_counter(),
            peer=procfs.tree_cpu_seconds(each.server.pid) if each.server else 0.0,
            load=procfs.tree_cpu_seconds(up.pid) + running + ended.ru_utime + ended.ru_stime,
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
def upstream(driver: Driver, directory: Path, cores: Cores) -> Iterator[Server]:
    """The played warm fleet on the load core. Raises NotAnswering."""
    directory.mkdir()
    direct = Plan(name="upstream", version="", argv=[], port=driver.port)
    with driver.start_upstream(directory, cores.load) as server:
        wait_until_serving(server, lambda: driver.verify(direct), within_s=_READY_WITHIN_S)
        yield server


def site(directory: Path, *, driver: Driver, workload: Workload) -> Site:
    """A fresh directory and free ports for one peer."""
    directory.mkdir()
    port, admin_port, spare_port = free_ports(3)
    return Site(
        directory=directory, port=port, admin_port=admin_port, spare_port=spare_port,
        upstream_port=driver.port, upstream_health_port=driver.health_port, workload=workload,
    )  # fmt: skip


def measure(settings: Settings, tell: Tell) -> Measured:
    """Start everything, run every round, end everything. Raises NotAnswering when the upstream fails."""
    measured = Measured(workload=settings.workload)
    driver = driver_for(settings.workload)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overspill-bench-")))
        up = stack.enter_context(upstream(driver, root / "upstream", settings.cores))
        contestants = [
            each
            for name in settings.peers
            if (each := _contestant(name, root / name, driver, settings, stack, measured=measured, tell=tell))
        ]
        for each in contestants:
            measured.versions[each.plan.name] = each.plan.version
        warmed = [(each, _warm_up(each, driver, settings)) for each in contestants]
        for each, requests in warmed:
            if remark := _past_its_child(each, requests):
                tell(remark)
                measured.remarks.append(remark)
        for number in range(1, settings.rounds + 1):
            for each in contestants:
                for connections in settings.connections:
                    run = _run(each, up, driver, settings, connections=connections, number=number)
                    measured.runs.append(run)
                    tell(_line(run))
        for each in contestants:
            if each.server is not None and each.rss_idle_mib is not None:
                after = procfs.tree_rss_mib(each.server.pid)
                measured.rss_mib[each.plan.name] = {"idle": each.rss_idle_mib, "after_load": after}
    return measured


def _contestant(
    name: str,
    directory: Path,
    driver: Driver,
    settings: Settings,
    stack: contextlib.ExitStack,
    *,
    measured: Measured,
    tell: Tell,
) -> Contestant | None:
    """Started, or None and noted down why not."""
    peer = settings.known[name]
    if not peer.fits(settings.workload):
        tell(f"{name}: does not do {settings.workload.name}")
        return None
    place = site(directory, driver=driver, workload=settings.workload)
    try:
        plan = peer.plan(place)
        if isinstance(plan, Skipped):
            tell(f"{name}: absent, {plan.why}")
            measured.skipped.append(plan)
            return None
        return _start(plan, place, driver, settings, stack)
    except (NotAnswering, OSError) as error:
        tell(f"{name}: did not start, {error}")
        measured.failed[name] = str(error)
        return None


def _start(
    plan: Plan, place: Site, driver: Driver, settings: Settings, stack: contextlib.ExitStack
) -> Contestant:
    if not plan.argv:
        return Contestant(plan=plan, directory=place.directory, server=None, rss_idle_mib=None)
    server = stack.enter_context(
        Server(plan.argv, core=settings.cores.gateway, log=place.directory / "output", env=plan.env)
    )
    wait_until_serving(server, lambda: driver.verify(plan), within_s=_READY_WITHIN_S)
    time.sleep(_SETTLE_S)
    idle = procfs.tree_rss_mib(server.pid)
    return Contestant(plan=plan, directory=place.directory, server=server, rss_idle_mib=idle)


def _warm_up(each: Contestant, driver: Driver, settings: Settings) -> int:
    """Open the upstream connections and let the interpreter specialise; the figures are thrown away,
    and a failure here will show again in the rounds. How many requests that were: a little longer where it
    takes so many to bring out what the peer does once.
    """
    most, seconds, requests = max(settings.connections), settings.warm_up_s, 0
    if seconds <= 0:
        return 0
    with contextlib.suppress(NoFigures), on_core(settings.cores.load):
        for _ in range(_MOST_WARM_UPS):
            with driver.load(each.plan, each.directory, connections=most, seconds=seconds) as load:
                requests += load.go().requests
            if requests >= each.plan.child_after:
                break
    return requests


def _past_its_child(each: Contestant, requests: int) -> str | None:
    """Wait for what the peer does once beside requests; what to know where the rounds may have it."""
    if each.server is None or not each.plan.child_after:
        return None
    if requests < each.plan.child_after:
        return (
            f"{each.plan.name}: fewer than {each.plan.child_after} requests before the rounds; if it reaches "
            "them there, they have the work of a child process that it starts once"
        )
    if each.server.child_came_and_went(comes_within_s=CHILD_COMES_S, goes_within_s=_CHILD_GOES_S):
        return None
    return (
        f"{each.plan.name}: the child process that it starts once was not seen to come and go before the "
        "rounds, which may have its work"
    )


def _loaded(
    each: Contestant, up: Server, driver: Driver, settings: Settings, connections: int
) -> tuple[LoadFigures, _Usage, _Usage]:
    """One run, and what was spent before and after it. Raises NoFigures."""
    with (
        on_core(settings.cores.load),
        driver.load(each.plan, each.directory, connections=connections, seconds=settings.seconds) as load,
    ):
        before = _Usage.now(each, up, load.pid, settings.cores)
        figures = load.go()
        return figures, before, _Usage.now(each, up, load.pid, settings.cores)


def _run(
    each: Contestant, up: Server, driver: Driver, settings: Settings, *, connections: int, number: int
) -> Run:
    faults: list[str] = []
    figures = LoadFigures.nothing()
    shares, peer_cpu = _Shares(0.0, 0.0, 0.0), 0.0
    try:
        figures, before, after = _loaded(each, up, driver, settings, connections)
    except NoFigures as error:
        faults.append(str(error))
    else:
        faults += [f"{count} {kind} errors" for kind, count in figures.errors.items()]
        shares = after.shares_since(
            before, nobody_between=each.server is None, shared_core=settings.cores.shared
        )
        peer_cpu = after.peer - before.peer
    rss = procfs.tree_rss_mib(each.server.pid) if each.server is not None else None
    if each.server is not None and each.server.ended:
        faults.append("the process ended")
    elif (wrong := driver.verify(each.plan)) is not None:
        faults.append(f"after the load: {wrong}")
    requests, latency, delay = figures.requests, figures.latency, figures.event_delay
    return Run(
        peer=each.plan.name,
        connections=connections,
        round=number,
        requests=requests,
        requests_per_s=figures.requests_per_s,
        p50_ms=_ms(latency.p50), p99_ms=_ms(latency.p99), p999_ms=_ms(latency.p999),
        events=figures.events,
        event_p50_ms=_ms(delay.p50), event_p99_ms=_ms(delay.p99), event_p999_ms=_ms(delay.p999),
        paced=settings.workload.kind is Kind.SSE,
        faults=tuple(faults),
        cpu_us_per_request=peer_cpu * 1e6 / requests if each.server and requests else None,
        rss_mib=rss,
        peer_share=shares.peer if each.server else None,
        other_side_share=shares.other_side,
        foreign_share=shares.foreign,
    )  # fmt: skip


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _line(run: Run) -> str:
    def ms(name: str, value: float | None) -> str:
        return "" if value is None else f"  {name} {value:.3f} ms"

    cpu = "" if run.cpu_us_per_request is None else f"  {run.cpu_us_per_request:6.1f} us CPU"
    return (
        f"round {run.round}  {run.peer:<16} {run.connections:>4} conn  {run.requests_per_s:9,.0f}/s"
        + ms("p50", run.p50_ms)
        + ms("p99", run.p99_ms)
        + ms("event p50", run.event_p50_ms)
        + ms("event p99", run.event_p99_ms)
        + f"{cpu}  {run.verdict}"
    )
