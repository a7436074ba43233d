"""Modal web function: Modal carries HTTP as it is, so only the boot fields are added.

Deploy with `modal deploy modal_app.py`, then put the printed URL and a proxy token into the gateway's
file:

    backends:
      burst:
        type: modal
        url: https://workspace--overspill-worker-serve.modal.run
        proxy_auth: {key: {env: MODAL_KEY}, secret: {env: MODAL_SECRET}}

As it stands the image runs the model server of OVERSPILL_COMMAND and passes every request on to it,
streams included. For an application that is ASGI itself (FastAPI, vLLM's own) return
`kit.boot_fields(application, kit.Boot())` from `serve` instead: the same two fields, one hop less.

The GPU, the image and the window are the lines to edit. `scaledown_window` belongs into the gateway's
`cold_start.idle_after` too: it is how long an idle container is still paid for.
"""

import importlib.util
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]


def make_asgi(app: kit.App) -> kit.Asgi:
    """The ASGI application that Modal serves. Made once per container, so its boot id names it."""
    return kit.Worker(app, kit.Boot()).application


def define() -> Any:
    """The Modal app. In a function, so that this file can be read and tested without the SDK."""
    import modal  # noqa: PLC0415 - present where the app is deployed from, not where the tests run

    image = modal.Image.debian_slim(python_version="3.11").add_local_python_source("kit")
    app = modal.App("overspill-worker", image=image)

    # serialized: it is no global of its module, so Modal has to ship it by value.
    @app.function(gpu="L4", scaledown_window=60, timeout=600, serialized=True)  # type: ignore[untyped-decorator]
    @modal.concurrent(max_inputs=1)  # type: ignore[untyped-decorator]
    @modal.asgi_app(requires_proxy_auth=True)  # type: ignore[untyped-decorator]
    def serve() -> kit.Asgi:
        return make_asgi(kit.from_environment())

    return app


app = define() if importlib.util.find_spec("modal") is not None else None
"""What `modal deploy` looks for; None where the SDK is not installed."""
