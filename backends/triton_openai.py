"""OpenAI requests for a Triton server without an OpenAI front end: translated to `generate` and back.

Knows the leaves only, and is pure: bytes in, bytes out; ids and times are arguments. Its streams are
translated by `triton_openai_stream.py`. What cannot be said in Triton's words (tools, images, several
answers) is refused, never dropped silently.

    chat, completions   generate or generate_stream: text_input -> text_output
    embeddings          infer: one BYTES tensor of texts -> the first floating-point output

Triton takes a top-level key of `generate` for the input tensor of that name if the model has one, and
for a request parameter if not (docs/protocol/extension_generate.md in its server repository). Releases
up to 2.51 at least know no fractions and no lists as request parameters, hence two ways to send the
sampling parameters (`Sampling`).
"""

import base64
import struct
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from gateway.vocab import Headers

ChatTemplate = Literal["plain", "last_user"]
"""How messages become one text.

plain:      one line `role: content` per message, then `assistant:` for the model to go on from
last_user:  the content of the last user message as it is, for models that apply a template themselves
"""

Sampling = Literal["keys", "json"]
"""How sampling parameters are sent.

keys:  one top-level key each, under the OpenAI name: for models with inputs of those names (TensorRT-LLM)
json:  together as JSON text in the one input `sampling_parameters`: for Triton's vLLM backend
"""

_JSON: Headers = [(b"content-type", b"application/json")]


class Untranslatable(ValueError):
    """The request asks for something that `generate` cannot do; the text is for the client."""


class Plan(NamedTuple):
    """What to send to Triton, and what is needed to translate its answer back."""

    target: bytes
    body: bytes
    streaming: bool
    operation: str
    model: str
    inputs: int = 1
    as_base64: bool = False


# -- requests


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Format(msgspec.Struct):
    type: str = "text"


_SAMPLING = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "seed")


class _Common(msgspec.Struct, kw_only=True):
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    n: int | None = None
    logprobs: bool | int | None = None


