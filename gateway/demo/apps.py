"""The demo's models as the bundled KServe v2 server and the serverless workers serve them.

Names for `OVERSPILL_APP`: `gateway.demo.apps:digits_app`. The weights' file is named by the
environment, so that a worker answers exactly as the warm server does. Must never know which
provider it runs on.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from backends.emulators.kserve_app import KServeApp
from backends.emulators.kserve_infer import Model, TensorSpec
from backends.emulators.tensors import Tensor, TritonError
from gateway.demo.models import DIGITS, WRITER, Digits, write

WEIGHTS = "OVERSPILL_DEMO_WEIGHTS"
"""Environment variable with the path that `Digits.save` wrote to."""


class DigitsModel(Model):
    """Handwritten digits."""

    name = DIGITS
    inputs = (TensorSpec("pixels", "FP32", (64,)),)
    outputs = (TensorSpec("probabilities", "FP32", (10,)), TensorSpec("digit", "INT64", (1,)))
    max_batch_size = 64

    def __init__(self, digits: Digits) -> None:
        self._digits = digits

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Classify the images."""
        pixels = np.frombuffer(inputs["pixels"].raw, dtype="<f4").reshape(inputs["pixels"].shape)
        answer = self._digits.answer(pixels)
        return {
            "probabilities": Tensor(
                "FP32", answer.probabilities.shape, answer.probabilities.astype("<f4").tobytes()
            ),
            "digit": Tensor("INT64", answer.digit.shape, answer.digit.astype("<i8").tobytes()),
        }


class WriterModel(Model):
    """Text, one word at a time where `stream` is asked for, in one piece otherwise."""

    name = WRITER
    inputs = (
        TensorSpec("text_input", "BYTES", (1,)),
        TensorSpec("stream", "BOOL", (1,)),
        TensorSpec("max_tokens", "INT32", (1,)),
    )
    outputs = (TensorSpec("text_output", "BYTES", (1,)),)
    decoupled = True

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Not reached: a decoupled model answers through `stream`."""
        raise TritonError(501, "tiny-writer answers through generate and generate_stream")

    def stream(self, inputs: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """The tokens, or all of them at once."""
        text = inputs["text_input"].values()[0].decode("utf-8", "replace")
        most = int(inputs["max_tokens"].values()[0]) if "max_tokens" in inputs else 16
        tokens = write(text, most)
        one_by_one = bool(inputs["stream"].values()[0]) if "stream" in inputs else False
        for token in tokens if one_by_one else ["".join(tokens)]:
            yield {"text_output": Tensor.of("BYTES", (1,), [token])}


def serve(digits: Digits) -> KServeApp:
    """Both models behind the v2 protocol."""
    return KServeApp([DigitsModel(digits), WriterModel()])


@functools.cache
def _from_environment() -> KServeApp:
    return serve(Digits.load(Path(os.environ[WEIGHTS])))


def digits_app(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """The worker kit's kind of app. KeyError when the environment does not name the weights."""
    return _from_environment()(method, path, query, headers, body)
