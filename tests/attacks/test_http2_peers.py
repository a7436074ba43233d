"""Another HTTP/2 at the gateway's gRPC port: `h2load` of nghttp2, many calls side by side, none of them lost."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.attacks.http2_table import BODY
from tests.attacks.test_http2 import attacked
from tests.grpc_ingress.support import SERVICE

pytestmark = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (nghttp2-client)")


@pytest.mark.parametrize("more", [[], ["-w", "10", "-W", "16"]], ids=["windows", "small windows"])
async def test_thousands_of_calls_by_nghttp2_and_no_failure(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "body").write_bytes(BODY)
    async with attacked() as (gateway, port, _):
        load = await asyncio.create_subprocess_exec(
            "h2load", "-n", "3000", "-c", "4", "-m", "100", "-d", str(tmp_path / "body"), *more,
            "-H", "te: trailers", "-H", "content-type: application/grpc",
            f"http://127.0.0.1:{port}{SERVICE}ModelReady", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(load.communicate(), 100)
        counts = re.search(rb"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", said)
        assert counts is not None, said
        assert counts.groups() == (b"3000", b"3000", b"0", b"0"), said
        assert gateway.ledger.open_records == 0


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_calls_of_the_h2_package_however_its_frames_are_cut(size: int) -> None:
    h2 = pytest.importorskip("h2.connection", reason="needs the package h2")
    events = pytest.importorskip("h2.events")
    async with attacked() as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = h2.H2Connection()
        client.initiate_connection()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", f"{SERVICE}ModelReady"), (":authority", "x"),
                  ("te", "trailers"), ("content-type", "application/grpc")]  # fmt: skip
        open_streams = set(range(1, 41, 2))
        for number in sorted(open_streams):
            client.send_headers(number, fields)
        for number in sorted(open_streams):
            for place in range(0, len(BODY), size):
                client.send_data(number, BODY[place : place + size], pad_length=number % 3)
            client.end_stream(number)
        statuses = []
        while open_streams:
            writer.write(client.data_to_send())
            for event in client.receive_data(await asyncio.wait_for(reader.read(65536), 20)):
                if isinstance(event, events.TrailersReceived):
                    statuses.append(dict(event.headers)[b"grpc-status"])
                elif isinstance(event, events.StreamEnded):
                    open_streams.discard(event.stream_id)
        assert statuses == [b"0"] * 20
        writer.transport.abort()
