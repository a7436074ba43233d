"""KServe and Knative services that scale to zero: which failures are the platform's, which the model's.

The call's own path, fields and body go out unchanged below `url`, and the answer streams back. Knows the
words of the activator and of the queue proxy; it never retries a call.

Wire facts (Knative Serving, the sources of its activator and its queue proxy; KServe's model server):
- while a service has no instance, or no free one, the activator holds requests: 503 `pending request queue
  full` and 503 `context deadline exceeded` have been sent nowhere;
- 502 carries the text of the connection's error: one that could not be dialled has been sent nowhere;
- 504: the instance ran for longer than the revision's `timeoutSeconds`;
- fields that begin with `k-` steer Knative's own proxies, so a client's are not sent;
- the model server: 503 while the model is not ready, 404 for one that it does not have, 500 for its failure;
- nothing is said about cold starts: the worker kit's two fields do. Without them it is unknown.
Not every runtime below KServe takes binary tensors; its own model server takes them and answers in JSON.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import ColdStart
from backends.inference_protocol import InferenceEndpoint, InferenceOptions
from gateway.errors import BackendError, BackendUnready
from gateway.vocab import Call, Headers

_HELD = re.compile(rb"pending request queue full|context deadline exceeded", re.IGNORECASE)
_NOT_DIALLED = re.compile(rb"\bdial\b|no such host", re.IGNORECASE)


class KServeOptions(InferenceOptions):
    """An InferenceService of KServe, or any service of Knative."""

    type: Literal["kserve"]
    """Kind of backend."""
    binary_tensors: bool = True
    """Whether its runtime takes tensors as binary data. Without, calls that carry such are not sent there."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "30s", "idle_after": "90s"})
    """What is known ahead about its instances; `idle_after` is Knative's stable window and grace period."""


@backends.add("kserve")
class KServe(InferenceEndpoint):
    """One service."""

    Options: ClassVar[type[BackendOptions]] = KServeOptions
    options: KServeOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, KServeOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a service behind an ingress at `url`."""
        return {
            "type": "kserve",
            "url": url,
            "host": "minilm.models.example.com",
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0},
            "cold_start": {"expect": "30s", "idle_after": "90s"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or binary tensors where the runtime takes none."""
        if not self.options.binary_tensors and self.is_binary(call):
            return f"{self.name}: tensors as binary data, and `binary_tensors` is false"
        return super().cannot_carry(call)

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the token, if there is one, and without what would steer Knative."""
        return await super().fields([field for field in headers if not field[0].startswith(b"k-")], address)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is no answer of the model's, or says that it did not begin; None for anything else."""
        status, body = answer.status, answer.body
        said = f"{self.name}: Knative answered {status}"
        if status == 503 and _HELD.search(body):
            return self.full(said, answer, own=True)
        if status == 502 and _NOT_DIALLED.search(body):
            return BackendUnready(f"{said}: {self.credentials.excerpt(body)}")
        return super().refusal(answer)
