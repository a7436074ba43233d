"""A recording once more: its events, on virtual time, into pools that have never seen them.

Everything is built from the `setup` lines and the policies that are handed in, with the gateway's own
objects, and only `event` lines are fed. What the new pools answer is recorded in the same form, so that two
runs can be compared line by line. Knows no concrete policy.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import chain
from math import inf
from random import Random
from typing import Any, ClassVar, NamedTuple

from backends.base import Backend, BackendOptions, Kit
from gateway.capacity import Capacity
from gateway.errors import OverspillError
from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.lease import Lease
from gateway.pool import Opened, Pool
from gateway.recorded import Line
from gateway.recorder import Recorder
from gateway.simulator.engine import VirtualTime
from gateway.simulator.recording import BadLine
from gateway.simulator.world import no_background
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import Call, Rent, Reply, Start, Verdict, WholeBody
from policies.base import Policy, Queue, TierOptions

_NONSENSE = (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError)
"""What comes of lines that are well-formed and cannot follow each other."""


class Diverged(Exception):
    """An event makes no sense any more: the pool is not where the recorded one was."""


class Replayed(NamedTuple):
    """What came of it.

    lines:    in the form of the recording: setup, events, decisions
    stopped:  why it ended before the last event; None when it did not
    """

    lines: Sequence[Line]
    stopped: str | None


class Difference(NamedTuple):
    """The first line that is not the same; None where there is no line any more."""

    number: int
    recorded: Line | None
    replayed: Line | None


def replay(lines: Iterable[Line], policies: Mapping[str, Policy]) -> Replayed:
    """Feed the events of a recording to new pools, whose policies are given by route.

    Raises BadLine, a ValueError, for lines that are no recording, or a route without a policy.
    """
    world: _World | None = None
    stopped = None
    for number, line in enumerate(lines, 1):
        if "decision" in line:
            continue
        if world is None:
            if "recording" not in line:
                raise BadLine(number, "the first line of a recording names its version and its seed")
            world = _World(line["seed"], policies)
            continue
        try:
            world.feed(line)
        except Diverged as error:
            stopped = str(error)
            break
        except KeyError as error:
            raise BadLine(number, f"there is no {error} here") from None
        except ValueError as error:
            raise BadLine(number, str(error).partition("\n")[0]) from None
        except _NONSENSE as error:
            raise BadLine(number, f"makes no sense here: {type(error).__name__}: {error}") from error
    if world is None:
        raise BadLine(1, "the recording is empty")
    return Replayed(world.recorder.lines, stopped)


def difference(recorded: Sequence[Line], replayed: Sequence[Line]) -> Difference | None:
    """Where two runs part; None when they are the same."""
    for number, (before, after) in enumerate(zip(recorded, replayed, strict=False), 1):
        if before != after:
            return Difference(number, before, after)
    longer, shorter = (recorded, replayed) if len(recorded) > len(replayed) else (replayed, recorded)
    if len(longer) == len(shorter):
        return None
    extra = longer[len(shorter)]
    number = len(shorter) + 1
    return Difference(number, extra, None) if longer is recorded else Difference(number, None, extra)


class _Attempt(NamedTuple):
    number: int
    tried: frozenset[tuple[str, int]]


class _PastCall(Call):
    """A call as it was noted, and the backends that could not have carried it."""

    unfit: frozenset[str] = frozenset()


class _Rented(Backend):
    """A backend as it was noted. It answers nothing: what became of a call is in the recording."""

    Options: ClassVar[type[BackendOptions]] = BackendOptions
    EXAMPLE: ClassVar[dict[str, Any]] = {"type": "past", "max_in_flight": 1}
    particular = False
    """Some calls could not be carried."""

    def __init__(self, kit: Kit, line: Line) -> None:
        super().__init__(line["name"], BackendOptions(type="past", max_in_flight=line["slots"]), kit)
        self._replicas = tuple(f"{self.name}-{index}" for index in range(line["replicas"]))
        self._can_open: bool = line["can_open"]
        self._binds_late: bool = line.get("binds_late", False)
        self._rent = None if line["rent"] is None else Rent(*line["rent"])

    @property
    def replicas(self) -> Sequence[str]:
        """As many as there were."""
        return self._replicas

    @property
    def can_open(self) -> bool:
        """As it was."""
        return self._can_open

    @property
    def binds_late(self) -> bool:
        """As it was."""
        return self._binds_late

    @property
    def rent(self) -> Rent | None:
        """As it was."""
        return self._rent

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Never. RuntimeError."""
        raise RuntimeError(f"{self.name} is a recording: nothing is sent there")


