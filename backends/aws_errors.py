"""What Lambda's errors are called, and whether the function ran when one came.

Pure. It must never know an invocation, a price or a key.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from backends.client import Answer
from backends.credentials import Credentials
from backends.elastic import retry_after
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready

# By the type in `x-amzn-ErrorType`. What is not listed goes by its status: 429 full, other 4xx denied,
# 5xx broke. Source: the errors of "Invoke" in the API reference, sorted by whether the function ran.
_FULL = (
    "TooManyRequestsException", "EC2ThrottledException", "ENILimitReachedException",
    "SubnetIPAddressLimitReachedException",
)  # fmt: skip
_UNREADY = (
    "ENINotReadyException", "ResourceNotReadyException", "SnapStartNotReadyException",
    "SnapStartTimeoutException", "ResourceConflictException", "CodeArtifactUserPendingException",
    "EFSMountTimeoutException", "EFSMountConnectivityException", "S3FilesMountTimeoutException",
    "S3FilesMountConnectivityException",
)  # fmt: skip
_BROKE = ("ServiceException", "ServiceUnavailableException", "InternalFailure")
_DENIED = (
    "InvalidParameterValueException", "InvalidRequestContentException", "NoPublishedVersionException",
    "SnapStartException", "RecursiveInvocationException", "ModeNotSupportedException",
    "ServiceQuotaExceededException", "AccessDeniedException", "InvalidSignatureException",
    "ExpiredTokenException", "UnrecognizedClientException", "EFSMountFailureException",
    "ResourceNotFoundException", "RuntimeVersionDeletedException", "CodeArtifactUserDeletedException",
    "EFSIOException", "RequestTooLargeException", "SerializedRequestEntityTooLargeException",
    "UnsupportedMediaTypeException", "KMSAccessDeniedException", "KMSDisabledException",
    "KMSInvalidStateException", "KMSNotFoundException", "InvalidRuntimeException",
    "InvalidZipFileException", "InvalidSubnetIDException", "InvalidSecurityGroupIDException",
    "EC2AccessDeniedException", "EC2UnexpectedException",
)  # fmt: skip
ERRORS: Mapping[str, type[BackendError]] = {
    **dict.fromkeys(_FULL, BackendFull),
    **dict.fromkeys(_UNREADY, BackendUnready),
    **dict.fromkeys(_BROKE, BackendBroke),
    **dict.fromkeys(_DENIED, BackendDenied),
}
_FATAL = ("Runtime.ExitError", "Sandbox.Timedout")
EXPIRED = frozenset(("ExpiredTokenException", "ExpiredToken"))


def error_type(answer: Answer) -> str:
    """The error's name: `x-amzn-errortype` up to a colon, else the body's `Type` or `__type`."""
    for name, value in answer.headers:
        if name == b"x-amzn-errortype":
            return value.decode("latin-1").partition(":")[0].strip()
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = msgspec.json.decode(answer.body, type=dict[str, Any])
        return str(document.get("__type", document.get("code", ""))).rpartition("#")[2]
    return ""


def reason(answer: Answer) -> str:
    """Which limit a throttle is about, like CallerRateLimitExceeded; "" if it does not say."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = msgspec.json.decode(answer.body, type=dict[str, Any])
        return str(document.get("Reason") or document.get("reason") or "")
    return ""


def lambda_refusal(name: str, answer: Answer, credentials: Credentials, wall: float) -> BackendError:
    """What Lambda's own error means, by its type, else by its status. `wall`: now, Unix time."""
    kind = error_type(answer)
    named = credentials.excerpt(f"{kind} {reason(answer)}")
    said = f"{name}: Lambda answered {answer.status} {named}".rstrip()
    by_status: type[BackendError] = BackendDenied if answer.status < 500 else BackendBroke
    if answer.status == 429:
        by_status = BackendFull
    return ERRORS.get(kind, by_status)(said, retry_after=retry_after(answer.headers, wall))


def described(body: bytes) -> str:
    """`errorType: errorMessage` of a function error. Old runtimes leave the type out."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no details"
    parts = [str(document[key]) for key in ("errorType", "errorMessage") if document.get(key)]
    return ": ".join(parts) or "no details"


def environment_died(body: bytes) -> bool:
    """Whether a function error is one after which its environment is gone: the process ended, or was ended
    (AWS documentation, "Understanding the execution environment lifecycle").
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any]).get("errorType") in _FATAL
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
