"""What is shown of backends beside their slots taken: what they are, slots by state, instances, loads.

Pure reading, in time proportional to the replicas. Knows the backend contract and the ledger's facts of a
backend; it never knows a request. No label comes from a client: the states are a closed list, and replicas
are bounded by their backends.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client.core import InfoMetricFamily, Metric

from backends.base import Backend
from gateway.metric_families import counted, gauged
from gateway.tallies import BackendFacts


class SlotsView(Protocol):
    """What is read of the slots of one backend."""

    @property
    def backend(self) -> Backend: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def capacity(self) -> int: ...

    def view(self, now: float) -> Mapping[str, Any]:
        """All of it as plain values, `replicas` among them."""
        ...


def backend_metrics(
    capacities: Sequence[SlotsView], facts: Mapping[str, BackendFacts], now: float
) -> Iterator[Metric]:
    """One pass over the backends."""
    yield from _described(capacities, facts, now)
    yield gauged(
        "slots",
        "Slots by state: busy, idle; rented: opening (boots), closed (nothing there); owned: gone (down).",
        ["backend", "state"],
        {
            (each.backend.name, state): count
            for each in capacities
            for state, count in slot_states(each, now).items()
        },
    )
    yield counted(
        "pushbacks", "Calls that a backend refused as one too many: 429, or 503 because it is full.",
        ["backend"],
        {(each.backend.name,): each.backend.pushbacks for each in capacities},
    )  # fmt: skip
    yield from _instances(capacities)
    yield from _loads(capacities, now)


def slot_states(capacity: SlotsView, now: float) -> dict[str, int]:
    """The slots of one backend by state; together they are its capacity, or more where instances leave late.

    Of a rented backend the instances are counted as the gateway infers them. One whose instances nobody can
    know, such as an API that is paid by the token, has busy and idle slots only.
    """
    if capacity.backend.owned:
        gone = sum(
            each["capacity"] - each["in_flight"]
            for each in capacity.view(now)["replicas"]
            if each["ready"] is False or each["breaker"] == "open"
        )
        gone = max(0, min(gone, capacity.capacity - capacity.in_flight))
        return {
            "busy": capacity.in_flight,
            "idle": max(0, capacity.capacity - capacity.in_flight - gone),
            "gone": gone,
        }
    known = capacity.backend.instances(now)
    if not known:
        return {"busy": capacity.in_flight, "idle": max(0, capacity.capacity - capacity.in_flight)}
    states = {state: known.get(state, 0) for state in ("opening", "busy", "idle")}
    return {**states, "closed": max(0, capacity.capacity - sum(states.values()))}


def _described(
    capacities: Sequence[SlotsView], facts: Mapping[str, BackendFacts], now: float
) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "overspill_backend", "What a backend is: join other metrics with it on `backend`.", labels=["backend"]
    )
    for each in capacities:
        backend = each.backend
        owned = "true" if backend.owned else "false"
        info.add_metric([backend.name], {"type": backend.options.type, "owned": owned})
    yield info
    yield gauged(
        "replicas", "Replicas of an owned backend, usable now or not.", ["backend"],
        {
            (each.backend.name,): float(len(each.view(now)["replicas"]))
            for each in capacities if each.backend.owned
        },
    )  # fmt: skip
    priced = {each.backend.name: facts.get(each.backend.name) for each in capacities}
    yield gauged(
        "price_known", "1 where the price of a backend is known; 0: its costs are absent from every sum.",
        ["backend"],
        {(name,): float(each is not None and each.priced) for name, each in priced.items()},
    )  # fmt: skip
    yield gauged(
        "replica_usd_per_hour", "What one replica of an owned backend costs by standing there.", ["backend"],
        {
            (name,): each.usd_per_replica_hour
            for name, each in priced.items()
            if each is not None and each.owned and each.usd_per_replica_hour is not None
        },
    )  # fmt: skip


def _instances(capacities: Sequence[SlotsView]) -> Iterator[Metric]:
    """What is known of rented instances, where anything is."""
    yield counted(
        "instances_started", "Rented instances whose start was seen, by any call or ping.", ["backend"],
        {
            (each.backend.name,): started
            for each in capacities
            if (started := each.backend.instances_started) is not None
        },
    )  # fmt: skip
    presumed = [
        (each.backend.name, said)
        for each in capacities
        if (said := each.backend.instances_presumed) is not None
    ]
    yield counted(
        "instances_presumed", "Rented instances that were booked and never heard of.", ["backend"],
        {(name,): number for name, (number, _) in presumed},
    )  # fmt: skip
    yield counted(
        "presumed_usd", "US dollars that were booked for those.", ["backend"],
        {(name,): usd for name, (_, usd) in presumed},
    )  # fmt: skip


def _loads(capacities: Sequence[SlotsView], now: float) -> Iterator[Metric]:
    """One value for each replica that told its load lately; the backends bound how many these are."""
    told = [
        ((each.backend.name, str(replica["name"])), replica["in_flight"], load)
        for each in capacities
        if each.backend.moves
        for replica in each.view(now)["replicas"]
        if (load := replica["load"]) is not None
    ]
    yield gauged(
        "replica_load", "Calls on a replica: the gateway's own and those that other clients have there.",
        ["backend", "replica"], {labels: own + load["elsewhere"] for labels, own, load in told},
    )  # fmt: skip
    yield gauged(
        "replica_load_age_seconds", "How old the replica's own figures are that replica_load rests on.",
        ["backend", "replica"], {labels: load["age_s"] for labels, _, load in told},
    )  # fmt: skip
