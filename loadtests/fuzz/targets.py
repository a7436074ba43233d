"""What is fuzzed. A target is made once and fed bytes; whatever it raises is a find.

Each says more than that nothing crashes: one answer for each request, the same however the bytes are split,
no error but the ones that are promised, and nothing handed on that the next in line must not see.
"""

from collections.abc import Callable, Mapping

from loadtests.fuzz.target import Target
from loadtests.fuzz.target_codecs import Envelope, EventStreams, GrpcCodec, JsonMembers, Reports
from loadtests.fuzz.target_credentials import Credentials
from loadtests.fuzz.target_files import ConfigFile, TraceFile
from loadtests.fuzz.target_http2 import Http2
from loadtests.fuzz.target_protocols import Fields, GrpcProtocol, HttpProtocols
from loadtests.fuzz.target_wire import ListenerWire, UpstreamWire

TARGETS: Mapping[str, Callable[[], Target]] = {
    "listener": ListenerWire,
    "upstream": UpstreamWire,
    "protocols": HttpProtocols,
    "grpc": GrpcProtocol,
    "grpc_codec": GrpcCodec,
    "http2": Http2,
    "envelope": Envelope,
    "event_streams": EventStreams,
    "json_members": JsonMembers,
    "reports": Reports,
    "fields": Fields,
    "traces": TraceFile,
    "config": ConfigFile,
    "credentials": Credentials,
}
"""By name. Kept inputs of each are in `corpus/NAME/`."""

LARGEST: Mapping[str, int] = {
    "listener": 4096,
    "upstream": 4096,
    "http2": 2048,
    "config": 2048,
    "traces": 2048,
}
"""Bytes of an input where not 1024."""
