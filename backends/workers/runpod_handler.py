"""RunPod queue worker: turns the envelope of a job back into the HTTP call it was.

In the image:

    COPY kit.py runpod_handler.py /app/
    RUN pip install runpod
    ENV OVERSPILL_COMMAND="vllm serve /models/mine --port 8000"
    CMD ["python", "-u", "/app/runpod_handler.py"]

or, for a model that is a Python function (see kit.py for its shape):

    COPY kit.py runpod_handler.py mymodel.py /app/
    ENV OVERSPILL_APP=mymodel:predict

The endpoint's entry in the gateway's file says `type: runpod` and `envelope: event` (the default).
An answer is returned whole, so the events of a streamed one arrive at the client together. With

    ENV OVERSPILL_STREAM=1

here and `response: streamed` in the gateway's file they arrive as they are made. Each part is then handed
over by itself, and numbered, because RunPod's SDK goes on when it could not hand one over.
Keep answers below the API's 20 MB for `runsync`.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

LARGEST_PART = 600_000
"""Bytes of one part: base64 and its head stay below the 1 MB that RunPod takes at once."""

STREAMED = "streamed"
"""Member of the envelope of a call whose answer is wanted as it is made."""


def make_handler(worker: kit.Worker) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function that RunPod calls with each job: `{"id": …, "input": <the envelope>}`."""

    def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        # A ValueError for an input that is no envelope becomes the job's FAILED status.
        return worker.handle(job["input"])

    return handler


def make_streaming_handler(worker: kit.Worker) -> Callable[[Mapping[str, Any]], Iterator[dict[str, Any]]]:
    """The same as a generator, which is what RunPod's SDK streams.

    It yields results with `part`, their number from 0 on, and `last`; only part 0 has status and fields.
    """

    def handler(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        event = job["input"]
        age = worker.boot.age()
        status, fields, body = worker.answer(*kit.read_event(event), age=age)
        pieces: Iterable[bytes] = (body,) if isinstance(body, bytes) else body
        if not event.get(STREAMED):
            pieces = (b"".join(pieces),)
        held = None
        number = 0
        for piece in _cut(pieces):
            if event.get(STREAMED):
                yield _part(number, status, fields, piece, last=False)
                number += 1
            else:
                if held is not None:
                    yield _part(number, status, fields, held, last=False)
                    number += 1
                held = piece
        yield _part(number, status, fields, held or b"", last=True)

    return handler


def _cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), LARGEST_PART):
            yield piece[start : start + LARGEST_PART]


def _part(
    number: int, status: int, fields: Iterable[tuple[str, str]], body: bytes, *, last: bool
) -> dict[str, Any]:
    if number == 0:
        result = kit.write_result(status, fields, body)
    else:
        result = {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}
    return {**result, "part": number, "last": last}


def main() -> None:
    """Serve jobs until the platform stops the worker."""
    import runpod  # noqa: PLC0415 - present in the worker's image, not where the tests run

    app = kit.from_environment()
    if isinstance(app, kit.LocalServer):
        # Now, not with the first job: start-up then counts as RunPod's delayTime, not as execution.
        app.wait_until_up()
    worker = kit.Worker(app, kit.Boot())
    if os.environ.get("OVERSPILL_STREAM") == "1":
        handler = make_streaming_handler(worker)
        runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
    else:
        runpod.serverless.start({"handler": make_handler(worker)})


if __name__ == "__main__":
    main()
