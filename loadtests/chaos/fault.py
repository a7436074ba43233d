"""What a fault is: what it needs, what it does, when it is over, and what is expected to be seen of it.

Knows the stage. Must never know how faults are timed or judged.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, NamedTuple

from loadtests.chaos.load import Load
from loadtests.chaos.stage import Metrics, Stage
from loadtests.chaos.work import faults_met

HELD: Final = "held"
"""As many as were on their way at the moment of the fault: they went down with the process that had them."""


class Expected(NamedTuple):
    """Upper limits; what is not said here is expected to be zero.

    lost:        requests without an answer; `HELD` for those that a killed process may have had
    unreached:   may nobody be there for a while?
    refused:     share of all calls that may get an error answer
    cut:         share of all calls whose answer may break off
    gap_s:       longest time without a right answer
    healthy_s:   from healing until everything goes well
    billed_twice: requests that may be executed twice by a rented backend, because it failed after working
    books:       share of what providers ask for that may not be booked
    overbooked:  share of what is booked that they may not ask for
    cpu:         share of one core
    """

    lost: int | str = 0
    unreached: bool = False
    refused: float = 0.0
    cut: float = 0.0
    gap_s: float = 0.75
    healthy_s: float = 1.0
    billed_twice: int = 0
    books: float = 1e-6
    overbooked: float = 1e-6
    unlogged: int | str = 0
    cpu: float = 0.9


class Fault(ABC):
    """One fault: `prepare`, steady load, `inject`, `lasts_s` seconds, `heal`."""

    name: ClassVar[str]
    what: ClassVar[str]
    """In a few words, for people."""
    expected: ClassVar[Expected]
    isolated: ClassVar[bool] = False
    """Whether it needs namespaces of its own."""
    quick: ClassVar[bool] = False
    """Whether it belongs to those that every test run tries."""
    lasts_s: ClassVar[float] = 2.0
    rate: ClassVar[float] = 60.0
    rented: ClassVar[tuple[str, ...]] = ("cloud",)
    """Upstreams that are paid by what they execute."""
    workers: ClassVar[int] = 1

    def why_not(self) -> str | None:
        """Why it cannot be tried here, beyond namespaces; or None."""
        return None

    async def prepare(self, stage: Stage) -> None:
        """Start everything: two replicas, a provider, a gateway, unless overridden."""
        urls = [stage.upstream("one"), stage.upstream("two")]
        tiers = {"fleet": stage.fleet(*urls), "cloud": stage.cloud(stage.upstream("cloud"))}
        stage.open_gateway(stage.document(tiers), workers=self.workers)

    @abstractmethod
    async def inject(self, stage: Stage, load: Load) -> None:
        """Let it happen."""

    @abstractmethod
    async def heal(self, stage: Stage, load: Load) -> None:
        """Take it away."""

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        """How often it was met; a fault that nobody met says nothing. Asked before the gateway ends."""
        return sum(faults_met(stage.notes(name)) for name in stage.children if name != "gateway")

    async def cleared(self, stage: Stage) -> None:  # noqa: B027 - most have nothing beside the stage
        """Give back what is not the stage's."""


class Misled(Fault):
    """One of the stage's own is told to behave badly, and to behave again.

    who:   its name on the stage
    bad:   what it is told (`Stage.tell`); `good` takes it back
    """

    who: ClassVar[str]
    bad: ClassVar[Mapping[str, object]]
    good: ClassVar[Mapping[str, object]] = {"mode": "ok"}

    async def inject(self, stage: Stage, load: Load) -> None:
        """See `Fault.inject`."""
        await told(stage, self.who, **self.bad)

    async def heal(self, stage: Stage, load: Load) -> None:
        """See `Fault.heal`."""
        await told(stage, self.who, **self.good)


async def apart(work: Callable[..., object], *given: object) -> None:
    """Run what blocks beside the load."""
    await asyncio.to_thread(work, *given)


async def told(stage: Stage, name: str, **wish: object) -> None:
    """`Stage.tell` beside the load."""
    await asyncio.to_thread(lambda: stage.tell(name, **wish))
