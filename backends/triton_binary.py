"""Triton's binary tensors where a platform passes no header fields of one's own: the content type tells.

Triton's SageMaker and Vertex AI front ends read the length of the JSON part from
`application/vnd.{platform}.binary+json;json-header-size=N`, and answer in the same way (Triton server
source, sagemaker_server.cc and vertex_ai_server.cc). Pure; it must never know an endpoint or a call.
"""

import re

from gateway.vocab import Headers

LENGTH = b"inference-header-content-length"
"""The field by which the KServe binary extension says the same."""

_TYPE = re.compile(rb"application/vnd\.[a-z-]+\.binary\+json;\s*json-header-size=(\d{1,12})")


def to_platform(headers: Headers, platform: str) -> Headers:
    """`headers` with the length in the content type, where there is one."""
    length = dict(headers).get(LENGTH)
    if length is None:
        return headers
    kind = b"application/vnd.%b.binary+json;json-header-size=%b" % (platform.encode(), length)
    return [f for f in headers if f[0] not in (LENGTH, b"content-type")] + [(b"content-type", kind)]


def from_platform(headers: Headers) -> Headers:
    """`headers` as Triton's own HTTP front end writes them."""
    match = _TYPE.fullmatch(dict(headers).get(b"content-type", b"").strip())
    if match is None:
        return headers
    rest = [f for f in headers if f[0] not in (LENGTH, b"content-type")]
    return [*rest, (b"content-type", b"application/octet-stream"), (LENGTH, match[1])]
