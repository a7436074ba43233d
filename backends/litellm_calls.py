"""OpenAI requests as arguments of litellm's functions, and its objects as OpenAI answers.

Pure, and imports nothing of litellm: requests come as bytes, its answers as plain documents.

litellm takes the address, the key and much else as arguments beside those of OpenAI's API, and what it does
not know it hands on. So a request may only say what is listed here or in the file: a client that could
name `api_base` would be given the key. And litellm fetches pictures by itself for some providers, from
wherever the client says; so an address in a message is refused unless the file allows it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

_COMMON = {
    "frequency_penalty", "logit_bias", "max_tokens", "n", "presence_penalty", "seed", "stop",
    "stream_options", "temperature", "top_p", "user",
}  # fmt: skip
KNOWN = {
    "chat": _COMMON | {
        "audio", "function_call", "functions", "logprobs", "max_completion_tokens", "messages", "modalities",
        "parallel_tool_calls", "prediction", "reasoning_effort", "response_format", "safety_identifier",
        "service_tier", "tool_choice", "tools", "top_logprobs", "verbosity",
    },
    "completions": _COMMON | {"best_of", "echo", "logprobs", "prompt", "suffix"},
    "embeddings": {"dimensions", "encoding_format", "input", "user"},
}  # fmt: skip
"""The members of OpenAI's requests (its API reference), less those that name another request or account."""

NEEDED = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
DONE = b"data: [DONE]\n\n"

_TOOLS = ("function", "custom")
"""Kinds of tools that the client runs itself; for others, litellm or the provider goes where they say."""


class Unsuited(ValueError):
    """The request cannot be handed on; the text is for the client. `field` is the part that is wrong."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


class Asked(NamedTuple):
    """The arguments of a request, and whether its client wants to be told what a stream used."""

    arguments: dict[str, Any]
    streaming: bool
    wants_usage: bool


def arguments(operation: str, body: bytes, *, also: tuple[str, ...], remote_content: bool) -> Asked:
    """What a request asks for. `also`: further members that may be handed on. Raises Unsuited."""
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise Unsuited("the request is not a JSON object", "") from None
    request.pop("model", None)
    streaming = bool(request.pop("stream", None)) and operation != "embeddings"
    known = KNOWN[operation]
    for name in request:
        if name not in known and name not in also:
            raise Unsuited(f"this backend does not take {name[:64]!r}", name[:64])
    if request.get(NEEDED[operation]) is None:
        raise Unsuited(f"{NEEDED[operation]} is missing", NEEDED[operation])
    for name in ("messages", "tools"):
        value = request.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise Unsuited(f"{name} is not a list of objects", name)
    if not remote_content:
        _refuse_addresses(request)
    options = request.pop("stream_options", None)
    options = options if isinstance(options, dict) else {}
    if streaming:
        request["stream_options"] = {**options, "include_usage": True}
    given = {name: value for name, value in request.items() if value is not None}
    return Asked(given, streaming, bool(options.get("include_usage")))


def _refuse_addresses(request: dict[str, Any]) -> None:
    if any("://" in text for text in _contents(request.get("messages") or [])):
        raise Unsuited("this backend takes content as data, not by its address", "messages")
    if any(tool.get("type", "function") not in _TOOLS for tool in request.get("tools") or []):
        raise Unsuited("this backend takes tools of type function only", "tools")


def _contents(messages: list[Any]) -> Iterator[str]:
    """Whatever stands where a part of a message says what it consists of, its text aside."""
    waiting: list[Any] = [
        part for message in messages for part in _list(message.get("content")) if isinstance(part, dict)
    ]
    waiting = [value for part in waiting for name, value in part.items() if name not in ("type", "text")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def whole(answer: dict[str, Any]) -> bytes:
    """A whole answer, whose empty members were left out."""
    for choice in _list(answer.get("choices")):
        if isinstance(choice.get("message"), dict):
            choice["message"].setdefault("content", None)
        choice.setdefault("finish_reason", None)
    return msgspec.json.encode(answer)


def event(chunk: dict[str, Any], *, wants_usage: bool) -> bytes:
    """One event of a stream, empty if there is nothing in it for this client."""
    usage = chunk.get("usage")
    choices = [choice for choice in _list(chunk.get("choices")) if _says_something(choice)]
    if usage is not None:
        chunk = {name: value for name, value in chunk.items() if name != "usage"}
        if wants_usage:
            chunk["usage"] = usage
        elif not choices:
            return b""
        chunk["choices"] = choices
    for choice in _list(chunk.get("choices")):
        choice.setdefault("finish_reason", None)
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _says_something(choice: dict[str, Any]) -> bool:
    return bool(choice.get("delta") or choice.get("text") or choice.get("finish_reason"))


def error(status: int, message: str, field: str | None = None, code: str | None = None) -> bytes:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": field, "code": code}})
