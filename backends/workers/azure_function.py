"""Azure Functions app in Python's programming model v2: one function that takes every path and method.

    function_app.py (this file)  kit.py  mymodel.py  host.json  requirements.txt (azure-functions)

`host.json` has to say `"routePrefix": ""`, or every path would begin with /api. Answers are returned whole
here; a custom handler (`server.py` with the files in azure/) streams and needs no package of Azure's.

Wire facts: Azure Functions documentation, "Python developer reference guide" and "HTTP trigger".
"""

import importlib
import importlib.util
from typing import Any
from urllib.parse import urlsplit

try:
    from backends.workers import kit
except ImportError:  # in a function app the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def make_function(worker: kit.Worker, response: Any) -> Any:
    """A function of an Azure `HttpRequest`; `response` is Azure's `HttpResponse`."""

    def serve(req: Any) -> Any:
        age = worker.boot.age()
        parts = urlsplit(req.url)
        headers = {name.lower(): value for name, value in req.headers.items()}
        status, fields, body = worker.answer(
            req.method, parts.path or "/", parts.query, headers, req.get_body(), age=age
        )
        whole = body if isinstance(body, bytes) else b"".join(body)
        # Cookies would be joined by a comma; no KServe or OpenAI server sets any.
        return response(whole, status_code=status, headers=dict(fields))

    return serve


def define() -> Any:
    """The function app. In a function, so that this file can be read and tested without Azure's package."""
    functions = importlib.import_module("azure.functions")
    app = functions.FunctionApp(http_auth_level=functions.AuthLevel.FUNCTION)
    serve = make_function(kit.Worker(kit.from_environment(), kit.Boot()), functions.HttpResponse)
    app.function_name("call")(app.route(route="{*path}", methods=METHODS)(serve))
    return app


def _is_here(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


app = define() if _is_here("azure.functions") else None
"""What the Functions host looks for; None where Azure's package is not installed."""
