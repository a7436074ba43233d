"""A model for Triton's Python backend: the exact sum of its input, after 50 ms of pretended work."""

import math
import time

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    """What Triton calls."""

    def execute(self, requests: list) -> list:
        """One answer for each request."""
        answers = []
        for request in requests:
            numbers = utils.get_input_tensor_by_name(request, "numbers").as_numpy()
            time.sleep(0.05)
            total = utils.Tensor("total", np.array([math.fsum(numbers)], dtype=np.float32))
            answers.append(utils.InferenceResponse(output_tensors=[total]))
        return answers
