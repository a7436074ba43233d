"""The backends that ship. Importing this package registers them; one line per backend."""

from backends import triton as triton
from backends.base import backends

__all__ = ["backends"]
