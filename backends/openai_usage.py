"""How many tokens a call used, as the answers of OpenAI's API say: whole, or in the last event of a stream.

Pure: bytes in, bytes and figures out. It must never know what a token costs.

Wire facts (OpenAI API reference, "The chat completion object", "stream_options", "The response object"):
- chat, completions and embeddings say `usage: {prompt_tokens, completion_tokens}`, and how many of the
  prompt's tokens came from a cache in `prompt_tokens_details.cached_tokens`;
- responses say `usage: {input_tokens, output_tokens}` and `input_tokens_details.cached_tokens`, in a stream
  within the `response` of its last event;
- a stream of the others says it only if asked with `stream_options: {include_usage: true}`, in an event of
  its own without choices before `[DONE]`. Some servers say it anyway, or in every event: the last counts.
"""

from typing import NamedTuple

import msgspec

from backends.json_members import inserted, members, replaced

LONGEST_EVENT = 2**20
"""The most bytes held of one event; of a longer one nothing is read."""


class Tokens(NamedTuple):
    """What one call used. `cached` are among `prompt`."""

    prompt: int
    completion: int
    cached: int = 0


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    response: _Response | None = None
    choices: list[msgspec.Raw] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Asked(msgspec.Struct):
    stream: bool | None = None
    stream_options: msgspec.Raw = msgspec.Raw()


_answer = msgspec.json.Decoder(_Answer)
_asked = msgspec.json.Decoder(_Asked)
_options = msgspec.json.Decoder(_StreamOptions | None)
_kept = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def usage_of(body: bytes) -> Tokens | None:
    """What a whole answer says, None if it says nothing."""
    try:
        return _tokens(_answer.decode(body))
    except (ValueError, RecursionError):
        return None


def _tokens(answer: _Answer) -> Tokens | None:
    usage = answer.usage or (answer.response.usage if answer.response else None)
    if usage is None:
        return None
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = (details.cached_tokens if details else None) or 0
    if prompt is None or prompt < 0 or (completion or 0) < 0:
        return None
    return Tokens(prompt, completion or 0, min(max(0, cached), prompt))  # embeddings complete nothing


def omits_usage(body: bytes) -> bool:
    """Whether this request of chat or completions is for a stream that it does not ask for its usage."""
    try:
        asked = _asked.decode(body)
        if not asked.stream:
            return False
        said = _options.decode(asked.stream_options) if asked.stream_options else None
    except (ValueError, RecursionError):
        return False  # the server will say what is wrong with it
    return said is None or not said.include_usage


def asking_for_usage(body: bytes) -> bytes:
    """A request that `omits_usage`, with the question added. No other member of it is changed."""
    name, wanted = "stream_options", b'{"include_usage":true}'
    places = [member.at for member in members(body) if member.name == name]
    if not places:
        return inserted(body, name, wanted)
    said = _asked.decode(body).stream_options
    kept = _kept.decode(said)
    if kept:
        wanted = msgspec.json.encode({**kept, "include_usage": True})
    return replaced(body, places[-1], len(bytes(said)), wanted)


class StreamUsage:
    """Reads along a stream of server-sent events.

    hide:  the event that only says what was used is kept from the client, who has not asked for it
    """

    def __init__(self, *, hide: bool) -> None:
        self._hide = hide
        self._rest = b""
        self._lost = False
        self.tokens: Tokens | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes from the server; returns bytes for the client: the same, unless an event is to be hidden."""
        if self._lost:
            return data
        blocks, self._rest = _split(self._rest + data)
        shown = [block for block in blocks if not self._note(block)]
        if len(self._rest) > LONGEST_EVENT:
            self._lost = True
            self.tokens = None
            shown.append(self._rest)
        return b"".join(shown) if self._hide else data

    def finish(self) -> bytes:
        """The stream has ended; returns what was held back of an event without its empty line."""
        rest, self._rest = self._rest, b""
        if self._lost or not rest or self._note(rest):
            return b""
        return rest if self._hide else b""

    def _note(self, block: bytes) -> bool:
        """Take what an event says; whether that is all it says."""
        if b'"usage"' not in block:
            return False
        lines = block.replace(b"\r\n", b"\n").split(b"\n")
        data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
        try:
            answer = _answer.decode(data)
        except (ValueError, RecursionError):
            return False
        tokens = _tokens(answer)
        if tokens is None:
            return False
        self.tokens = tokens
        return self._hide and answer.choices == []


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole events, each with the empty line that ends it, and the rest."""
    blocks: list[bytes] = []
    start = 0
    while True:
        plain, returns = data.find(b"\n\n", start), data.find(b"\n\r\n", start)
        if plain < 0 and returns < 0:
            return blocks, data[start:]
        end = plain + 2 if returns < 0 or 0 <= plain < returns else returns + 3
        blocks.append(data[start:end])
        start = end
