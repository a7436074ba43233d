"""Servers that misbehave, one behaviour each: what a provider's API, or whatever stands before it, may do.

`GOOD` is an answer that every backend takes: it has the members that each of their protocols looks for.
"""

import asyncio
import gzip
import json

from tests.support.provider import Behaviour, Received, Wire

ANSWER = json.dumps(
    {
        "id": "job-1", "status": "COMPLETED", "statusCode": 200, "headers": {}, "body": "fine",
        "output": {"statusCode": 200, "headers": {}, "body": "fine"},
        "object": "chat.completion", "created": 1, "model": "small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "predictions": [], "access_token": "a-token", "token_type": "Bearer", "expires_in": 3600,
    }
).encode()  # fmt: skip
_NAME, _NO_NAME = b'"job-1"', b'""     '
FIELDS = {
    "content-type": "application/json",
    "metadata-flavor": "Google",
    "x-amzn-sagemaker-outputlocation": "s3://bucket/output",
}


def answer_to(request: Received) -> bytes:
    """The same to all, but that two APIs say `done` in different words of one length.

    One of them names its jobs, never two alike: there the job has no name.
    """
    if "/runsync" in request.target:
        return ANSWER.replace(_NAME, _NO_NAME)
    return ANSWER.replace(b"COMPLETED", b"succeeded") if "/predictions" in request.target else ANSWER


POISON = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"


async def good(request: Received, wire: Wire) -> None:
    await wire.answer(200, answer_to(request), FIELDS)


def head(**more: str) -> bytes:
    fields = {
        **FIELDS,
        "content-length": str(len(ANSWER)),
        **{k.replace("_", "-"): v for k, v in more.items()},
    }
    return "".join(["HTTP/1.1 200 OK\r\n", *(f"{k}: {v}\r\n" for k, v in fields.items()), "\r\n"]).encode()


async def accepted(request: Received, wire: Wire) -> None:
    """What an API of jobs says first: it is queued. To others it is an answer like any other."""
    body = answer_to(request).replace(b"COMPLETED", b"IN_QUEUE").replace(b"succeeded", b"starting")
    body = body.replace(_NO_NAME, _NAME)  # it is asked for by its name
    await wire.answer(200, body, FIELDS)


# -- broken: an answer never comes whole, and nobody can know what was done


async def reset(request: Received, wire: Wire) -> None:
    await wire.reset()


async def close(request: Received, wire: Wire) -> None:
    await wire.close()


async def no_http(request: Received, wire: Wire) -> None:
    await wire.write(b"220 mail.example ESMTP\r\n\r\n")
    await wire.reset()


