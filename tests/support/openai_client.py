"""The real `openai` package, fed with a canned answer."""

import importlib
from typing import Any

import openai


def client_that_gets(status: int, body: bytes, content_type: str = "application/json") -> openai.OpenAI:
    """A client whose every request is answered so, without a socket."""
    # The package's own HTTP library, which has changed its name between releases.
    bases = (base.__module__.partition(".")[0] for base in openai.DefaultHttpxClient.__mro__)
    http: Any = importlib.import_module(next(name for name in bases if name.startswith("httpx")))

    def respond(request: Any) -> Any:
        return http.Response(status, headers={"content-type": content_type}, content=body)

    return openai.OpenAI(
        api_key="none",
        base_url="http://gateway.test/v1",
        max_retries=0,
        http_client=http.Client(transport=http.MockTransport(respond)),
    )