class _Chat(_Common, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: _Format | None = None


class _Completion(_Common, kw_only=True):
    prompt: str | list[str]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class _Embeddings(msgspec.Struct):
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


TRANSLATED = ("chat", "completions", "embeddings")
"""The operations of OpenAI's API that can be translated. `responses` cannot: its events, its stored
conversations and its tools have no counterpart in one text."""

_chat = msgspec.json.Decoder(_Chat)
_completion = msgspec.json.Decoder(_Completion)
_embeddings = msgspec.json.Decoder(_Embeddings)


def plan(
    operation: str,
    model: str,
    body: bytes,
    *,
    chat_template: ChatTemplate = "plain",
    sampling: Sampling = "keys",
    text_tensor: str = "text_input",
) -> Plan:
    """Translate a request. `operation` is the call's: chat, completions or embeddings.

    `text_tensor` names the input of an embedding model. Raises Untranslatable.
    """
    try:
        if operation == "chat":
            return _plan_chat(model, _chat.decode(body), chat_template, sampling)
        if operation == "completions":
            return _plan_completion(model, _completion.decode(body), sampling)
        if operation == "embeddings":
            return _plan_embeddings(model, _embeddings.decode(body), text_tensor)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untranslatable(f"this backend cannot carry the request: {error}") from None
    raise Untranslatable(f"this backend does not offer {operation}")


def _plan_chat(model: str, request: _Chat, template: ChatTemplate, sampling: Sampling) -> Plan:
    _refuse(bool(request.tools or request.functions), "tools")
    _refuse(request.response_format is not None and request.response_format.type != "text", "response_format")
    if request.max_completion_tokens is not None:
        request.max_tokens = request.max_completion_tokens
    return _generate("chat", model, _flatten(request.messages, template), request, sampling)


def _plan_completion(model: str, request: _Completion, sampling: Sampling) -> Plan:
    _refuse(bool(request.echo), "echo")
    _refuse(bool(request.suffix), "suffix")
    _refuse(request.best_of not in {None, 1}, "best_of other than 1")
    prompt = request.prompt
    if not isinstance(prompt, str):
        _refuse(len(prompt) != 1, "prompt with several texts")
        prompt = prompt[0]
    return _generate("completions", model, prompt, request, sampling)


def _generate(operation: str, model: str, text: str, request: _Common, sampling: Sampling) -> Plan:
    _refuse(request.n not in {None, 1}, "n other than 1")
    _refuse(request.logprobs not in {None, False}, "logprobs")
    asked = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
    body: dict[str, Any] = {"text_input": text}
    if sampling == "keys":
        body.update((name, _simplest(value)) for name, value in asked.items())
    elif asked:
        body["sampling_parameters"] = msgspec.json.encode(asked).decode()
    # Both of Triton's language model backends may repeat the prompt in text_output unless told not to.
    body["exclude_input_in_output"] = True
    streaming = bool(request.stream)
    if streaming:
        body["stream"] = True
    target = _target(model, "generate_stream" if streaming else "generate")
    return Plan(target, msgspec.json.encode(body), streaming, operation, model)


def _simplest(value: Any) -> Any:
    """The form that also passes as a request parameter: a whole number, a single text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _plan_embeddings(model: str, request: _Embeddings, text_tensor: str) -> Plan:
    _refuse(request.dimensions is not None, "dimensions")
    texts = [request.input] if isinstance(request.input, str) else request.input
    _refuse(not texts, "an empty input")
    tensor = {"name": text_tensor, "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}
    return Plan(
        target=_target(model, "infer"),
        body=msgspec.json.encode({"inputs": [tensor]}),
        streaming=False,
        operation="embeddings",
        model=model,
        inputs=len(texts),
        as_base64=request.encoding_format == "base64",
    )


def _target(model: str, action: str) -> bytes:
    return f"/v2/models/{quote(model, safe='')}/{action}".encode("ascii")


def _refuse(refused: bool, what: str) -> None:
    if refused:
        raise Untranslatable(f"this backend does not take {what}")


def _flatten(messages: list[_Message], template: ChatTemplate) -> str:
    if not messages:
        raise Untranslatable("messages is empty")
    if template == "last_user":
        for message in reversed(messages):
            if message.role == "user":
                return _text(message)
        raise Untranslatable("there is no message of the user")
    lines = [f"{message.role}: {_text(message)}" for message in messages]
    return "\n".join([*lines, "assistant:"])


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        for part in message.content:
            _refuse(part.type != "text", f"content of type {part.type}")
        return "".join(part.text for part in message.content)
    return message.content or ""


# -- answers


class Generated(msgspec.Struct):
    """What `generate` answers, and each event of `generate_stream`."""

    text_output: str | list[str] = ""
    error: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.text_output, list):
            return self.text_output[0] if self.text_output else ""
        return self.text_output


class _Output(msgspec.Struct):
    datatype: str
    data: msgspec.Raw = msgspec.Raw()


class _Inferred(msgspec.Struct):
    outputs: list[_Output] = []
    error: str | None = None


generated_decoder = msgspec.json.Decoder(Generated)
_inferred = msgspec.json.Decoder(_Inferred)
_numbers = msgspec.json.Decoder(list[float])


def refusal(error: Untranslatable) -> tuple[int, Headers, bytes]:
    """The answer to a request that could not be translated."""
    return 400, list(_JSON), msgspec.json.encode(error_object(400, str(error)))


def answer(
    asked: Plan, status: int, body: bytes, *, identifier: str, created: int
) -> tuple[int, Headers, bytes]:
    """Translate Triton's whole answer. `created` is in seconds since the Unix epoch.

    A 200 that carries an error, which `generate` is known to send, becomes 500; an answer that cannot
    be read becomes 502.
    """
    try:
        if asked.operation == "embeddings":
            inferred = _inferred.decode(body)
            problem = inferred.error
            if status == 200 and problem is None:
                return 200, list(_JSON), msgspec.json.encode(_embedding_list(asked, inferred.outputs))
        else:
            generated = generated_decoder.decode(body)
            problem = generated.error
            if status == 200 and problem is None:
                whole = _whole(asked, generated.text, identifier, created)
                return 200, list(_JSON), msgspec.json.encode(whole)
    except (ValueError, RecursionError):
        status, problem = (502 if status == 200 else status), "the backend's answer cannot be read"
    status = 500 if status == 200 else status
    return status, list(_JSON), msgspec.json.encode(error_object(status, problem or "the backend failed"))


def _whole(asked: Plan, text: str, identifier: str, created: int) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if asked.operation == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    kind = "chat.completion" if asked.operation == "chat" else "text_completion"
    return {"id": identifier, "object": kind, "created": created, "model": asked.model, "choices": [choice]}


def _embedding_list(asked: Plan, outputs: list[_Output]) -> dict[str, Any]:
    output = next((each for each in outputs if each.datatype in {"FP32", "FP64"}), None)
    numbers = _numbers.decode(output.data) if output else []
    width, rest = divmod(len(numbers), asked.inputs)
    if rest or not width:
        raise ValueError("no output has one row of numbers per text")
    data = []
    for index in range(asked.inputs):
        row = numbers[index * width : (index + 1) * width]
        shown = _as_base64(row) if asked.as_base64 else row
        data.append({"object": "embedding", "index": index, "embedding": shown})
    return {"object": "list", "data": data, "model": asked.model}


def _as_base64(row: list[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode("ascii")
    except OverflowError:  # an FP64 beyond what the 32 bits of this encoding hold
        raise ValueError("a number is too large") from None


def error_object(status: int, message: str) -> dict[str, Any]:
    """OpenAI's error shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
