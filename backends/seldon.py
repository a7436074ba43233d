"""Seldon Core 2: models behind its mesh, which are told apart by a field of the request.

The call's own path and body go out unchanged below `url`, but for the model's name, and the answer streams
back. Knows the mesh's field; it never retries a call.

Wire facts (Seldon Core 2 documentation, "Inference"; MLServer as it was seen to answer):
- `seldon-model` names the model, or with `.pipeline` at its end a pipeline, whatever the path says;
- no server has the model: the mesh answers 404 without a body, or 503 `no healthy upstream`;
- MLServer answers 404 for a model that it does not have, 422 for a body that it cannot read, and takes no
  binary tensors over HTTP; Triton below the same mesh does;
- nothing is said about cold starts: the worker kit's two fields do. Without them it is unknown.
Not confirmed: the field's rules for pipelines, and the mesh's texts; each is taken as Envoy's are.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from backends.base import BackendOptions, Kit, backends
from backends.inference_protocol import InferenceEndpoint, InferenceOptions
from gateway.vocab import Call, Headers

_MODEL = b"seldon-model"


class SeldonOptions(InferenceOptions):
    """Models, or a pipeline, of Seldon Core 2."""

    type: Literal["seldon"]
    """Kind of backend."""
    pipeline: bool = False
    """Whether what is called is a pipeline and no model."""
    binary_tensors: bool = False
    """Whether its servers take tensors as binary data: Triton does, MLServer does not."""
    late_binding: Literal["ping", "none"] = "none"
    """`ping`: an instance may be made to boot while calls wait; a small POST to `/.overspill/ping` is sent
    for it, whose answer does not matter. `none`: only a call makes one boot, and waits for it."""


@backends.add("seldon")
class Seldon(InferenceEndpoint):
    """One mesh."""

    Options: ClassVar[type[BackendOptions]] = SeldonOptions
    options: SeldonOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, SeldonOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a mesh at `url`."""
        return {
            "type": "seldon",
            "url": url,
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, of no model, or binary tensors where the servers take none."""
        if not self.options.binary_tensors and self.is_binary(call):
            return f"{self.name}: tensors as binary data, and `binary_tensors` is false"
        if not (self.options.model or call.model):
            return f"{self.name}: the call names no model, and `model` names none"
        return super().cannot_carry(call)

    async def sealed(self, call: Call, address: str, fields: Headers, body: Any) -> tuple[Headers, Any]:
        """With the field by which the mesh finds the model. A client's own is not sent."""
        fields, body = await super().sealed(call, address, fields, body)
        model = self.options.model or call.model
        if model:  # a ping names none
            model += ".pipeline" if self.options.pipeline else ""
            fields = [field for field in fields if field[0] != _MODEL] + [(_MODEL, model.encode())]
        return fields, body
