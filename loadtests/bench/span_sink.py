"""`python -m loadtests.bench.span_sink PORT`: takes whatever is sent to it as OTLP over HTTP, keeps nothing.

A collector as cheap as can be, so that what it costs to be there is not taken for what sending costs.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Sink(BaseHTTPRequestHandler):
    """An empty ExportTraceServiceResponse for every request (OTLP specification, "OTLP/HTTP Response")."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take it."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Nothing is said about it."""


def main(arguments: list[str]) -> None:
    """Serve until it is killed."""
    with ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), Sink) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
