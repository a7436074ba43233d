"""Faults of the network between the gateway and its fleet: lost packets, partitions, lost peers, no DNS.

All of them need namespaces of their own. Must never know how they are judged.
"""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from loadtests.chaos import wire
from loadtests.chaos.fault import Expected, Fault, apart
from loadtests.chaos.isolation import mount_over, unmount
from loadtests.chaos.load import Load
from loadtests.chaos.stage import Metrics, Stage
from loadtests.chaos.wire import Wire

_HOSTS, _RESOLVER = Path("/etc/hosts"), Path("/etc/resolv.conf")


class _WireFault(Fault):
    """One replica beside the gateway, another one in a namespace of its own, behind a bad wire.

    loss:  share of the packets that are lost
    """

    isolated = True
    lasts_s = 4.0
    loss: ClassVar[float] = 1.0

    def why_not(self) -> str | None:
        return wire.why_not()

    wire: Wire | None = None

    async def prepare(self, stage: Stage) -> None:
        self.wire = Wire(stage.chance)
        far = stage.upstream("far", host=wire.THEIRS, inside=self.wire.inside(), port=8100)
        tiers = {"fleet": stage.fleet(stage.upstream("one"), far)}
        tiers["cloud"] = stage.cloud(stage.upstream("cloud"))
        # It waits for an answer over the wire, which is carried by this process's own loop.
        await apart(stage.open_gateway, stage.document(tiers))

    def lose(self, share: float) -> None:
        """So much of everything from now on."""
        assert self.wire is not None
        self.wire.loss = share

    async def inject(self, stage: Stage, load: Load) -> None:
        self.lose(self.loss)

    async def heal(self, stage: Stage, load: Load) -> None:
        self.lose(0.0)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return 0 if self.wire is None else self.wire.dropped

    async def cleared(self, stage: Stage) -> None:
        if self.wire is not None:
            self.wire.close()


class PacketLoss(_WireFault):
    name = "packet_loss"
    what = "every fifth packet to and from one of two replicas is lost"
    expected = Expected(refused=0.1, healthy_s=4.0)
    loss = 0.2


class Partition(_WireFault):
    name = "partition"
    what = "every packet to and from one of two replicas is lost"
    expected = Expected(refused=0.15, healthy_s=4.0)


class HalfOpen(_WireFault):
    name = "half_open"
    what = "one of two replicas vanishes without a word and comes back knowing no connection"
    expected = Expected(refused=0.15, healthy_s=4.0)

    async def inject(self, stage: Stage, load: Load) -> None:
        await super().inject(stage, load)
        stage.kill("far")
        await asyncio.sleep(0.2)  # what its kernel says of its end is lost as well

    async def heal(self, stage: Stage, load: Load) -> None:
        await apart(stage.again, "far")
        await super().heal(stage, load)


class NameGone(Fault):
    name = "dns_gone"
    what = "the name of the fleet is not resolved any more: the resolver takes questions and says nothing"
    expected = Expected()
    isolated = True
    lasts_s = 7.0

    _silent: socket.socket | None = None

    async def prepare(self, stage: Stage) -> None:
        self._hosts, resolver = stage.folder / "hosts", stage.folder / "resolv.conf"
        self._hosts.write_text("127.0.0.1 localhost\n127.0.0.11 fleet.chaos\n127.0.0.12 fleet.chaos\n")
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        mount_over(self._hosts, _HOSTS)
        mount_over(resolver, _RESOLVER)
        stage.upstream("one", host="127.0.0.11", port=8100)
        stage.upstream("two", host="127.0.0.12", port=8100)
        fleet = stage.fleet()
        del fleet["replicas"]
        fleet["discover"] = {"dns": "fleet.chaos", "port": 8100, "every": "200ms"}
        tiers = {"fleet": fleet, "cloud": stage.cloud(stage.upstream("cloud"))}
        stage.open_gateway(stage.document(tiers))

    async def inject(self, stage: Stage, load: Load) -> None:
        self._known = self._hosts.read_text()
        self._silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._silent.bind(("127.0.0.1", 53))
        self._hosts.write_text("127.0.0.1 localhost\n")

    async def heal(self, stage: Stage, load: Load) -> None:
        self._hosts.write_text(self._known)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        """Questions that nobody answered."""
        questions = 0
        assert self._silent is not None
        self._silent.settimeout(0)
        with suppress(BlockingIOError):
            while self._silent.recv(4096):
                questions += 1
        return questions

    async def cleared(self, stage: Stage) -> None:
        if self._silent is not None:
            self._silent.close()
        unmount(_HOSTS)
        unmount(_RESOLVER)


NETWORK_FAULTS: tuple[type[Fault], ...] = (PacketLoss, Partition, HalfOpen, NameGone)
