"""What backends share whose servers speak KServe's inference protocol, version 2, under names of their own.

Knows that protocol's paths; it must never know which server answers. Tensors are never looked at.
"""

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import Field

from backends.base import Kit
from backends.client import Answer, Upload, join_url
from backends.json_members import Renamed
from backends.self_hosted import SelfHosted, SelfHostedOptions
from gateway.errors import BackendError
from gateway.vocab import Call, Headers

ModelName = Annotated[str, Field(min_length=1, max_length=512)]
"""A model's name as its server knows it."""

_MODEL = re.compile(rb"(/v2/models/)[^/?]+")
_BINARY = b"inference-header-content-length"
_LARGEST_TEXT = 64 * 2**20
_NO_SUCH_MODEL = re.compile(rb"\bmodel\b(?!.*\bversion\b).*\b(not found|does not exist)", re.IGNORECASE)
_NOT_READY = re.compile(rb"\bnot (yet )?ready\b|not loaded", re.IGNORECASE)


class InferenceOptions(SelfHostedOptions):
    """An endpoint that speaks the inference protocol."""

    model: ModelName | None = None
    """Name of the model there, if it is another one than the route's: it is put into the path of a call, or
    into the body of one of OpenAI's API. The answer names the model as the server does."""


class InferenceEndpoint(SelfHosted):
    """One endpoint."""

    options: InferenceOptions

    def __init__(self, name: str, options: InferenceOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        self._renamed = None if options.model is None else Renamed("model", options.model)

    def is_binary(self, call: Call) -> bool:
        """Whether its tensors are binary data behind the JSON text, which not every server takes."""
        return any(name == _BINARY for name, _ in call.headers)

    def address(self, call: Call) -> str:
        """The call's own path, with the server's name of the model."""
        target = call.target
        if self.options.model is not None and call.protocol == "kserve":
            model = quote(self.options.model, safe="").encode("ascii")
            target = _MODEL.sub(lambda found: found[1] + model, target, count=1)
        return join_url(self.options.url, target)

    async def sealed(self, call: Call, address: str, fields: Headers, body: Upload) -> tuple[Headers, Upload]:
        """A body of OpenAI's API names the model too."""
        if self._renamed is not None and call.protocol == "openai" and body is not None:
            body = self._renamed.apply(await call.body.read(_LARGEST_TEXT))
        return fields, body

    def refusal(self, answer: Answer) -> BackendError | None:
        """The server's own words, where they say that it does not have the model, or not yet."""
        status, body = answer.status, answer.body
        said = f"{self.name}: the server answered {status}"
        # A version that is unknown is the client's affair; a model that is, is that of who wrote the file.
        if (status == 404 and _NO_SUCH_MODEL.search(body)) or (status == 503 and _NOT_READY.search(body)):
            return self.unready(said, answer)
        return super().refusal(answer)
