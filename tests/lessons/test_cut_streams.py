"""A stream that is cut anywhere is told as an error by its framing, and nobody can take it for complete."""

import asyncio
import json
import re

import pytest
from openai import APIError, AsyncOpenAI

from gateway.vocab import Outcome
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"model_name":"m","text_output":"hi"}\n\n'

FILE = """
backends: {{fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 2, probe_every: 60s}}}}
routes:
  m:
    match: {{model: m}}
    policy: spill_when_full
    stall_timeout: 200ms
    tiers: [{{backend: fleet, when_full: shed}}]
"""

CASES = [
    ("/v2/models/m/generate_stream", b'{"text_input":"a"}', TOKEN),
    ("/v1/chat/completions", b'{"model":"m","stream":true,"messages":[]}', WORD),
]


class Cutting:
    """Streams so much, and then closes, or hangs."""

    def __init__(self, sent: bytes, *, hang: bool) -> None:
        self.sent, self.hang = sent, hang

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if b"/ready" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        writer.write(HEAD + b"%x\r\n%b\r\n" % (len(self.sent), self.sent))
        await writer.drain()
        if self.hang:
            await asyncio.Event().wait()
        writer.close()


def events(raw: bytes) -> tuple[list[bytes], bytes]:
    """The data of each event of a chunked answer, as the standard reads it, and what framed its end."""
    _, _, body = raw.partition(b"\r\n\r\n")
    text, end = b"", body
    while size := re.match(rb"([0-9a-f]+)\r\n", end):
        start, length = size.end(), int(size[1], 16)
        if not length:
            break
        text, end = text + end[start : start + length], end[start + length + 2 :]
    found, data = [], []
    for line in text.split(b"\n"):
        if line.startswith(b"data: "):
            data.append(line[6:])
        elif not line and data:
            found.append(b"\n".join(data))
            data = []
    return found, end


@pytest.mark.parametrize("hang", [False, True])
@pytest.mark.parametrize(("path", "body", "event"), CASES)
@pytest.mark.parametrize("missing", [0, 1, 2, 20])
async def test_wherever_it_is_cut_its_last_event_is_the_error(
    path: str, body: bytes, event: bytes, missing: int, hang: bool
) -> None:
    sent = event + event[: len(event) - missing]
    async with (
        upstream(Cutting(sent, hang=hang)) as replica,
        running(FILE.format(url=replica.url)) as gateway,
    ):
        peer = await Peer.connect(port_of(gateway))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.send(head.encode() + body)
        found, end = events(await peer.rest())
        assert json.loads(found[0]) == json.loads(event[6:])
        assert json.loads(found[-1])["error"], "an event of its own, whatever was left open before it"
        assert len(found) == 3, "what came is passed on, and one error"
        assert b"[DONE]" not in found
        assert end == b"", "no last chunk: to the framing, too, it is not complete"
        (record,) = gateway.ledger.ended
        assert record.outcome is Outcome.TRUNCATED


async def test_a_client_library_reports_it() -> None:
    async with (
        upstream(Cutting(WORD, hang=False)) as replica,
        running(FILE.format(url=replica.url)) as gateway,
    ):
        url = f"http://127.0.0.1:{port_of(gateway)}/v1"
        async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            words = []
            with pytest.raises(APIError):
                async for chunk in stream:
                    words.append(chunk.choices[0].delta.content)
            assert words == ["hi"]
