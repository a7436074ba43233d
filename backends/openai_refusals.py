"""What the error answers of OpenAI-compatible servers mean for another attempt.

Pure. Knows statuses and error bodies; it must never know which server sent one or what is done next.

Wire facts:
- vLLM's admission control answers 503 and has not begun (vLLM documentation, `--max-num-queued-reqs`);
- TGI answers 429 `overloaded` without having begun, 424 when generating failed, 422 for a request that
  does not validate (TGI API reference);
- OpenAI answers 429 for its rate limits, and with code `insufficient_quota` when the account has no money
  left, which waiting does not change (OpenAI documentation, "Error codes"); others answer 402 for that;
- a model that is not there is 404; so is, among responses, a `previous_response_id` that is not;
- a prompt that is too long is 400 and the client's own. Unverified: 529 as some proxies' word for overload.
"""

from enum import Enum

import msgspec


class Meaning(Enum):
    """What an answer is."""

    ANSWER = "answer"  # the client's own
    FULL = "full"  # did not begin; others may have room
    UNREADY = "unready"  # does not have the model
    DENIED = "denied"  # does not take calls from us
    BROKE = "broke"  # may have begun


class _Error(msgspec.Struct):
    code: str | int | None = None
    param: str | None = None


class _Body(msgspec.Struct):
    error: _Error | None = None
    code: str | int | None = None  # vLLM before 0.10 had the error's members at the top
    param: str | None = None


_body = msgspec.json.Decoder(_Body)


def meaning(status: int, body: bytes) -> Meaning:
    """What an answer with this status and body means."""
    if status < 400 or status in (400, 413, 422):
        return Meaning.ANSWER
    if status in (401, 402, 403):
        return Meaning.DENIED
    if status in (429, 503, 529):
        return Meaning.DENIED if _error(body).code == "insufficient_quota" else Meaning.FULL
    if status == 404:
        return Meaning.ANSWER if _error(body).param == "previous_response_id" else Meaning.UNREADY
    return Meaning.BROKE if status == 424 or status >= 500 else Meaning.ANSWER


def _error(body: bytes) -> _Error:
    try:
        decoded = _body.decode(body)
    except (ValueError, RecursionError):
        return _Error()
    return decoded.error or _Error(decoded.code, decoded.param)
