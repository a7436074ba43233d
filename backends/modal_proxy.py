"""What Modal's web functions and servers share: the proxy token, and which errors are Modal's own.

Wire facts (Modal documentation, "Proxy auth tokens"; error texts as seen in use): the token is two fields,
and Modal's own errors are text that begins with `modal-http: `.
"""

from backends.client import Answer
from backends.credentials import Credentials
from backends.web_endpoint import WebEndpoint
from gateway.errors import BackendBroke, BackendError
from gateway.options import Options, SecretRef
from gateway.vocab import Headers

_OWN_ERROR = b"modal-http:"


class ProxyAuth(Options):
    """A proxy auth token of the workspace."""

    key: SecretRef
    """Token id (`wk-…`), sent as Modal-Key."""
    secret: SecretRef
    """Token secret (`ws-…`), sent as Modal-Secret."""

    def references(self) -> dict[str, SecretRef]:
        """Both by what they are."""
        return {"key": self.key, "secret": self.secret}


def with_token(headers: Headers, credentials: Credentials) -> Headers:
    """`headers` with the proxy token; a client's own is never sent."""
    ours = [
        (b"modal-key", credentials["key"].encode()),
        (b"modal-secret", credentials["secret"].encode()),
    ]
    return [field for field in headers if field[0] not in (b"modal-key", b"modal-secret")] + ours


def refusal(backend: WebEndpoint, what: str, answer: Answer) -> BackendError | None:
    """What is no answer of `what` (`the function`), or says that it did not begin; None for anything else."""
    status, body = answer.status, answer.body
    own = body.startswith(_OWN_ERROR)
    said = f"{backend.name}: {'Modal' if own else what} answered {status}"
    if status == 401 or (own and status in (400, 403, 404)):
        # Wrong address, wrong token, an app that is stopped, a workspace that is disabled.
        return backend.denied(f"{backend.name}: Modal answered {status}", body)
    if status in (429, 503):
        # Neither starts the work: a limit, or no container. An application's own 503 says it is full.
        return backend.full(said, answer, own=own)
    if own and status >= 500:
        return BackendBroke(f"{said}: {backend.credentials.excerpt(body)}")
    return None
