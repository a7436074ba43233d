"""The record of one call: what the other steps write down and the ledger books at the end.

Knows the leaves, `identity` and `tracing.trace` only. It holds no body, header, key or token, so that nothing
of the kind can reach a metric, a log line or a trace. All times are monotonic seconds, durations seconds,
sizes bytes.
"""

from typing import Literal, NamedTuple, Protocol

from gateway.errors import BackendError, OverspillError
from gateway.identity import Identity
from gateway.tracing.trace import Trace
from gateway.vocab import UNFINISHED, Reason, Start, Usage, Work


class Tried(NamedTuple):
    """An attempt that failed after it had taken a slot, or lost against another one of the same call.

    refused:  the work did not start
    kind:     what it is booked as
    began:    when it took its slot; None where nobody needs to know
    error:    word of the error that ended it, "" where another attempt was faster, or it is told elsewhere
    """

    backend: str
    replica: str
    usage: Usage | None
    held_s: float
    refused: bool
    kind: str = "retry"
    began: float | None = None
    error: str = ""


class Hedged:
    """The second attempt of one call, beside the first.

    result:   `won` when its answer was used, else `lost`
    slot_at:  since when it holds a slot beside the other attempt's; None once it holds none, or the only one
    """

    __slots__ = ("backend", "replica", "result", "slot_at")

    def __init__(self, backend: str, replica: str, slot_at: float) -> None:
        self.backend = backend
        self.replica = replica
        self.result: Literal["won", "lost"] = "lost"
        self.slot_at: float | None = slot_at


class Stay(Protocol):
    """What a call holds of what its tenant may use (`gateway.tenants.tenant.Stay`)."""

    def lines(self, now: float) -> bytes:
        """What is left to the tenant, as ready header lines."""
        ...

    def leave(self, record: "Record", now: float) -> None:
        """The call is booked."""
        ...


class Record:
    """One call. Other steps set the fields as they learn them; unset means unknown.

    protocol, operation, model   as the protocol read them
    inference      False for questions about a model: they count as requests, not for budget or cost
    stream         True when the client reads the answer as it is made: its first byte is what it waits for
    route          name of the route it took, "" while none
    backend        the last backend whose slot it took, "" while none; `replica` its replica's name
    reason         why it went there, or why it was not served
    start          did the answering instance have to boot; None when no backend answered
    outcome        how it ended; a record that nobody completes ended in an internal error
    status         the status that the client saw, 0 before that; set it when the head is sent
    error          word of the error that ended it, "" for none
    attempts       slots taken for it
    arrived        when its head was complete
    queued_s       time it waited for slots; `upstream_s` time it waited for backends and their bytes
    head_at        when the backend's head was known; `first_byte_at` when the client was sent its first byte
    closed_at      when the ledger booked it
    bytes_in       request body; `bytes_out` answer body as sent
    usage          what the last attempt used, as its backend told (set before closing: streams tell late)
    usd            what the call cost, retries included, None when unknown; booked by the ledger
    slot_at        since when the last attempt holds its slot, None when none is held
    refused        True when the last attempt failed before its work started: nothing is owed for it
    failed         attempts that failed before the last one, or lost against another
    hedge          the second attempt that was started beside one; None while there was none
    trace          what its spans will be made of; None for a call that is not traced
    caller         who called, as far as the gateway asks; None where it does not, or nobody was told
    stay           what it holds of its tenant's limits; None where the file has no tenants
    """

    __slots__ = (
        "arrived", "attempts", "backend", "bytes_in", "bytes_out", "caller", "closed_at", "error", "failed",
        "first_byte_at", "head_at", "hedge", "inference", "model", "operation", "outcome", "protocol",
        "queued_s", "reason", "refused", "replica", "request_id", "route", "slot_at", "start", "status",
        "stay", "stream", "trace", "traceparent", "upstream_s", "usage", "usd",
    )  # fmt: skip

    def __init__(self, request_id: str, traceparent: str, arrived: float) -> None:
        self.request_id = request_id
        self.traceparent = traceparent
        self.arrived = arrived
        self.protocol = self.operation = self.model = self.route = self.backend = self.replica = ""
        self.error = ""
        self.inference = True
        self.stream = self.refused = False
        self.outcome = UNFINISHED
        self.status = self.attempts = self.bytes_in = self.bytes_out = 0
        self.queued_s = self.upstream_s = 0.0
        self.reason: Reason | None = None
        self.start: Start | None = None
        self.usage: Usage | None = None
        self.head_at: float | None = None
        self.first_byte_at: float | None = None
        self.slot_at: float | None = None
        self.closed_at: float | None = None
        self.usd: float | None = None
        self.failed: tuple[Tried, ...] = ()
        self.hedge: Hedged | None = None
        self.trace: Trace | None = None
        self.caller: Identity | None = None
        self.stay: Stay | None = None

    def took(self, backend: str, replica: str, reason: Reason, now: float) -> None:
        """An attempt begins: a slot was taken at `now`. It is held until `tried` or the end of the call."""
        self.backend = backend
        self.replica = replica
        self.reason = reason
        self.slot_at = now
        self.attempts += 1

    def tried(
        self,
        backend: str,
        usage: Usage | None,
        held_s: float,
        replica: str = "",
        work: Work = Work.NOT_STARTED,
        *,
        error: str = "",
    ) -> None:
        """The attempt failed and gave its slot back after `held_s`. What it cost is booked as a retry.

        `work` not started and no `usage`: the backend is owed nothing.
        """
        refused = usage is None and work is Work.NOT_STARTED
        began, replica = self.slot_at, replica or self.replica
        self.failed += (Tried(backend, replica, usage, held_s, refused, began=began, error=error),)
        self.slot_at = None
        self.usage = None
        self.start = None

    def lost(
        self,
        backend: str,
        replica: str,
        usage: Usage | None,
        held_s: float,
        *,
        refused: bool,
        began: float | None = None,
        error: str = "",
    ) -> None:
        """An attempt beside the one that goes on has ended. What it cost is booked as a hedge."""
        self.failed += (Tried(backend, replica, usage, held_s, refused, "hedge", began, error),)

    def fail(self, error: OverspillError) -> None:
        """The call ends with `error`. A status that the client has already seen stays."""
        self.outcome = error.outcome
        self.error = error.word
        if error.reason is not None:
            self.reason = error.reason
        answer = None
        if isinstance(error, BackendError):
            answer = error.answer
            if self.usage is None:
                self.usage = error.usage
                self.refused = error.usage is None and error.work is Work.NOT_STARTED
        if self.status == 0:
            self.status = error.status if answer is None else answer.status
