"""The backends that ship: one line for each module, with the names that its classes have in the file.

Importing this package imports none of them; the registry does that for a name that is asked for.
"""

from backends.base import backends

backends.find_in("backends.aws_lambda", "aws_lambda")
backends.find_in("backends.aws_lambda_url", "aws_lambda_url")
backends.find_in("backends.azure_function", "azure_function")
backends.find_in("backends.azure_ml", "azure_ml")
backends.find_in("backends.bentoml", "bentoml")
backends.find_in("backends.cloud_run", "cloud_run")
backends.find_in("backends.http_endpoint", "http")
backends.find_in("backends.huggingface", "huggingface")
backends.find_in("backends.keda", "keda")
backends.find_in("backends.kserve", "kserve")
backends.find_in("backends.litellm", "litellm")
backends.find_in("backends.loopback", "loopback", "loopback_rented")
backends.find_in("backends.modal", "modal")
backends.find_in("backends.modal_server", "modal_server")
backends.find_in("backends.openai", "openai")
backends.find_in("backends.openai_fleet", "openai_fleet")
backends.find_in("backends.replicate", "replicate")
backends.find_in("backends.runpod", "runpod")
backends.find_in("backends.runpod_lb", "runpod_lb")
backends.find_in("backends.runpod_openai", "runpod_openai")
backends.find_in("backends.sagemaker", "sagemaker_elastic", "sagemaker_realtime", "sagemaker_serverless")
backends.find_in("backends.sagemaker_async", "sagemaker_async")
backends.find_in("backends.seldon", "seldon")
backends.find_in("backends.triton", "triton")
backends.find_in("backends.vertex_ai", "vertex_ai", "vertex_ai_elastic")
backends.find_in("backends.watsonx", "watsonx")

backends.retire(
    "banana",
    "Banana shut down its serverless platform on 31 March 2024; use `runpod` or `modal`, where the same "
    "model can run behind the worker kit",
)

__all__ = ["backends"]
