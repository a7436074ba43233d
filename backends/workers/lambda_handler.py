"""AWS Lambda function: turns the envelope of an Invoke back into the HTTP call it was.

As a container image or a zip, with the handler set to `lambda_handler.handler`:

    kit.py  lambda_handler.py  mymodel.py
    OVERSPILL_APP=mymodel:predict          (environment of the function)

A server in the image works too: OVERSPILL_COMMAND starts it, OVERSPILL_TARGET says where it listens.

The module level runs in Lambda's INIT phase, which the REPORT line shows as `Init Duration` and which
is how the gateway knows a cold start. INIT is cut off after 10 s and repeated within the first
invocation, so a slow server is started by that first invocation instead (kit.py does so).

The gateway's entry says `type: aws_lambda` and `envelope: event` (the default). The event is the
format 2.0 of API Gateway, so a function that already answers API Gateway or a function URL can be
used as it is, without this file; only the cold-start sign then comes from the REPORT line alone.
Request and answer are limited to 6 MB, which base64 turns into about 4.5 MB of body.
"""

from collections.abc import Callable, Mapping
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]


def make_handler(worker: kit.Worker) -> Callable[[Mapping[str, Any], object], dict[str, Any]]:
    """The function that Lambda calls with each event and its context."""

    def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:
        # An exception is reported by Lambda as a function error, status 200: the gateway knows it.
        return worker.handle(event)

    return handle


handler = make_handler(kit.Worker(kit.from_environment(), kit.Boot()))
"""What `lambda_handler.handler` names."""
