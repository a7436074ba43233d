"""What a gRPC status of a Triton replica means for another attempt: pure, from a code and a text to an error.

Must never know channels, slots or what is done about it.

A wire fact, read in Triton's gRPC server source: its error texts are those of its HTTP side, and mean the
same (`triton_refusals.py`).
"""

import re
from contextlib import suppress

from backends.protobuf_wire import Malformed, fields, text
from backends.triton_refusals import refusal
from gateway.errors import BackendError
from gateway.vocab import Call, Reply, Start, Work

ERROR_TEXT_LIMIT = 300
"""Characters of a replica's text that go into an error."""
_HTTP_STATUS = {
    1: 400, 2: 400, 3: 400, 4: 504, 5: 404, 6: 400, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
    13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip
"""gRPC codes as the HTTP statuses that Triton gives to the same errors."""
_RESOURCE_EXHAUSTED, _UNAVAILABLE = 8, 14
_QUEUE_FULL = re.compile(r"maximum queue size|request timeout expired", re.IGNORECASE)


def judge(code: int, details: str, call: Call) -> Reply:
    """The client's own answer, or a BackendError with the status as its answer, which it raises."""
    answer = _answer(code, details)
    if code == _RESOURCE_EXHAUSTED and "larger than max" in details:
        answer.status = 413  # the request was too large, or its answer
        return answer
    failure = _failure(answer.status, details, call)
    if failure is None:
        return answer
    failure.answer = answer
    raise failure


def _failure(status: int, details: str, call: Call) -> BackendError | None:
    text = details[:ERROR_TEXT_LIMIT]
    return refusal(status, text, inference=call.inference, version_asked=call.version != "")


def raise_if_not_started(message: bytes, call: Call) -> None:
    """The stream's only message was refused in the stream's own words: the stream can begin elsewhere.

    Those words come without a status. Whatever they say but that nothing was begun is for the client.
    """
    details = error_in(message)
    if not details or not call.body.repeatable:
        return
    failure = _failure(400, details, call)
    if failure is None and _QUEUE_FULL.search(details):
        failure = _failure(503, details, call)
    if failure is not None and failure.work is Work.NOT_STARTED:
        failure.answer = _answer(_UNAVAILABLE, details)
        raise failure


def error_in(message: bytes) -> str:
    """`error_message` (field 1) of a ModelStreamInferResponse, "" for none."""
    found = ""
    with suppress(Malformed):  # not ours to judge
        for field in fields(memoryview(message), "the response"):
            if field.number == 1:
                found = text(field.data, "error_message")
    return found


def _answer(code: int, details: str) -> Reply:
    headers = [(b"grpc-status", b"%d" % code)]
    return Reply(_HTTP_STATUS.get(code, 502), headers, details.encode(), start=Start.WARM)
