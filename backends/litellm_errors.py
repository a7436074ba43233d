"""What litellm's exceptions mean for another attempt.

Imports nothing of litellm: its exceptions are told apart by name, status and what caused them, which have
stayed while their classes moved. It must never know what was asked.

Facts (litellm documentation, "Exception Mapping", and seen on 1.106): every exception has a `status_code`;
a refused or broken connection is an InternalServerError whose chain of causes has the HTTP library's own.
"""

from collections.abc import Iterator

from backends.elastic import retry_after
from gateway.errors import BackendBroke, BackendDenied, BackendDown, BackendError, BackendFull
from gateway.vocab import Headers

_UNREACHED = {
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
}
_MISTAKES = {
    "BadRequestError", "ContentPolicyViolationError", "ContextWindowExceededError", "ImageFetchError",
    "InvalidRequestError", "RejectedRequestError", "UnprocessableEntityError", "UnsupportedParamsError",
}  # fmt: skip


def mistake(raised: Exception) -> int | None:
    """The status for the client whose own mistake it is; None for whatever is not."""
    if not _kinds(raised) & _MISTAKES:
        return None
    status = getattr(raised, "status_code", None)
    return status if isinstance(status, int) and status in (400, 413, 422) else 400


def backend_error(said: str, raised: Exception, wall: float) -> BackendError:
    """What anything else means. `said`: the message, without any secret. `wall`: now, Unix time."""
    if any(_kinds(cause) & _UNREACHED for cause in _chain(raised)):
        return BackendDown(said)
    status = getattr(raised, "status_code", None)
    if status in (429, 503, 529):
        if "insufficient_quota" in str(raised):
            return BackendDenied(said)  # the account has no money left, which waiting does not change
        return BackendFull(said, retry_after=retry_after(_headers(raised), wall))
    if status in (401, 402, 403, 404):
        return BackendDenied(said)
    return BackendBroke(said)


def _kinds(raised: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(raised).__mro__}


def _chain(raised: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = raised
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _headers(raised: Exception) -> Headers:
    response = getattr(raised, "response", None)
    for found in (getattr(raised, "litellm_response_headers", None), getattr(response, "headers", None)):
        if found and hasattr(found, "items"):
            return [(str(name).lower().encode(), str(value).encode()) for name, value in found.items()]
    return []
