"""What backends share that stand on machines of one's own, or of a platform that scales them to zero.

Knows the endpoint that it extends, and the words of the proxy that most such platforms put in front of
it; it must never know which platform that is.

Wire facts (Envoy documentation, "Access logs: response flags"; its texts as they are seen in use):
- Envoy's own 404 has no body: none of its routes fits the host or the path;
- a 503 whose text is `no healthy upstream` was sent nowhere; one of a connection that could not be made
  neither; of any other connection that failed, the work may have begun;
- 504 `upstream request timeout`: it has been running for all of that time.
"""

import re
from typing import Annotated

from pydantic import Field

from backends.base import Kit
from backends.client import Answer
from backends.rated_endpoint import RatedEndpoint, RatedOptions
from gateway.errors import BackendBroke, BackendError, BackendUnready
from gateway.vocab import Reply

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$")]

_NOBODY = re.compile(
    rb"no healthy upstream|connection refused|connection failure|connection timeout|no route to host",
    re.IGNORECASE,
)
"""Of a proxy that reached nobody."""
_BROKEN_OFF = re.compile(rb"upstream connect error|disconnect/reset before headers", re.IGNORECASE)


class SelfHostedOptions(RatedOptions):
    """An endpoint on machines of one's own."""

    host: HostName | None = None
    """Sent as `Host`, where `url` is that of an ingress which serves many names."""


class SelfHosted(RatedEndpoint):
    """One endpoint."""

    options: SelfHostedOptions

    def __init__(self, name: str, options: SelfHostedOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        self.client.host = options.host

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is the proxy's own word, or says that the application did not begin; else None."""
        status, body = answer.status, answer.body
        said = f"{self.name}: the endpoint answered {status}"
        if status == 403 and (self.options.token is not None or body.startswith(b"RBAC")):
            return self.denied(said, body)
        if status == 404 and not body and dict(answer.headers).get(b"content-length", b"0") == b"0":
            return self.denied(f"{said} and nothing else: its proxy knows no such host or path", b"")
        if status in (502, 503, 504):
            quoted = f"{said}: {self.credentials.excerpt(body)}"
            if status != 504 and _NOBODY.search(body):
                return BackendUnready(quoted)
            if status != 503 or _BROKEN_OFF.search(body):
                return BackendBroke(quoted, answer=Reply(status, answer.headers, body))
        return super().refusal(answer)

    def unready(self, said: str, answer: Answer) -> BackendUnready:
        """It is up, and did not begin. The answer is the client's if nobody else gives one."""
        said = f"{said}: {self.credentials.excerpt(answer.body)}"
        return BackendUnready(said, answer=Reply(answer.status, answer.headers, answer.body))
