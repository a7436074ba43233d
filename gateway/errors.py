"""Every way in which a call can fail, as one tree.

Leaf: standard library and the vocabulary only. Each leaf knows the status its client gets, the word
for it in logs and metrics, and whether the work may have started: no other table of statuses exists.

    OverspillError
    ├── ConfigError                    the file is wrong; never reaches a client
    ├── BadCall                 400    the request itself is wrong; the client must change it
    │   ├── Unauthorised        401    the caller did not show who it is
    │   ├── Refused             403    understood, and deliberately not offered
    │   ├── UnknownRoute        404    no route or model of that name
    │   ├── MethodNotAllowed    405
    │   ├── SlowRequest         408    the request did not arrive in time
    │   ├── IdempotencyConflict 409    its key is taken by a call of which there is no answer
    │   ├── BodyTooLarge        413
    │   ├── TargetTooLong       414
    │   ├── IdempotencyMismatch 422    its key stands for another request
    │   ├── HeadTooLarge        431
    │   └── NotOffered          501
    ├── Shed                           the gateway had no place for it
    │   ├── Contended           429    every slot is taken; try again soon
    │   │   ├── RateLimited     429    its tenant's requests, tokens or places are used up
    │   │   └── TenantBudgetSpent 429  its tenant's dollars are
    │   ├── NoCapacity          503    no backend of the route can take calls at all
    │   └── DeadlinePassed      504    the answer could not begin in time
    ├── IssuerDown              503    whether a token is good cannot be told now
    ├── KeysDown                503    whether a call was carried out before cannot be told now
    ├── ClientGone               -     the client left; nobody reads an answer
    └── BackendError            502    one attempt failed
        ├── BackendFull         503    it pushed back (429, queue full): neutral, safe to try elsewhere
        ├── BackendUnready      503    it is up but cannot serve this model now: safe to try elsewhere
        ├── BackendDown         502    it could not be reached: not started
        │   └── NoDescriptor    502    the gateway may open no more files: neutral, nothing was tried
        ├── BackendBroke        502    it failed while it may have been working
        ├── BackendDenied       502    it will not take this call from us (credentials, config): never retried
        └── AnswerTruncated     502    it broke off after its first byte
"""

from copy import copy
from errno import EMFILE, ENFILE
from typing import Self, TypeVar

from gateway.vocab import Outcome, Reason, Reply, Usage, Verdict, Work

NO_DESCRIPTOR = frozenset((EMFILE, ENFILE))
"""Of an OSError: the process, or the whole machine, may open no more files."""


