"""The same model as Triton's, as the emulated workers run it: its answers have the same bytes."""

import array
import math
import time
from collections.abc import Mapping

from backends.emulators.kserve_app import KServeApp
from backends.emulators.kserve_infer import Model, TensorSpec
from backends.emulators.tensors import Tensor


class Totals(Model):
    """The exact sum of its input."""

    name = "totals"
    inputs = (TensorSpec("numbers", "FP32", (-1,)),)
    outputs = (TensorSpec("total", "FP32", (1,)),)

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The sum, after 50 ms of pretended work."""
        time.sleep(0.05)
        total = math.fsum(array.array("f", inputs["numbers"].raw))
        return {"total": Tensor("FP32", (1,), array.array("f", [total]).tobytes())}


app = KServeApp([Totals()])
