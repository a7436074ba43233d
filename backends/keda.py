"""Whatever runs behind KEDA's HTTP add-on: it scales from zero, and says so with every answer.

The call's own path, fields and body go out unchanged below `url`, and the answer streams back. Knows which
failures are the interceptor's; it never retries a call.

Wire facts (KEDA HTTP add-on documentation, "Cold start", and the sources of its interceptor):
- the interceptor routes by the host and holds a request until an instance is ready;
- `X-KEDA-HTTP-Cold-Start` is `true` on an answer that waited for that, `false` on any other, unless it is
  switched off; an answer that was sent nowhere does not carry it;
- no instance was ready in time: 502, and 504 in newer versions, or a 503 as a placeholder; the same 502 and
  504 with that field mean that the instance failed, so the work may have begun;
- 404 `Not Found` without the field: it knows no such host.
Until an answer has carried the field it may be switched off. As long as that is so, a 502 or 504 is taken to
have begun, unless its text says otherwise, and the worker kit's two fields tell a cold start.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.instances import Ticket
from backends.self_hosted import SelfHosted, SelfHostedOptions
from backends.web_endpoint import Told
from gateway.errors import BackendError
from gateway.vocab import Headers, Start

_COLD = b"x-keda-http-cold-start"
_STARTS = {b"true": Start.COLD, b"false": Start.WARM}
_NONE_READY = (b"waiting for workload", b"backend not ready")
_NO_ROUTE = b"Not Found"


class KedaOptions(SelfHostedOptions):
    """A service behind KEDA's HTTP add-on."""

    type: Literal["keda"]
    """Kind of backend."""


@backends.add("keda")
class Keda(SelfHosted):
    """One service."""

    Options: ClassVar[type[BackendOptions]] = KedaOptions
    options: KedaOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, KedaOptions)
        super().__init__(name, options, kit)
        self._tells = False  # whether the interceptor has been seen to say it

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a service whose interceptor is at `url`."""
        return {
            "type": "keda",
            "url": url,
            "host": "minilm.example.com",
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.0002},
            "cold_start": {"expect": "30s", "idle_after": "5m"},
        }

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is the interceptor's own word, or says that the application did not begin; else None."""
        status, body = answer.status, answer.body
        said = f"{self.name}: KEDA's interceptor answered {status}"
        if any(name == _COLD for name, _ in answer.headers):
            self._tells = True
            if status in (502, 504):
                return None  # it was sent on: it may have begun
            return super().refusal(answer)
        if status in (502, 504) and (self._tells or any(text in body for text in _NONE_READY)):
            return self.unready(f"{said}, no instance was ready in time", answer)
        if status == 404 and self._tells and body.strip() == _NO_ROUTE:
            return self.denied(said, body)
        if status == 503 and self._tells:
            return self.full(said, answer, own=True)
        return super().refusal(answer)

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """The interceptor's word; which instance it was, and how long it booted, is the worker kit's."""
        said = next((value.strip().lower() for name, value in headers if name == _COLD), b"")
        headers, told = super().told([field for field in headers if field[0] != _COLD], ticket)
        start = _STARTS.get(said)
        if start is None:
            return headers, told
        self._tells = True
        if start is told.start:
            return headers, told
        # How long it booted is not known: only that the call waited for it, or did not.
        return headers, told._replace(start=start, boot_s=0.0 if start is Start.WARM else None)