class OverspillError(Exception):
    """The root. `str(error)` is written for the client: what was wrong, where, what would be right.

    status:       HTTP status of the answer
    word:         low-cardinality name for logs and machine-readable error bodies
    outcome:      how the call's record ends if this error ends the call
    reason:       decision reason, where the error is itself a decision
    close:        True when the connection cannot be trusted for another request
    retry_after:  seconds after which trying again is sensible; None when it is not
    verdict:      what the breaker and the estimates make of it, if it ends an attempt
    """

    status: int = 500
    word: str = "internal_error"
    outcome: Outcome = Outcome.INTERNAL_ERROR
    reason: Reason | None = None
    verdict: Verdict = Verdict.NEUTRAL

    def __init__(self, message: str = "", *, close: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.close = close
        self.retry_after = retry_after

    def again(self) -> Self:
        """The same error, without what was at work where it was raised. Who keeps an error to raise it later
        raises this: what was at work holds its keeper, and that would be a cycle, large bodies among it.
        """
        return copy(self)


AnyError = TypeVar("AnyError", bound=BaseException)


def again(error: AnyError) -> AnyError:
    """The same of an error that may be none of this tree."""
    return error.again() if isinstance(error, OverspillError) else error


class ConfigError(OverspillError):
    """The configuration cannot be used."""

    word = "config_error"


class BadCall(OverspillError):
    """The request is malformed or asks for something that makes no sense.

    field:  the part of the request that is wrong, where one can be named (`model`)
    """

    status = 400
    word = "bad_request"
    outcome = Outcome.REJECTED

    def __init__(
        self, message: str = "", *, field: str = "", close: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message, close=close, retry_after=retry_after)
        self.field = field


class Unauthorised(BadCall):
    """The caller did not show who it is.

    invalid:  it showed something, and that is not good; False where it showed nothing
    """

    status = 401
    word = "unauthorised"

    def __init__(self, message: str = "", *, invalid: bool = False) -> None:
        super().__init__(message)
        self.invalid = invalid

    @property
    def challenge(self) -> str:
        """What the `www-authenticate` field of the answer says (RFC 6750 section 3)."""
        return 'Bearer realm="overspill"' + (', error="invalid_token"' if self.invalid else "")


class Refused(BadCall):
    """Understood, and deliberately not offered through this gateway."""

    status = 403
    word = "refused"


class UnknownRoute(BadCall):
    """No route serves that name."""

    status = 404
    word = "unknown_route"
    reason = Reason.NO_ROUTE


class MethodNotAllowed(BadCall):
    """The path exists, the method does not fit it.

    allow:  the methods that fit, as the `allow` field of the answer lists them
    """

    status = 405
    word = "method_not_allowed"

    def __init__(self, message: str = "", *, allow: str = "", close: bool = False) -> None:
        super().__init__(message, close=close)
        self.allow = allow


class SlowRequest(BadCall):
    """The client took too long to send its request."""

    status = 408
    word = "slow_request"


class IdempotencyConflict(BadCall):
    """The idempotency key is taken, and there is no answer to give again."""

    status = 409
    word = "idempotency_conflict"


class IdempotencyMismatch(BadCall):
    """The idempotency key was used for another request."""

    status = 422
    word = "idempotency_mismatch"


class BodyTooLarge(BadCall):
    """The body is over the limit of the gateway or of every backend of the route."""

    status = 413
    word = "body_too_large"


class TargetTooLong(BadCall):
    """The request target is over the limit."""

    status = 414
    word = "target_too_long"


class HeadTooLarge(BadCall):
    """The header section is over the limit in size or in number of fields."""

    status = 431
    word = "head_too_large"


class NotOffered(BadCall):
    """The protocol knows the operation, this gateway does not offer it."""

    status = 501
    word = "not_offered"


class Shed(OverspillError):
    """The gateway had no place for the call inside its limits."""

    status = 503
    word = "shed"
    outcome = Outcome.SHED
    reason = Reason.SHED_FULL


class Contended(Shed):
    """Every slot of the route is taken and the policy does not let the call wait (longer)."""

    status = 429
    word = "contended"


class RateLimited(Contended):
    """The tenant uses as many requests, tokens or places as it may."""

    word = "rate_limited"


class TenantBudgetSpent(Contended):
    """The tenant's dollars are used up."""

    word = "tenant_budget"
    reason = Reason.SHED_BUDGET


class NoCapacity(Shed):
    """No backend of the route can take calls at all."""

    status = 503
    word = "no_capacity"


class DeadlinePassed(Shed):
    """The answer could not begin before the deadline."""

    status = 504
    word = "deadline_passed"
    outcome = Outcome.DEADLINE
    reason = Reason.SHED_DEADLINE


class IssuerDown(OverspillError):
    """A token cannot be checked: the keys of its issuer could not be had."""

    status = 503
    word = "issuer_down"


class KeysDown(OverspillError):
    """Idempotency keys cannot be looked up; the call was not carried out."""

    status = 503
    word = "idempotency_unavailable"


class ClientGone(OverspillError):
    """The client hung up; there is nobody to answer."""

    status = 499
    word = "client_gone"
    outcome = Outcome.CLIENT_GONE


class BackendError(OverspillError):
    """One attempt at one backend failed. The only error that `Backend.send` may raise.

    work:     may the work have been executed?
    answer:   the backend's own (complete) answer, relayed as it is if no other attempt is made
    usage:    what the failed attempt cost all the same, where the backend says so
    """

    status = 502
    word = "backend_error"
    outcome = Outcome.BACKEND_ERROR
    work: Work = Work.MAYBE
    verdict = Verdict.FAILURE

    def __init__(
        self,
        message: str = "",
        *,
        answer: Reply | None = None,
        usage: Usage | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.answer = answer
        self.usage = usage


class BackendFull(BackendError):
    """Back-pressure: the backend is healthy and full, and did not start the work."""

    status = 503
    word = "backend_full"
    outcome = Outcome.SHED
    work = Work.NOT_STARTED
    verdict = Verdict.NEUTRAL


class BackendUnready(BackendError):
    """The backend answers but cannot serve this model now; the work did not start."""

    status = 503
    word = "backend_unready"
    work = Work.NOT_STARTED
    verdict = Verdict.FAILURE


class BackendDown(BackendError):
    """The backend could not be reached; no byte of the request left."""

    word = "backend_down"
    work = Work.NOT_STARTED
    verdict = Verdict.FAILURE


class NoDescriptor(BackendDown):
    """No connection could be tried, because this process or this machine may open no more files.

    That is the gateway's own lack: it says nothing of the backend.
    """

    word = "no_descriptor"
    verdict = Verdict.NEUTRAL


class BackendBroke(BackendError):
    """The backend failed after it may have begun: a reset, a 5xx, a function error."""

    word = "backend_broke"
    work = Work.MAYBE
    verdict = Verdict.FAILURE


class BackendDenied(BackendError):
    """The backend rejects the gateway itself: wrong credentials, unknown endpoint, suspended account.

    Trying this backend again is pointless, but the work did not start, so another tier may answer.
    """

    word = "backend_denied"
    work = Work.NOT_STARTED
    verdict = Verdict.FAILURE


class AnswerTruncated(BackendError):
    """The answer broke off after its first byte had been relayed."""

    word = "answer_truncated"
    outcome = Outcome.TRUNCATED
    work = Work.DONE
    verdict = Verdict.FAILURE
