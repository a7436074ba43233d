"""Whatever happens to a pool: the same events, fed to another one, give the same decisions."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends  # noqa: F401 - registers the loopbacks
import policies
from gateway.errors import OverspillError
from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.lease import Lease
from gateway.pool import Opened
from gateway.recorder import Line, Recorder, decisions
from gateway.simulator.engine import VirtualTime
from gateway.simulator.recording import read
from gateway.simulator.replay import difference, replay
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import Reason, Start, Verdict
from policies.base import Policy, TierOptions
from tests.pool.parts import Attempt, call, fleet, rented

RULES: Mapping[str, Mapping[str, Any]] = {
    "cheapest_in_budget": {},
    "spill_when_full": {},
    "queue_threshold": {},
    "latency_threshold": {},
    "fleet_only": {},
    "serverless_only": {},
    "weighted": {},
    "pinned": {"header": "x-backend"},
}


def rule(name: str) -> Policy:
    """With the options it cannot do without."""
    kind = policies.policies.get(name)
    return kind(kind.Options(**RULES[name]))


class Chaos:
    """Two routes on a fleet and an endpoint, and everything that can happen to them, in virtual time."""

    def __init__(self, rules: Sequence[str], seed: int) -> None:
        self.chance = chance = Random(seed)
        self.time = time = VirtualTime()
        time.instant = 100.0
        self.recorder = Recorder(clock=time, timers=time, seed=seed)
        here: dict[str, Any] = {"clock": time, "chance": chance}
        slots, replicas = chance.randint(1, 3), chance.randint(1, 3)
        self.capacities = {
            "fleet": self.recorder.capacity(fleet("fleet", slots=slots, replicas=replicas, **here)),
            "burst": self.recorder.capacity(
                rented("burst", slots=chance.randint(1, 6), boot="800ms", idle_after="1500ms",
                       late_binding=chance.choice(["ping", "none"]), price={"usd_per_second": 0.001}, **here)
            ),
        }  # fmt: skip
        self.pools = [
            self.recorder.pool(
                f"route {number} {name}", rule(name), self._tiers(), opener=self,
                within=chance.choice([None, 0.5, 2.0]), objective=0.9,
            )
            for number, name in enumerate(rules)
        ]  # fmt: skip

    def _tiers(self) -> list[Tier]:
        full = self.chance.choice(["spill", "shed", {"queue": "40ms", "then": "spill"}])
        stated = Expectation(0.9, Prior(0.3, 0.9), Prior(0.8, 1.6), 1.5)
        return [
            Tier(
                TierOptions.model_validate({"backend": name, "when_full": full}),
                capacity,
                BackendEstimates(stated),
                BackendEstimates(stated),
            )
            for name, capacity in self.capacities.items()
        ]

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        """An instance boots, slowly, or fails to."""
        verdict = self.chance.choice([Verdict.SUCCESS, Verdict.SUCCESS, Verdict.FAILURE, Verdict.NEUTRAL])
        seconds = self.chance.uniform(0.1, 2.0)
        boot_s = self.chance.choice([seconds, None])
        slot.used = True
        self.time.at(self.time.instant + seconds, partial(done, verdict, boot_s))

    def run(self, calls: int) -> list[Line]:
        """So many calls, and what happens beside them."""
        chance, at, arrivals, visits = self.chance, 100.0, [], []
        for _ in range(calls):
            at += chance.expovariate(chance.choice([2.0, 20.0]))
            arrivals.append(at)
            visits.append(self._visit if chance.random() < 0.9 else self._something)
        self.time.run(arrivals, lambda index: visits[index](arrivals[index]))
        return self.recorder.lines

    def _something(self, now: float) -> None:
        """A probe's answer, or an instance ahead of need."""
        if self.chance.random() < 0.5:
            capacity = self.capacities["fleet"]
            index = self.chance.randrange(len(capacity.replicas))
            capacity.note_ready(index, self.chance.choice([True, False]), now)
        else:
            self.chance.choice(self.pools).open("burst", self.chance.randint(1, 2), kind="prewarm")

    def _visit(self, now: float) -> None:
        chance, pool = self.chance, self.chance.choice(self.pools)
        made = call(deadline=chance.choice([inf, now + 0.2, now + 3.0]), inference=chance.random() < 0.9)
        made.arrived = now
        made.size = chance.choice([None, 1.0, 300.0])
        made.stream = chance.random() < 0.3
        made.priority = chance.choice(["critical", "default", "best_effort"])
        if chance.random() < 0.5:
            made.headers.append((b"x-backend", chance.choice([b"burst", b"fleet", b"\xff"])))
        tried = chance.choice([frozenset(), frozenset(), {("fleet", 0)}, {("burst", 0)}])
        lease = Lease(pool, made, Attempt(len(tried), frozenset(tried)))
        try:
            slot = lease.ask(lambda: self.time.at(self.time.instant, settled))
        except OverspillError:
            return

        def settled() -> None:
            if lease.slot is not None:  # else it was refused, or left
                with suppress(OverspillError):
                    self._serve(lease, lease.result())

        if slot is not None:
            self._serve(lease, slot)
        elif chance.random() < 0.2:
            self.time.at(now + chance.uniform(0.0, 1.0), partial(self._give_up, lease))

    @staticmethod
    def _give_up(lease: Lease) -> None:
        if lease.waiting:
            lease.abandon()

    def _serve(self, lease: Lease, slot: Slot) -> None:
        chance, now = self.chance, self.time.instant
        seconds = chance.expovariate(2.0)
        slot.used = chance.random() < 0.95
        slot.start = chance.choice([Start.COLD, Start.WARM, Start.UNKNOWN])
        slot.boot_s = chance.choice([None, 0.3 * seconds])
        if chance.random() < 0.5:
            slot.answered(now + 0.5 * seconds)
        verdict = chance.choice([Verdict.SUCCESS] * 5 + [Verdict.FAILURE] * 2 + [Verdict.NEUTRAL])
        self.time.at(now + seconds, partial(lease.release, verdict))


