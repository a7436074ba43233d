"""A gateway whose ports are encrypted, and clients that ask it by hand."""

import asyncio
import ssl
from contextlib import suppress

from tests.support.upstream import Upstream
from tests.tls.authority import Authority, Pair

BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}'
REQUEST = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def section(name: str, pair: Pair, clients: Authority | None = None, more: str = "") -> str:
    asked = "" if clients is None else f", client_ca: {clients.file}, client_certificates: required"
    return f"{name}: {{certificate: {pair.certificate}, key: {{file: {pair.key}}}{asked}{more}}}\n"


def text(replica: Upstream | str, more: str = "", *, backend: str = "") -> str:
    url = replica if isinstance(replica, str) else replica.url
    return f"""{more}
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 4, probe_every: 100ms{backend}}}
routes:
  everything: {{match: {{model: "*"}}, policy: spill_when_full, tiers: [{{backend: fleet, when_full: {{queue: 5s, then: shed}}}}]}}
"""


class Client:
    """One encrypted connection, used by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext) -> "Client":
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        )

    @property
    def shown(self) -> str:
        """The common name in the certificate that the server has shown."""
        said = self.writer.get_extra_info("peercert")
        return str(dict(pair[0] for pair in said["subject"])["commonName"])

    async def ask(self, request: bytes = REQUEST) -> tuple[int, bytes]:
        """Send a request, and read its answer."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await self.reader.readexactly(int(fields[b"content-length"]))
        return int(head.split()[1]), body

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


async def asked(port: int, context: ssl.SSLContext, request: bytes = REQUEST) -> tuple[int, bytes]:
    """One request on a connection of its own. Raises OSError or IncompleteReadError where it is refused."""
    client = await Client.connect(port, context)
    try:
        return await asyncio.wait_for(client.ask(request), 10)
    finally:
        await client.close()