class _Owned(_Rented):
    owned: ClassVar[bool] = True


class _ParticularRented(_Rented):
    """One that could not carry every call."""

    def cannot_carry(self, call: Call) -> str | None:
        """As it was noted when the call came."""
        assert isinstance(call, _PastCall)
        return "so it was" if self.name in call.unfit else None


class _ParticularOwned(_ParticularRented):
    owned: ClassVar[bool] = True


_KINDS: Mapping[tuple[bool, bool], type[_Rented]] = {
    (True, True): _Owned,
    (False, True): _Rented,
    (True, False): _ParticularOwned,
    (False, False): _ParticularRented,
}
"""By (owned, carries_all)."""


class _Appointments:
    """Timers that ring when the recording says so, by their number."""

    def __init__(self) -> None:
        self._set: list[Callable[[], object] | None] = []

    def call_at(self, when: float, callback: Callable[[], object], /) -> "_Appointment":
        self._set.append(callback)
        return _Appointment(self._set, len(self._set) - 1)

    def ring(self, number: int) -> None:
        callback = self._set[number - 1] if number <= len(self._set) else None
        if callback is None:
            raise Diverged(f"timer {number} rang, and is not set here")
        self._set[number - 1] = None
        callback()


class _Appointment(NamedTuple):
    places: list[Callable[[], object] | None]
    place: int

    def cancel(self) -> None:
        self.places[self.place] = None