def again(lines: Sequence[Line], change: Callable[[str], str] = str) -> Any:
    """Replay a recording that has been through a file."""
    names = [line["name"] for line in lines if line.get("setup") == "route"]
    past = json.loads(json.dumps(lines, allow_nan=False))
    return replay(past, {name: rule(change(name.split()[-1])) for name in names})


@settings(max_examples=150, deadline=None)
@given(
    rules=st.lists(st.sampled_from(sorted(RULES)), min_size=1, max_size=2),
    seed=st.integers(0, 2**32),
    calls=st.integers(1, 60),
)
def test_the_same_events_give_the_same_decisions(rules: list[str], seed: int, calls: int) -> None:
    lines = Chaos(rules, seed).run(calls)
    replayed = again(lines)
    assert replayed.stopped is None
    assert difference(lines, replayed.lines) is None


def test_recordings_of_the_default_policy_hold_every_kind_of_line() -> None:
    seen = set()
    for seed in range(30):
        lines = Chaos(["cheapest_in_budget", "spill_when_full"], seed).run(60)
        for line in lines:
            answers = {"run", "hold", "shed", "take"} & set(line)
            seen |= answers | {word for key in ("event", "setup", "decision") if (word := line.get(key))}
    assert seen == {
        "backend", "route", "arrive", "release", "leave", "open", "opened", "ring", "ready",
        "recheck", "slot_freed", "run", "hold", "shed", "take",
    }  # fmt: skip


def test_another_policy_is_told_from_the_recorded_one() -> None:
    lines = Chaos(["spill_when_full"], 3).run(60)
    replayed = again(lines, lambda name: "serverless_only")
    found = difference(lines, replayed.lines)
    assert found is not None
    assert found.recorded != found.replayed


@pytest.mark.parametrize("lost", ["arrive", "release", "ring", "opened"])
def test_an_event_that_is_missing_is_noticed(lost: str) -> None:
    lines = Chaos(["cheapest_in_budget"], 4).run(60)
    place = next(place for place, line in enumerate(lines) if line.get("event") == lost)
    replayed = again([*lines[:place], *lines[place + 1 :]])
    assert difference(lines, replayed.lines) is not None


def test_a_recording_ends_at_its_limit_and_what_it_has_is_whole(tmp_path: Path) -> None:
    chaos = Chaos(["cheapest_in_budget"], 5)
    chaos.recorder._limit = 40
    lines = chaos.run(60)
    assert chaos.recorder.full
    assert len(lines) < 60
    chaos.recorder.save(tmp_path / "run.jsonl")
    assert read(tmp_path / "run.jsonl") == lines
    replayed = again(lines)
    assert decisions(replayed.lines) == decisions(lines)


def test_what_is_no_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        replay([], {})
    lines = Chaos(["fleet_only"], 1).run(3)
    with pytest.raises(ValueError, match="route 0 fleet_only, and no policy is given"):
        replay(lines, {})


def test_a_slot_that_is_taken_by_no_event_is_where_a_replay_ends() -> None:
    chaos = Chaos(["fleet_only"], 1)
    assert chaos.capacities["fleet"].take((), 100.0, Reason.HEDGE, 0.0) is not None
    assert chaos.recorder.lines[-1]["what"] == "a slot taken beside the queue (hedge)"
    replayed = again(chaos.recorder.lines)
    assert replayed.stopped is not None
    assert "hedge" in replayed.stopped
