"""One model, or several, in Python behind the KServe v2 protocol: an app for the worker kit.

    from kserve_v2 import Model, Tensor, TensorSpec, serve

    class Double(Model):
        name = "double"
        inputs = outputs = (TensorSpec("x", "FP32", (-1,)),)

        def infer(self, inputs):
            values = inputs["x"].values()
            return {"x": Tensor.of("FP32", inputs["x"].shape, [2 * value for value in values])}

    app = serve(Double())                                   # OVERSPILL_APP=mymodel:app

Answers are Triton's to the byte: JSON and binary tensors, raw mode, `generate` and `generate_stream`,
metadata, configuration, ready, statistics, and the texts and statuses of its errors. What Triton computes
with a backend of its own (TensorRT, ONNX) is best served by Triton on both sides: see OVERSPILL_COMMAND.

Standard library only. `python -m backends.workers PLATFORM FOLDER --kserve` copies what it needs.
"""

from collections.abc import Iterable

from backends.emulators.kserve_app import KServeApp
from backends.emulators.kserve_infer import Model, TensorSpec
from backends.emulators.tensors import Tensor, TritonError

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

__all__ = ["Model", "Tensor", "TensorSpec", "TritonError", "serve"]


def serve(*models: Model) -> kit.App:
    """The app that answers for these models. Answers of `generate_stream` come event by event."""
    served = KServeApp(models)

    def app(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> kit.Response:
        answer = served.answer(method, path, headers, body)
        parts: Iterable[bytes] = answer.parts
        return answer.status, answer.fields, parts if answer.streamed else b"".join(parts)

    return app
