"""Google Cloud Run function: the entry point that the functions framework calls with each request.

    main.py (this file)  kit.py  mymodel.py  requirements.txt (functions-framework)
    gcloud run deploy burst --source . --function serve --set-env-vars OVERSPILL_APP=mymodel:predict

Cloud Run carries HTTP as it is, so only the boot's fields are added. A service that is a container of one's
own needs no framework: `server.py` listens on PORT by itself.
"""

import importlib
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in a function's sources the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]


def make_function(worker: kit.Worker) -> Any:
    """A function of a Flask request that returns a Werkzeug response: what the framework calls."""
    # Loaded by the framework already, and nowhere else. Its own default would add a content type to an
    # answer that has none.
    base = importlib.import_module("werkzeug.wrappers").Response
    response: Any = type("Response", (base,), {"default_mimetype": None})

    def serve(request: Any) -> Any:
        return response.from_app(worker.wsgi, request.environ)

    return serve


def __getattr__(name: str) -> Any:
    """`serve`, made when the framework asks for it: importing this file starts nothing."""
    if name != "serve":
        raise AttributeError(name)
    function = make_function(kit.Worker(kit.from_environment(), kit.Boot()))
    globals()[name] = function
    return function
