"""The demo's digits model as the bundled KServe v2 server and the serverless workers serve them.

Names for `OVERSPILL_APP`: `gateway.demo.apps:digits_app`. The weights' file is named by the
environment, so that a worker answers exactly as the warm server does. Must never know which
provider it runs on.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backends.emulators.kserve_app import KServeApp
from backends.emulators.kserve_infer import Model, TensorSpec
from backends.emulators.tensors import Tensor
from gateway.demo.models import DIGITS, Digits

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


def serve(digits: Digits) -> KServeApp:
    """The digits model behind the v2 protocol."""
    return KServeApp([DigitsModel(digits)])


@functools.cache
def _from_environment() -> KServeApp:
    return serve(Digits.load(Path(os.environ[WEIGHTS])))


def digits_app(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """The worker kit's kind of app. KeyError when the environment does not name the weights."""
    return _from_environment()(method, path, query, headers, body)