class _World:
    """Pools and their slots, as the setup lines say, and what the events do to them."""

    def __init__(self, seed: int, policies: Mapping[str, Policy]) -> None:
        self._policies = policies
        self._time = VirtualTime()
        self._timers = _Appointments()
        self.recorder = Recorder(clock=self._time, timers=self._timers, seed=seed, limit=2**62)
        self._kit = Kit(clock=self._time, chance=Random(seed), spawn=no_background)  # noqa: S311
        self._capacities: dict[str, Capacity] = {}
        self._pools: dict[str, Pool] = {}
        self._leases: dict[int, Lease] = {}
        self._opened: list[Opened] = []
        self._tiers: dict[str, list[Tier]] = {}
        self._setups = {"backend": self._backend, "route": self._route}
        self._events = {
            "arrive": self._arrive, "release": self._release, "leave": self._leave, "open": self._open,
            "opened": self._end_opening, "ring": self._ring, "ready": self._ready,
            "learned": self._learned, "refresh": self._refresh, "beyond": self._beyond,
        }  # fmt: skip

    def feed(self, line: Line) -> None:
        """One line that is not a decision. Raises Diverged."""
        if "setup" in line:
            self._setups[line["setup"]](line)
            return
        self._time.instant = line["at"]
        self._events[line["event"]](line)

    # -- the opener of its pools (`gateway.pool.Opener`) ---------------------------------------

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        """Remember whom to tell when the recording says what became of it."""
        self._opened.append(done)

    # -- setup ---------------------------------------------------------------------------------

    def _backend(self, line: Line) -> None:
        if not line.get("fixed", True):
            raise ValueError(
                f"backend {line['name']} changes its slots while it runs (max_in_flight: auto, or replicas "
                "that come and go), which is not in a recording: such a run cannot be replayed"
            )
        kind = _KINDS[line["owned"], line["carries_all"]]
        self._capacities[line["name"]] = self.recorder.capacity(kind(self._kit, line))

    def _route(self, line: Line) -> None:
        name = line["name"]
        if name not in self._policies:
            raise ValueError(f"the recording has a route {name}, and no policy is given for it")
        self._time.instant = line["at"]
        tiers = []
        for each in line["tiers"]:
            if each["budgeted"]:
                raise ValueError(f"route {name} has a spill budget; what it allowed is not in a recording")
            options = _tier_options(each["options"])
            known = (_estimates(each[what], line["at"]) for what in ("estimates", "answers"))
            tiers.append(Tier(options, self._capacities[options.backend], *known))
        self._tiers[name] = tiers
        self._pools[name] = self.recorder.pool(
            name, self._policies[name], tiers, opener=self if line["opens"] else None,
            within=line["within"], first_byte=line["first_byte"], objective=line["objective"],
            best_effort_limit=line["best_effort_limit"],
        )  # fmt: skip

    # -- events --------------------------------------------------------------------------------

    def _arrive(self, line: Line) -> None:
        call = _PastCall(
            protocol="raw", operation="replay", method=b"POST", target=b"/", headers=_headers(line),
            body=WholeBody(b""), inference=line["inference"], stream=line["stream"], arrived=line["arrived"],
        )  # fmt: skip
        call.deadline = inf if line["deadline"] is None else line["deadline"]
        call.size = line["size"]
        call.priority = line["priority"]
        call.unfit = frozenset(line["unfit"])
        tried = frozenset((name, index) for name, index in line["tried"])
        lease = Lease(self._pools[line["route"]], call, _Attempt(line["attempt"], tried))
        self._leases[line["call"]] = lease
        with suppress(OverspillError):
            lease.ask()

    def _release(self, line: Line) -> None:
        lease = self._lease(line)
        slot = lease.slot
        if slot is None:
            raise Diverged(f"call {line['call']} gave a slot back, and holds none here")
        slot.used = line["used"]
        slot.start = None if line["start"] is None else Start(line["start"])
        slot.boot_s = line["boot_s"]
        slot.waited_s = line.get("waited_s")
        slot.answered_at = line["answered_at"]
        lease.release(Verdict(line["verdict"]))

    def _leave(self, line: Line) -> None:
        lease = self._lease(line)
        if not lease.waiting:
            raise Diverged(f"call {line['call']} left the queue, and does not wait here")
        lease.abandon()

    def _lease(self, line: Line) -> Lease:
        lease = self._leases.pop(line["call"], None)
        if lease is None:
            raise Diverged(f"call {line['call']} has not come, or is over here")
        return lease

    def _open(self, line: Line) -> None:
        fresh = line.get("fresh", True)
        self._pools[line["route"]].open(line["backend"], line["count"], kind=line["kind"], fresh=fresh)

    def _end_opening(self, line: Line) -> None:
        number = line["opening"]
        if number > len(self._opened):
            raise Diverged(f"instance {number} was opened, and is not here")
        self._opened[number - 1](Verdict(line["verdict"]), line["boot_s"])

    def _ring(self, line: Line) -> None:
        self._timers.ring(line["timer"])

    def _ready(self, line: Line) -> None:
        self._capacities[line["backend"]].note_ready(line["replica"], line["answer"], line["at"])

    def _learned(self, line: Line) -> None:
        for route, rows in line["routes"].items():
            for tier, row in zip(self._tiers[route], rows, strict=True):
                for made, noted in zip((tier.estimates, tier.answers), row, strict=True):
                    known = None if noted is None else noted["known"]
                    if isinstance(made, BackendEstimates) and known is not None:
                        made.restore(known, line["at"])
        self.recorder.learned()

    def _refresh(self, line: Line) -> None:
        with self.recorder.event(event="refresh"):
            for tier in chain.from_iterable(self._tiers.values()):
                for made in (tier.estimates, tier.answers):
                    if isinstance(made, BackendEstimates):
                        made.refresh()

    def _beyond(self, line: Line) -> None:
        raise Diverged(f"the recording goes on with {line['what']}, which a replay cannot do")


def _headers(line: Line) -> list[tuple[bytes, bytes]]:
    asked = line["headers"].items()
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked if value is not None]


def _tier_options(noted: Line) -> TierOptions:
    """As they were. Not checked again: the file's durations have units, the recording's are seconds."""
    full = noted["when_full"]
    when_full: Any = full if isinstance(full, str) else Queue.model_construct(**full)
    return TierOptions.model_construct(backend=noted["backend"], when_full=when_full, weight=noted["weight"])


def _estimates(line: Line | None, at: float) -> BackendEstimates | None:
    if line is None:
        return None
    service, cold = Prior(*line["service"]), Prior(*line["cold"])
    made = BackendEstimates(Expectation(line["objective"], service, cold, line["idle_s"]))
    if line["known"] is not None:
        made.restore(line["known"], at)
    return made


__all__ = ["Difference", "Diverged", "Replayed", "difference", "replay"]
