"""The end of a gateway: first it says so, then it takes no more, and what is on its way is answered."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.workers_serving.live import REQUEST, checked, serving


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_is_not_ready_before_it_takes_no_more_and_idle_clients_hear_of_it(
    tmp_path: Path, workers: int
) -> None:
    async with (
        checked(0.0) as (_, replica),
        serving(tmp_path, replica, workers=workers, more="drain_delay: 2s") as served,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.http)
        writer.write(REQUEST)
        first = await reader.readuntil(b"\r\n\r\n{}")
        assert b"connection: close" not in first.lower()
        served.process.send_signal(signal.SIGTERM)
        await served.until("calls are taken for another 2 s", count=workers)
        status, body = await served.ask("/readyz")
        assert (status, json.loads(body)["status"]) == (503, "draining")
        late, later = await asyncio.open_connection("127.0.0.1", served.http)
        later.write(REQUEST)
        assert b" 200 " in await late.readuntil(b"\r\n\r\n{}"), "who has not heard of it is served"
        await served.until("draining for up to", count=workers)
        for each, to in ((reader, writer), (late, later)):
            to.write(REQUEST)
            last = await each.read()
            assert b" 200 " in last
            assert b"\r\nconnection: close\r\n" in last.lower()
            to.close()
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", served.http)
