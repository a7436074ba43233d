"""Modal server: Modal's proxy straight to the kit's HTTP server in the container, without a limit of time.

Deploy with `modal deploy modal_server.py`, kit.py, server.py and the app beside it, then put the URL and a
proxy token into the gateway's file:

    backends:
      burst:
        type: modal_server
        url: https://workspace--overspill-server-worker.us-east.modal.direct
        proxy_auth: {key: {env: MODAL_KEY}, secret: {env: MODAL_SECRET}}

The GPU, the image, the region and the window are the lines to edit. `scaledown_window` belongs into the
gateway's `cold_start.idle_after` too. `max_concurrency` is Modal's own limit, with 429 above it.

Wire facts: Modal documentation, "Servers": a class whose `enter` starts what listens on the port.
"""

import importlib.util
import os
import subprocess
import sys
from typing import Any

PORT = 8000
STOP_S = 30


def start() -> "subprocess.Popen[bytes]":
    """The kit's server, in a process of its own. It listens once a call could be served."""
    environment = {**os.environ, "PORT": str(PORT), "OVERSPILL_DRAIN_S": str(STOP_S)}
    return subprocess.Popen([sys.executable, "-u", "-m", "server"], env=environment)


def define() -> Any:
    """The Modal app. In a function, so that this file can be read and tested without the SDK."""
    import modal  # noqa: PLC0415 - present where the app is deployed from, not where the tests run

    image = modal.Image.debian_slim(python_version="3.11").add_local_python_source("kit", "server")
    app = modal.App("overspill-server", image=image)

    # serialized: it is no global of its module, so Modal has to ship it by value.
    @app.server(
        gpu="L4", port=PORT, max_concurrency=1, scaledown_window=60, startup_timeout=600,
        exit_grace_period=STOP_S, routing_region="us-east", serialized=True,
    )  # fmt: skip
    class Worker:
        @modal.enter()  # type: ignore[untyped-decorator]
        def begin(self) -> None:
            self.process = start()

        @modal.exit()  # type: ignore[untyped-decorator]
        def end(self) -> None:
            self.process.terminate()
            self.process.wait()

    return app


app = define() if importlib.util.find_spec("modal") is not None else None
"""What `modal deploy` looks for; None where the SDK is not installed."""
