"""Triton's `generate_stream` as OpenAI's stream of chunks; the other half of `triton_openai.py`.

Knows the leaves and its siblings only, and is pure: bytes in, bytes out; ids and times are arguments.
"""

from typing import Any

import msgspec

from backends.sse import EventSplitter, EventTooLong
from backends.triton_openai import Plan, error_object, generated_decoder


class StreamTranslator:
    """Triton's server-sent events to OpenAI's, whatever pieces they arrive in.

    After an error event nothing more is said, no `[DONE]` either: the client must not take what it has
    for the whole answer.
    """

    def __init__(self, asked: Plan, *, identifier: str, created: int) -> None:
        self._asked = asked
        self._chat = asked.operation == "chat"
        self._head = {
            "id": identifier,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": created,
            "model": asked.model,
        }
        self._events = EventSplitter()
        self._begun = False
        self.failed = False

    def feed(self, data: bytes) -> bytes:
        """Bytes from Triton; returns bytes for the client, possibly none."""
        if self.failed:
            return b""
        try:
            events = self._events.feed(data)
        except EventTooLong as error:
            return self._fail(str(error))
        return self._translate(events)

    def finish(self) -> bytes:
        """Triton has ended its answer: the last chunk and `[DONE]`, or an error if it was cut off."""
        if self.failed:
            return b""
        return self._translate(self._events.finish()) + self._end()

    def _end(self) -> bytes:
        if self.failed:
            return b""
        last = self._chunk({"delta": {}} if self._chat else {"text": ""}, finish="stop")
        return self._begin() + last + b"data: [DONE]\n\n"

    def _translate(self, events: list[bytes]) -> bytes:
        out = b""
        for event in events:
            out += self._event(event)
            if self.failed:
                break
        return out

    def _event(self, event: bytes) -> bytes:
        try:
            generated = generated_decoder.decode(event)
        except (ValueError, RecursionError):
            return self._fail("the backend's stream cannot be read")
        if generated.error is not None:
            return self._fail(generated.error)
        begin, text = self._begin(), generated.text
        if not text:
            return begin
        return begin + self._chunk({"delta": {"content": text}} if self._chat else {"text": text})

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk({"delta": {"role": "assistant", "content": ""}}) if self._chat else b""

    def _chunk(self, choice: dict[str, Any], finish: str | None = None) -> bytes:
        whole = {"index": 0, **choice, "finish_reason": finish, "logprobs": None}
        return b"data: " + msgspec.json.encode({**self._head, "choices": [whole]}) + b"\n\n"

    def _fail(self, message: str) -> bytes:
        self.failed = True
        return b"data: " + msgspec.json.encode(error_object(500, message)) + b"\n\n"
