"""The same bytes sent to servers of others: nginx and Node.js, where they are installed."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

# Between one answer and the next. What comes first may wait for as long as a busy machine needs.
_QUIET_S = 0.6
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
NODE = shutil.which("node")

_CONF = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 64m; client_body_timeout 5s; client_header_timeout 5s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}
}}
"""

_SCRIPT = """
const server = require('http').createServer((request, response) => {
  request.resume();
  request.on('end', () => { response.setHeader('content-length', 0); response.end(); });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


async def statuses(port: int, data: bytes, first_s: float = 10.0) -> list[int]:
    """What a server answers to the bytes of one connection, until it closes or falls silent.

    ``first_s`` is how long its first byte is waited for: where none is expected a second is enough.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        while True:
            piece = await asyncio.wait_for(reader.read(65536), _QUIET_S if received else first_s)
            if not piece:
                break
            received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return [int(found) for found in _STATUS.findall(received) if not found.startswith(b"1")]


async def _free_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


@asynccontextmanager
async def nginx(folder: Path, upstream: int) -> AsyncIterator[int]:
    """An nginx in front of a server that answers everything; yields its port."""
    assert NGINX is not None
    port = await _free_port()
    (folder / "nginx.conf").write_text(_CONF.format(folder=folder, port=port, upstream=upstream))
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                break
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@asynccontextmanager
async def node() -> AsyncIterator[int]:
    """A server of Node.js, whose parser is llhttp with the settings of its makers."""
    assert NODE is not None
    process = subprocess.Popen([NODE, "-e", _SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield int(await asyncio.to_thread(process.stdout.readline))
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
