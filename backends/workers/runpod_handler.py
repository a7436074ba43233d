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
An answer is returned whole: RunPod's queue API carries one JSON object per job, so the events of a
streamed answer arrive at the client together. Keep answers below the API's 20 MB for `runsync`.
"""

from collections.abc import Callable, Mapping
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]


def make_handler(worker: kit.Worker) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function that RunPod calls with each job: `{"id": …, "input": <the envelope>}`."""

    def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        # A ValueError for an input that is no envelope becomes the job's FAILED status.
        return worker.handle(job["input"])

    return handler


def main() -> None:
    """Serve jobs until the platform stops the worker."""
    import runpod  # noqa: PLC0415 - present in the worker's image, not where the tests run

    app = kit.from_environment()
    if isinstance(app, kit.LocalServer):
        # Now, not with the first job: start-up then counts as RunPod's delayTime, not as execution.
        app.wait_until_up()
    runpod.serverless.start({"handler": make_handler(kit.Worker(app, kit.Boot()))})


if __name__ == "__main__":
    main()
