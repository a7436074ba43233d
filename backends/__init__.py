"""The backends that ship. Importing this package registers them; one line per backend."""

from backends import aws_lambda as aws_lambda
from backends import loopback as loopback
from backends import modal as modal
from backends import runpod as runpod
from backends import triton as triton
from backends.base import backends

__all__ = ["backends"]
