"""The measurement itself: warm calls, calls at once, cold starts, through `Backend.send` like any other call.

Knows the backend contract only, and waits on the event loop's own time, so that it runs on virtual time. It
must never know a provider, nor how the figures are shown.

The order saves money: the first call opens an instance, which then serves the warm calls and the first of
the calls at once; only the cold starts wait, each until the instances before it are gone.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.base import Backend
from gateway.clock import Clock
from gateway.errors import BackendDenied, BackendDown, BackendError, BackendFull
from gateway.probe.calibration import quantile
from gateway.probe.facts import Facts
from gateway.probe.figures import Figures, Level, Sample, steps
from gateway.probe.purse import CapReached, Purse
from gateway.probe.request import Template
from gateway.vocab import Reply, Start, Usage, Work

WARM_UP = 3
"""Calls before those that count, the first one among them."""
ROUND_CALLS = 10
"""Fewest calls of a level that count."""
FAILURES = 3
"""Failures in a row that end the probe."""
LONGER = 1.5
"""Factor of the next wait where an instance outlived the last one."""
_MOST_BYTES = 300
_EXCERPT = 2_000

Tell = Callable[[str], None]


class ProbeFailed(Exception):
    """The probe cannot go on; the text says why, for the person who started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How much is measured.

    calls:      warm calls
    colds:      cold starts
    most:       most calls at once; 1 measures no concurrency
    timeout_s:  longest wait for one answer
    """

    calls: int
    colds: int
    most: int
    timeout_s: float


class Measurement:
    """One probe of one replica of a backend. What it finds is in `figures`, at every moment."""

    def __init__(
        self, backend: Backend, *, facts: Facts, purse: Purse, wanted: Wanted, clock: Clock, tell: Tell
    ) -> None:
        self.figures = Figures(usd_per_replica_hour=backend.usd_per_replica_hour if backend.owned else None)
        self._backend = backend
        self._facts = facts
        self._purse = purse
        self._wanted = wanted
        self._clock = clock
        self._tell = tell
        self._sent = 0
        self._running = 0
        self._peak = 0
        self._slowest_warm = 0.0
        self._slowest_cold = facts.boot_s

    async def ask(self, template: Template) -> bytes:
        """One call whose answer is wanted, not its duration. Raises ProbeFailed."""
        self._tell("asking for the model's metadata")
        try:
            _, body = await self._once(template, self._wanted.timeout_s)
        except BackendError as error:
            raise ProbeFailed(_said(error)) from None
        except CapReached as error:
            raise ProbeFailed(str(error)) from None
        return body

    async def run(self, template: Template) -> None:
        """Measure everything. Raises ProbeFailed; what was found until then stays in `figures`."""
        for phase in (self._warm, self._concurrent, self._cold):
            try:
                await phase(template)
            except CapReached as error:
                name = phase.__name__.lstrip("_")
                self.figures.notes.append(f"{name} calls: stopped, {error}")
                if not self.figures:
                    raise ProbeFailed(f"nothing was measured: {error}") from None

    def spent(self) -> float | None:
        """Dollars so far, the idle time included that is still to come; None where no price is known."""
        if not self._facts.owned:
            self._purse.charge(self._backend.settle(math.inf))
        return self._purse.spent

    # -- phases

    async def _warm(self, template: Template) -> None:
        figures, wanted = self.figures, self._wanted
        self._tell("first call: a cold start, if nothing runs there yet")
        first = await self._answered(template, wanted.timeout_s, patience=1)
        if first.start is Start.COLD:
            self._note_cold(first)
        for number in range(1, WARM_UP):
            self._tell(f"warming up: call {number + 1}")
            sample = await self._answered(template, wanted.timeout_s)
            self._slowest_warm = max(self._slowest_warm, sample.seconds)
        for _ in range(2 * wanted.calls):  # some of them may meet a start
            if len(figures.warm) >= wanted.calls:
                break
            self._tell(f"warm calls: {len(figures.warm)} of {wanted.calls}")
            sample = await self._answered(template, self._limit())
            if sample.start is Start.COLD:
                self._note_cold(sample)
                continue
            figures.warm.append(sample)
            self._slowest_warm = max(self._slowest_warm, sample.seconds)
        if any(sample.start is Start.UNKNOWN for sample in figures.warm) and not self._facts.owned:
            figures.notes.append(
                "the backend does not say which calls were warm: those that followed one another at once "
                "count as warm"
            )

    async def _concurrent(self, template: Template) -> None:
        if self._wanted.most < 2:
            return
        for level in steps(self._wanted.most):
            self._tell(f"calls at once: {level}")
            self._purse.check(level, self._limit(), self._idle())
            # Opens what this level needs; its own calls should be warm.
            await self._together(template, level, 1)
            began = self._clock.now()
            samples, refused = await self._together(template, level, max(3, math.ceil(ROUND_CALLS / level)))
            elapsed = self._clock.now() - began
            warm = sorted(sample.seconds for sample in samples if sample.start is not Start.COLD)
            if not warm:
                self.figures.notes.append(f"{level} calls at once: no call was answered warm; stopped there")
                return
            self.figures.levels.append(
                Level(
                    level,
                    len(samples) + refused,
                    len(samples) / elapsed if elapsed > 0 else 0.0,
                    quantile(warm, 0.5),
                    quantile(warm, 0.95),
                    len(samples) - len(warm),
                    refused,
                )
            )
            if refused:
                self.figures.notes.append(
                    f"{level} calls at once: the backend refused {refused}; stopped there"
                )
                return

    async def _cold(self, template: Template) -> None:
        facts, figures, wanted = self._facts, self.figures, self._wanted
        if facts.owned or not wanted.colds:
            return
        if facts.idle_s is None:
            figures.notes.append("no cold starts: how long does an unused instance live? Say it with --idle")
            return
        pause = cold_pause(facts.idle_s)
        # What was opened for calls at once may still boot, and idles only then.
        straggling = self._slowest_cold if figures.levels else 0.0
        for _ in range(wanted.colds + FAILURES):
            if len(figures.colds) >= wanted.colds:
                return
            waited, straggling = pause + straggling, 0.0
            await self._wait(waited)
            sample = await self._answered(template, wanted.timeout_s)
            if sample.start is Start.WARM:
                pause *= LONGER
                figures.notes.append(
                    f"an instance was still warm after {waited:.1f} s, longer than the file says; "
                    f"waited {pause:.1f} s from then on"
                )
            elif sample.start is Start.COLD:
                self._note_cold(sample)
            elif sample.seconds > 2 * self._slowest_warm:
                figures.assumed += 1
                self._note_cold(sample)
            else:
                figures.notes.append("a call after the idle time-out was as fast as a warm one: not counted")

    async def _wait(self, seconds: float) -> None:
        """Until the instances are gone, saying how long that still takes."""
        until = self._clock.now() + seconds
        done, wanted = len(self.figures.colds), self._wanted.colds
        while (left := until - self._clock.now()) > 0:
            self._tell(f"cold starts: {done} of {wanted}, waiting {left:.0f} s until no instance is left")
            await asyncio.sleep(min(1.0, left))

    def _note_cold(self, sample: Sample) -> None:
        self.figures.colds.append(sample)
        self._slowest_cold = max(self._slowest_cold, sample.seconds)

    # -- calls

    async def _together(self, template: Template, workers: int, calls: int) -> tuple[Sequence[Sample], int]:
        """So many workers, each making so many calls; the answers, and how many were pushed back."""
        samples: list[Sample] = []
        refused = 0

        async def work() -> None:
            nonlocal refused
            for _ in range(calls):
                try:
                    samples.append((await self._once(template, self._limit()))[0])
                except BackendFull:
                    refused += 1

        ended = await asyncio.gather(*(work() for _ in range(workers)), return_exceptions=True)
        for error in ended:
            if isinstance(error, BackendError):
                self.figures.failed += 1
                raise ProbeFailed(_said(error)) from None
            if error is not None:
                raise error
        return samples, refused

    async def _answered(self, template: Template, limit_s: float, *, patience: int = FAILURES) -> Sample:
        """One answer, after as many failures in a row as `patience` allows. Raises ProbeFailed."""
        failures = 0
        while True:
            try:
                return (await self._once(template, limit_s))[0]
            except BackendError as error:
                failures += 1
                self.figures.failed += 1
                if failures >= patience or isinstance(error, BackendDenied | BackendDown):
                    raise ProbeFailed(_said(error)) from None
                await asyncio.sleep(error.retry_after if error.retry_after is not None else 1.0)

    async def _once(self, template: Template, limit_s: float) -> tuple[Sample, bytes]:
        """One call, its price set aside before. Raises BackendError, CapReached and ProbeFailed."""
        backend, clock, purse = self._backend, self._clock, self._purse
        purse.charge(backend.settle(clock.now()))
        reserved = purse.reserve(limit_s, self._idle())
        call = template.call(self._sent)
        self._sent += 1
        if (why := backend.cannot_carry(call)) is not None:
            purse.settle(reserved, Usage(usd=0.0), 0.0)
            raise ProbeFailed(f"this request cannot be sent there: {why}")
        self._running += 1
        self._peak = max(self._peak, self._running)
        began = call.arrived = clock.now()
        kept = True
        usage: Usage | None = None
        try:
            async with asyncio.timeout(limit_s):
                async with backend.send(call, 0) as reply:
                    first_byte = clock.now() - began
                    body = await _read(reply)
            kept, usage = False, reply.usage
        except TimeoutError:
            raise ProbeFailed(f"{backend.name} did not answer within {limit_s:.1f} s") from None
        except BackendError as error:
            kept = False
            usage = Usage(usd=0.0) if error.work is Work.NOT_STARTED else error.usage
            raise
        finally:
            self._running -= 1
            elapsed = clock.now() - began
            if kept:
                purse.keep(reserved)
            else:
                usd = purse.settle(reserved, usage, elapsed)
        if not 200 <= reply.status < 300:
            raise ProbeFailed(f"{backend.name} answered {reply.status} to this request: {_excerpt(body)}")
        return Sample(elapsed, first_byte, reply.start, usage, usd), body

    def _limit(self) -> float:
        """How long a call may take that should be warm: far beyond those before it, and a start or two."""
        return min(self._wanted.timeout_s, 1.0 + 20 * self._slowest_warm + 3 * self._slowest_cold)

    def _idle(self) -> int:
        """Instances that idle now: as the backend infers them, or as many as were ever used at once."""
        if self._facts.owned:
            return 0
        counts = self._backend.instances(self._clock.now())
        return counts.get("idle", 0) if counts else self._peak - self._running


def cold_pause(idle_s: float) -> float:
    """Seconds after which an instance that idles for `idle_s` is surely gone."""
    return idle_s + max(0.5, 0.1 * idle_s)


async def _read(reply: Reply) -> bytes:
    """The whole answer: a call ends with its last byte."""
    if reply.stream is None:
        return reply.body or b""
    return b"".join([part async for part in reply.stream])


def _said(error: BackendError) -> str:
    """An error, with the backend's own words where its message leaves them out."""
    text = str(error) or error.word.replace("_", " ")
    if error.answer is not None and error.answer.body and (said := _excerpt(error.answer.body)) not in text:
        text = f"{text}: {said}"
    return text


def _excerpt(body: bytes) -> str:
    text = body[:_EXCERPT].decode("utf-8", "replace")
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(plain.split())[:_MOST_BYTES] or "(no text)"
