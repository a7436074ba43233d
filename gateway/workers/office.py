"""The admin port of a gateway with several workers: asks all of them, and shows what they say as one.

A process of its own, so that it answers while any worker starts, is busy or has died. It keeps what an ended
worker said last. Knows no backend and no route.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin import AdminPort, Health, expose
from gateway.auth.admin import AdminDoor
from gateway.background import Background
from gateway.config.status import ConfigStatus
from gateway.explain.live import Answer
from gateway.explain.recent import merge_recent
from gateway.glance import Glance
from gateway.metric_families import joined
from gateway.reload import Outcome, Reloader
from gateway.scaling.loads import Workers
from gateway.scaling.rule import Load
from gateway.scaling.service import ScalingService
from gateway.signals import Signals
from gateway.tls import Tls
from gateway.workers.desk import ask, place_of
from gateway.workers.merge import (
    Report,
    add_sums,
    fold,
    merge_backends,
    merge_health,
    merge_metrics,
    merge_routes,
)
from gateway.workers.shared_slots import Replicas


class MergedViews:
    """What the admin port shows (`gateway.admin.Views`)."""

    explains = True

    reloader: Reloader
    tls: Tls | None = None
    door: AdminDoor | None = None
    scaler: ScalingService | None = None
    begun = False
    """Has every worker once served? What is forked later knows it from the beginning."""

    def __init__(self, directory: Path, replicas: Replicas, config: ConfigStatus) -> None:
        self.reloads = {"ok": 0, "rejected": 0}
        self._places = [place_of(directory, worker) for worker in range(replicas.workers)]
        self._replicas = replicas
        self.config = config
        self._last: list[Report | None] = [None] * replicas.workers
        self._gone: list[Report] = []
        self._one_at_a_time = asyncio.Lock()
        self._loads = Workers(replicas.workers)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """All workers' metrics, and how many of them there are."""
        alive, gone = await self._reports()
        registry = CollectorRegistry()
        registry.register(_Collected(self._metrics(alive, gone)))
        return await expose(registry, accept)

    def _metrics(self, alive: Sequence[Report], gone: Sequence[Report]) -> list[Metric]:
        merged = [each for each in merge_metrics(alive, gone) if each.name != "overspill_config_reloads"]
        told = [*merged, *self._workers(len(alive)), *self.config.collect()]
        return told if self.tls is None else joined([*told, *self.tls.collect()])

    async def health(self) -> Health:
        """Not ready before every worker has begun to serve; from then on, as long as one worker is ready."""
        return Health(*self._health((await self._reports())[0]))

    def _health(self, alive: Sequence[Report]) -> tuple[str, dict[str, dict[str, str]]]:
        if not self.begun:
            self.begun = all(map(self._replicas.serving, self._replicas.posted()))
        status, reasons = merge_health(alive)
        # One that is up would be sent what all of them together are to serve.
        return ("not_ready" if status == "ready" and not self.begun else status), reasons

    async def reload(self) -> Outcome:
        """In all workers, or in none."""
        return await self.reloader.reload()

    async def routes(self) -> list[dict[str, Any]]:
        """All workers' calls."""
        return merge_routes(*await self._reports())

    async def backends(self) -> list[dict[str, Any]]:
        """All workers' slots."""
        return merge_backends(*await self._reports())

    async def explain(self, body: bytes) -> Answer:
        """Asked of one worker after the other: a past decision is known only to the one that made it."""
        try:
            question = {"ask": "explain", "body": body.decode()}
        except UnicodeDecodeError:
            return Answer(400, {"error": "the question is not UTF-8"})
        answer = Answer(503, {"error": "no worker answers"})
        for place in self._places:
            told = await ask(place, question)
            if told is not None:
                answer = Answer(told["status"], told["body"])
                if answer.status == 200:
                    break
        return answer

    async def glance(self, decisions: int) -> Glance:
        """All workers', of one look."""
        alive, gone = await self._reports(decisions)
        status, reasons = self._health(alive)
        return Glance(
            self._metrics(alive, gone),
            merge_routes(alive, gone),
            add_sums((*alive, *gone)),
            merge_backends(alive, gone),
            status,
            reasons,
            merge_recent(report["decisions"] for report in alive),
        )

    async def scaling(self) -> dict[str, Any] | None:
        """As of the last look at all workers."""
        return None if self.scaler is None else self.scaler.document()

    async def loads(self) -> Mapping[str, Load]:
        """All workers' loads, for the scaling signals."""
        asked = (ask(each, {"ask": "scaling"}) for each in self._places)
        return self._loads.told(await asyncio.gather(*asked))

    async def _reports(self, decisions: int = 0) -> tuple[Sequence[Report], Sequence[Report]]:
        """What those say that answer, and what those said that do not any more."""
        question = {"ask": "report", "decisions": decisions}
        async with self._one_at_a_time:  # or an old answer could be taken for that of a new worker
            return self._noted(await asyncio.gather(*(ask(each, question) for each in self._places)))

    def _noted(self, told: Sequence[Report | None]) -> tuple[Sequence[Report], Sequence[Report]]:
        gone: list[Report] = []
        for worker, report in enumerate(told):
            last = self._last[worker]
            if report is None:
                gone += [] if last is None else [last]
                continue
            if last is not None and last["pid"] != report["pid"]:
                self._gone = fold(self._gone, last)
            self._last[worker] = report
        return [report for report in told if report is not None], [*self._gone, *gone]

    def counted(self, *, ok: bool) -> None:
        """A reload is over."""
        self.reloads["ok" if ok else "rejected"] += 1

    def _workers(self, answering: int) -> list[Metric]:
        reloads = CounterMetricFamily(
            "overspill_config_reloads",
            "Configurations read again, by what became of them.",
            labels=["result"],
        )
        for result, count in self.reloads.items():
            reloads.add_metric([result], count)
        return [
            reloads,
            GaugeMetricFamily("overspill_workers", "Worker processes that answer.", value=answering),
            CounterMetricFamily(
                "overspill_worker_restarts",
                "Worker processes that were started in the place of one that had ended.",
                value=self._replicas.restarts,
            ),
        ]


class _Collected(Collector):
    """Metrics that were collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """As they are."""
        return self._metrics


NewReloader = Callable[[MergedViews], Reloader]


def attend(views: MergedViews, listening: socket, leash: int, new_reloader: NewReloader, tls: Tls) -> int:
    """Serve the admin port until SIGTERM, or until the supervisor is gone. SIGHUP: take over the file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; this one ends last
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_attend(views, listening, leash, new_reloader, tls))


async def _attend(
    views: MergedViews, listening: socket, leash: int, new_reloader: NewReloader, tls: Tls
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    background = Background()
    views.reloader = reloader = new_reloader(views)
    reloader.renew, views.tls = tls.renew, tls
    signals = Signals()
    signals.on(signal.SIGTERM, call=stop.set)
    signals.on(signal.SIGHUP, call=lambda: background.spawn(_reload(reloader), name="reload at SIGHUP"))
    loop.add_reader(leash, stop.set)
    port = AdminPort(views, views.door)
    with signals.installed():
        await tls.renew()
        tls.watch(background)
        await port.start("", 0, listening=listening, tls=tls.admin)
        background.spawn(reloader.watch(), name="watch the configuration file")
        if views.scaler is not None:
            await views.scaler.open_if_possible(background)
        await stop.wait()
        if views.scaler is not None:
            await views.scaler.close()
        await background.close(grace=0.0)
    loop.remove_reader(leash)
    await port.stop()
    return 0


async def _reload(reloader: Reloader) -> None:
    await reloader.reload()
