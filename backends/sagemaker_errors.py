"""What SageMaker's errors mean: whose they are, and whether the container was reached.

Pure. It must never know an invocation, a price or a key. Source: the errors of "InvokeEndpoint" in the
API reference and botocore's model of it; AWS's general throttling errors; the text of a component that
is scaled to zero as it is seen in use.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from backends.aws_errors import error_type
from backends.client import Answer
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull

_FULL = (
    "ModelNotReadyException",  # an instance is being provisioned, or the model is still being loaded
    "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded",
    "ServiceUnavailable", "ServiceUnavailableException",
)  # fmt: skip
_BROKE = ("InternalFailure", "InternalServerException", "InternalDependencyException")
_ERRORS: Mapping[str, type[BackendError]] = {
    **dict.fromkeys(_FULL, BackendFull),
    **dict.fromkeys(_BROKE, BackendBroke),
}
_NO_CAPACITY = "no capacity to process this request"
"""In a ValidationError: the component is scaled to zero. The failed call itself has it scale out."""


class ModelFault(NamedTuple):
    """What the container answered, as a 424 tells it. `status` is 0 where it gave no answer in time."""

    status: int
    message: str


class _ModelError(msgspec.Struct):
    OriginalStatusCode: int = 0
    OriginalMessage: str = ""
    Message: str = ""


class _Message(msgspec.Struct):
    Message: str = ""
    message: str = ""


def model_fault(answer: Answer) -> ModelFault | None:
    """The container's own answer, where this is a ModelError; None for any other answer."""
    kind = error_type(answer)
    if kind != "ModelError" and (answer.status != 424 or kind):
        return None
    try:
        error = msgspec.json.decode(answer.body, type=_ModelError)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ModelFault(0, "")
    return ModelFault(error.OriginalStatusCode, error.OriginalMessage or error.Message)


def kind_of(answer: Answer) -> type[BackendError]:
    """What an error of SageMaker's own is: by its type, then by its text, then by its status."""
    kind = error_type(answer)
    if kind in _ERRORS:
        return _ERRORS[kind]
    if _NO_CAPACITY in message(answer):
        return BackendFull
    if answer.status in (429, 503):
        return BackendFull
    return BackendDenied if answer.status < 500 else BackendBroke


def message(answer: Answer) -> str:
    """The error's text; "" where there is none. Its key is written in two ways."""
    try:
        error = msgspec.json.decode(answer.body, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return f"{error.Message} {error.message}".strip()