async def cut_head(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    await wire.reset()


async def closed_head(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n")
    await wire.close()


async def cut_body(request: Received, wire: Wire) -> None:
    await wire.write(head() + answer_to(request)[:20])
    await wire.reset()


async def length_too_long(request: Received, wire: Wire) -> None:
    await wire.write(head(content_length=str(len(answer_to(request)) + 9)) + answer_to(request))
    await wire.close()


async def two_lengths(request: Received, wire: Wire) -> None:
    await wire.write(head(Content_Length="8") + answer_to(request))
    await wire.close()


async def no_length(request: Received, wire: Wire) -> None:
    await wire.write(head(content_length="many") + answer_to(request))
    await wire.close()


async def negative_length(request: Received, wire: Wire) -> None:
    await wire.write(head(content_length="-1") + answer_to(request))
    await wire.close()


async def cut_chunk(request: Received, wire: Wire) -> None:
    await wire.head(200, {**FIELDS, "transfer-encoding": "chunked"})
    await wire.write(b"5\r\nhello\r\n5\r\nhe")
    await wire.reset()


async def no_last_chunk(request: Received, wire: Wire) -> None:
    await wire.head(200, {**FIELDS, "transfer-encoding": "chunked"})
    await wire.write(b"%x\r\n%b\r\n" % (len(answer_to(request)), answer_to(request)))
    await wire.close()


async def bad_chunk(request: Received, wire: Wire) -> None:
    await wire.head(200, {"transfer-encoding": "chunked"})
    await wire.write(b"zz\r\nhello\r\n")
    await wire.reset()


async def giant_field(request: Received, wire: Wire) -> None:
    await wire.write(head(x_giant="x" * 200_000) + answer_to(request))
    await wire.close()


async def giant_line(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 200 " + b"O" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n")
    await wire.close()


async def bad_field(request: Received, wire: Wire) -> None:
    """A parser would quote the line, and the line quotes the request's secrets."""
    echoed = " ".join(request.fields.values())
    await wire.write(b"HTTP/1.1 200 OK\r\nno colon " + echoed.encode() + b"\r\n\r\n")
    await wire.close()


async def bad_name(request: Received, wire: Wire) -> None:
    echoed = " ".join(request.fields.values())
    await wire.write(b"HTTP/1.1 200 OK\r\n" + echoed.encode() + b": \x00\r\n\r\n")
    await wire.close()


async def switched(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n")
    await wire.close()


BROKEN: dict[str, Behaviour] = {
    each.__name__: each
    for each in (
        reset, close, no_http, cut_head, closed_head, cut_body, length_too_long, two_lengths, no_length,
        negative_length, cut_chunk, no_last_chunk, bad_chunk, giant_field, giant_line, bad_field, bad_name,
        switched,
    )
}  # fmt: skip


# -- odd: a whole answer comes, in an unusual way, and it is the same answer


async def drip(request: Received, wire: Wire) -> None:
    data = head() + answer_to(request)
    for start in range(0, len(data), 7):
        await wire.write(data[start : start + 7])
        await asyncio.sleep(0)


async def chunked(request: Received, wire: Wire) -> None:
    await wire.head(200, {**FIELDS, "transfer-encoding": "chunked"})
    for start in range(0, len(answer_to(request)), 50):
        part = answer_to(request)[start : start + 50]
        await wire.write(b"%x;note=1\r\n%b\r\n" % (len(part), part))
        await asyncio.sleep(0)
    await wire.write(b"0\r\nx-trailer: 1\r\n\r\n")


async def until_closed(request: Received, wire: Wire) -> None:
    await wire.write(head().replace(b"content-length", b"x-length") + answer_to(request))
    await wire.close()


async def interim(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    for _ in range(20):
        await wire.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\ncontent-length: 7\r\n\r\n")
        await asyncio.sleep(0)
    await good(request, wire)


async def many_fields(request: Received, wire: Wire) -> None:
    await wire.answer(200, answer_to(request), {**FIELDS, **{f"x-field-{n}": str(n) for n in range(90)}})


async def goes_away(request: Received, wire: Wire) -> None:
    await wire.answer(200, answer_to(request), {**FIELDS, "connection": "close"})
    await wire.close()


ODD: dict[str, Behaviour] = {
    each.__name__: each for each in (drip, chunked, until_closed, interim, many_fields, goes_away)
}


# -- more than was asked: what follows an answer belongs to nobody


async def followed(request: Received, wire: Wire) -> None:
    await wire.write(head() + answer_to(request) + POISON)


async def followed_later(request: Received, wire: Wire) -> None:
    await good(request, wire)
    await asyncio.sleep(0.002)
    await wire.write(POISON)


async def length_too_short(request: Received, wire: Wire) -> None:
    await wire.write(head(content_length="10") + answer_to(request))


async def length_and_chunks(request: Received, wire: Wire) -> None:
    """Two ends of one answer: whoever takes the other one finds an answer to nobody behind it."""
    await wire.write(head(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n\r\n" + POISON)


async def body_of_none(request: Received, wire: Wire) -> None:
    await wire.write(b"HTTP/1.1 204 No Content\r\ncontent-length: %d\r\n\r\n" % len(POISON) + POISON)


POISONED: dict[str, Behaviour] = {
    each.__name__: each
    for each in (followed, followed_later, length_too_short, length_and_chunks, body_of_none)
}


# -- whole, and not what it should be


async def zipped(request: Received, wire: Wire) -> None:
    await wire.answer(200, gzip.compress(answer_to(request)), {**FIELDS, "content-encoding": "gzip"})


async def zipped_badly(request: Received, wire: Wire) -> None:
    await wire.answer(200, gzip.compress(answer_to(request))[:30], {**FIELDS, "content-encoding": "gzip"})


async def not_zipped(request: Received, wire: Wire) -> None:
    await wire.answer(200, answer_to(request), {**FIELDS, "content-encoding": "gzip"})


def saying(body: bytes, status: int = 200) -> Behaviour:
    async def answer(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, FIELDS)

    return answer


_NESTED = b"[" * 20_000
DEEP = [
    _NESTED,
    b'{"x":' * 20_000,
    *(b'{"%b":' % member.encode() + _NESTED for member in json.loads(ANSWER)),
    *(b'{"%b":' % member + _NESTED for member in (b"error", b"detail", b"message", b"OriginalMessage", b"anything")),
    b'{"status":"COMPLETED","id":"a","output":' + _NESTED + b"]" * 20_000 + b"}",
    b'{"status":"FAILED","id":"a","error":"' + _NESTED + b'"}',
]  # fmt: skip
"""Bodies that nest deeper than a parser goes."""


WRONG: dict[str, Behaviour] = {
    "zipped": zipped,
    "zipped_badly": zipped_badly,
    "not_zipped": not_zipped,
    **{
        f"says {body[:12]!r}": saying(body)
        for body in (
            b"", b"{", b"null", b"[]", b"\xff\xfe{\x00}\x00", b'{"a":1e999}', b"NaN",
            b'{"status":[],"statusCode":"x","output":7,"choices":{},"id":{}}',
            b'{"status":"COMPLETED","statusCode":200,"headers":{"a\\r\\nb":"c\\r\\nd"},"body":"x",'
            b'"output":{"statusCode":200,"headers":{"a\\r\\nb":"c\\r\\nd"},"body":"x"},"id":"a/../b"}',
            b'{"status":"COMPLETED","statusCode":99,"output":{"statusCode":10000,"body":"x"}}',
            b'{"statusCode":200,"isBase64Encoded":true,"body":"%%%","status":"COMPLETED",'
            b'"output":{"statusCode":200,"isBase64Encoded":true,"body":"%%%"}}',
        )
    },
    **{f"nests {body[:12]!r}": saying(body) for body in DEEP},
}  # fmt: skip
