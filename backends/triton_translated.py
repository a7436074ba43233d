"""An OpenAI call on a Triton server without an OpenAI front end: one attempt, translated on the way.

Puts `triton_openai` (pure) around an attempt of the warm path. Knows no slots and no retries: a failure
of the inner attempt passes through as it is.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from backends.triton_openai import (
    ChatTemplate,
    Plan,
    Sampling,
    Untranslatable,
    answer,
    plan,
    refusal,
)
from backends.triton_openai_stream import StreamTranslator
from gateway.options import Options
from gateway.vocab import Call, Headers, Reply, WholeBody

MOST_BYTES = 16 * 2**20
"""Largest OpenAI request that is translated; it has to be held as a whole."""

_STREAM_FIELDS: Headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class GenerateOptions(Options):
    """OpenAI calls are translated to Triton's `generate`, `generate_stream` and `infer`."""

    chat_template: ChatTemplate = "plain"
    """How messages become one text: `plain` (a line `role: content` each) or `last_user`."""
    sampling: Sampling = "keys"
    """How sampling parameters are sent: one key each, or together as `json` (Triton's vLLM backend)."""
    text_tensor: str = "text_input"
    """Input tensor of embedding models."""


Inner = Callable[[Call], AbstractAsyncContextManager[Reply]]


class TranslatedAttempt:
    """One OpenAI call as one KServe call. `send` makes the inner attempt."""

    def __init__(self, call: Call, options: GenerateOptions, send: Inner, *, created: int) -> None:
        self._call = call
        self._options = options
        self._send = send
        self._identifier = f"{call.operation}-{call.request_id}"
        self._created = created
        self._inner: AbstractAsyncContextManager[Reply] | None = None

    async def __aenter__(self) -> Reply:
        call, options = self._call, self._options
        body = await call.body.read(MOST_BYTES)
        try:
            asked = plan(
                call.operation,
                call.model,
                body,
                chat_template=options.chat_template,
                sampling=options.sampling,
                text_tensor=options.text_tensor,
            )
        except Untranslatable as error:
            return Reply(*refusal(error))
        inner = self._send(_as_kserve(call, asked))
        reply = await inner.__aenter__()
        self._inner = inner
        return await self._translate(asked, reply)

    async def __aexit__(self, *raised: object) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(*raised)  # type: ignore[arg-type]

    async def _translate(self, asked: Plan, reply: Reply) -> Reply:
        if asked.streaming and reply.status == 200:
            translator = StreamTranslator(asked, identifier=self._identifier, created=self._created)
            return Reply(200, list(_STREAM_FIELDS), stream=_translated(reply, translator), start=reply.start)
        body = reply.body if reply.body is not None else b"".join([part async for part in _parts(reply)])
        status, headers, whole = answer(
            asked, reply.status, body, identifier=self._identifier, created=self._created
        )
        return Reply(status, headers, whole, start=reply.start)


def _as_kserve(call: Call, asked: Plan) -> Call:
    headers = [field for field in call.headers if field[0] not in {b"content-type", b"accept"}]
    translated = Call(
        protocol="kserve",
        operation=asked.operation,
        method=b"POST",
        target=asked.target,
        headers=[*headers, (b"content-type", b"application/json")],
        body=WholeBody(asked.body),
        model=call.model,
        stream=asked.streaming,
        arrived=call.arrived,
        request_id=call.request_id,
        traceparent=call.traceparent,
    )
    translated.idempotent = call.idempotent
    translated.deadline = call.deadline
    return translated


async def _parts(reply: Reply) -> AsyncIterator[bytes]:
    if reply.body is not None:
        yield reply.body
    elif reply.stream is not None:
        async for part in reply.stream:
            yield part


async def _translated(reply: Reply, translator: StreamTranslator) -> AsyncIterator[bytes]:
    async for part in _parts(reply):
        if events := translator.feed(part):
            yield events
    yield translator.finish()
