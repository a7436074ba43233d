"""What a failure answer of Triton means for another attempt: pure, from status and text to an error.

Triton maps its own error kinds to few statuses, so the text decides. Must never know connections, slots
or what is done about it. HTTP and gRPC carry the same texts.

Sources: `HttpCodeFromError` in Triton's HTTP server, the texts of its core and of its Python backend, and
what Triton 2.51 was seen to answer.
"""

import re

from gateway.errors import BackendBroke, BackendError, BackendFull, BackendUnready

_UNREADY = re.compile(
    r"not ready|server exiting|is stopping|stopped accepting|not at ready state", re.IGNORECASE
)
"""UNAVAILABLE that is not back-pressure: starting, ending, or this version still loading."""
_UNREADY_400 = re.compile(r"server not ready|model version not ready|not at ready state", re.IGNORECASE)
"""The same where the status blames the client: nothing short of Triton's own words will do."""
_QUEUE_TIMEOUT = re.compile(r"request timeout expired", re.IGNORECASE)
_UNLOADED = re.compile(r"request for unknown model|no available versions", re.IGNORECASE)
"""NOT_FOUND of the current version: not loaded, or still loading. Newer versions say it with 400."""
_CRASHED = re.compile(r"stub process.*is not healthy", re.IGNORECASE | re.DOTALL)
"""The Python backend's process is gone; seen as a 400 of `generate`, which looks like the client's fault."""
_NOT_JSON = re.compile(r"failed to parse the request json", re.IGNORECASE)
"""A malformed request, answered with 500."""

_SERVICE_STATUSES = frozenset((429, 503))
_NO_FAULT = frozenset((501,))
"""5xx that blame the call: a decoupled model asked over plain `infer`."""


def refusal(status: int, text: str, *, inference: bool, version_asked: bool) -> BackendError | None:
    """The error for another attempt, without its answer; None: the answer is for the client as it is.

    inference:      work was asked for, so "not ready" is a failure and no answer to a question
    version_asked:  the client named a version: that this one is unknown is what it should be told
    """
    if status in _SERVICE_STATUSES:
        if _UNREADY.search(text):
            return BackendUnready(f"the replica is not ready: {text}")
        if _QUEUE_TIMEOUT.search(text):  # it waited in the model's own queue, and never ran
            return BackendFull(f"the call timed out in the replica's queue: {text}")
        return BackendFull(f"the replica pushed back: {text}")
    if status in {400, 404} and not version_asked and _UNLOADED.search(text):
        return BackendUnready(f"the replica does not have the model: {text}")
    if status == 400 and inference:
        if _CRASHED.search(text):
            return BackendBroke(f"the model's process on the replica is gone: {text}")
        if _UNREADY_400.search(text):
            return BackendUnready(f"the replica is not ready: {text}")
        return None
    if status >= 500 and status not in _NO_FAULT:
        if status == 500 and _NOT_JSON.search(text):
            return None
        return BackendBroke(f"the replica answered {status}: {text}")
    return None
