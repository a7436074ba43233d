"""The backends that ship. Importing this package registers them; one line per backend."""

from backends import aws_lambda as aws_lambda
from backends import aws_lambda_url as aws_lambda_url
from backends import azure_function as azure_function
from backends import azure_ml as azure_ml
from backends import bentoml as bentoml
from backends import cloud_run as cloud_run
from backends import http_endpoint as http_endpoint
from backends import huggingface as huggingface
from backends import keda as keda
from backends import kserve as kserve
from backends import litellm as litellm
from backends import loopback as loopback
from backends import modal as modal
from backends import modal_server as modal_server
from backends import openai as openai
from backends import openai_fleet as openai_fleet
from backends import replicate as replicate
from backends import runpod as runpod
from backends import runpod_lb as runpod_lb
from backends import runpod_openai as runpod_openai
from backends import sagemaker as sagemaker
from backends import sagemaker_async as sagemaker_async
from backends import seldon as seldon
from backends import triton as triton
from backends import vertex_ai as vertex_ai
from backends import watsonx as watsonx
from backends.base import backends

backends.retire(
    "banana",
    "Banana shut down its serverless platform on 31 March 2024; use `runpod` or `modal`, where the same "
    "model can run behind the worker kit",
)

__all__ = ["backends"]
